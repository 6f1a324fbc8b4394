"""An export appears whole or not at all, replaces nothing but an export, and holds safe files alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hfkit.errors import RequestError, WorkError
from hfkit.export.result import EXPORT, ExportResult, exported_files
from hfkit.export.staging import Staging, staged


def fill(staging: Staging, text: str) -> None:
    staging.folder.mkdir()
    (staging.folder / "notes.txt").write_text(text, encoding="utf-8")
    result = ExportResult(
        format="gguf", source="r", source_fingerprint="f", type="f16", files=exported_files(staging.folder)
    )
    (staging.folder / EXPORT).write_text(result.model_dump_json(), encoding="utf-8")
    (staging.room / "scrap").write_text("on the way", encoding="utf-8")


def held(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name != EXPORT
    }


def test_a_folder_appears_with_its_parents_and_nothing_beside_it(tmp_path: Path) -> None:
    with staged(tmp_path / "deep" / "out") as staging:
        fill(staging, "1")
        assert not (tmp_path / "deep" / "out").exists()
    assert held(tmp_path) == {"deep/out/notes.txt": "1"}
    with staged(tmp_path / "deep" / "out") as staging:
        fill(staging, "2")
    assert held(tmp_path) == {"deep/out/notes.txt": "2"}


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as staging:
        fill(staging, "1")
    with pytest.raises(OSError, match="No space left"), staged(tmp_path / "out") as staging:
        fill(staging, "2")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert held(tmp_path) == {"out/notes.txt": "1"}


def test_what_fails_leaves_no_folder_that_was_made_for_it(tmp_path: Path) -> None:
    with pytest.raises(RequestError), staged(tmp_path / "deep" / "out"):
        raise RequestError("there is nothing to export")
    assert not (tmp_path / "deep").exists()


def test_what_a_killed_export_left_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / ".out.export-partial" / "export" / "half.gguf"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    with staged(tmp_path / "out") as staging:
        fill(staging, "1")
    assert held(tmp_path) == {"out/notes.txt": "1"}


def test_what_lies_beside_an_export_is_not_deleted_with_it(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as staging:
        fill(staging, "1")
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RequestError, match=r"no part of an export of hfkit's \(thesis.txt\)"), staged(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "thesis.txt").read_text("utf-8") == "mine"
    with pytest.raises(RequestError, match="name a folder of its own"), staged(Path()):
        pass


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_else_is_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    if kind == "folder":
        (tmp_path / "mine").rename(target)
    elif kind == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        target.symlink_to(tmp_path / "mine")
    before = held(tmp_path)
    with (
        pytest.raises(RequestError, match=r"is there already, and (holds what is no part of an export|is no folder)"),
        staged(target) as staging,
    ):
        fill(staging, "1")
    assert held(tmp_path) == before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "state.pkl", "modeling_mine.py"])
def test_files_that_run_code_are_never_exported(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkError, match=name), staged(tmp_path / "out") as staging:
        fill(staging, "1")
        (staging.folder / name).write_bytes(b"\x80\x04N.")
    assert held(tmp_path) == {}

"""What a user reads when something fails: one sentence, the right exit code, no traceback."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.artifact import DamagedArtifact
from hfkit.errors import HfkitError, RequestError, WorkError
from hfkit.failures import explain
from rag.errors import RagError, RagRequestError

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter


def os_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def chained(inner: Exception, outer: Exception) -> Exception:
    try:
        try:
            raise inner
        except Exception as error:
            raise outer from error
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("x.yaml:3: wrong"), 2),
        (WorkError("the loss is nan"), 1),
        (HfkitError("something"), 1),
        (DamagedArtifact("a file is missing"), 1),
        (RagRequestError("there is no index"), 2),
        (RagError("the index is damaged"), 1),
    ],
)
def test_errors_raised_on_purpose_are_told_as_they_are(error: Exception, code: int) -> None:
    explanation = explain(error)
    assert (explanation.text, explanation.exit_code) == (str(error), code)


@pytest.mark.parametrize(
    "error",
    [
        os_error(errno.ENOSPC, "/x/model.safetensors"),
        os_error(errno.EDQUOT),
        OSError(errno.ENOSPC, "Auf dem Gerät ist kein Speicherplatz mehr verfügbar"),
        chained(os_error(errno.ENOSPC), RuntimeError("[enforce fail at inline_container.cc] write failed")),
        chained(os_error(errno.ENOSPC), RagError("the index cannot be written")),
        chained(os_error(errno.ENOSPC), RequestError("the model cannot be loaded")),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
    ],
    ids=repr,
)
def test_a_full_disk_is_known_in_whatever_it_is_wrapped(error: Exception) -> None:
    explanation = explain(error)
    assert "disk is full" in explanation.text and "kept" in explanation.text
    assert explanation.exit_code == 1


def test_a_full_disk_is_known_where_another_error_came_while_it_was_handled() -> None:
    try:
        try:
            raise os_error(errno.ENOSPC)
        except OSError:
            raise ValueError("while cleaning up")  # noqa: B904
    except ValueError as error:
        assert "disk is full" in explain(error).text


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")],
    ids=repr,
)
def test_out_of_memory_says_what_to_lower(error: Exception) -> None:
    explanation = explain(error)
    assert explanation.exit_code == 1
    assert "train.micro_batch_size" in explanation.text and "evaluate.batch_size" in explanation.text
    assert "\n" not in explanation.text


def test_errors_of_the_system_name_the_file() -> None:
    denied = explain(PermissionError(errno.EACCES, "Permission denied", "/x/runs/a"))
    assert "/x/runs/a" in denied.text and "permission denied" in denied.text.lower() and denied.exit_code == 1
    broken = explain(os_error(errno.EIO, "/x/train.parquet"))
    assert broken.text == f"/x/train.parquet: {os.strerror(errno.EIO)}" and broken.exit_code == 1


def test_an_error_of_the_system_without_a_file_does_not_name_one() -> None:
    assert "None" not in explain(PermissionError(errno.EACCES, "Permission denied")).text
    assert "None" not in explain(os_error(errno.EIO)).text


@pytest.mark.parametrize(
    "error",
    [
        os_error(errno.EFBIG),
        os_error(errno.EFBIG, "/x/model.safetensors"),
        chained(os_error(errno.EFBIG), RagError("the index cannot be written")),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
    ],
    ids=repr,
)
def test_a_limit_on_the_size_of_files_is_known_in_whatever_it_is_wrapped(error: Exception) -> None:
    explanation = explain(error)
    assert "limit on the size of files" in explanation.text and "ulimit -f" in explanation.text
    assert "unexpected" not in explanation.text and explanation.exit_code == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_write_over_the_limit_is_told_as_such(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            (tmp_path / "large").write_bytes(bytes(2**16))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "limit on the size of files" in explain(caught.value).text


@pytest.mark.parametrize("name", ["runs", "runs/tiny"])
def test_a_file_where_a_folder_must_be_is_named(
    tiny_recipe: RecipeWriter, cli: Cli, workplace: Path, name: str
) -> None:
    recipe = tiny_recipe(name="tiny")
    (workplace / name).parent.mkdir(exist_ok=True)
    (workplace / name).write_text("in the way", encoding="utf-8")
    done = cli("run", recipe)
    assert done.code != 0 and done.out == ""
    assert done.err.splitlines()[-1] == f"hfkit: {name}: is a file, and a folder is needed there; move it away"


FORESEEN = (
    *("out of memory", "no space left on device", "os error 28", "database or disk is full"),
    *("file too large", "os error 27"),
)


@given(text=st.text(), kind=st.sampled_from([ValueError, KeyError, RuntimeError, ZeroDivisionError, TypeError]))
def test_any_other_error_is_one_line_that_names_itself_and_the_way_to_more(text: str, kind: type[Exception]) -> None:
    error = kind(text)
    if any(phrase in str(error).lower() for phrase in FORESEEN):
        return
    explanation = explain(error)
    assert explanation.exit_code == 1
    assert kind.__name__ in explanation.text and "--debug" in explanation.text
    assert len(explanation.text.splitlines()) == 1


def test_a_disk_without_room_is_blamed_for_writes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("hfkit.failures.shutil.disk_usage", lambda place: usage._replace(free=0))
    for error in (
        WorkError("a gate was not met: tuned.token_f1 >= 0.5"),
        RagError("the index is damaged"),
        chained(ValueError("not a number"), WorkError("the metric mine failed")),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/rows.jsonl"),
        TimeoutError("no answer"),
        KeyError("name"),
        MemoryError(),
        chained(OSError("cannot load the tokenizer"), RequestError("the model cannot be loaded")),
    ):
        assert "disk is full" not in explain(error).text, error
    for error in (
        OSError("3000 requested and 0 written"),
        os_error(errno.EIO, "/x/train.parquet"),
        RuntimeError("basic_ios::clear: iostream error"),
        RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0"),
        chained(sqlite3.OperationalError("disk I/O error"), RagError("the index cannot be written")),
    ):
        assert "disk is full" in explain(error).text, error

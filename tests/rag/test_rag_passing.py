"""What may be readable another time though nobody changed it, told from what stays as it is."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import BinaryIO

import pytest

import rag.files
from rag.corpus import Skipped
from rag.documents import load_corpus
from rag.limits import Limits
from rag.readers.archives import Member
from rag.readers.pool import ReaderPool, _Worker
from rag.readers.worker import _found, _read


@pytest.mark.parametrize(("number", "passing"), [(errno.EIO, True), (errno.EMFILE, True), (errno.EACCES, False)])
def test_a_file_that_the_system_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passing: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.md").write_text("# A\n\nwords")
    Path("b.html").write_text("<p>words</p>")

    def fail(path: Path, *_: object) -> BinaryIO:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(rag.files, "open_regular", fail)
    said = os.strerror(number).lower()
    assert load_corpus(["a.md"]).skipped == (Skipped("a.md", said, passing),)
    monkeypatch.setattr(Path, "open", fail)  # as the reader's process opens it
    ((member, name),) = _found("b.html", "b.html", Path("b.html"), Limits())
    assert member == Member("b.html", problem=said, passing=passing)
    assert _read(member, name, Limits()) == {"skipped": said, "passing": passing}


@pytest.mark.parametrize(("file", "data"), [("a.md", b"\xff\xfe\x00"), ("a.pdf", b"%PDF-1.4 broken"), ("a.html", b"")])
def test_a_broken_file_stays_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, data: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).write_bytes(data)
    (skipped,) = load_corpus([file]).skipped
    assert not skipped.passing, skipped


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("number", "passing"), [(signal.SIGKILL, True), (signal.SIGSEGV, False)])
def test_a_reader_that_is_killed_is_not_the_files_fault_and_one_that_crashes_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, passing: bool
) -> None:
    (tmp_path / "a.html").write_text("<p>words</p>")
    asked = _Worker._asked

    def ended(worker: _Worker, request: bytes):  # type: ignore[no-untyped-def]
        process = asked(worker, b"")
        process.send_signal(number)
        process.wait()
        return process

    monkeypatch.setattr(_Worker, "_asked", ended)
    with ReaderPool(Limits()) as pool:
        (skipped,) = pool.read("a.html", tmp_path / "a.html").result().skipped
    assert skipped == Skipped("a.html", f"the reader crashed on it (exit code {-number})", passing)

"""The processes that read what could harm this one: started when the first such file comes, killed when one takes too
long, and replaced."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rag.corpus import Corpus, Document, Section, Skipped
from rag.limits import Limits

_ROOT = Path(__file__).resolve().parents[2]
_MOST = 4
# Of a whole archive, in files' worth of time: one that takes every file to the limit must end, too.
_ARCHIVE_TIMES = 10
# Rows of a table come at thousands a second; of a large file no more is asked than this many bytes in each.
_BYTES_A_SECOND = 1_000_000
_LONGEST_REPLY = 1_000_000_000
# The exit code of a process that the system, short of memory, or somebody else ended with SIGKILL.
_KILLED = -9


@dataclass(frozen=True)
class TableRows:
    """A file's rows, in order: each one's document, or in its place the reason why it gives none.

    `broken` says why the rows behind these were not read, `passing` that another time they may be; `missing` is a
    column that is not there, with those that are.
    """

    rows: list[Document | str]
    broken: str | None = None
    passing: bool = False
    missing: tuple[str, list[str]] | None = None


class ReaderPool:
    """Reads files in other processes, several at once; use it in `with`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(min(_MOST, os.cpu_count() or 1), thread_name_prefix="rag-reader")
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []

    def read(self, id: str, path: Path, name: str | None = None) -> Future[Corpus]:
        """The document of a file, or those of an archive, and what was skipped. `name` is what the suffix is taken
        from, `id` where none is given."""
        return self._threads.submit(self._read, id, name or id, path)

    def rows(self, name: str, path: Path, table: Mapping[str, object]) -> Future[TableRows]:
        """The rows of a file of a dataset; `table` says what to make of them (`rag.readers.worker` reads it)."""
        return self._threads.submit(self._rows, name, path, table)

    def __enter__(self) -> ReaderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(wait=True)
        # A thread may have been about to start a process while they were being ended.
        for worker in self._workers:
            worker.close()

    def _read(self, id: str, name: str, path: Path) -> Corpus:
        with self._lent() as worker:
            return worker.read(id, name, path)

    def _rows(self, name: str, path: Path, table: Mapping[str, object]) -> TableRows:
        with self._lent() as worker:
            return worker.rows(name, path, table)

    @contextmanager
    def _lent(self) -> Iterator[_Worker]:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = _Worker(self._limits)
            self._workers.append(worker)
        try:
            yield worker
        finally:
            self._idle.append(worker)


class _BrokenOff(Exception):
    """The process ended, or was ended, before its reply did; the message says why. `passing` is False where the file is
    to blame: a reader that is killed is not."""

    def __init__(self, why: str, passing: bool = True) -> None:
        super().__init__(why)
        self.passing = passing


class _Worker:
    """One process, and the talk with it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._late = False
        self._ended = False

    def read(self, id: str, name: str, path: Path) -> Corpus:
        documents: list[Document] = []
        skipped: list[Skipped] = []
        begun = 0
        last = time.monotonic() + _ARCHIVE_TIMES * self._limits.seconds
        while True:
            current: str | None = None
            try:
                for reply in self._replies(id, name, path, begun):
                    if "begin" in reply:
                        current, begun = str(reply["begin"]), begun + 1
                    elif "document" in reply:
                        documents.append(_document(reply["document"]))
                        current = None
                    else:
                        passing = bool(reply.get("passing", False))
                        skipped.append(Skipped(current or id, str(reply["skipped"]), passing))
                        current = None
                    if time.monotonic() > last:
                        self.close()
                        current = None  # all that comes behind is unread as well: it is the whole that is skipped
                        seconds = _ARCHIVE_TIMES * self._limits.seconds
                        raise _BrokenOff(f"took more than {seconds:g} seconds in all; the rest of it is not read")
            except _BrokenOff as reason:
                # Of an archive, the file that broke it is left out, and reading goes on behind it.
                skipped.append(Skipped(current or id, str(reason), reason.passing))
                if current is not None and time.monotonic() <= last:
                    continue
            return Corpus(tuple(documents), tuple(skipped))

    def rows(self, name: str, path: Path, table: Mapping[str, object]) -> TableRows:
        rows: list[Document | str] = []
        reasons: dict[str, str] = {}
        broken, passing = None, False
        missing: tuple[str, list[str]] | None = None
        allowed = _ARCHIVE_TIMES * self._limits.seconds + _size(path) / _BYTES_A_SECOND
        last = time.monotonic() + allowed
        try:
            for reply in self._replies(name, name, path, 0, table):
                if "document" in reply:
                    rows.append(_document(reply["document"]))
                elif "skipped" in reply:
                    reason = str(reply["skipped"])
                    rows.append(reasons.setdefault(reason, reason))  # one text for a million such rows
                elif "broken" in reply:
                    broken, passing = str(reply["broken"]), bool(reply["passing"])
                elif "missing" in reply:
                    there = reply["there"]
                    assert isinstance(there, list)
                    missing = (str(reply["missing"]), there)
                elif time.monotonic() > last:
                    self.close()
                    raise _BrokenOff(f"took more than {allowed:,.0f} seconds in all; the rest of it is not read")
        except _BrokenOff as off:
            broken, passing = str(off), off.passing
        return TableRows(rows, broken, passing, missing)

    def end(self) -> None:
        """Ends the process, and starts no other one."""
        self._ended = True
        self.close()

    def close(self) -> None:
        """Ends the process; the next file gets a new one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:  # a request that could not be written any more
                        continue

    def _replies(
        self, id: str, name: str, path: Path, skip: int, table: Mapping[str, object] | None = None
    ) -> Iterator[dict[str, object]]:
        limits = dataclasses.asdict(self._limits)
        request = {"id": id, "name": name, "path": str(path.absolute()), "skip": skip, "limits": limits}
        request |= {} if table is None else {"table": dict(table)}
        process = self._asked(json.dumps(request).encode("ascii") + b"\n")
        assert process.stdout is not None
        timer = self._timer(process)
        try:
            while True:
                line = process.stdout.readline(_LONGEST_REPLY)
                if not line.endswith(b"\n"):
                    raise self._broken_off(process)
                reply = json.loads(line)
                if "end" in reply:
                    return
                if "begin" in reply and reply["begin"] != id:
                    timer.cancel()
                    timer = self._timer(process)
                yield reply
        finally:
            timer.cancel()
            if self._late or process.poll() is not None:
                self.close()

    def _asked(self, request: bytes) -> subprocess.Popen[bytes]:
        """The process that got the request: a new one where there is none, or where it died meanwhile."""
        for _ in range(0 if self._ended else 2):
            process = self._process = self._process or _started()
            assert process.stdin is not None
            try:
                process.stdin.write(request)
                process.stdin.flush()
                return process
            except OSError:
                self.close()
        raise _BrokenOff("the process that reads such files does not start")

    def _timer(self, process: subprocess.Popen[bytes]) -> threading.Timer:
        self._late = False

        def end() -> None:
            self._late = True
            process.kill()

        timer = threading.Timer(self._limits.seconds, end)
        timer.daemon = True
        timer.start()
        return timer

    def _broken_off(self, process: subprocess.Popen[bytes]) -> _BrokenOff:
        late = self._late
        code = process.wait(timeout=10) if late or process.poll() is not None else None
        self.close()
        if late:
            return _BrokenOff(f"took more than the {self._limits.seconds:g} seconds that reading one file may take")
        if code is None:
            return _BrokenOff("the reader broke off")
        return _BrokenOff(f"the reader crashed on it (exit code {code})", passing=code == _KILLED)


def _started() -> subprocess.Popen[bytes]:
    """A process of its own interpreter, not a fork: threads and locks of this one do not come along. It starts in the
    folder that holds this package, so that no file among the documents can pass for a module."""
    # Linear algebra libraries set memory aside for every core, and Arrow for later: it would count as the file's.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "rag.readers.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env=environment,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _document(value: object) -> Document:
    assert isinstance(value, dict)
    sections = tuple(Section(tuple(path), start, end, page) for path, start, end, page in value["sections"])
    return Document(value["id"], value["title"], value["text"], sections, value["source"], value["metadata"])

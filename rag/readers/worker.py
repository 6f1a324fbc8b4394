"""The process that parses what strangers wrote: `python -m rag.readers.worker`, driven by `rag.readers.pool`.

A request is a line of JSON on standard input, `{"id", "name", "path", "skip", "limits"}`; the reply is lines of JSON on
standard output: `{"begin": id}` for each file (an archive has many), then `{"document": ...}` or `{"skipped": reason}`,
and `{"end": true}`. Beside a reason stands `"passing": true` where another time the file may be readable. `skip` leaves
out that many files at the start: those read before a worker had to be killed.
A request with a `table` as well is for the rows of a file, of which each gives a document or is skipped.
`{"begin": place}` stands before some at a time, `{"missing": column, "there": names}` where a column is not there, and
`{"broken": reason}` where the rest cannot be read.
The process can write no byte into any file and has a bounded address space; time is bounded by whoever drives it. That
holds a parser's mistakes in, and is no prison: it keeps the user's rights, and so could still empty or remove a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.archives import Member, members
from rag.readers.decoding import printable
from rag.readers.draft import over_bytes
from rag.readers.formats import is_archive, read
from rag.readers.tables import Columns, Row, batches, row_document
from rag.readers.unreadable import Unreadable, may_pass

Json = dict[str, object]


def main() -> None:
    """Answers requests until standard input ends."""
    # Replies go to the pipe alone: whatever a library prints goes nowhere.
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    bounded = False
    for line in sys.stdin:
        request = json.loads(line)
        limits = Limits(**request["limits"])
        if not bounded:
            _bound_this_process(limits.memory)
            bounded = True
        if "table" in request:
            for reply in _table(request, limits):
                # Not flushed one by one: there may be millions.
                replies.write(json.dumps(reply) + "\n")
                if "begin" in reply:
                    replies.flush()
                    _end_soon(limits.seconds)
            _say(replies, {"end": True})
            continue
        found = _found(str(request["id"]), str(request["name"]), Path(request["path"]), limits)
        for number, (member, name) in enumerate(found):
            if number >= int(request["skip"]):
                _say(replies, {"begin": printable(member.name)})
                _end_soon(limits.seconds)
                _say(replies, _read(member, name, limits))
        _say(replies, {"end": True})


def _bound_this_process(memory: int) -> None:
    """Bounds its memory and the size of what it may write, to nothing, where the system has such bounds (Linux has,
    Windows not)."""
    if sys.platform == "win32":
        return
    import resource

    for kind, bound in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(kind, (bound, bound))
        except (ValueError, OSError):  # a lower bound is set already, or the system (macOS) knows none of this kind
            continue


def _end_soon(seconds: float) -> None:
    """Ends this process some time after it should have been ended: whoever drives it may be dead."""
    if sys.platform != "win32":
        signal.alarm(int(seconds) + 30)


def _found(id: str, name: str, path: Path, limits: Limits) -> Iterator[tuple[Member, str]]:
    """The file itself, or the files in the archive that it is; each with the name that tells its format."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limits.bytes + 1)
        if len(data) > limits.bytes:
            raise Unreadable(over_bytes(len(data), limits))
        if not data:
            raise Unreadable("empty")
    except Unreadable as reason:
        yield Member(id, problem=str(reason)), name
        return
    except OSError as error:
        yield Member(id, problem=(error.strerror or str(error)).lower(), passing=may_pass(error)), name
        return
    if is_archive(name):
        for member in members(id, name, data, limits):
            yield member, member.name
    else:
        yield Member(id, data), name


def _read(member: Member, name: str, limits: Limits) -> Json:
    try:
        if member.problem is not None:
            return {"skipped": member.problem, "passing": member.passing}
        return {"document": packed(read(member.name, name, member.data, limits))}
    # A parser may raise anything on a broken file; whatever it is, it is the file's fault and skips this file alone.
    except Exception as error:
        return {"skipped": _reason(error)}


def _table(request: Json, limits: Limits) -> Iterator[Json]:
    """What is replied to a request for rows."""
    table = request["table"]
    assert isinstance(table, dict)
    columns = Columns(tuple(table["text"]), table["id"], table["title"], tuple(table["keep"]))
    place, number = printable(str(request["id"])), int(table["first"])
    known = bool(table["known"])
    try:
        for names, rows in batches(Path(str(request["path"])), columns, limits):
            yield {"begin": f"{place} row {number}"}
            missing = next((name for name in columns.names if names and name not in names), None)
            if missing is not None and not known:
                yield {"missing": missing, "there": [printable(name) for name in names]}
                return
            known = known or bool(names)
            for row in rows:
                found = row if isinstance(row, str) else _of_row(columns, table["prefix"], number, place, row, limits)
                yield {"skipped": found} if isinstance(found, str) else {"document": packed(found)}
                number += 1
    except Exception as error:
        passing = isinstance(error, OSError) and error.errno is not None and may_pass(error)
        yield {"broken": _reason(error), "passing": passing}


def _of_row(columns: Columns, prefix: str, number: int, place: str, row: Row, limits: Limits) -> Document | str:
    try:
        return row_document(columns, prefix, number, place, row, limits)
    except RecursionError:
        return "nested too deep"


def _reason(error: Exception) -> str:
    """Why a file gives no document, in words."""
    if isinstance(error, Unreadable):
        return str(error)
    if isinstance(error, MemoryError):
        return "takes more memory to read than is allowed"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    said = " ".join(str(error).split())[:200]
    return f"damaged: {type(error).__name__}{': ' if said else ''}{said}"


def packed(document: Document) -> Json:
    """A document as JSON; `rag.readers.pool` makes it one again."""
    sections = [[part.heading_path, part.start, part.end, part.page] for part in document.sections]
    values = {"id": document.id, "title": document.title, "text": document.text, "source": document.source}
    return {**values, "sections": sections, "metadata": dict(document.metadata)}


def _say(replies: TextIO, reply: Json) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()

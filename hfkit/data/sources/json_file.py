"""A JSON file: a list of objects, such a list inside an object, one object, or SQuAD's nesting of them.

It is read as a stream: what is in memory at a time is one object of the list.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any

from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import DataFile
from hfkit.data.sources.json_lines import read_json_lines
from hfkit.data.sources.reading import DAMAGE, MAX_BYTES, MAX_WORDS, TOO_LONG, damage, lines_of, opened, utf8
from hfkit.data.sources.squad import is_squad_article, squad_rows
from hfkit.data.sources.strict_json import TWICE, StrictDecoder, as_object, parse_object
from hfkit.errors import RequestError

_WRAPPERS = ("data", "rows", "examples", "records", "instances")
_SPACE = re.compile(r"[ \t\r\n]*")
_BLOCK = 2**20


def read_json_file(file: DataFile, ledger: Ledger) -> Iterator[Located]:
    """The file's rows. JSON Lines under the name .json are recognised and read as such.

    Raises:
        RequestError: the file is not valid JSON in UTF-8, or holds neither a list nor an object.
    """
    if _holds_lines(file):
        yield from read_json_lines(file, ledger)
        return
    with opened(file) as stream:
        text = _Text(utf8(stream, file), file)
        match text.next_character():
            case "[":
                yield from _list(text, file, ledger)
            case "{":
                yield from _object(text, file, ledger)
            case "":
                return
            case _:
                value = text.value(file.name)[0]
                raise RequestError(f"{file.name}:1: holds {json.dumps(value)[:50]}, which is no list of objects")
        if text.next_character():
            raise RequestError(
                f"{file.name}:{text.line}: there is more after the end of the JSON; one object a line is .jsonl"
            )


def _holds_lines(file: DataFile) -> bool:
    """Whether the first line is an object by itself and another line starts with one too."""
    with opened(file) as stream:
        found: list[bytes] = []
        for _, line in lines_of(stream, file):
            if line is None:
                return False
            if not line.isspace():
                found.append(line)
            if len(found) == 2:
                break
    if len(found) < 2 or not all(line.lstrip().startswith(b"{") for line in found):
        return False
    try:
        parse_object(found[0])
    except RowFault:
        return False
    return True


def _list(text: _Text, file: DataFile, ledger: Ledger) -> Iterator[Located]:
    text.take("[")
    number = 0
    while text.next_character() != "]":
        place = f"{file.name}[{number}]"
        value, size = text.value(place)
        try:
            if text.fault is not None:
                raise text.fault
            if size > MAX_BYTES:
                raise RowFault(TOO_LONG)
            row = as_object(value)
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
        else:
            if is_squad_article(row):
                yield from squad_rows(row, place, ledger)
            else:
                yield row, place, size
        number += 1
        if not text.comma_or("]"):
            break
    text.take("]")


def _object(text: _Text, file: DataFile, ledger: Ledger) -> Iterator[Located]:
    """The rows of the one list that the object wraps, or the object as a row."""
    text.take("{")
    row: dict[str, Any] = {}
    size = 0
    wrapper = None
    fault = None
    while text.next_character() != "}":
        key = text.value(file.name)[0]
        if not isinstance(key, str):
            raise RequestError(f"{file.name}:{text.line}: not valid JSON: a key is no text")
        text.take(":")
        if key in _WRAPPERS and text.next_character() == "[":
            if wrapper is not None:
                raise RequestError(
                    f"{file.name}:{text.line}: holds two lists of rows, {wrapper} and {key}; make two files of it"
                )
            wrapper = key
            yield from _list(text, file, ledger)
        else:
            if key in row:
                fault = fault or RowFault(TWICE, f"{key[:100]!r}")
            row[key], value_size = text.value(file.name)
            fault = fault or text.fault
            size += value_size
        if not text.comma_or("}"):
            break
    text.take("}")
    if wrapper is not None:
        return
    try:
        if fault is not None:
            raise fault
        yield as_object(row), file.name, size
    except RowFault as found:
        ledger.drop(found.reason, file.name, found.detail)


class _Text:
    """A stream of JSON: what has been read and not yet been used, and more of it when it is needed."""

    def __init__(self, stream: io.BufferedReader, file: DataFile) -> None:
        self._stream, self._file = stream, file
        self._decoder = StrictDecoder()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("strict")
        self._text = ""
        self._at = 0
        self._lines_before = 0
        self._column_before = 0
        self._ended = False

    @property
    def line(self) -> int:
        return self._lines_before + self._text.count("\n", 0, self._at) + 1

    @property
    def _column(self) -> int:
        before = self._text.rfind("\n", 0, self._at)
        return self._column_before + self._at + 1 if before < 0 else self._at - before

    @property
    def fault(self) -> RowFault | None:
        return self._decoder.fault

    def next_character(self) -> str:
        """What stands next but for blanks; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._read_on()

    def take(self, character: str) -> None:
        if self.next_character() != character:
            raise self._broken(f"expected {character!r}")
        self._at += 1

    def comma_or(self, end: str) -> bool:
        """Takes a comma, after which something must follow; False where `end` stands next."""
        if self.next_character() == end:
            return False
        self.take(",")
        if self.next_character() == end:
            raise self._broken("a comma with nothing after it")
        return True

    def value(self, place: str) -> tuple[Any, int]:
        """The value that stands next, and how many characters long it is."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._ended:
                    self._at = min(error.pos, len(self._text))
                    raise self._broken(error.msg) from error
                if len(self._text) - self._at > MAX_BYTES:
                    raise self._broken(f"{place} is no JSON ({error.msg}), or {MAX_WORDS} or longer") from error
            except ValueError as error:
                raise self._broken(f"{place} holds a number of thousands of digits") from error
            except RecursionError as error:
                raise self._broken(f"{place} is nested too deeply") from error
            else:
                # A number at the end of what was read may go on in what was not.
                if end < len(self._text) or self._ended:
                    size = end - self._at
                    self._at = end
                    return value, size
            self._read_on()

    def _read_on(self) -> None:
        self._column_before = self._column - 1
        self._lines_before += self._text.count("\n", 0, self._at)
        rest = self._text[self._at :]
        self._at = 0
        try:
            # At least twice as much as there is: a long value is not tried for every block of it.
            block = self._stream.read(max(_BLOCK, len(rest)))
            self._ended = not block
            self._text = rest + self._utf8.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._lines_before + rest.count("\n") + error.object[: error.start].count(b"\n") + 1
            byte = error.object[error.start]
            raise RequestError(
                f"{self._file.name}:{line}: not UTF-8 text (byte 0x{byte:02x}: {error.reason}); save the file as UTF-8"
            ) from error
        except DAMAGE as error:
            raise damage(error, f"{self._file.name}:{self.line}") from error

    def _broken(self, what: str) -> RequestError:
        end = "; the file ends there" if self._ended and self._at >= len(self._text.rstrip()) else ""
        return RequestError(f"{self._file.name}:{self.line}: not valid JSON at column {self._column}: {what}{end}")

"""Files as bytes and lines, whether compressed or not, in UTF-8 or in UTF-16 with a mark that says so."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from hfkit.data.sources.files import DataFile
from hfkit.errors import RequestError

MAX_BYTES = 64 * 2**20
"""The longest row of a file of text: a line, an object in a list, a whole text file."""

MAX_WORDS = f"{MAX_BYTES // 2**20} MiB"
TOO_LONG = f"longer than {MAX_WORDS}"

DAMAGE = (EOFError, OSError, zlib.error)
"""What reading a file raises where the disk or a compressed stream is at fault."""

_GZIP = b"\x1f\x8b"
# Longer marks first: that of UTF-32 starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextmanager
def opened(file: DataFile) -> Iterator[io.BufferedReader]:
    """The file's content, decompressed as it is read.

    Raises:
        RequestError: it cannot be opened, or it is compressed and its name does not say so, or the other way round.
    """
    try:
        stored = file.path.open("rb")
    except OSError as error:
        raise RequestError(f"{file.name}: cannot be read: {error.strerror}") from error
    with stored:
        compressed = stored.peek(2)[:2] == _GZIP
        if file.gzipped and not compressed:
            raise RequestError(f"{file.name}: is not compressed with gzip; rename it to end without .gz")
        if compressed and not file.gzipped:
            raise RequestError(f"{file.name}: is compressed with gzip; rename it to end in .gz")
        if not compressed:
            yield stored
            return
        with gzip.GzipFile(fileobj=stored) as unpacked:
            yield io.BufferedReader(_Unpacked(unpacked), 2**18)


def damage(error: Exception, place: str) -> RequestError:
    """What one of DAMAGE, raised while a file was read, means to the user."""
    if isinstance(error, EOFError):
        return RequestError(f"{place}: the gzip file ends in the middle; it was cut off, fetch it or compress it again")
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return RequestError(f"{place}: the gzip file is damaged ({error}); fetch it or compress it again")
    return RequestError(f"{place}: cannot be read: {error}")


def utf8(stream: io.BufferedReader, file: DataFile) -> io.BufferedReader:
    """`stream` as UTF-8 without a mark. What has no mark is taken for UTF-8 and given as it is, valid or not.

    Raises:
        RequestError: zeros at the start say that it is UTF-16 or UTF-32 without a mark, or no text at all.
    """
    try:
        start = stream.peek(4)[:4]
    except DAMAGE as error:
        raise damage(error, f"{file.name}:1") from error
    for mark, name in _MARKS:
        if start.startswith(mark):
            if name != "utf-8":
                return io.BufferedReader(_Recoded(stream, file, name), 2**18)
            stream.read(len(mark))
            return stream
    if b"\0" in start:
        raise RequestError(
            f"{file.name}:1: starts with a zero byte, so it is no UTF-8 text; if it is UTF-16, save it as UTF-8"
        )
    return stream


def lines_of(stream: io.BufferedReader, file: DataFile) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number, in UTF-8, its end included; None in place of a line of more than MAX_BYTES.

    Raises:
        RequestError: the file cannot be read to its end.
    """
    text = utf8(stream, file)
    number = 0
    while True:
        number += 1
        try:
            line: bytes | None = text.readline(MAX_BYTES)
            if line is not None and len(line) >= MAX_BYTES and not line.endswith(b"\n"):
                line = None
                while (rest := text.readline(MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
        except DAMAGE as error:
            raise damage(error, f"{file.name}:{number}") from error
        if line == b"":
            return
        yield number, line


class _Unpacked(io.RawIOBase):
    """What a gzip file holds. All that can be had of a damaged one is given before the error is raised, so that the
    error names the right line."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, into: object) -> int:
        target = memoryview(into)  # type: ignore[arg-type]
        block = self._stream.read1(len(target))
        target[: len(block)] = block
        return len(block)


class _Recoded(io.RawIOBase):
    """A stream of UTF-16 or UTF-32 as one of UTF-8."""

    def __init__(self, stream: io.BufferedReader, file: DataFile, encoding: str) -> None:
        self._stream, self._file, self._encoding = stream, file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._ready = b""
        self._lines = 1
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, into: object) -> int:
        target = memoryview(into)  # type: ignore[arg-type]
        while not self._ready and not self._ended:
            block = self._stream.read(2**16)
            self._ended = not block
            try:
                self._ready = self._decoder.decode(block, final=self._ended).encode("utf-8")
            except UnicodeDecodeError as error:
                line = self._lines + error.object[: error.start].decode(self._encoding, "ignore").count("\n")
                raise RequestError(
                    f"{self._file.name}:{line}: not valid {self._encoding.upper()} ({error.reason}); save it as UTF-8"
                ) from error
            self._lines += self._ready.count(b"\n")
        given = self._ready[: len(target)]
        target[: len(given)] = given
        self._ready = self._ready[len(given) :]
        return len(given)


def refuse_other_encoding(file: DataFile, rows: int, not_utf8: int, line: int) -> None:
    """Raises RequestError where most of a file's rows are not UTF-8: such a file is in another encoding as a whole.

    `line` is the first that is not.
    """
    if not_utf8 * 2 > rows:
        raise RequestError(
            f"{file.name}:{line}: not UTF-8 text, as {not_utf8} of {rows} rows; if it is Windows-1252 or Latin-1, "
            f"convert it: iconv -f WINDOWS-1252 -t UTF-8 {file.name} > converted"
        )

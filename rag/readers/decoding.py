"""Bytes into text. The rule: a byte order mark decides (UTF-8, UTF-16, UTF-32); without one it is UTF-8, or no text.

Nothing is guessed: a guess gives wrong letters without a word.
"""

from __future__ import annotations

import codecs

from rag.readers.unreadable import Empty, Unreadable

# The mark of UTF-32 starts with that of UTF-16, and so comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)


def decode(data: bytes) -> str:
    """The text of a file, with "\\n" newlines.

    Raises:
        Unreadable: it is empty, holds NUL bytes, or is not in the encoding that it must be in.
    """
    mark, codec, name = next((row for row in _MARKS if data.startswith(row[0])), (b"", "utf-8", "UTF-8"))
    body = data[len(mark) :]
    if codec == "utf-8" and b"\0" in body:
        raise Unreadable("holds NUL bytes, so it is not text")
    try:
        text = body.decode(codec)
    except UnicodeDecodeError as error:
        offset = error.start + len(mark)
        raise Unreadable(f"not {name} (byte 0x{data[offset]:02x} at offset {offset}); save it as UTF-8") from None
    if "\0" in text:
        raise Unreadable("holds NUL characters, so it is not text")
    if not text.strip():
        raise Empty("empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def printable(text: str) -> str:
    """The same number of characters, each one that UTF-8 and a database take: no lone surrogates and no NUL."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")

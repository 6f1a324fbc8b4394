"""A text file: one document, one row."""

from __future__ import annotations

from collections.abc import Iterator

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import DataFile
from hfkit.data.sources.reading import DAMAGE, MAX_BYTES, MAX_WORDS, damage, opened, utf8
from hfkit.data.sources.strict_json import NOT_UTF8
from hfkit.errors import RequestError

NO_TEXT = "a file with nothing in it but blanks"


def read_text_file(file: DataFile, ledger: Ledger) -> Iterator[Located]:
    """The row `{"text": …}`, with line ends as Python has them.

    Raises:
        RequestError: the file cannot be read to its end, or it is too long for one document.
    """
    with opened(file) as stream:
        try:
            content = utf8(stream, file).read(MAX_BYTES + 1)
        except DAMAGE as error:
            raise damage(error, file.name) from error
    if len(content) > MAX_BYTES:
        raise RequestError(
            f"{file.name}: longer than {MAX_WORDS}, and a text file is one document; cut it into documents, one a file "
            'or one a line of a .jsonl file as {"text": "…"}'
        )
    try:
        text = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        ledger.drop(NOT_UTF8, f"{file.name}:{line}", f"byte 0x{content[error.start]:02x}: {error.reason}")
        return
    if not text.strip():
        ledger.drop(NO_TEXT, file.name)
        return
    yield {"text": text}, file.name, len(content)

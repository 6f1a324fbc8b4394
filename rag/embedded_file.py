"""What a sync has embedded so far: a file beside the database, so that a sync that was killed goes on where it was.

The database changes in one transaction at the very end of a sync; the embeddings, which take nearly all of its time,
wait here until then. The file is only ever appended to, and goes when the sync is done. Each record is a key, which is
the SHA-256 of the text that was embedded, and the vector's blob with its checksum. Which embedder made them the index's
own manifest says, and the header names the index.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rag.codes import blob_bytes, is_whole
from rag.database_errors import explained
from rag.layout import Storage

NAME = ".embedded"
_HEADER = struct.Struct("<8s16sI")
_MARK = b"ragembd1"
_KEY = 32


class EmbeddedFile:
    """Key -> blob, on disk. One process has it open: the one that holds the writer lock."""

    def __init__(self, folder: Path, index_id: str, storage: Storage, dimension: int) -> None:
        """Opens the file that a killed sync of this index left, or begins one. A record that is torn or damaged is left
        out.

        Raises:
            RagError: the disk is full.
        """
        self._path = folder / NAME
        self._blob = blob_bytes(storage, dimension)
        self._places: dict[bytes, int] = {}
        self._header = _HEADER.pack(_MARK, bytes.fromhex(index_id), self._blob)
        with explained(self._path, 0):
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                self._load(storage, dimension)
            except BaseException:
                self._file.close()
                raise

    def _load(self, storage: Storage, dimension: int) -> None:
        if self._file.read(_HEADER.size) != self._header:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._header)
            self._file.flush()
        size, place = _KEY + self._blob, _HEADER.size
        while len(record := self._file.read(size)) == size:
            if is_whole(record[_KEY:], storage, dimension):
                self._places[record[:_KEY]] = place + _KEY
            place += size
        self._file.seek(place)
        self._file.truncate()
        self._end = place

    def __enter__(self) -> EmbeddedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk once more, of which `add` has told
            self._file.close()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __getitem__(self, key: bytes) -> bytes:
        self._file.seek(self._places[key])
        return self._file.read(self._blob)

    def add(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Appends (key, blob) pairs; they survive the process, though not a power cut.

        Raises:
            RagError: the disk is full; what was added before is kept.
        """
        with explained(self._path, 0):
            self._file.seek(self._end)
            for key, blob in entries:
                self._file.write(key + blob)
                self._places[key] = self._end + _KEY
                self._end += _KEY + self._blob
            self._file.flush()


def discard_embedded(folder: Path) -> None:
    """After the change is committed, or where there is nothing to change."""
    (folder / NAME).unlink(missing_ok=True)

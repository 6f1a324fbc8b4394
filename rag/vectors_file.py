"""The vectors file: a FAISS index, then what tells whether it can be trusted.

Behind FAISS's own bytes, which FAISS reads without looking further, lie: the SHA-256 of each block of them; a JSON
object (`Layout`, and the ids that a graph holds and that no chunk has any more); and a footer of fixed size with a
mark, the generation and its token, the sizes, and the SHA-256 of all this. A torn, foreign or older file is thus told
from the right one by reading its end alone, before FAISS parses anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from rag.database_errors import NotWrittenError, explained
from rag.layout import Layout

NAME = re.compile(r"vectors-(\d+)\.faiss(\.tmp)?")
_FOOTER = struct.Struct("<8s16sQQQ")
_DIGEST = 32
_MARK = b"ragvecs3"
_BLOCK = 1 << 20
# Up to so many blocks all are checked at every opening, which takes a tenth of a second at most.
_CHECKED_WHOLE = 96
_SAMPLED = 16


@dataclass(frozen=True)
class VectorsFile:
    """A file whose end is in order. `dead` are ids that it holds though no chunk has them any more."""

    path: Path
    generation: int
    layout: Layout
    dead: tuple[int, ...]
    body: int
    digests: bytes

    def broken_blocks(self, everything: bool) -> list[int]:
        """Blocks that are not what was written: of all, or of those that are worth checking at every opening.

        A small file, and a graph of any size (a wrong number in it would lead FAISS outside its memory), are read
        whole. Of a large file of clusters the first blocks, which hold what FAISS needs to find its way, the last, and
        a random sample are read: what lies between are codes and ids. A wrong code costs at most a hit, since hits are
        ranked by their stored vectors, and a wrong id is met with an error when it is found. Of a file that a writer
        has taken away since its end was read, or that cannot be read any more, all are broken.
        """
        count = len(self.digests) // _DIGEST
        wanted: Iterable[int] = range(count)
        if not everything and count > _CHECKED_WHOLE and self.layout.kind != "hnsw":
            head = min(count, 4 + self.layout.lists * 4096 // _BLOCK)
            sample = np.random.default_rng().integers(0, count, _SAMPLED).tolist()
            wanted = sorted({*range(head), count - 1, *sample})
        broken = []
        try:
            with self.path.open("rb") as file:
                for number in wanted:
                    file.seek(number * _BLOCK)
                    block = file.read(min(_BLOCK, self.body - number * _BLOCK))
                    if hashlib.sha256(block).digest() != self.digests[number * _DIGEST :][:_DIGEST]:
                        broken.append(number)
        except OSError:
            return list(wanted)
        return broken

    def load(self, dimension: int, mapped: bool = True) -> Any | None:
        """The FAISS index (of a package without types), mapped into memory or read into it; None where FAISS cannot
        read it, or it is another kind than the file says."""
        import faiss

        flags = 0
        if mapped:
            flags = faiss.IO_FLAG_READ_ONLY | (
                faiss.IO_FLAG_MMAP if self.layout.kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
            )
        try:
            index: Any = faiss.read_index(str(self.path), flags)
        except (OSError, RuntimeError):  # RuntimeError is what FAISS raises for every fault
            return None
        if mapped and self.layout.kind == "ivf":
            lists: Any = faiss.downcast_InvertedLists(index.invlists)
            # Else every search starts threads that touch each list it will read, chosen ids in it or not.
            lists.prefetch_nthread = 0
        inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
        kinds = {"flat": faiss.IndexFlatCodes, "hnsw": faiss.IndexHNSW, "ivf": faiss.IndexIVF}
        fits = isinstance(inner, kinds[self.layout.kind]) and isinstance(index, faiss.IndexIDMap) != (
            self.layout.kind == "ivf"
        )
        return index if fits and (index.d, index.metric_type) == (dimension, faiss.METRIC_INNER_PRODUCT) else None


def find_files(folder: Path) -> list[tuple[int, Path]]:
    """(generation, path) of all vectors files, the newest first, whatever is in them."""
    found = [(match, path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return sorted(((int(match[1]), path) for match, path in found if not match[2]), reverse=True)


def read_file(path: Path, token: str, generation: int) -> VectorsFile | None:
    """Looks at the file's end alone; None where it is missing, torn, of another generation or of one with another
    token."""
    try:
        with path.open("rb") as file:
            return _read(file, path, token, generation)
    except OSError:
        return None


def _read(file: BinaryIO, path: Path, token: str, generation: int) -> VectorsFile | None:
    size = os.fstat(file.fileno()).st_size
    if size < _FOOTER.size + _DIGEST:
        return None
    file.seek(size - _FOOTER.size - _DIGEST)
    footer, digest = file.read(_FOOTER.size), file.read(_DIGEST)
    mark, drawn, written, body, text_size = _FOOTER.unpack(footer)
    digests_size = _DIGEST * -(-body // _BLOCK)
    if (mark, drawn, written) != (_MARK, bytes.fromhex(token), generation):
        return None
    if body + digests_size + text_size + len(footer) + _DIGEST != size:
        return None
    file.seek(body)
    digests, text = file.read(digests_size), file.read(text_size)
    if hashlib.sha256(digests + text + footer).digest() != digest:
        return None
    described = json.loads(text)
    dead = tuple(int(id) for id in described.pop("dead"))
    return VectorsFile(path, generation, Layout(**described), dead, body, digests)


def _write_body(index: Any, file: BinaryIO) -> None:
    """FAISS's own bytes. Written through Python: FAISS itself would print to the terminal that a disk is full."""
    import faiss

    failed: list[OSError] = []

    def take(block: bytes) -> None:
        # An exception may not pass through FAISS; what follows a failed write is let go.
        if not failed:
            try:
                file.write(block)
            except OSError as error:
                failed.append(error)

    faiss.write_index(index, faiss.PyCallbackIOWriter(take, _BLOCK))  # type: ignore[attr-defined]
    if failed:
        raise failed[0]


def write_file(
    folder: Path, token: str, generation: int, index: Any, layout: Layout, dead: npt.NDArray[np.int64]
) -> None:
    """Puts the file in place whole or not at all, and takes away those of other generations; call it with the writer
    lock held.

    Raises:
        NotWrittenError: the disk is full or cannot be written.
    """

    path = folder / f"vectors-{generation}.faiss"
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with explained(path, 0):
            with temporary.open("w+b") as file:
                _write_body(index, file)
                file.seek(0)
                body = os.fstat(file.fileno()).st_size
                digests = b"".join(hashlib.sha256(file.read(_BLOCK)).digest() for _ in range(0, body, _BLOCK))
                text = json.dumps({**dataclasses.asdict(layout), "dead": dead.tolist()}).encode("ascii")
                footer = _FOOTER.pack(_MARK, bytes.fromhex(token), generation, body, len(text))
                file.seek(body)
                file.write(digests + text + footer + hashlib.sha256(digests + text + footer).digest())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        raise NotWrittenError(
            f"{path} cannot be written: {error}. The index itself is whole: this file will be made again from it"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)  # on a full disk, half a file is what others lack room for
    remove_files(folder, other_than=[path])


def leftovers(folder: Path, generation: int) -> list[Path]:
    """Vectors files that are not of this generation, and what writing one left when it was cut off."""
    keep = f"vectors-{generation}.faiss"
    return [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.name != keep]


def remove_files(folder: Path, other_than: Sequence[Path]) -> None:
    """Call it with the writer lock held. Whoever has one of them open keeps it until then."""
    for path in list(folder.iterdir()):
        if NAME.fullmatch(path.name) and path not in other_than:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:  # Windows keeps a mapped file; the next writer takes it away
                continue


def _sync_folder(folder: Path) -> None:
    """The new name itself survives a power cut, where folders can be flushed."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

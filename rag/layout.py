"""How an index keeps its vectors, and which kind of FAISS index searches them: stated, or chosen by size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rag.errors import RagRequestError

Storage = Literal["float32", "float16", "int8", "binary"]
Kind = Literal["flat", "hnsw", "ivf"]

# Up to here comparing with every vector takes a few milliseconds, is exact, and needs no building.
_FLAT_UNTIL = 50_000
# A graph finds most for its time, but is slow to build, takes 270 bytes a vector more, and cannot forget a vector.
_HNSW_UNTIL = 100_000


@dataclass(frozen=True)
class IndexSettings:
    """Raises RagRequestError for values that there are not, and for a graph over binary codes."""

    type: Literal["auto", "flat", "hnsw", "ivf"] = "auto"
    """`flat` compares with every vector, `hnsw` follows a graph, `ivf` looks into the nearest of many clusters; `auto`
    takes flat up to 50,000 chunks, hnsw up to 100,000 and ivf above."""
    storage: Storage = "float32"
    """What a stored vector's number takes: 4, 2 or 1 bytes; `binary` searches one bit a number and ranks what it finds
    by vectors stored as float16."""

    def __post_init__(self) -> None:
        if self.type not in ("auto", *get_args(Kind)):
            raise RagRequestError(f"index.type is {self.type!r}; it must be auto, {', '.join(get_args(Kind))}")
        if self.storage not in get_args(Storage):
            raise RagRequestError(f"index.storage is {self.storage!r}; it must be {', '.join(get_args(Storage))}")
        if self.type == "hnsw" and self.storage == "binary":
            raise RagRequestError("index.type is hnsw, which has no binary codes; take ivf, or another index.storage")

    def kind(self, count: int) -> Kind:
        """The kind of FAISS index for so many vectors."""
        if self.type != "auto":
            # Clusters of fewer than forty vectors are no clusters.
            return "flat" if self.type == "ivf" and count < 1000 else self.type
        if count <= _FLAT_UNTIL:
            return "flat"
        return "hnsw" if count <= _HNSW_UNTIL and self.storage != "binary" else "ivf"


def list_count(count: int) -> int:
    """Clusters of an ivf index: four times the root, as FAISS advises, and no fewer than forty vectors for each."""
    return max(1, min(round(4 * math.sqrt(count)), count // 40, 65536))


@dataclass(frozen=True)
class Layout:
    """What a vectors file says of itself."""

    kind: Kind
    storage: Storage
    lists: int = 0
    """Clusters of an ivf index."""
    probes: int = 0
    """How much of it a search looks at: clusters (ivf), or nodes kept in view (hnsw)."""
    candidates: int = 1
    """For each chunk wanted, so many are taken from FAISS and ranked by their stored vectors; 1: FAISS's are exact."""
    recall: float = 1.0
    """Of the ten nearest neighbours of sampled stored vectors, the share that a search with these values found."""
    built_of: int = 0
    """How many vectors there were when it was built anew."""

    @property
    def words(self) -> str:
        """For people: `ivf, 4000 lists of which 32 are searched, 1 byte a number, recall@10 0.993`."""
        codes = _CODES[self.storage] if self.kind == "flat" or self.storage == "binary" else _CODES["int8"]
        if self.kind == "flat":
            parts = ["flat", codes]
        elif self.kind == "hnsw":
            parts = [f"hnsw, {self.probes} nodes in view", codes]
        else:
            parts = [f"ivf, {self.lists} lists of which {self.probes} are searched", codes]
        exact = "exact" if self.candidates == 1 else f"recall@10 {self.recall:.3f} when built"
        return ", ".join([*parts, exact])


_CODES = {
    "float32": "4 bytes a number",
    "float16": "2 bytes a number",
    "int8": "1 byte a number",
    "binary": "1 bit a number",
}

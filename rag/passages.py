"""What a hit shows of its document: its own chunk, or that with the chunks around it, as one exact span."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.store import Store, StoredChunk


@dataclass(frozen=True)
class Passage:
    """`text` is the document's `text[start:end]`, in characters."""

    start: int
    end: int
    text: str


def read_around(store: Store, chunks: Sequence[StoredChunk], neighbours: int) -> dict[int, Passage]:
    """Chunk id -> the chunk with up to `neighbours` before and after, and what stands between them (the headings); of
    no chunk where there are to be no neighbours. Call it in a snapshot."""
    found: dict[int, Passage] = {}
    for stored in chunks if neighbours else ():
        start, end = _around(store, stored, neighbours)
        found[stored.id] = Passage(start, end, _text(store, stored.chunk.document_id, start, end))
    return found


def passages(hits: Sequence[StoredChunk], around: Mapping[int, Passage]) -> list[Passage]:
    """For each hit, best first, its own chunk, or what `read_around` gave for it. What an earlier hit shows is then not
    shown again: no two of these spans overlap, but for chunks that are hits themselves and lie within each other."""
    if not around:
        return [Passage(hit.chunk.start, hit.chunk.end, hit.chunk.text) for hit in hits]
    spans_shown: dict[str, list[tuple[int, int]]] = {}
    found: list[Passage] = []
    for hit in hits:
        shown = spans_shown.setdefault(hit.chunk.document_id, [])
        whole = around[hit.id]
        start = max([whole.start, *(last for first, last in shown if first <= hit.chunk.start)])
        end = min([whole.end, *(first for first, _ in shown if first > hit.chunk.start)])
        if start >= end:
            start, end = hit.chunk.start, hit.chunk.end
        shown.append((start, end))
        found.append(Passage(start, end, whole.text[start - whole.start : end - whole.start]))
    return found


def _around(store: Store, hit: StoredChunk, neighbours: int) -> tuple[int, int]:
    """From the first neighbour's start to the last one's end."""
    chunk = hit.chunk
    query = """SELECT min(start), max("end") FROM chunks JOIN documents ON documents.key = chunks.document
        WHERE documents.id = ? AND position BETWEEN ? AND ?"""
    row = store.database.rows(query, (chunk.document_id, chunk.position - neighbours, chunk.position + neighbours))[0]
    return int(str(row[0])), int(str(row[1]))


def _text(store: Store, document: str, start: int, end: int) -> str:
    query = """SELECT substr(text, ?, ?) FROM texts JOIN documents ON documents.key = texts.document
        WHERE documents.id = ?"""
    return str(store.database.rows(query, (start + 1, end - start, document))[0][0])

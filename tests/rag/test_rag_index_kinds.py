"""Each kind of FAISS index over each way to store vectors: enough is found, cosines are exact, changes are followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.chunking import Chunk, ChunkSettings
from rag.codes import BrokenVectorError, blob_bytes, decode, encode, is_whole
from rag.corpus import Document, Section
from rag.embedder import Vectors
from rag.errors import DamagedIndexError, IncompatibleIndexError, RagRequestError
from rag.index import Index, remove_index
from rag.layout import IndexSettings, Kind, Storage, list_count
from rag.store import Ids, Store
from rag.vectors import VectorIndex, is_in_place, put_in_place
from rag.vectors_file import read_file
from rag.writer_lock import writing
from tests.rag.hash_embedder import HashEmbedder, make_corpus

DIMENSION = 32
COUNT = 3000
KINDS: list[tuple[Kind, Storage]] = [
    ("flat", "float32"),
    ("flat", "float16"),
    ("flat", "int8"),
    ("flat", "binary"),
    ("hnsw", "float32"),
    ("hnsw", "int8"),
    ("ivf", "float32"),
    ("ivf", "float16"),
    ("ivf", "binary"),
]


def unit_rows(count: int, seed: int) -> Vectors:
    """Clustered, as texts are."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, DIMENSION))
    rows = centres[chance.integers(0, 60, count)] + chance.standard_normal((count, DIMENSION))
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def insert(store: Store, vectors: Vectors, name: str) -> None:
    """Documents of one hundred chunks, without an embedder."""
    with store.database.transaction():
        for start in range(0, len(vectors), 100):
            part = vectors[start : start + 100]
            document = Document(f"{name}{start}", "", "text", (Section((), 0, 4),))
            chunks = [Chunk(document.id, place, (), 0, 4, "text", 3) for place in range(len(part))]
            store.insert_document(document, chunks, encode(part, store.storage))
        store.next_generation()


def opened(folder: Path, kind: Kind, storage: Storage) -> Store:
    embedder = HashEmbedder(dimension=DIMENSION)
    layout = IndexSettings(kind, storage)
    return Store.create_or_open(folder / "index.sqlite", embedder, ChunkSettings(), layout, wait_seconds=1)


def put(folder: Path, store: Store) -> VectorIndex:
    with writing(folder, 1):
        return put_in_place(folder, store)


def exact(vectors: Vectors, ids: Ids, queries: Vectors, limit: int) -> list[list[int]]:
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :limit]
    return [ids[row].tolist() for row in best]


def recall(found: list[list[tuple[int, float]]], truth: list[list[int]]) -> float:
    return float(
        np.mean([len({id for id, _ in row} & set(true)) / len(true) for row, true in zip(found, truth, strict=True)])
    )


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_nearly_all_neighbours_are_found_with_their_exact_cosines(folder: Path, kind: Kind, storage: Storage) -> None:
    store = opened(folder, kind, storage)
    vectors, queries = unit_rows(COUNT, 1), unit_rows(50, 2)
    insert(store, vectors, "d")
    put(folder, store)
    with store.database.snapshot():
        index = VectorIndex.read(folder, store)
        assert index is not None, "the file is read back"
        assert (index.layout.kind, index.layout.storage, index.size) == (kind, storage, COUNT)
        assert (index.layout.candidates == 1) == (kind == "flat" and storage in ("float32", "float16"))
        ids = store.all_ids()
        found = index.search(queries, 10)
        assert recall(found, exact(vectors, ids, queries, 10)) >= (0.9 if storage == "binary" else 0.96)
        loss = {"float32": 1e-5, "float16": 1e-3, "binary": 1e-3, "int8": 0.02}[storage]
        for query, row in zip(queries, found, strict=True):
            assert len(row) == 10
            assert [cosine for _, cosine in row] == sorted((cosine for _, cosine in row), reverse=True)
            assert np.allclose([cosine for _, cosine in row], vectors[[id - 1 for id, _ in row]] @ query, atol=loss)
        assert np.allclose(index.rows([7, 3]), vectors[[6, 2]], atol=loss)
        assert [len(row) for row in index.search(queries[:2], 5000)] == [COUNT, COUNT] or kind != "flat"
        assert index.strange_vector() is None
        assert "bytes a number" in index.layout.words or "1 b" in index.layout.words
    store.database.close()


@pytest.mark.parametrize(("kind", "storage"), KINDS)
@pytest.mark.parametrize("share", [5, 400, 2600])
def test_a_filter_loses_nothing(
    folder: Path, kind: Kind, storage: Storage, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among few and among many; few of them near the query."""
    monkeypatch.setattr("rag.vectors._READ_AT_ONCE", 50)
    store = opened(folder, kind, storage)
    vectors, queries = unit_rows(COUNT, 1), unit_rows(20, 2)
    insert(store, vectors, "d")
    put(folder, store)
    with store.database.snapshot():
        index = VectorIndex.read(folder, store)
        assert index is not None
        # Those furthest from the first query: a search that looks around it meets none of them.
        far = np.argsort(vectors @ queries[0])[:share]
        among = (far + 1).tolist()
        found = index.search(queries, 10, among)
        assert all(len(row) == min(10, share) and {id for id, _ in row} <= set(among) for row in found)
        truth = exact(vectors[far], far + 1, queries, min(10, share))
        assert recall(found, truth) >= (0.9 if storage == "binary" else 0.95)
        assert index.search(queries[:1], 10, []) == [[]]
    store.database.close()


@pytest.mark.parametrize(
    ("kind", "storage"), [("flat", "float32"), ("hnsw", "float32"), ("ivf", "float32"), ("ivf", "binary")]
)
def test_changes_are_followed_by_who_writes_and_by_who_reads(
    folder: Path, kind: Kind, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(folder, kind, storage)
    vectors, more, queries = unit_rows(COUNT, 1), unit_rows(200, 3), unit_rows(50, 2)
    insert(store, vectors, "d")
    put(folder, store)
    with store.database.transaction():
        store.delete_documents(["d0", "d1000", "d2900"])
    insert(store, more, "e")
    everything = np.concatenate([vectors, more])
    with store.database.snapshot():
        ids = store.all_ids()
        assert ids[-1] == COUNT + 200, "ids of what is gone are not given again"
        truth = exact(everything[ids - 1], ids, queries, 10)
        between = VectorIndex.read_any(folder, store)
        assert between is not None
        assert between.generation == store.generation
        assert between.size == len(ids)
        assert np.array_equal(between.ids(), ids)
        least = 0.9 if storage == "binary" else 0.96
        assert recall(between.search(queries, 10), truth) >= least
        few = ids[-300:].tolist()
        assert (
            recall(between.search(queries, 10, few), exact(everything[ids[-300:] - 1], ids[-300:], queries, 10))
            >= least
        )
        assert not is_in_place(folder, store)

    def never(store: Store) -> Any:
        raise AssertionError("it was built anew")

    if kind != "flat":
        monkeypatch.setattr("rag.vectors.build", never)
    put(folder, store)
    with store.database.snapshot():
        assert is_in_place(folder, store)
        index = VectorIndex.read(folder, store)
        assert index is not None
        assert np.array_equal(index.ids(), ids)
        assert recall(index.search(queries, 10), truth) >= least
        assert {id for row in index.search(queries, 100) for id, _ in row} <= set(ids.tolist())
        assert index.strange_vector() is None
    assert [path.name for path in folder.glob("vectors-*")] == [f"vectors-{store.generation}.faiss"]
    store.database.close()


def test_the_kind_is_chosen_by_size_and_can_be_stated() -> None:
    auto = IndexSettings()
    assert [auto.kind(count) for count in (0, 50_000, 50_001, 100_000, 100_001)] == [
        "flat",
        "flat",
        "hnsw",
        "hnsw",
        "ivf",
    ]
    assert IndexSettings(storage="binary").kind(60_000) == "ivf"
    assert IndexSettings("ivf").kind(10) == "flat", "a few vectors are no clusters"
    assert IndexSettings("hnsw").kind(10) == "hnsw"
    assert [list_count(count) for count in (1000, 1_000_000, 10**9)] == [25, 4000, 65536]
    for wrong in ({"type": "tree"}, {"storage": "float64"}, {"type": "hnsw", "storage": "binary"}):
        with pytest.raises(RagRequestError, match=r"index\.(type|storage) is"):
            IndexSettings(**wrong)  # type: ignore[arg-type]


def test_another_type_is_taken_at_the_next_opening_and_another_storage_is_another_index(folder: Path) -> None:
    texts = {f"{number}.txt": f"Words of {number}." for number in range(8)}
    with Index.create_or_open(folder, HashEmbedder()) as index:
        index.sync(make_corpus(texts))
        assert index.vectors_in_words == "flat, 4 bytes a number, exact"
    with Index.create_or_open(folder, HashEmbedder(), layout=IndexSettings("hnsw")) as index:
        assert index.vectors_in_words.startswith("hnsw, 96 nodes in view, 1 byte a number, recall@10 1.000")
        assert index.generation == 1
    with Index.create_or_open(folder, HashEmbedder()) as index:
        assert index.vectors_in_words.startswith("hnsw"), "what is not said stays"
    with pytest.raises(IncompatibleIndexError, match="storage of vectors: 'float32' then, 'int8' now"):
        Index.create_or_open(folder, HashEmbedder(), layout=IndexSettings(storage="int8"))
    (folder / "notes.txt").write_text("a user's own file")
    remove_index(folder)
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".writer")] == ["notes.txt"]
    with Index.create_or_open(folder, HashEmbedder(), layout=IndexSettings(storage="int8")) as index:
        assert index.sync(make_corpus(texts)).added == 8
        index.verify()


def test_an_id_that_there_is_not_is_damage(folder: Path) -> None:
    store = opened(folder, "ivf", "float32")
    vectors = unit_rows(COUNT, 1)
    insert(store, vectors, "d")
    index = put(folder, store)
    with store.database.transaction():
        store.database.execute("DELETE FROM vectors WHERE chunk = 5")
    with store.database.snapshot(), pytest.raises(DamagedIndexError, match="the vector of chunk 5 is missing"):
        index.search(vectors[4:5], 3)
    store.database.close()


def test_blocks_of_large_files_are_sampled_and_verified_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.vectors_file._BLOCK", 1024)
    store = opened(folder, "ivf", "float32")
    insert(store, unit_rows(COUNT, 1), "d")
    put(folder, store)
    path = folder / "vectors-1.faiss"
    file = read_file(path, store.token, 1)
    assert file is not None
    assert file.broken_blocks(everything=True) == file.broken_blocks(everything=False) == []
    content = bytearray(path.read_bytes())
    for number in range(40, len(file.digests) // 32):
        content[number * 1024 + 5] ^= 16
    path.write_bytes(bytes(content))
    assert file.broken_blocks(everything=True) == list(range(40, len(file.digests) // 32))
    assert file.broken_blocks(everything=False), "the last block is always looked at"
    content[3] ^= 1
    path.write_bytes(bytes(content))
    assert 0 in file.broken_blocks(everything=False), "and so is the first"
    store.database.close()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["float32", "float16", "int8", "binary"]),
    st.integers(1, 40),
    st.integers(0, 5),
    st.integers(0, 9999),
)
def test_blobs_come_back_and_a_changed_bit_is_seen(storage: Storage, dimension: int, count: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((count, dimension)).astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    blobs = encode(rows, storage)
    assert all(len(blob) == blob_bytes(storage, dimension) and is_whole(blob, storage, dimension) for blob in blobs)
    back = decode(blobs, storage, dimension)
    assert (back.dtype, back.shape) == (np.float32, rows.shape)
    assert np.allclose(back, rows, atol={"float32": 0, "float16": 1e-3, "binary": 1e-3, "int8": 0.01}[storage])
    assert encode(back, storage) == blobs, "what is stored again is what was stored"
    if count:
        wrong = bytearray(blobs[-1])
        place = int(chance.integers(0, 8 * len(wrong)))
        wrong[place // 8] ^= 1 << place % 8
        with pytest.raises(BrokenVectorError):
            decode([*blobs[:-1], bytes(wrong)], storage, dimension)

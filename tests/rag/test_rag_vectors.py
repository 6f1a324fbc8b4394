"""The vectors file: derived, checked before it is believed, made again when it is not right."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pytest

import rag.vectors
from rag.chunking import ChunkSettings
from rag.documents import Corpus
from rag.errors import RagError
from rag.index import Index
from rag.layout import IndexSettings, Kind
from rag.search import Mode, SearchSettings
from rag.store import Ids, Store
from rag.vectors import VectorIndex
from rag.vectors_building import build
from rag.vectors_file import write_file
from rag.vectors_gpu import GpuIndex
from tests.rag.hash_embedder import HashEmbedder, make_corpus

DENSE = SearchSettings("dense", 3)
# The ways in which a search has a selector: around the query, or, for few that are chosen, everywhere.
SELECTED: list[tuple[Kind, bool]] = [("flat", False), ("hnsw", False), ("flat", True)]
TEXTS = {f"{name}.txt": f"Words about {name}. " * 3 for name in ("cats", "dogs", "ships", "trees")}


def names(folder: Path) -> list[str]:
    """What is not hidden: the writer's lock is."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def made(folder: Path, embedder: HashEmbedder) -> Path:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus(TEXTS))
    return folder


def believed(folder: Path) -> bool:
    with Index.open(folder) as index:
        return VectorIndex.read(folder, index._store) is not None


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(os.urandom(5000))


@pytest.mark.parametrize("damage", [Path.unlink, truncate, flip, empty, noise])
def test_a_missing_or_damaged_file_is_made_again(
    made: Path, embedder: HashEmbedder, damage: Callable[[Path], None]
) -> None:
    file = made / "vectors-1.faiss"
    whole = file.read_bytes()
    with Index.open(made, embedder) as index:
        hits = index.search("cats", DENSE)
    damage(file)
    assert not believed(made)
    with Index.open(made, embedder) as index:
        assert index.search("cats", DENSE) == hits
        index.verify()
    assert file.read_bytes() == whole


def test_a_file_of_another_index_is_not_believed(made: Path, tmp_path: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(tmp_path / "other", embedder, ChunkSettings(24, 0)) as other:
        other.sync(make_corpus({name: text.upper() + "x" for name, text in TEXTS.items()}))
    shutil.copy(tmp_path / "other" / "vectors-1.faiss", made / "vectors-1.faiss")
    assert not believed(made)


def test_a_file_of_another_generation_is_not_believed(made: Path, embedder: HashEmbedder) -> None:
    old = (made / "vectors-1.faiss").read_bytes()
    with Index.open(made, embedder) as index:
        index.sync(make_corpus({**TEXTS, "cats.txt": "Cats changed. " * 3}))
    assert names(made) == ["index.sqlite", "lexical-2.postings", "vectors-2.faiss"]
    (made / "vectors-2.faiss").write_bytes(old)
    assert not believed(made)


def test_leftovers_of_a_crash_go_with_the_next_sync(made: Path, embedder: HashEmbedder) -> None:
    for name in ("vectors-0.faiss", "vectors-7.faiss.tmp", "vectors-12.faiss"):
        (made / name).write_bytes(b"x")
    (made / "vectors-mine.faiss").write_bytes(b"a user's own file")
    with Index.open(made, embedder) as index:
        index.sync(Corpus(()))
    assert names(made) == ["index.sqlite", "lexical-2.postings", "vectors-2.faiss", "vectors-mine.faiss"]


def test_the_file_is_plain_faiss(made: Path) -> None:
    import faiss

    index = faiss.read_index(str(made / "vectors-1.faiss"))
    assert index.ntotal == 4
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_verify_compares_the_file_with_the_database(
    folder: Path, embedder: HashEmbedder, kind: Literal["flat", "hnsw"]
) -> None:
    """Files that are whole by their own checksums, and hold another chunk's vector, or one chunk too few."""
    import faiss

    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0), IndexSettings(kind)) as index:
        index.sync(make_corpus(TEXTS))
        store, token = index._store, index._store.token
        for swap, message in (
            (True, "the vector of chunk 1 differs"),
            (False, "is no FAISS index of this one's chunks"),
        ):
            built = build(store)
            ids = store.all_ids()
            wrong: Any = faiss.index_factory(
                48, "IDMap,Flat" if kind == "flat" else "IDMap,HNSW32_SQ8", faiss.METRIC_INNER_PRODUCT
            )
            vectors = store.vectors([2, *ids[1:].tolist()] if swap else ids[1:].tolist())
            wrong.train(vectors)
            wrong.add_with_ids(vectors, ids if swap else ids[1:])
            write_file(folder, token, 1, wrong, built.layout, built.dead)
            with pytest.raises(RagError, match=message):
                index.verify()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write error")])
def test_a_file_that_cannot_be_written_loses_nothing(
    made: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(descriptor: int) -> None:
        raise error

    with Index.open(made, embedder) as index:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(RagError, match=r"nothing committed is lost|The index itself is whole"):
                index.sync(make_corpus({"new.txt": "Entirely new."}))
        assert index.generation == 2
        assert [hit.chunk.text for hit in index.search("new", DENSE)] == ["Entirely new."]
    with Index.open(made, embedder) as index:
        assert [hit.chunk.text for hit in index.search("new", DENSE)] == ["Entirely new."]
        index.verify()
    assert names(made) == ["index.sqlite", "lexical-2.postings", "vectors-2.faiss"]


@pytest.mark.parametrize(("kind", "everywhere"), SELECTED)
def test_a_selector_lives_until_the_search_is_done(
    made: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch, kind: Kind, everywhere: bool
) -> None:
    """As FAISS before 1.15 has it: what holds the parameters does not hold the selector."""
    selectors: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    made_selector, searched = VectorIndex._selector, rag.vectors._searched

    def selector(index: VectorIndex, wanted: Ids | None) -> Any:
        found = made_selector(index, wanted)
        selectors.append(weakref.ref(found))
        return found

    def seen(index: Any, queries: Any, limit: int, parameters: Any) -> Any:
        vars(parameters).pop("_sp_field_refs", None)
        alive.append(selectors[-1]() is not None)
        assert alive[-1], "it would read freed memory"
        return searched(index, queries, limit, parameters)

    with Index.open(made, embedder) as index, index._store.database.snapshot():
        store = index._store
        monkeypatch.setattr(Store, "layout", IndexSettings(kind))
        vectors = VectorIndex.build(store)
        assert vectors.layout.kind == kind
        monkeypatch.setattr(VectorIndex, "_selector", selector)
        monkeypatch.setattr(rag.vectors, "_searched", seen)
        query = embedder.encode_queries(["cats"])
        among = store.all_ids()[:2]
        expected = store.vectors(among.tolist()) @ query[0]
        if everywhere:
            cosines, ids = vectors._everywhere(query, 4, among)
        else:
            cosines, ids = vectors._around(query, 4, among, 0.5)
    assert alive == [True]
    found = {id: cosine for id, cosine in zip(ids[0].tolist(), cosines[0].tolist(), strict=True) if id >= 0}
    assert found == pytest.approx(dict(zip(among.tolist(), expected.tolist(), strict=True)), abs=0.02)


def test_a_gpu_is_asked_for_no_more_than_it_can_select(
    made: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Limited:
        """As FAISS on a GPU: it raises where k is over 2,048."""

        asked: ClassVar[list[int]] = []

        def search(self, queries: Any, limit: int) -> Any:
            self.asked.append(limit)
            if limit > 2048:
                raise RuntimeError(f"GPU index only supports min/max-K selection up to 2048 (requested {limit})")
            return np.full((len(queries), limit), 0.5, np.float32), np.full((len(queries), limit), -1)

    monkeypatch.setattr(rag.vectors, "copy_to_gpu", lambda index, layout: GpuIndex(Limited(), threading.Lock()))
    with Index.open(made, embedder) as index, index._store.database.snapshot():
        vectors = VectorIndex.build(index._store)
        queries = embedder.encode_queries(["cats"])
        assert (vectors._look(queries, 2048, None)[1] == -1).all(), "the GPU answered"
        assert (vectors._look(queries, 2049, None)[1][:, :4] > 0).all(), "the processor answered"
    assert Limited.asked == [2048]


def test_a_file_that_a_writer_takes_away_meanwhile_is_not_there(
    made: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading its end and reading its blocks."""
    read = rag.vectors.read_file

    def taken_away(path: Path, index_id: str, generation: int) -> Any:
        file = read(path, index_id, generation)
        path.unlink()
        return file

    with Index.open(made, embedder) as index, index._store.database.snapshot():
        monkeypatch.setattr(rag.vectors, "read_file", taken_away)
        assert VectorIndex.read(made, index._store) is None


def test_readers_open_while_another_writes(made: Path, embedder: HashEmbedder) -> None:
    faults: list[BaseException] = []
    opened: list[int] = []
    done = threading.Event()

    def open_again_and_again() -> None:
        while not done.is_set():
            try:
                with Index.open(made, HashEmbedder()) as reader:
                    assert reader.search("cats", DENSE)[0].chunk.document_id == "cats.txt"
                opened.append(1)
            except BaseException as error:
                faults.append(error)
                return

    threads = [threading.Thread(target=open_again_and_again) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        with Index.open(made, embedder) as writer:
            for number in range(25):
                writer.sync(make_corpus({**TEXTS, "new.txt": f"Number {number}. " * 3}))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not faults, faults
    assert opened


def test_an_open_index_follows_what_another_syncs(made: Path, embedder: HashEmbedder) -> None:
    with Index.open(made, embedder) as reader, Index.open(made, HashEmbedder()) as writer:
        assert reader.search("cats", DENSE)[0].chunk.document_id == "cats.txt"
        writer.sync(make_corpus({"lions.txt": "Words about cats that are lions.", "dull.txt": "Nothing of note."}))
        for mode in get_args(Mode):
            hits = reader.search("cats", SearchSettings(mode))
            assert hits[0].chunk.document_id == "lions.txt"
            assert hits == writer.search("cats", SearchSettings(mode))

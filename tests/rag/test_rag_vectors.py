"""The vectors file: derived, checked before it is believed, made again when it is not right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from rag.chunking import ChunkSettings
from rag.documents import Corpus
from rag.errors import RagError
from rag.index import Index
from rag.layout import IndexSettings
from rag.search import Mode, SearchSettings
from rag.vectors import VectorIndex
from rag.vectors_building import build
from rag.vectors_file import write_file
from tests.rag.hash_embedder import HashEmbedder, make_corpus

DENSE = SearchSettings("dense", 3)
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
        store, index_id = index._store, index.manifest.index_id
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
            write_file(folder, index_id, 1, wrong, built.layout, built.dead)
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


def test_an_open_index_follows_what_another_syncs(made: Path, embedder: HashEmbedder) -> None:
    with Index.open(made, embedder) as reader, Index.open(made, HashEmbedder()) as writer:
        assert reader.search("cats", DENSE)[0].chunk.document_id == "cats.txt"
        writer.sync(make_corpus({"lions.txt": "Words about cats that are lions.", "dull.txt": "Nothing of note."}))
        for mode in get_args(Mode):
            hits = reader.search("cats", SearchSettings(mode))
            assert hits[0].chunk.document_id == "lions.txt"
            assert hits == writer.search("cats", SearchSettings(mode))

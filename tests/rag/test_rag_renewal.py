"""An index that is made anew, for another embedder or other chunks, serves until the new one is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag.chunking import ChunkSettings
from rag.database import Database
from rag.errors import RagError, ReplacedIndexError
from rag.index import Index, remove_index
from rag.index_files import RENEWAL
from rag.layout import IndexSettings
from rag.renewal import renewing
from rag.search import SearchSettings
from rag.verification import verify_index
from rag.writer_lock import writing
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)
TEXTS = {f"{name}.md": f"# {name}\nAll about {name}.\n## Food\nWhat {name} eat. " * 3 for name in ("cats", "dogs")}
LAYOUT = IndexSettings()


def other_embedder() -> HashEmbedder:
    return HashEmbedder("other", dimension=32)


@pytest.fixture
def made(folder: Path) -> Path:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        index.sync(make_corpus({**TEXTS, "cows.md": "# Cows\n\nAll about cows."}))
    return folder


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".writer")}


def renew(folder: Path, embedder: HashEmbedder, settings: ChunkSettings = SETTINGS) -> None:
    with renewing(folder, embedder, settings, LAYOUT) as index:
        index.sync(make_corpus(TEXTS))


def test_the_old_index_serves_until_the_new_one_is_whole(made: Path) -> None:
    with Index.open(made, HashEmbedder()) as reader:
        before = reader.search("cats eat")
        with renewing(made, other_embedder(), SETTINGS, LAYOUT) as index:
            index.sync(make_corpus({"new.md": "# New\n\nother words"}))
            assert reader.search("cats eat") == before
            with Index.open(made, HashEmbedder()) as second:
                assert second.search("cats eat") == before and second.generation == 2
    assert visible(made) == {"index.sqlite", "vectors-1.faiss", "lexical-1.postings"}
    assert verify_index(made).ok
    with Index.open(made, other_embedder()) as index:
        assert [hit.chunk.document_id for hit in index.search("other words")] == ["new.md"]
        assert index.document_ids() == ["new.md"]


def test_whoever_has_it_open_goes_on_where_the_embedder_is_the_same(made: Path) -> None:
    with Index.create_or_open(made, HashEmbedder(), SETTINGS) as open_index:
        assert open_index.search("cats eat", SearchSettings("hybrid"))
        with renewing(made, HashEmbedder(), ChunkSettings(18, 0), IndexSettings(storage="int8")) as index:
            index.sync(make_corpus(TEXTS))
        open_index.verify()
        with Index.open(made, HashEmbedder()) as fresh:
            for mode in ("hybrid", "dense", "lexical"):
                settings = SearchSettings(mode, 50)
                assert open_index.search("cats eat", settings) == fresh.search("cats eat", settings)
        assert open_index.manifest.chunk == ChunkSettings(18, 0) and open_index.manifest.storage == "int8"
        assert open_index.sync(make_corpus({**TEXTS, "hens.md": "# Hens\n\nhens"})).added == 1
        open_index.verify()


def test_vectors_of_two_embedders_are_never_compared(made: Path) -> None:
    """Even with as many numbers: the same words then have other directions."""
    with Index.create_or_open(made, HashEmbedder(), SETTINGS) as index:
        index.search("cats eat")
        renew(made, HashEmbedder("other"))
        for ask in (lambda: index.search("cats eat"), lambda: index.sync(make_corpus(TEXTS))):
            for _ in range(2):
                with pytest.raises(ReplacedIndexError, match=r"with other \(revision 1\); open it again"):
                    ask()
    with Index.open(made) as index:
        assert index.document_ids() == sorted(TEXTS)


def test_a_renewal_during_the_opening_is_noticed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Index._follow

    def renewed_just_now(index: Index) -> None:
        monkeypatch.setattr(Index, "_follow", follow)
        renew(made, HashEmbedder("other"))
        follow(index)

    monkeypatch.setattr(Index, "_follow", renewed_just_now)
    with pytest.raises(ReplacedIndexError):
        Index.open(made, HashEmbedder())


class StopsAfter(HashEmbedder):
    def __init__(self, passages: int) -> None:
        super().__init__("other", dimension=32)
        self.passages = passages

    def encode_passages(self, texts, progress=None):  # type: ignore[no-untyped-def]
        if len(self.read) + len(texts) > self.passages:
            raise KeyboardInterrupt
        return super().encode_passages(texts, progress)


def test_a_renewal_that_was_stopped_goes_on_where_it_was(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.sync._SLAB", 2)
    stopping, after = StopsAfter(4), other_embedder()
    with pytest.raises(KeyboardInterrupt):
        renew(made, stopping)
    assert (made / RENEWAL).is_dir()
    with Index.open(made, HashEmbedder()) as index:  # which may write, and takes nothing away
        assert index.search("cats eat") and index.generation == 2
    renew(made, after)
    with Index.open(made, other_embedder()) as index:
        texts = {chunk.embedded_text for chunk in index.chunks()}
    assert len(stopping.read) == 4 and not set(stopping.read) & set(after.read), "nothing is embedded twice"
    assert set(stopping.read) | set(after.read) == texts
    assert not (made / RENEWAL).exists() and verify_index(made).ok


def test_what_was_begun_for_other_settings_is_not_gone_on_with(made: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        renew(made, StopsAfter(0))
    third = HashEmbedder("third")
    renew(made, third)
    assert not (made / RENEWAL).exists()
    with Index.open(made, third) as index:
        assert index.search("cats eat") and verify_index(made).ok


def test_a_sync_of_the_index_itself_ends_a_renewal_that_was_stopped(made: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        renew(made, StopsAfter(0))
    with Index.create_or_open(made, HashEmbedder(), SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    assert visible(made) == {"index.sqlite", "vectors-3.faiss", "lexical-3.postings"}


def test_one_renewal_at_a_time_and_no_sync_beside_it(made: Path) -> None:
    with renewing(made, other_embedder(), SETTINGS, LAYOUT) as index:
        with (
            pytest.raises(RagError, match="being written by another process"),
            renewing(made, other_embedder(), SETTINGS, LAYOUT, wait_seconds=0.05),
        ):
            pass
        with (
            Index.create_or_open(made, HashEmbedder(), SETTINGS, wait_seconds=0.05) as old,
            pytest.raises(RagError, match="being written by another process"),
        ):
            old.sync(make_corpus(TEXTS))
        index.sync(make_corpus(TEXTS))
    with writing(made, 0):
        assert verify_index(made).ok


def test_a_stop_between_the_commit_and_the_files_leaves_the_new_one(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(database: Database) -> None:
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
        renewing(made, other_embedder(), SETTINGS, LAYOUT) as index,
    ):
        index.sync(make_corpus(TEXTS))
        patch.setattr(Database, "settle", stop)
    with Index.create_or_open(made, other_embedder(), SETTINGS) as index:
        assert index.search("cats eat") and index.sync(make_corpus(TEXTS)).unchanged == 2
    assert visible(made) == {"index.sqlite", "vectors-1.faiss", "lexical-1.postings"}
    assert verify_index(made).ok


def test_a_damaged_renewal_is_begun_anew(made: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        renew(made, StopsAfter(0))
    (made / RENEWAL / "index.sqlite").write_bytes(b"no database at all, " * 1000)
    renew(made, other_embedder())
    assert verify_index(made).ok


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_in_the_place_of_the_renewal_is_not_followed(made: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (made / RENEWAL).symlink_to(tmp_path / "elsewhere")
    renew(made, other_embedder())
    assert list((tmp_path / "elsewhere").iterdir()) == [] and not (made / RENEWAL).exists()


def test_removing_an_index_removes_what_a_renewal_left(made: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        renew(made, StopsAfter(0))
    remove_index(made)
    assert visible(made) == set()


def test_what_cannot_be_searched_is_not_renewed(folder: Path) -> None:
    with pytest.raises(RagError, match="there is no index"):
        renew(folder, other_embedder())
    assert not folder.exists()

"""What an index meets outside its own programs: restored backups, copies that went on by themselves, folders that are
deleted or made anew under whoever has them open, and disks without room."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rag.chunking import ChunkSettings
from rag.database_errors import explained
from rag.errors import RagError
from rag.index import Index
from rag.layout import IndexSettings, Kind
from rag.lexical import LexicalIndex
from rag.mapped import write_arrays
from rag.repair import repair_index
from rag.search import Mode, SearchSettings
from rag.verification import verify_index
from tests.rag.hash_embedder import HashEmbedder, make_corpus

KEPT = {f"k{number}.md": f"# K{number}\n\nkeep number {number} word{number}" for number in range(5)}
YELLOW = {"y.md": "# Y\n\nyellow bananas ripen slowly"}
ZEBRAS = {"z.md": "# Z\n\nzebras gallop over plains"}
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")


def sync(folder: Path, texts: dict[str, str], kind: Kind | None = None) -> None:
    layout = None if kind is None else IndexSettings(kind)
    with Index.create_or_open(folder, HashEmbedder(), ChunkSettings(), layout) as index:
        index.sync(make_corpus(texts))


def answers(index: Index) -> list[list[tuple[str, float]]]:
    """The ids and scores of what every kind of search finds."""
    found = []
    for mode in MODES:
        for query in ("yellow bananas ripen", "zebras gallop plains", "keep word3"):
            hits = index.search(query, SearchSettings(mode=mode, top_k=3))
            found.append([(hit.chunk.document_id, round(hit.score, 5)) for hit in hits])
    return found


def answers_of(folder: Path) -> list[list[tuple[str, float]]]:
    with Index.open(folder, HashEmbedder()) as index:
        return answers(index)


def damage(folder: Path, old: bytes, new: bytes) -> None:
    path = folder / "index.sqlite"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_repair_keeps_documents_without_chunks(folder: Path) -> None:
    sync(folder, {"empty.md": "", "a.md": "# A\n\ntext a", "b.md": "# B\n\ntext b"})
    with Index.open(folder) as index:
        assert index.chunks(["empty.md"]) == [], "the case is there"
    damage(folder, b"text b", b"texT b")
    assert repair_index(folder).dropped == ("b.md",)
    assert verify_index(folder).ok
    with Index.open(folder) as index:
        assert index.document_ids() == ["a.md", "empty.md"]


@pytest.fixture
def parted(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An index and its copy, of the same generation, each synced by itself since."""
    sync(folder, KEPT)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    sync(folder, {**KEPT, **YELLOW})
    sync(other, {**KEPT, **ZEBRAS})
    return folder, other


@pytest.mark.parametrize("parts", [("vectors-*",), ("lexical-*",), ("vectors-*", "lexical-*")])
def test_derived_files_of_a_copy_that_went_on_by_itself_are_not_trusted(
    parted: tuple[Path, Path], parts: tuple[str, ...]
) -> None:
    """They have the index's id and the generation's number, and are whole."""
    mine, other = parted
    expected = answers_of(other)
    assert expected != answers_of(mine)
    for part in parts:
        [source], [place] = mine.glob(part), other.glob(part)
        shutil.copy(source, place)
    assert len(verify_index(other).findings) == len(parts)
    assert answers_of(other) == expected
    assert verify_index(other).ok, "and were made anew"


def test_a_database_that_is_restored_from_elsewhere(parted: tuple[Path, Path]) -> None:
    mine, other = parted
    shutil.copy(other / "index.sqlite", mine / "index.sqlite")
    assert answers_of(mine) == answers_of(other)
    assert verify_index(mine).ok


def test_a_database_that_is_restored_under_whoever_has_it_open(parted: tuple[Path, Path]) -> None:
    """By SQLite's own backup, as one more transaction: the number of the generation is the same before and after."""
    mine, other = parted
    expected = answers_of(other)
    asked = SearchSettings(filter={"document": "z.md"})
    with Index.open(mine, HashEmbedder()) as index:
        assert answers(index) != expected
        assert index.search("zebras", asked) == []
        source, target = sqlite3.connect(other / "index.sqlite"), sqlite3.connect(mine / "index.sqlite")
        source.backup(target)
        source.close()
        target.close()
        assert answers(index) == expected
        assert len(index.search("zebras", asked)) == 1


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_file_of_an_older_generation_is_caught_up_in_its_own_history_alone(
    folder: Path, tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two copies give the same new ids to different chunks, so that catching up would take the one for the other."""
    sync(folder, KEPT, kind)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    sync(folder, {**KEPT, **YELLOW})
    stale = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".faiss", ".postings")}
    sync(other, {**KEPT, **ZEBRAS})
    sync(other, {**KEPT, **ZEBRAS, "n.md": "# N\n\nnine more words"})
    expected = answers_of(other)
    for path in [*other.glob("vectors-*"), *other.glob("lexical-*")]:
        path.unlink()
    for name, content in stale.items():
        (other / name).write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr("rag.index.put_derived_in_place", lambda folder, store: None)  # as while somebody is writing
        assert answers_of(other) == expected
    assert answers_of(other) == expected
    assert verify_index(other).ok


def test_a_file_of_an_older_generation_of_the_same_history_is_caught_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(folder, KEPT)
    older = [(path, path.read_bytes()) for path in folder.iterdir() if path.suffix in (".faiss", ".postings")]
    sync(folder, {**KEPT, **YELLOW})
    expected = answers_of(folder)
    for path in [*folder.glob("vectors-*"), *folder.glob("lexical-*")]:
        path.unlink()
    for path, content in older:
        path.write_bytes(content)

    def never(*_: object) -> None:
        raise AssertionError("built anew")

    monkeypatch.setattr("rag.index.put_derived_in_place", lambda folder, store: None)
    monkeypatch.setattr("rag.vectors.build", never)
    monkeypatch.setattr(LexicalIndex, "build", never)
    assert answers_of(folder) == expected


def test_every_generation_has_a_token_of_its_own(folder: Path) -> None:
    with Index.create_or_open(folder, HashEmbedder()) as index:
        seen = [index._store.token]
        for texts in (KEPT, YELLOW, KEPT):
            index.sync(make_corpus(texts))
            seen.append(index._store.token)
        assert [index._store.token_of(generation) for generation in range(4)] == seen
        assert len(set(seen)) == 4
        assert index._store.token_of(4) is None
        index.sync(make_corpus(KEPT))
        assert index._store.token == seen[3], "nothing changed"


@pytest.mark.parametrize("later", [False, True])
def test_a_token_that_cannot_be_read_is_found_and_repaired(folder: Path, later: bool) -> None:
    sync(folder, KEPT)
    expected = answers_of(folder)
    with Index.open(folder) as index:
        token = index._store.token
    if later:  # by then it is the token of the past
        sync(folder, {**KEPT, **YELLOW})
        expected = answers_of(folder)
    damage(folder, token.encode(), token[::-1].encode())
    assert {finding.part for finding in verify_index(folder).findings} == {"database"}
    assert repair_index(folder).dropped == ()
    assert verify_index(folder).ok
    assert answers_of(folder) == expected


GONE = "index.sqlite was replaced or deleted; open it again"


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def make_anew(folder: Path) -> None:
    shutil.rmtree(folder)
    sync(folder, {"other.md": "# Other\n\nof another index"})


def put_another_in_place(folder: Path) -> None:
    """As whoever copies a newer index over this one, file by file."""
    newer = folder.parent / "newer"
    sync(newer, {"other.md": "# Other\n\nof another index"})
    for path in newer.iterdir():
        path.replace(folder / path.name)


WAYS = [delete, make_anew, put_another_in_place]


@pytest.mark.parametrize("lose", WAYS)
def test_whoever_reads_what_was_replaced_is_told(folder: Path, lose: Callable[[Path], None]) -> None:
    sync(folder, KEPT)
    with Index.open(folder, HashEmbedder()) as index:
        assert index.search("keep")
        lose(folder)
        for ask in (lambda: index.search("keep"), index.document_ids, lambda: index.generation):
            with pytest.raises(RagError, match=GONE):
                ask()


@pytest.mark.parametrize("lose", WAYS)
def test_a_sync_into_what_was_replaced_is_not_reported_as_done(folder: Path, lose: Callable[[Path], None]) -> None:
    sync(folder, KEPT)
    with Index.create_or_open(folder, HashEmbedder()) as index:
        lose(folder)
        with pytest.raises(RagError, match=GONE):
            index.sync(make_corpus({**KEPT, **YELLOW}))
    if lose is delete:
        assert not folder.exists(), "and nothing is made in its place"
    else:
        assert verify_index(folder).ok
        with Index.open(folder) as index:
            assert index.document_ids() == ["other.md"]


@pytest.mark.parametrize("lose", WAYS)
def test_an_index_that_is_replaced_during_a_sync(folder: Path, lose: Callable[[Path], None]) -> None:
    sync(folder, KEPT)
    with Index.create_or_open(folder, HashEmbedder()) as index, pytest.raises(RagError, match=GONE):
        index.sync(make_corpus({**KEPT, **YELLOW}), lambda done, total: lose(folder))
    if lose is not delete:
        assert verify_index(folder).ok


def test_an_index_that_is_deleted_at_the_end_of_a_sync(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.create_or_open(folder, HashEmbedder()) as index:
        monkeypatch.setattr("rag.index.put_derived_in_place", lambda folder, store: delete(folder))
        with pytest.raises(RagError, match=GONE):
            index.sync(make_corpus(KEPT))


def test_whoever_has_an_index_open_that_is_repaired_goes_on(folder: Path) -> None:
    texts = {**KEPT, "b.md": "# B\n\ntext b"}
    sync(folder, texts)
    with Index.create_or_open(folder, HashEmbedder()) as index:
        index.search("text")
        with sqlite3.connect(folder / "index.sqlite") as connection:
            connection.execute("UPDATE texts SET text = 'texT b' WHERE text LIKE '%text b%'")
        connection.close()
        assert repair_index(folder).dropped == ("b.md",)
        assert "b.md" not in [hit.chunk.document_id for hit in index.search("text b", SearchSettings(top_k=50))]
        assert index.sync(make_corpus({**texts, **YELLOW})).added == 2
    with Index.open(folder) as index:
        assert index.document_ids() == sorted({**texts, **YELLOW})
    assert verify_index(folder).ok


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with room for a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(place)]
    if os.name != "posix" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    gc.collect()  # mapped files keep a disk busy
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leaves not a byte free; deleting the file that this gives makes room again."""
    path = disk / "filling"
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))
    return path


@pytest.mark.parametrize("lost", [(), ("lexical-*",), ("vectors-*", "lexical-*")])
def test_an_index_on_a_full_disk_is_searched(small_disk: Path, lost: tuple[str, ...]) -> None:
    folder = small_disk / "index"
    sync(folder, KEPT)
    expected = answers_of(folder)
    for pattern in lost:
        for path in folder.glob(pattern):
            path.unlink()
    filling = fill(small_disk)
    assert answers_of(folder) == expected
    with Index.create_or_open(folder, HashEmbedder()) as index:
        assert answers(index) == expected
        with pytest.raises(RagError, match=r"the disk that holds .* is full; nothing committed is lost"):
            index.sync(make_corpus({**KEPT, **YELLOW}))
        assert answers(index) == expected
        filling.unlink()
        assert index.sync(make_corpus({**KEPT, **YELLOW})).added == 1, "as soon as there is room"
        assert answers(index) != expected
    assert verify_index(folder).ok


@pytest.mark.parametrize("fails", ["settle", "put_in_place", "write_arrays"])
def test_a_sync_that_is_committed_says_so_on_a_full_disk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object) -> None:
        with explained(folder / "a-file", 0):
            raise OSError(errno.ENOSPC, "No space left on device")

    place = {"settle": "rag.database.Database.settle", "put_in_place": "rag.repair.put_in_place"}
    with Index.create_or_open(folder, HashEmbedder()) as index:
        with monkeypatch.context() as patch:
            patch.setattr(place.get(fails, "rag.lexical.write_arrays"), full)
            with pytest.raises(RagError, match=r"the sync is done: .* as generation 1, and can be searched.* is full"):
                index.sync(make_corpus(KEPT))
        assert index.generation == 1
        assert index.search("keep word3")
    expected = answers_of(folder)
    assert verify_index(folder).ok
    with Index.open(folder, HashEmbedder()) as index:
        assert answers(index) == expected


def test_an_index_opens_where_its_derived_files_find_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(folder, KEPT)
    expected = answers_of(folder)
    before = sorted(path.name for path in folder.iterdir())
    for path in [*folder.glob("vectors-*"), *folder.glob("lexical-*")]:
        path.unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert answers_of(folder) == expected
        assert not [path.name for path in folder.iterdir() if path.name.endswith(".tmp")], "half a file is in the way"
    assert answers_of(folder) == expected
    assert sorted(path.name for path in folder.iterdir()) == before


def test_half_a_postings_file_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_arrays(tmp_path / "a.postings", "ab", 1, {}, {"a": np.arange(5)})
    assert list(tmp_path.iterdir()) == []

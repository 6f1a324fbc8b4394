"""A flipped bit anywhere is found or does no harm; repair keeps what is whole and says what is not; read-only disks."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rag.chunking import ChunkSettings
from rag.errors import DamagedIndexError, RagError, RagRequestError
from rag.index import Index
from rag.layout import IndexSettings
from rag.repair import repair_index
from rag.schema import FORMAT_VERSION
from rag.search import Mode, SearchSettings
from rag.verification import verify_index
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)
TEXTS = {
    f"{name}.md": f"# {name}\nAll about {name}.\n## Food\nWhat {name} eat. " * 5 for name in ("cats", "dogs", "owls")
}
MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
Answers = list[object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    with Index.create_or_open(folder, HashEmbedder(dimension=16), SETTINGS, IndexSettings("hnsw")) as index:
        index.sync(make_corpus(TEXTS))
    return folder


@pytest.fixture
def copy(made: Path, folder: Path) -> Path:
    shutil.copytree(made, folder)
    return folder


def answers(folder: Path) -> Answers:
    """All that an index gives."""
    with Index.open(folder, HashEmbedder(dimension=16)) as index:
        hits = [index.search(word, SearchSettings(mode, 50)) for mode in MODES for word in ("cats", "owls eat")]
        return [index.documents(), index.chunks(), hits]


def flip(file: Path, place: int, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1 << bit]))


def used(file: Path) -> list[int]:
    """Places of bytes that are not 0: small files of SQLite are nearly all empty space."""
    return [place for place, byte in enumerate(file.read_bytes()) if byte]


@pytest.mark.parametrize("name", ["index.sqlite", "vectors-1.faiss", "lexical-1.postings"])
def test_a_flipped_bit_is_found_or_does_no_harm(made: Path, folder: Path, name: str) -> None:
    """In every region of every file: fifty bytes each, at random in as many equal parts of those that are not 0."""
    expected = answers(made)
    chance = random.Random(name)
    places = used(made / name)
    found = 0
    for part in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
        place = places[len(places) * part // 50 + chance.randrange(len(places) // 50)]
        flip(folder / name, place, chance.randrange(8))
        try:
            whole = verify_index(folder).ok
        except RagError:
            whole = False  # another format, another program's file: it said so
        found += not whole
        try:
            got = answers(folder)
        except RagError:
            assert not whole, "what does not open does not count as whole"
            continue
        if whole or name != "index.sqlite":  # what is derived is made again at the next opening
            assert got == expected
    assert found >= (50 if name == "vectors-1.faiss" else 15), "hardly any flipped bit was found"


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 8192, 20000])
@pytest.mark.parametrize("name", ["index.sqlite", "vectors-1.faiss", "lexical-1.postings"])
def test_a_truncated_file_is_found(made: Path, copy: Path, name: str, size: int) -> None:
    expected = answers(made)
    if (copy / name).stat().st_size <= size:
        pytest.skip("it is no longer than that")
    os.truncate(copy / name, size)
    if name == "index.sqlite":
        with pytest.raises(RagError):
            answers(copy)
        try:
            assert not verify_index(copy).ok
        except RagError as error:
            assert "no finished index" in str(error)
    else:
        assert not verify_index(copy).ok
        assert answers(copy) == expected, "what is derived is made again"
        assert verify_index(copy).ok


@pytest.mark.parametrize("name", ["vectors-1.faiss", "lexical-1.postings"])
def test_repair_rebuilds_what_is_derived(made: Path, copy: Path, name: str) -> None:
    places = used(copy / name)
    flip(copy / name, places[len(places) // 2], 3)
    part = "vectors file" if name.startswith("vectors") else "lexical file"
    assert [finding.part for finding in verify_index(copy).findings] == [part]
    repair = repair_index(copy)
    assert (repair.rebuilt, repair.dropped) == ((part,), ())
    assert verify_index(copy).ok
    assert answers(copy) == answers(made)
    assert repair_index(copy).found == (), "there is nothing left to do"


def test_repair_rebuilds_the_full_text(made: Path, copy: Path) -> None:
    change(copy, "INSERT INTO chunks_text (rowid, heading, text) VALUES (999, 'a', 'b')")
    repair = repair_index(copy)
    assert repair.rebuilt == ("full text",)
    assert verify_index(copy).ok
    assert answers(copy) == answers(made)


def change(folder: Path, statement: str) -> None:
    import sqlite3

    connection = sqlite3.connect(folder / "index.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE texts SET text = 'else' WHERE document = 2",
        "UPDATE texts SET sections = '{' WHERE document = 2",
        "UPDATE chunks SET text = 'else' WHERE document = 2 AND position = 1",
        "UPDATE vectors SET vector = x'00' WHERE chunk = (SELECT max(id) FROM chunks WHERE document = 2)",
        "UPDATE documents SET metadata = '[]' WHERE key = 2",
        "DELETE FROM texts WHERE document = 2",
    ],
)
def test_repair_keeps_the_documents_that_are_whole(made: Path, copy: Path, damage: str) -> None:
    change(copy, damage)
    repair = repair_index(copy)
    assert repair.dropped == ("dogs.md",)
    assert {finding.document for finding in repair.found if finding.part == "document"} == {"dogs.md"}
    verification = verify_index(copy)
    assert (verification.ok, verification.documents, verification.generation) == (True, 2, 2)
    embedder = HashEmbedder(dimension=16)
    with Index.open(copy, embedder) as index:
        report = index.sync(make_corpus(TEXTS))
        assert (report.added, report.unchanged) == (1, 2)
        assert report.embedded == len(embedder.read) < report.chunks, "the others keep their vectors"
        index.verify()
    assert answers(copy)[:2] == answers(made)[:2]


def test_repair_saves_what_it_can_of_broken_pages(copy: Path) -> None:
    file = copy / "index.sqlite"
    pages = file.stat().st_size // 8192
    with Index.open(copy) as index:
        whole = {document.id: document for document in index.documents()}
    saved = 0
    for page in range(1, pages):
        damaged = copy.with_name(f"page{page}")
        shutil.copytree(copy, damaged)
        with (damaged / "index.sqlite").open("r+b") as opened:
            opened.seek(page * 8192)
            opened.write(b"\xa5" * 8192)
        try:
            repair_index(damaged)
        except RagError as error:
            assert "cannot be repaired" in str(error) or "delete the folder" in str(error)
            continue
        saved += 1
        assert verify_index(damaged).ok
        with Index.open(damaged) as index:
            assert all(whole[document.id] == document for document in index.documents())
    assert saved > pages // 2, "nearly nothing could be saved"


def test_what_holds_no_manifest_cannot_be_repaired(copy: Path) -> None:
    change(copy, "UPDATE meta SET value = '{}' WHERE key = 'manifest'")
    before = (copy / "index.sqlite").read_bytes()
    with pytest.raises(RagError, match=r"cannot be repaired, since what it was made with cannot be read"):
        repair_index(copy)
    assert (copy / "index.sqlite").read_bytes() == before, "nothing is lost that was not lost before"


def test_a_damaged_vector_is_never_used(copy: Path) -> None:
    change(copy, "UPDATE vectors SET vector = zeroblob(68) WHERE chunk = 1")
    with pytest.raises(DamagedIndexError, match="the vector of chunk 1 is not what was written"):
        answers(copy)


def test_a_damaged_vector_is_not_taken_over_by_a_sync(copy: Path) -> None:
    change(copy, "UPDATE vectors SET vector = zeroblob(68)")
    embedder = HashEmbedder(dimension=16)
    with Index.create_or_open(copy, embedder, SETTINGS) as index:
        report = index.sync(make_corpus({f"new-{name}": text for name, text in TEXTS.items()}))
        assert report.embedded == len(embedder.read) > 0
        index.verify()


@pytest.mark.parametrize(
    "trap",
    [
        "CREATE TRIGGER trap AFTER INSERT ON documents BEGIN DELETE FROM documents; END",
        "CREATE VIEW trap AS SELECT 1",
        "DROP TRIGGER chunks_deleted",
    ],
)
def test_tables_that_are_not_an_indexs_are_refused(copy: Path, trap: str) -> None:
    change(copy, trap)
    with pytest.raises(DamagedIndexError, match="its tables are not those that they should be"):
        answers(copy)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    for attempt in (Index.open, verify_index, repair_index):
        with pytest.raises(RagRequestError, match="is a file; an index is a folder"):
            attempt(tmp_path / "file")


def test_an_index_of_another_embedder_verifies_and_opens_without_it(copy: Path) -> None:
    assert verify_index(copy).ok
    with pytest.raises(RagRequestError, match="embedder: 'hash' then, 'other' now"):
        Index.open(copy, HashEmbedder("other", dimension=16))


def test_a_newer_format_is_no_damage(copy: Path) -> None:
    change(copy, f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    for attempt in (verify_index, repair_index):
        with pytest.raises(RagError, match="update the software") as caught:
            attempt(copy)
        assert not isinstance(caught.value, DamagedIndexError)


AS_NOBODY = """
import os, sys
import faiss, numpy, rag.index, rag.lexical, rag.search, rag.verification, tests.rag.hash_embedder as hashed
folder = sys.argv[1]
with rag.index.Index.open(sys.argv[2], hashed.HashEmbedder(dimension=16)) as index:
    index.search("all that a search imports")
os.setgid(65534); os.setuid(65534)
with rag.index.Index.open(folder, hashed.HashEmbedder(dimension=16)) as index:
    print(index.generation, len(index.search("cats")), flush=True)
    for line in sys.stdin:
        print(index.generation, [hit.chunk.document_id for hit in index.search("owls")][:1], flush=True)
    try:
        index.sync(index.documents())
    except rag.errors.RagError as error:
        print("cannot be written" in str(error), flush=True)
print([finding.part for finding in rag.verification.verify_index(__import__("pathlib").Path(folder)).findings])
"""


@pytest.fixture
def opened_up(copy: Path) -> Iterator[Path]:
    """A folder that its owner writes, and that others may only read."""
    for place in (copy, *copy.parents):
        if place.is_relative_to("/tmp") and place != Path("/tmp"):
            place.chmod(0o755)
    yield copy


def nobody(folder: Path, other: Path) -> subprocess.Popen[str]:
    """Somebody who may not write `folder`. What a search imports he may not even read, so it is imported before."""
    command = [sys.executable, "-c", AS_NOBODY, str(folder), str(other)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="takes root to become somebody who may not write")
@pytest.mark.parametrize("with_file", [True, False])
def test_somebody_who_may_not_write_reads(made: Path, opened_up: Path, with_file: bool) -> None:
    if not with_file:
        (opened_up / "vectors-1.faiss").unlink()
    before = {path.name: path.read_bytes() for path in opened_up.iterdir()}
    process = nobody(opened_up, made)
    out, err = process.communicate("", timeout=120)
    assert out.splitlines() == ["1 5", "True", "[]" if with_file else "['vectors file']"], err
    assert {path.name: path.read_bytes() for path in opened_up.iterdir()} == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="takes root to become somebody who may not write")
def test_somebody_who_may_not_write_follows_who_does(made: Path, opened_up: Path) -> None:
    """The file is read as one that does not change, until it does."""
    process = nobody(opened_up, made)
    assert process.stdin is not None and process.stdout is not None
    said = [process.stdout.readline()]
    with Index.create_or_open(opened_up, HashEmbedder(dimension=16), SETTINGS) as index:
        index.sync(make_corpus({"newer-owls.md": TEXTS["owls.md"]}))
        process.stdin.write("\n")
        process.stdin.flush()
        said.append(process.stdout.readline())
    with Index.create_or_open(opened_up, HashEmbedder(dimension=16), SETTINGS) as index:
        index.sync(make_corpus({"newest-owls.md": TEXTS["owls.md"]}))
    out, err = process.communicate("\n", timeout=120)
    said += out.splitlines(keepends=True)
    assert said == ["1 5\n", "2 ['newer-owls.md']\n", "3 ['newest-owls.md']\n", "True\n", "[]\n"], err


def mounted(*arguments: str) -> bool:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    return done.returncode == 0


def test_a_disk_that_is_mounted_read_only(made: Path, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    if os.name != "posix" or not mounted("--bind", "-o", "ro", str(made), str(place)):
        pytest.skip("nothing can be mounted here")
    try:
        assert answers(place) == answers(made)
        verification = verify_index(place)
        assert verification.ok
        assert verification.notes == ("the full text was not checked: that needs write access",)
        with pytest.raises(RagError, match="cannot be written"):
            repair_or_sync(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def repair_or_sync(folder: Path) -> None:
    with Index.open(folder, HashEmbedder(dimension=16)) as index:
        index.sync(make_corpus({}))


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Files may not grow past so many bytes: what a full disk looks like to whoever writes."""
    if os.name != "posix":
        pytest.skip("needs RLIMIT_FSIZE")
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [100, 3000, 20_000, 70_000, 150_000])
def test_a_disk_that_is_full_at_any_moment_loses_nothing(
    copy: Path, made: Path, limited: Callable[[int], None], room: int
) -> None:
    more = {f"{number}.txt": f"Many more words, of {number}. " * 60 for number in range(12)}
    with Index.open(copy, HashEmbedder(dimension=16)) as index:
        limited(room)
        with pytest.raises(RagError):
            index.sync(make_corpus({**TEXTS, **more}))
        limited(resource.RLIM_INFINITY)
        reached = index.generation
    if reached == 1:
        assert answers(copy) == answers(made)
    with Index.open(copy, HashEmbedder(dimension=16)) as index:
        index.verify()
        assert index.sync(make_corpus({**TEXTS, **more})).generation == 2
        index.verify()

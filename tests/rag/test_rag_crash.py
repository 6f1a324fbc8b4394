"""kill -9 at any moment: afterwards the index holds exactly one whole generation, and nothing committed is lost.

Many readers and several writers at once: no error, no mixed result.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import rag.sync
from rag.corpus import Document
from rag.embedded_file import NAME as EMBEDDED
from rag.embedder import Progress, Vectors
from rag.errors import RagError
from rag.index import Index
from rag.index_files import RENEWAL
from rag.layout import IndexSettings
from rag.renewal import renewing
from rag.search import SearchSettings
from rag.verification import verify_index
from rag.writer_lock import writing
from tests.rag.hash_embedder import HashEmbedder
from tests.rag.sync_for_ever import SETTINGS, corpus

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")

ROOT = Path(__file__).parents[2]
TRANSACTION = ("delete_documents", "a row of the transaction", "next_generation", "set_meta")


class Processes:
    """Forked from one that has everything imported."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.rag.sync_for_ever"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def _ask(self, line: str) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, job: str, folder: Path, log: Path, kind: str = "auto", step: int = 0) -> int:
        log.touch()
        return self._ask(f"start {job} {folder} {kind} {log} {step}")

    def wait(self, process: int) -> int:
        return self._ask(f"wait {process}")

    def kill(self, process: int) -> None:
        os.kill(process, signal.SIGKILL)
        assert self.wait(process) == -signal.SIGKILL, "it had ended by itself"

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An index of one generation, of each kind."""
    folder = tmp_path_factory.mktemp("made")
    for kind in ("flat", "hnsw"):
        with Index.create_or_open(folder / kind, HashEmbedder(), SETTINGS, IndexSettings(kind)) as index:
            index.sync(corpus(0))
    return {kind: folder / kind for kind in ("flat", "hnsw")}


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


def wait_for(log: Path, line: str) -> None:
    until = time.monotonic() + 60
    while line not in log.read_text(encoding="utf-8").splitlines():
        assert time.monotonic() < until, log.read_text(encoding="utf-8")
        time.sleep(0.005)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def held(index: Index) -> dict[str, Document]:
    return {document.id: document for document in index.documents()}


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_killed_sync_leaves_one_whole_generation(
    folder: Path, tmp_path: Path, processes: Processes, kind: str
) -> None:
    """Thirty random moments for each kind: one made anew at each sync, one brought up to date."""
    chance = random.Random(7)
    reached, resumed, left_over = 0, 0, 0
    for number in range(30):
        log = tmp_path / f"{number}.log"
        process = processes.start("sync", folder, log, kind)
        wait_for(log, "open")
        time.sleep(chance.uniform(0.0, 0.2))
        processes.kill(process)
        said = [int(line) for line in log.read_text(encoding="utf-8").splitlines() if line.isdigit()]
        left_over += len(visible(folder) - {"index.sqlite"}) > 2
        resumed += (folder / EMBEDDED).exists()
        with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
            index.verify()
            assert index.generation >= max([reached, *said]), "what was committed is lost"
            reached = index.generation
            check_what_is_held(index, reached)
        assert visible(folder) == {"index.sqlite", f"vectors-{reached}.faiss", f"lexical-{reached}.postings"}
    assert reached > 5, "the syncs were never far enough to be killed in the middle"
    assert resumed + left_over > 3, "no kill ever came in the middle of a sync"  # the next test has every moment
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        assert index.sync(corpus(reached % 2)).generation == reached + 1, "and then the sync finishes"
        index.verify()


def check_what_is_held(index: Index, generation: int) -> None:
    """The documents of this generation and no others, and searches that find all of them."""
    expected = corpus((generation - 1) % 2).documents if generation else ()
    assert held(index) == {document.id: document for document in expected}
    chunks = set(index.chunks())
    for mode in ("dense", "lexical", "hybrid"):
        hits = index.search("corpus says word", SearchSettings(mode, 500))
        assert {hit.chunk for hit in hits} == chunks, "every chunk holds some of these words"
        assert bool(chunks) == bool(expected)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_kill_at_every_step_leaves_one_whole_generation(
    made: dict[str, Path], folder: Path, tmp_path: Path, processes: Processes, kind: str
) -> None:
    """Before and after each file that is written, moved or taken away, and in the middle of the transaction."""
    died: list[str] = []
    generations = set()
    for step in range(200):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made[kind], folder)
        log = tmp_path / f"{kind}-{step}.log"
        code = processes.wait(processes.start("die", folder, log, kind, step))
        said = log.read_text(encoding="utf-8").strip()
        if code == 0:
            assert said == "lived 2"
            break
        assert (code, said.startswith("died at ")) == (-signal.SIGKILL, True), said
        died.append(said.removeprefix("died at "))
        verification = verify_index(folder)
        assert all(finding.part in ("vectors file", "lexical file") for finding in verification.findings), said
        with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
            generation = index.generation
            check_what_is_held(index, generation)
            index.verify()
        generations.add(generation)
        assert visible(folder) == {"index.sqlite", f"vectors-{generation}.faiss", f"lexical-{generation}.postings"}, (
            said
        )
        committed = said.removeprefix("died at ") not in ("add", *TRANSACTION)
        assert generation == (2 if committed else 1), f"{said}: all of it, or nothing"
    assert code == 0, "no sync ever came to its end"
    assert generations == {1, 2}
    files = {"add", "a vectors file half written", "replace", "unlink", "fsync"}
    assert set(died) == {*TRANSACTION, *files, "settle"}, "a step was never taken"


def test_a_kill_while_a_renewal_takes_its_place_leaves_one_of_two_whole_indexes(
    made: dict[str, Path], folder: Path, tmp_path: Path, processes: Processes
) -> None:
    """Whatever the moment, whoever opens it with the embedder that its manifest names finds all of one of the two; and
    another renewal goes on from there, and leaves nothing else behind."""
    died: list[str] = []
    embedders = {name: HashEmbedder(name) for name in ("hash", "other")}
    kept = set()
    for step in range(200):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made["flat"], folder)
        log = tmp_path / f"renewing-{step}.log"
        code = processes.wait(processes.start("die_renewing", folder, log, "flat", step))
        said = log.read_text(encoding="utf-8").strip()
        if code == 0:
            assert said == "lived"
            break
        assert (code, said.startswith("died at ")) == (-signal.SIGKILL, True), said
        died.append(said.removeprefix("died at "))
        verification = verify_index(folder)
        assert all(finding.part in ("vectors file", "lexical file") for finding in verification.findings), said
        with Index.open(folder) as index:
            name = index.manifest.embedder_name
        with Index.open(folder, embedders[name]) as index:
            check_what_is_held(index, 1 if name == "hash" else 2)
            index.verify()
        kept.add(name)
        if name == "hash":
            with renewing(folder, embedders["other"], SETTINGS, IndexSettings("flat")) as index:
                index.sync(corpus(1))
        with Index.create_or_open(folder, embedders["other"], SETTINGS) as index:
            index.sync(corpus(1))
            check_what_is_held(index, 2)
        assert visible(folder) == {"index.sqlite", "vectors-1.faiss", "lexical-1.postings"}, said
        assert not (folder / RENEWAL).exists(), said
    assert code == 0, "no renewal ever came to its end"
    assert kept == {"hash", "other"}
    assert set(died) == {"pages taken over", "settle", "unlink", "replace", "rmtree"}, "a step was never taken"


class Killed(BaseException):
    pass


class DyingEmbedder(HashEmbedder):
    """Goes after some texts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        if len(self.read) + len(texts) > self.after:
            raise Killed
        return super().encode_passages(texts, progress)


def test_a_killed_sync_keeps_what_was_embedded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag.sync, "_SLAB", 8)
    whole, dying, after = HashEmbedder(), DyingEmbedder(after=40), HashEmbedder()
    with Index.create_or_open(folder.with_name("other"), whole, SETTINGS) as other:
        total = other.sync(corpus(0)).embedded
        expected = other.chunks(), other.search("word7", SearchSettings("dense", 50))
    with Index.create_or_open(folder, dying, SETTINGS) as index:
        with pytest.raises(Killed):
            index.sync(corpus(0))
        assert len(dying.read) == 40 < total
        assert index.generation == index.chunk_count == 0, "nothing shows before all of it does"
    record = (folder / EMBEDDED).stat().st_size // 41
    with (folder / EMBEDDED).open("r+b") as file:  # the last record is torn, and one in the middle has a flipped bit
        file.truncate((folder / EMBEDDED).stat().st_size - 7)
        file.seek(20 * record)
        byte = file.read(1)[0]
        file.seek(20 * record)
        file.write(bytes([byte ^ 4]))
    with Index.create_or_open(folder, after, SETTINGS) as index:
        assert index.sync(corpus(0)).embedded == len(after.read) == total - 38
        assert (index.chunks(), index.search("word7", SearchSettings("dense", 50))) == expected
        index.verify()
    assert not (folder / EMBEDDED).exists()


def test_another_indexs_embeddings_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag.sync, "_SLAB", 8)
    for place in (folder, folder.with_name("other")):
        with Index.create_or_open(place, DyingEmbedder(after=16), SETTINGS) as index, pytest.raises(Killed):
            index.sync(corpus(0))
    (folder.with_name("other") / EMBEDDED).replace(folder / EMBEDDED)
    with Index.create_or_open(folder.with_name("third"), HashEmbedder(), SETTINGS) as index:
        total = index.sync(corpus(0)).embedded
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        assert index.sync(corpus(0)).embedded == total, "none of them is taken for its own"


def test_eight_readers_while_one_writes(folder: Path, tmp_path: Path, processes: Processes) -> None:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(corpus(0))
    writer = processes.start("sync", folder, tmp_path / "writer.log")
    wait_for(tmp_path / "writer.log", "2")
    logs = [tmp_path / f"reader{number}.log" for number in range(8)]
    readers = [processes.start("read", folder, log) for log in logs]
    codes = [processes.wait(reader) for reader in readers]
    processes.kill(writer)
    assert codes == [0] * 8, "\n".join(log.read_text(encoding="utf-8") for log in logs)
    assert any(int(log.read_text(encoding="utf-8").split()[-1]) > 3 for log in logs), "nothing was written meanwhile"


def test_two_writers_take_turns(folder: Path, tmp_path: Path, processes: Processes) -> None:
    logs = [tmp_path / f"writer{number}.log" for number in range(2)]
    writers = [processes.start("sync", folder, log) for log in logs]
    for log in logs:
        wait_for(log, "open")
    until = time.monotonic() + 60
    while not all(any(line.isdigit() for line in log.read_text().splitlines()) for log in logs):
        assert time.monotonic() < until
        time.sleep(0.01)
    for writer in writers:
        processes.kill(writer)
    said = [[int(line) for line in log.read_text().splitlines() if line.isdigit()] for log in logs]
    assert not set(said[0]) & set(said[1]), "each generation is made once"
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.verify()
        assert held(index) == {doc.id: doc for doc in corpus((index.generation - 1) % 2).documents}


def test_a_second_writer_is_told_who_the_first_is(folder: Path, processes: Processes) -> None:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, wait_seconds=0.05) as index:
        index.sync(corpus(0))
        with (
            writing(folder, 1),
            pytest.raises(RagError, match=rf"being written by another process, {os.getpid()} on \S+, \(waited 0\.05 s"),
        ):
            index.sync(corpus(1))
        assert index.sync(corpus(1)).generation == 2


def test_a_killed_writer_between_two_files_is_cleaned_up_after(folder: Path) -> None:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(corpus(0))
        old = (folder / "vectors-1.faiss").read_bytes()
        index.sync(corpus(1))
    (folder / "vectors-1.faiss").write_bytes(old)
    (folder / "vectors-3.faiss.tmp").write_bytes(b"half")
    assert any("left over" in note for note in verify_index(folder).notes)
    Index.open(folder, HashEmbedder()).close()
    assert {name for name in visible(folder) if name.startswith("vectors")} == {"vectors-2.faiss"}


def test_a_reader_goes_on_with_an_older_file(folder: Path) -> None:
    """As in the moments after a commit: the database is a generation ahead of the vectors file, or behind it."""
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(corpus(0))
        older = (folder / "vectors-1.faiss").read_bytes()
        changed = corpus(0).documents[:20] + corpus(1).documents[0:10:3]
        index.sync(type(corpus(0))(changed))
        hits = index.search("corpus says word7", SearchSettings("dense", 50))
        some = index.search("corpus says word7", SearchSettings("dense", 50), ["both-1.txt"])
    (folder / "vectors-2.faiss").unlink()
    (folder / "vectors-1.faiss").write_bytes(older)
    with Index.open(folder) as blind:
        blind._embedder = HashEmbedder()  # opened without one, so that it does not put the file in place
        assert blind.search("corpus says word7", SearchSettings("dense", 50)) == hits
        assert blind.search("corpus says word7", SearchSettings("dense", 50), ["both-1.txt"]) == some
        assert blind._vectors is not None and len(blind._vectors._dead) and len(blind._vectors._fresh)
    assert (folder / "vectors-1.faiss").exists()


def test_the_kinds_give_the_same_hits(folder: Path) -> None:
    found = []
    for kind in ("flat", "hnsw"):
        with Index.create_or_open(folder / kind, HashEmbedder(), SETTINGS, IndexSettings(kind)) as index:
            index.sync(corpus(0))
            index.sync(type(corpus(0))(corpus(0).documents[:22] + corpus(1).documents[:1]))
            found.append([(hit.chunk.text, round(hit.score, 4)) for hit in index.search("word7 corpus")])
            index.verify()
    assert found[0] == found[1]

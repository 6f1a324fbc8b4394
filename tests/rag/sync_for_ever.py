"""Processes that sync, or read, until they are killed: `python -m tests.rag.sync_for_ever`, told what to do by lines.

`start JOB FOLDER TYPE LOG STEP` forks a process that does JOB and appends to LOG, and answers its id; `wait ID` answers
its exit code, or minus the signal that ended it. One import of the libraries so serves hundreds of real processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rag.sync
import rag.vectors_file
from rag.chunking import ChunkSettings
from rag.database import Database
from rag.documents import Corpus, Document
from rag.embedded_file import EmbeddedFile
from rag.index import Index
from rag.layout import IndexSettings
from rag.renewal import renewing
from rag.search import SearchSettings
from rag.store import Store
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)


def corpus(kind: int) -> Corpus:
    """Two corpora that share no text; a third of the documents are in one alone."""
    return make_corpus(
        {
            f"{'both' if number % 3 else kind}-{number}.txt": f"Corpus {kind} says word{number * 7 + kind}. " * 6
            for number in range(24)
        }
    )


def sync(folder: Path, layout: IndexSettings, say: Callable[[str], None]) -> None:
    """From one corpus to the other and back, for ever."""
    rag.sync._SLAB = 8  # so that what is embedded is written at many moments
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, layout, wait_seconds=60) as index:
        say("open")
        while True:
            report = index.sync(corpus(index.generation % 2))
            if report.added or report.changed or report.removed:  # else another process made this generation
                say(str(report.generation))


def die(folder: Path, layout: IndexSettings, say: Callable[[str], None]) -> None:
    """Syncs once, and kills itself at the step that the environment names: `DIE_AT`, counted from 0. Steps are those at
    which a file or a row changes, so that every state that a kill can leave comes up for some number."""
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, layout, wait_seconds=60) as index:
        _die_at_a_step(say)
        report = index.sync(corpus(index.generation % 2))
        say(f"lived {report.generation}")


def die_renewing(folder: Path, layout: IndexSettings, say: Callable[[str], None]) -> None:
    """The same while an index that was made anew for another embedder takes its place."""
    with renewing(folder, HashEmbedder("other"), SETTINGS, layout, wait_seconds=60) as index:
        index.sync(corpus(1))
        _die_at_a_step(say)
    say("lived")


def _die_at_a_step(say: Callable[[str], None]) -> None:
    left = int(os.environ["DIE_AT"])

    def step(name: str) -> None:
        nonlocal left
        if left == 0:
            say(f"died at {name}")
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def before(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def stepping(*arguments: object, **named: object) -> object:
            step(name)
            return original(*arguments, **named)

        setattr(owner, name, stepping)

    def half_written(index: Any, file: Any) -> None:
        write(index, file)
        if left == 0:
            file.flush()
            file.truncate(file.tell() // 2)
        step("a vectors file half written")

    rag.sync._SLAB = 40
    write = rag.vectors_file._write_body
    rag.vectors_file._write_body = half_written
    before(EmbeddedFile, "add")
    before(Store, "delete_documents")
    before(Store, "next_generation")
    before(Store, "set_meta")
    before(Database, "settle")
    for name in ("replace", "unlink"):
        before(Path, name)
    before(os, "fsync")
    before(shutil, "rmtree")
    inserted = Store.insert_document

    def insert(store: Store, document: Document, *rest: object) -> None:
        inserted(store, document, *rest)  # type: ignore[arg-type]
        if document.id in ("both-1.txt", "both-22.txt"):
            step("a row of the transaction")

    def take_over(old: Database, new: Database) -> None:
        new._connection.backup(old._connection, pages=8, progress=lambda *_: step("pages taken over"))

    Store.insert_document = insert  # type: ignore[method-assign]
    Database.take_over = take_over  # type: ignore[method-assign]


def read(folder: Path, layout: IndexSettings, say: Callable[[str], None]) -> None:
    """Searches, sixty times: all hits of one search must come from one corpus, and in generations that never fall."""
    generation = 0
    with Index.open(folder, HashEmbedder(), wait_seconds=60) as index:
        for number in range(60):
            settings = SearchSettings(("hybrid", "dense", "lexical")[number % 3], 50)
            found = index.search_many(["corpus says word7", "corpus says word8"], settings)
            kinds = {hit.chunk.text.split("Corpus ")[1][0] for hits in found for hit in hits if "Corpus " in hit.text}
            assert len(kinds) == 1, f"one search found {kinds}"
            assert all(found), "a search found nothing"
            assert index.generation >= generation
            generation = index.generation
    say(f"read up to {generation}")


JOBS: Mapping[str, Callable[[Path, IndexSettings, Callable[[str], None]], None]] = {
    "sync": sync,
    "die": die,
    "die_renewing": die_renewing,
    "read": read,
}


def work(job: str, folder: str, kind: str, log: str, step: str) -> int:
    """In the forked process."""
    os.environ["DIE_AT"] = step
    with Path(log).open("a", encoding="utf-8", buffering=1) as file:
        try:
            JOBS[job](Path(folder), IndexSettings(kind), lambda line: print(line, file=file))  # type: ignore[arg-type]
        except BaseException:
            traceback.print_exc(file=file)
            return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        order, *words = line.split()
        if order == "wait":
            _, status = os.waitpid(int(words[0]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        process = os.fork()
        if process == 0:
            os._exit(work(*words))
        print(process, flush=True)


if __name__ == "__main__":
    main()

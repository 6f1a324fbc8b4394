"""Makes a damaged index whole again: what is derived is rebuilt, what cannot be trusted is left out, and named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag.database import Database, check_place
from rag.errors import DamagedIndexError
from rag.index_files import DATABASE, REPAIRED, remove_repair_leftovers
from rag.lexical import NAME as LEXICAL
from rag.lexical import LexicalIndex
from rag.store import Store, first_meta
from rag.vectors import put_in_place
from rag.vectors_file import NAME as VECTORS
from rag.vectors_file import find_files
from rag.verification import Finding, document_fault, document_keys, verify_index
from rag.writer_lock import writing

# Of one document, in the order in which they refer to one another.
_ROWS = {
    "documents": "SELECT * FROM documents WHERE key = ?",
    "texts": "SELECT * FROM texts WHERE document = ?",
    "chunks": "SELECT * FROM chunks WHERE document = ?",
    "vectors": "SELECT vectors.* FROM vectors JOIN chunks ON chunk = id WHERE document = ?",
}


@dataclass(frozen=True)
class Repair:
    """`found` is what was wrong; `rebuilt` which files were made anew; `dropped` the ids of the documents that are not
    in the index any more, and have to be indexed again."""

    found: tuple[Finding, ...]
    rebuilt: tuple[str, ...]
    dropped: tuple[str, ...]


def repair_index(folder: Path, wait_seconds: float = 10.0) -> Repair:
    """Verifies, and mends what was found. The full text and the files derived from the database are rebuilt from it.
    Where a row or a page of the database is damaged, the documents that are whole are copied into a new database, with
    the vectors that they have, and this takes the place of the damaged one in one transaction.

    Raises:
        RagRequestError: there is no index.
        DamagedIndexError: too little of the database can be read to save anything.
        RagError: the disk is full; another process writes; the folder is read-only.
    """
    path = folder / DATABASE
    check_place(path)
    with writing(folder, wait_seconds):
        found = verify_index(folder, wait_seconds, locked=True).findings
        if not found:
            return Repair((), (), ())
        dropped: list[str] = []
        rebuilt = [f"{finding.part}" for finding in found if finding.part in ("vectors file", "lexical file")]
        if any(finding.part in ("database", "document") for finding in found):
            dropped = _saved(path, wait_seconds)
            rebuilt = ["database", "full text", "vectors file", "lexical file"]
        elif any(finding.part == "full text" for finding in found):
            _rebuild_full_text(path, wait_seconds)
            rebuilt.append("full text")
        for part, name in (("vectors file", VECTORS), ("lexical file", LEXICAL)):
            if part in rebuilt:
                for file in [file for file in folder.iterdir() if name.fullmatch(file.name)]:
                    file.unlink(missing_ok=True)
        store = Store.open(path, wait_seconds)
        try:
            put_derived_in_place(folder, store)
        finally:
            store.database.close()
    return Repair(found, tuple(dict.fromkeys(rebuilt)), tuple(dropped))


def put_derived_in_place(folder: Path, store: Store) -> None:
    """Makes the files that are derived from the database, where they are not those of its generation, and takes away
    what was left behind; call it with the writer lock held.

    Raises:
        RagError: the disk is full.
    """
    put_in_place(folder, store)
    with store.database.snapshot():
        index = LexicalIndex.read(folder, store)
        if index is None:
            LexicalIndex.current(folder, store).write(folder)
        else:
            index.remove_leftovers(folder)
    remove_repair_leftovers(folder)


def _rebuild_full_text(path: Path, wait_seconds: float) -> None:
    database = Database.open(path, wait_seconds)
    try:
        with database.transaction():
            database.execute("INSERT INTO chunks_text (chunks_text) VALUES ('rebuild')")
        database.settle()
    finally:
        database.close()


def _saved(path: Path, wait_seconds: float) -> list[str]:
    """Puts all that is whole into the place of the damaged database, and gives the ids of the documents that are not
    in it any more.

    The copy is made in a database of its own, and then taken over in one transaction of the damaged one. Its file and
    its journal so stay together at every moment: a stop leaves what was there before, or what is there afterwards.
    """
    remove_repair_leftovers(path.parent)
    old = Database.open(path, wait_seconds, checked=False)
    try:
        try:
            store = Store(old)
        except DamagedIndexError as error:
            raise DamagedIndexError(
                f"{path} cannot be repaired, since what it was made with cannot be read: {error}"
            ) from error
        new = Database.open(path.with_name(REPAIRED), wait_seconds, _meta(store, path.parent))
        try:
            dropped = _copy(store, new)
            old.take_over(new)
        finally:
            new.close()
        old.settle()
    finally:
        old.close()
        remove_repair_leftovers(path.parent)
    return dropped


def _meta(store: Store, folder: Path) -> dict[str, str]:
    """The new database's own: of a generation that no derived file is of."""
    generations = [0, *(generation for generation, _ in find_files(folder))]
    try:
        generations.append(store.generation)
        asked = store.layout.type
    except DamagedIndexError:
        asked = "auto"
    return first_meta(store.manifest, asked, max(generations) + 1)


def _copy(store: Store, new: Database) -> list[str]:
    """Every document that is whole, with its chunks and vectors; gives the ids of the others."""
    old = store.database
    dropped = []
    with old.snapshot(), new.transaction():
        for key in document_keys(old):
            id, fault = document_fault(store, key)
            if fault is None:
                new.execute("SAVEPOINT document")
                try:
                    for table, query in _ROWS.items():
                        rows = old.rows(query, [key])
                        if rows:  # a document without text has no chunks
                            marks = ", ".join("?" * len(rows[0]))
                            new.execute_many(f"INSERT INTO {table} VALUES ({marks})", rows)
                except DamagedIndexError as error:
                    new.execute("ROLLBACK TO document")
                    fault = str(error)
                new.execute("RELEASE document")
            if fault is not None:
                dropped.append(id)
        _never_again(old, new)
        Store(new).set_meta("chunks", str(new.value("SELECT count(*) FROM chunks")))
    return dropped


def _never_again(old: Database, new: Database) -> None:
    """Ids that were given stay given, those of dropped chunks too."""
    try:
        last = old.rows("SELECT seq, name FROM sqlite_sequence")
    except DamagedIndexError:
        return
    new.execute_many("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", last)

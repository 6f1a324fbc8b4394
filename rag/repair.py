"""Makes a damaged index whole again: what is derived is rebuilt, what cannot be trusted is left out, and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.database import Database
from rag.errors import DamagedIndexError, RagError
from rag.lexical import LexicalIndex
from rag.store import Store
from rag.vectors import put_in_place
from rag.vectors_file import find_files
from rag.verification import DATABASE, Finding, document_fault, document_keys, verify_index
from rag.writer_lock import writing

_NEW = "repaired.sqlite"
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
    the vectors that they have. Nobody else should have the index open meanwhile: who has sees what was there before.

    Raises:
        RagRequestError: there is no index.
        RagError: too little of the database can be read to save anything; the disk is full; another process writes.
    """
    path = folder / DATABASE
    found = verify_index(folder, wait_seconds).findings
    if not found:
        return Repair((), (), ())
    with writing(folder, wait_seconds):
        dropped: list[str] = []
        rebuilt = [f"{finding.part}" for finding in found if finding.part in ("vectors file", "lexical file")]
        if any(finding.part in ("database", "document") for finding in found):
            dropped = _saved(path, wait_seconds)
            rebuilt = ["database", "full text", "vectors file", "lexical file"]
        elif any(finding.part == "full text" for finding in found):
            _rebuild_full_text(path, wait_seconds)
            rebuilt.append("full text")
        _remove_derived(folder, {"vectors file": "vectors-", "lexical file": "lexical-"}, rebuilt)
        store = Store.open(path, wait_seconds)
        try:
            put_derived_in_place(folder, store)
        finally:
            store.database.close()
    return Repair(found, tuple(dict.fromkeys(rebuilt)), tuple(dropped))


def put_derived_in_place(folder: Path, store: Store) -> None:
    """Makes the files that are derived from the database, where they are not those of its generation; call it with the
    writer lock held.

    Raises:
        RagError: the disk is full.
    """
    put_in_place(folder, store)
    with store.database.snapshot():
        if LexicalIndex.read(folder, store) is None:
            LexicalIndex.current(folder, store).write(folder, store.manifest.index_id)


def _remove_derived(folder: Path, prefixes: dict[str, str], parts: Sequence[str]) -> None:
    for part, prefix in prefixes.items():
        if part in parts:
            for path in folder.glob(f"{prefix}*"):
                path.unlink()


def _rebuild_full_text(path: Path, wait_seconds: float) -> None:
    database = Database.open(path, wait_seconds)
    try:
        with database.transaction():
            database.execute("INSERT INTO chunks_text (chunks_text) VALUES ('rebuild')")
        database.settle()
    finally:
        database.close()


def _saved(path: Path, wait_seconds: float) -> list[str]:
    """Puts a new database in the place of the damaged one, and gives the ids of the documents that are not in it."""
    old = Database.open(path, wait_seconds, checked=False)
    new_path = path.with_name(_NEW)
    _remove_database(new_path)
    try:
        try:
            store = Store(old)
        except DamagedIndexError as error:
            raise RagError(f"{path} cannot be repaired, since what it was made with cannot be read: {error}") from error
        meta = _meta(store, path.parent)
        new = Database.open(new_path, wait_seconds, meta)
        try:
            dropped = _copy(store, new)
            new.settle()
        finally:
            new.close()
    except BaseException:
        _remove_database(new_path)
        raise
    finally:
        old.close()
    # From here on the new file is whole. A stop between these lines leaves the damaged one, and repairing starts anew.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new_path.replace(path)
    _remove_database(new_path)
    return dropped


def _meta(store: Store, folder: Path) -> dict[str, str]:
    """The new database's own: of a generation that no derived file is of."""
    generations = [0, *(generation for generation, _ in find_files(folder))]
    try:
        generations.append(store.generation)
        asked = store.layout.type
    except DamagedIndexError:
        asked = "auto"
    generation = str(max(generations) + 1)
    return {"manifest": store.manifest.to_json(), "generation": generation, "chunks": "0", "type": asked}


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
                        marks = ", ".join("?" * len(rows[0])) if rows else ""
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


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

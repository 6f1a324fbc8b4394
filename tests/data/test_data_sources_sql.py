"""Databases: SQLite always, PostgreSQL where its server is installed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from hfkit.data.ledger import Ledger
from hfkit.data.sources import check_source, identify_source, read_source
from hfkit.data.sources.sql import sql_name
from hfkit.errors import RequestError
from hfkit.recipe import SqlSource


def read(
    sql: str, url: str, parameters: dict[str, Any] | None = None, ledger: Ledger | None = None, **options: Any
) -> list[tuple[str, dict[str, Any]]]:
    own = Ledger()
    source = SqlSource(sql=sql, url=url, parameters=parameters or {})
    batches = list(read_source(source, ledger or own, **options))
    assert own.dropped == ()
    return [(place, dict(row)) for batch in batches for place, row in zip(batch.places, batch.rows, strict=True)]


@pytest.fixture
def chats(workplace: Path) -> Path:
    """A SQLite database with 20 rows."""
    path = workplace / "chats.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE chats (id INTEGER PRIMARY KEY, prompt TEXT, score REAL, made DATE)")
        rows = [(n, f"Prompt {n}", n / 2, "2026-01-02") for n in range(20)]
        connection.executemany("INSERT INTO chats VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    return path


def test_a_query_with_bound_values(chats: Path) -> None:
    rows = read(
        "SELECT id, prompt, score FROM chats WHERE id >= :low AND prompt <> :not ORDER BY id;",
        "sqlite:///chats.db",
        {"low": 17, "not": "'; DROP TABLE chats --"},
        batch_rows=2,
    )
    assert [row for _, row in rows] == [{"id": n, "prompt": f"Prompt {n}", "score": n / 2} for n in (17, 18, 19)]
    names = {place.partition("#")[0] for place, _ in rows}
    assert [place.partition("#")[2] for place, _ in rows] == ["0", "1", "2"]
    assert len(names) == 1 and re.fullmatch(r"sql:[0-9a-f]{6}", *names)
    assert len(read("SELECT * FROM chats", f"sqlite:///{chats}")) == 20


def test_what_tells_one_querys_rows_from_anothers(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(sql: str = "SELECT 1", url: str = "sqlite:///chats.db", **parameters: Any) -> str:
        return sql_name(SqlSource(sql=sql, url=url, parameters=parameters))

    other = [name("SELECT 2"), name(url="sqlite:///more.db"), name(part="a"), name(part="b"), name(url="env:CHATS_URL")]
    assert len({name(), *other}) == 6
    assert name("SELECT\n  1 ;") == name(), "how it is broken into lines is no other query"
    for_all = name(url="env:CHATS_URL")
    monkeypatch.setenv("CHATS_URL", "sqlite:///chats.db")
    assert name(url="env:CHATS_URL") == for_all, "whatever the address is on this machine"
    secret, changed = (name(url=f"postgresql+psycopg://reader:{word}@127.0.0.1/chats") for word in ("s3cret", "n3w"))
    assert secret == changed


def test_batches_are_as_large_as_they_may_be(chats: Path) -> None:
    source = SqlSource(sql="SELECT id FROM chats", url="sqlite:///chats.db")
    assert [len(batch.rows) for batch in read_source(source, Ledger(), batch_rows=8)] == [8, 8, 4]


def test_comments_and_common_table_expressions(chats: Path) -> None:
    sql = "-- newest\n/* first */ WITH some AS (SELECT id FROM chats WHERE id < 2)\nSELECT * FROM some ORDER BY id"
    assert [row for _, row in read(sql, "sqlite:///chats.db")] == [{"id": 0}, {"id": 1}]


def test_the_url_may_stand_in_the_environment(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_URL", "sqlite:///chats.db")
    assert len(read("SELECT id FROM chats", "env:CHATS_URL")) == 20


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM chats",
        "WITH one AS (SELECT 1) DELETE FROM chats RETURNING id",
        "INSERT INTO chats (id) VALUES (99) RETURNING id",
        "SELECT 1; DELETE FROM chats",
        "ATTACH 'made.db' AS made",
        "VACUUM INTO 'made.db'",
        "PRAGMA journal_mode = WAL",
        "/* SELECT */ DROP TABLE chats",
    ],
)
def test_nothing_is_ever_written(chats: Path, sql: str) -> None:
    before = chats.read_bytes()
    with pytest.raises(RequestError):
        read(sql, "sqlite:///chats.db")
    assert chats.read_bytes() == before
    assert [path.name for path in chats.parent.iterdir()] == ["chats.db"]


def test_the_database_itself_refuses_to_write(chats: Path) -> None:
    """What the words of a statement do not show is stopped by SQLite."""
    from sqlalchemy import text

    from hfkit.data.sources.database import Database

    for sql in ("DELETE FROM chats", "ATTACH 'made.db' AS made", "CREATE TEMP TABLE x (y)", "VACUUM INTO 'made.db'"):
        database = Database("sqlite:///chats.db")
        with pytest.raises(RequestError, match=r"readonly|authoriz"), database.connection() as connection:
            connection.execute(text(sql))
    assert [path.name for path in chats.parent.iterdir()] == ["chats.db"]


def test_full_text_search_can_be_asked(workplace: Path) -> None:
    with closing(sqlite3.connect(workplace / "a.db")) as connection:
        connection.execute("CREATE VIRTUAL TABLE pages USING fts5(body)")
        connection.execute("INSERT INTO pages VALUES ('a harbour'), ('a dune')")
        connection.commit()
    rows = read("SELECT body FROM pages WHERE pages MATCH :what", "sqlite:///a.db", {"what": "dune"})
    assert [row for _, row in rows] == [{"body": "a dune"}]


def test_a_fault_in_the_middle_names_the_row(workplace: Path) -> None:
    with closing(sqlite3.connect(workplace / "a.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES ('a'), ('b'), (CAST(x'ff' AS TEXT))")
        connection.commit()
    with pytest.raises(RequestError, match=r"sql:\w{6}#2: sqlite:///a\.db: .*UTF-8"):
        read("SELECT x FROM t", "sqlite:///a.db", batch_rows=1)


def test_binary_values_are_dropped_and_named(workplace: Path) -> None:
    with closing(sqlite3.connect(workplace / "a.db")) as connection:
        connection.execute("CREATE TABLE t (x, picture)")
        connection.execute("INSERT INTO t VALUES ('a', NULL), ('b', x'00'), ('c', NULL)")
        connection.commit()
    ledger = Ledger()
    rows = read("SELECT * FROM t", "sqlite:///a.db", ledger=ledger)
    assert [place.partition("#")[2] for place, _ in rows] == ["0", "2"]
    (dropped,) = ledger.dropped
    assert dropped.rows == 1 and "#1: in picture" in dropped.first[0]


def test_identity_follows_the_content(chats: Path) -> None:
    source = SqlSource(sql="SELECT id FROM chats", url="sqlite:///chats.db")
    before = identify_source(source)
    assert identify_source(source) == before
    assert identify_source(source.model_copy(update={"sql": "SELECT id FROM chats "})) != before
    connection = sqlite3.connect(chats)
    with closing(connection):
        # Committed, and only in the write-ahead log as long as the connection is open.
        connection.execute("PRAGMA journal_mode = WAL")
        before = identify_source(source)
        connection.execute("INSERT INTO chats (id) VALUES (99)")
        connection.commit()
        assert identify_source(source) != before
        assert len(read("SELECT id FROM chats", "sqlite:///chats.db")) == 21


def test_what_check_says_of_queries(chats: Path) -> None:
    def check(sql: str, url: str = "sqlite:///chats.db", **parameters: Any) -> tuple[str, str]:
        return check_source(SqlSource(sql=sql, url=url, parameters=parameters))

    assert check("SELECT id FROM chats WHERE id > :low", low=3) == ("ok", "sqlite:///chats.db understands the query")
    assert check("SELECT nothing FROM chats")[0] == "error"
    assert check("SELECT id FROM chats WHERE id > :low")[0] == "error"
    severity, text = check("SELECT 1", "postgresql+psycopg://reader:secret@127.0.0.1:1/chats?sslpassword=hidden")
    assert severity == "note" and "secret" not in text and "hidden" not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://reader:s3cret@127.0.0.1:1/chats?passfile=s3cret",
        "mysql+nothing://reader:s3cret@127.0.0.1/chats",
        "nothing://reader:s3cret@127.0.0.1/chats",
        "postgresql://reader:s3cret@127.0.0.1:port/chats",
        "host=127.0.0.1 password=s3cret",
    ],
)
def test_passwords_are_never_shown(workplace: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATS_URL", url)
    for stated in (url, "env:CHATS_URL"):
        source = SqlSource(sql="SELECT 1", url=stated)
        with pytest.raises(RequestError) as caught:
            list(read_source(source, Ledger()))
        said = [str(caught.value), check_source(source)[1]]
        try:
            said.append(str(identify_source(source)))
        except RequestError as error:
            said.append(str(error))
        assert all("s3cret" not in text for text in said), said


def test_a_database_that_goes_away_is_not_made_anew(chats: Path) -> None:
    from sqlalchemy import text

    from hfkit.data.sources.database import Database

    database = Database("sqlite:///chats.db")
    chats.unlink()
    with pytest.raises(RequestError, match="unable to open"), database.connection() as connection:
        connection.execute(text("SELECT 1"))
    assert not chats.exists()


def test_what_a_driver_says_is_shown_without_the_password() -> None:
    from hfkit.data.sources.database import Database

    database = Database("postgresql+psycopg://reader:s3cret@127.0.0.1:1/chats?options=hidden")
    said = str(database.refusal(ValueError("cannot log in as reader with s3cret and options=hidden")))
    assert (
        said
        == "sql: postgresql+psycopg://reader:***@127.0.0.1:1/chats: cannot log in as reader with *** and options=***"
    )


def test_without_sqlalchemy_the_extra_is_named(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(RequestError, match=r"pip install 'hfkit\[sql\]'"):
        read("SELECT id FROM chats", "sqlite:///chats.db")
    with pytest.raises(RequestError, match=r"pip install 'hfkit\[sql\]'"):
        identify_source(SqlSource(sql="SELECT id FROM chats", url="sqlite:///chats.db"))


_SERVERS = ("/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/17/bin", "/usr/local/bin")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of the test's own, on a socket in a folder of its own."""
    pytest.importorskip("psycopg")
    found = shutil.which("postgres") or shutil.which("postgres", path=os.pathsep.join(_SERVERS))
    if found is None:
        pytest.skip("no PostgreSQL server is installed")
    programs = Path(found).resolve().parent
    # The server refuses to run as root.
    as_user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
    # A socket's path may be about 100 characters long.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if as_user:
        shutil.chown(folder, "nobody")
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **as_user}
    try:
        make = [programs / "initdb", "-D", folder / "data", "-U", "reader", "--auth=trust", "-E", "UTF8", "--no-sync"]
        if subprocess.run([*make, "--locale=C"], **silent).returncode:
            pytest.skip("initdb does not work here")
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"], **silent
        )
        try:
            end = time.monotonic() + 60
            ready = [programs / "pg_isready", "-h", folder, "-U", "reader", "-d", "postgres"]
            while subprocess.run(ready, **silent).returncode:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.skip("the PostgreSQL server does not start here")
                time.sleep(0.05)
            yield f"postgresql+psycopg://reader@/postgres?host={folder}"
        finally:
            # A fast shutdown, which does not wait for whoever is still connected.
            server.send_signal(signal.SIGINT)
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def filled(postgresql: str) -> str:
    import psycopg

    with psycopg.connect(postgresql.replace("+psycopg", "")) as connection:
        connection.execute(
            "CREATE TABLE chats AS SELECT n AS id, 'Prompt ' || n AS prompt, n / 4::numeric AS price, "
            "timestamptz '2026-01-02 03:04:05+00' AS made, jsonb_build_object('n', ARRAY[n]) AS more, "
            "ARRAY['a', 'b'] AS tags, gen_random_uuid() AS uuid FROM generate_series(0, 999) AS n"
        )
    return postgresql


def test_postgresql_is_read_in_pieces(filled: str) -> None:
    source = SqlSource(
        sql="SELECT id, prompt, price, made, more, tags, uuid::text AS uuid FROM chats WHERE id >= :low ORDER BY id",
        url=filled,
        parameters={"low": 2},
    )
    batches = list(read_source(source, Ledger(), batch_rows=300))
    assert [len(batch.rows) for batch in batches] == [300, 300, 300, 98]
    first = dict(batches[0].rows[0])
    assert len(first.pop("uuid")) == 36 and first.pop("made").startswith("2026-01-02T")
    assert first == {"id": 2, "prompt": "Prompt 2", "price": 0.5, "more": {"n": [2]}, "tags": ["a", "b"]}
    assert batches[3].places[-1] == f"{sql_name(source)}#997"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH gone AS (DELETE FROM chats RETURNING id) SELECT id FROM gone",
        "SELECT id INTO copied FROM chats",
        "SELECT setval('numbers', 1)",
        "WITH one AS (SELECT 1) DELETE FROM chats RETURNING id",
    ],
)
def test_postgresql_refuses_to_write(filled: str, sql: str) -> None:
    import psycopg

    with psycopg.connect(filled.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE SEQUENCE IF NOT EXISTS numbers")
        with pytest.raises(RequestError, match=r"read-only transaction|not allowed|data-modifying|syntax error"):
            read(sql, filled)
        assert connection.execute("SELECT count(*), to_regclass('copied') FROM chats").fetchone() == (1000, None)
        assert connection.execute("SELECT is_called FROM numbers").fetchone() == (False,)


def test_postgresql_says_what_is_wrong(filled: str) -> None:
    with pytest.raises(RequestError, match=r'sql: postgresql\+psycopg://reader@/postgres: relation "missing" does not'):
        read("SELECT * FROM missing", filled)
    with pytest.raises(RequestError, match=r"sql:\w{6}#500: .*division by zero"):
        read("SELECT 1 / (id - 500) FROM chats", filled, batch_rows=250)
    assert identify_source(SqlSource(sql="SELECT 1", url=filled)) == {
        "sql": "SELECT 1",
        "parameters": {},
        "database": "postgresql+psycopg://reader@/postgres",
        "content": None,
        "rows": sql_name(SqlSource(sql="SELECT 1", url=filled)),
    }

"""Rows larger than memory, read, converted and landed as Parquet: five million of CSV, and of SQL.

    python benchmarks/landing.py [--quick] [--json]

The rows are short prompts and completions, the same in both sources; each source is landed by a process of its own.
Peak memory is that of the whole tree of processes. `--quick` takes 100,000 rows and keeps no result. Needs 4 GB of
disk.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from own_process import PeakMemory, in_a_process
from report import Goal, Result, report

MEBIBYTE = 2**20


def land(path: str, kind: str) -> tuple[float, int, int]:
    """(seconds, peak bytes, rows) of landing a source of many rows."""
    from hfkit.data.landing import Strata, land_source
    from hfkit.data.ledger import Ledger
    from hfkit.recipe import DataSection

    source = (
        {"path": path} if kind == "csv" else {"sql": "SELECT prompt, completion FROM rows", "url": f"sqlite:///{path}"}
    )
    data = DataSection.model_validate({"sources": [source]})
    (only,) = data.sources
    with PeakMemory() as memory:
        started = time.perf_counter()
        landed = land_source(
            only,  # type: ignore[arg-type]
            0,
            Path(f"{path}.landed"),
            splits=data.splits,
            quality=data.quality,
            strata=Strata(),
            allow_code=False,
            ledger=Ledger(),
        )
        seconds = time.perf_counter() - started
    return seconds, memory.peak, len(landed.keys)


def write_many(folder: Path, rows: int) -> tuple[Path, Path]:
    """The same rows as CSV and as an SQLite table."""
    words = [f"word{number}" for number in range(2000)]
    choose = random.Random(7)
    table, database = folder / "many.csv", folder / "many.db"
    with table.open("w", newline="", encoding="utf-8") as file, sqlite3.connect(database) as connection:
        writer = csv.writer(file)
        writer.writerow(("prompt", "completion"))
        connection.execute("CREATE TABLE rows (prompt TEXT, completion TEXT)")
        for start in range(0, rows, 10_000):
            part = [
                (f"{number} {' '.join(choose.choices(words, k=8))}", " ".join(choose.choices(words, k=8)))
                for number in range(start, min(rows, start + 10_000))
            ]
            writer.writerows(part)
            connection.executemany("INSERT INTO rows VALUES (?, ?)", part)
    return table, database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    results: list[Result] = []
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory() as name:
        paths = write_many(Path(name), 100_000 if arguments.quick else 5_000_000)
        for kind, path in zip(("csv", "sql"), paths, strict=True):
            seconds, peak, landed = in_a_process(land, str(path), kind)
            results.append(Result(f"{landed:,} rows of {kind}", landed / seconds, "rows/s"))
            results.append(Result(f"{landed:,} rows of {kind}: peak memory", peak / MEBIBYTE, "MiB"))
            goals.append(Goal(f"memory of landing {kind}", "< 1536 MiB", peak / MEBIBYTE, peak < 1536 * MEBIBYTE))
            path.unlink()
            shutil.rmtree(f"{path}.landed")
    report("landing", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()

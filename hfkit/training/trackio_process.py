"""`python -m hfkit.training.trackio_process FOLDER`: hands trackio what comes in on standard input, a JSON a line.

The first line names the project and its configuration, each other one a step and its numbers. The end of the input,
which the end of the training process is too, ends the record.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock


def main(folder: Path, lines: Iterable[str]) -> int:
    """Returns 0 if all that came in is in the record: trackio itself fails with warnings that nobody sees here."""
    _yield_to_training()
    # An interrupt of the terminal reaches this process too; the training process ends it by closing the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The process of a run that was killed a moment ago may still be writing.
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        shutil.rmtree(folder, ignore_errors=True)
        logged = _record(lines)
        return 0 if _close_databases(folder) == logged else 1


def _yield_to_training() -> None:
    """Take what training leaves of the processor, and end when it is killed: another run may want its folder at once,
    and makes the record anew from metrics.jsonl."""
    if sys.platform == "linux":
        os.nice(10)
        set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _record(lines: Iterable[str]) -> int:
    """How many lines were handed on."""
    import trackio

    messages = map(json.loads, lines)
    head = next(messages)
    trackio.init(
        head["project"],
        name=head["project"],
        config=head["config"],
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    logged = 0
    for message in messages:
        trackio.log(message["numbers"], step=message["step"])
        logged += 1
    trackio.finish()  # type: ignore[no-untyped-call]
    return logged


def _close_databases(folder: Path) -> int:
    """Into one file each: what lies beside a database while somebody has it open is no part of a record. How many
    lines they hold."""
    held = 0
    for path in folder.glob("*.db"):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        held += int(connection.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])
        connection.close()
    for path in folder.glob("*.lock"):
        path.unlink()
    return held


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.stdin))

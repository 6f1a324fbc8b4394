"""Progress: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import hfkit.progress
from hfkit.progress import Progress


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(hfkit.progress, "time", clock)
    return clock


def test_what_is_said_goes_to_standard_error_and_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Progress().say("data: running")
    assert capsys.readouterr() == ("", "data: running\n")
    assert "data: running" in caplog.messages


def test_quiet_says_nothing_but_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    progress = Progress(quiet=True)
    progress.say("data: running")
    with progress.bar("training") as update:
        update(0, 10)
        update(10, 10)
    assert capsys.readouterr() == ("", "")
    assert "data: running" in caplog.messages


def test_off_a_terminal_there_are_few_whole_lines(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress = Progress()
    assert not progress.on_terminal
    with progress.bar("training") as update:
        for done in range(1, 101):
            clock.now += 0.5
            update(done, 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    # Fifty seconds: one at the start, one each ten seconds, one at the end.
    assert len(lines) == 6
    assert "\r" not in err and "\x1b" not in err
    assert "training: 1 of 100" in lines[0] and "training: 100 of 100 after 50 s" in lines[-1]


def test_the_end_is_told_however_soon_it_comes(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with Progress().bar("writing") as update:
        update(0, 3)
        update(1, 3)
        update(3, 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "3 of 3" in lines[-1]


def test_a_bar_whose_work_fails_lets_the_error_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Progress().bar("training") as update:
        update(1, 2)
        raise ZeroDivisionError


def test_on_a_terminal_there_is_a_bar_on_standard_error_alone(tmp_path: Path) -> None:
    script = (
        "from hfkit.progress import Progress\n"
        "progress = Progress()\n"
        "assert progress.on_terminal\n"
        "with progress.bar('training') as update:\n"
        "    update(3, 10); update(10, 10)\n"
    )
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    seen = os.read(ours, 65536).decode("utf-8", "replace")
    os.close(ours)
    assert done.returncode == 0, seen
    assert done.stdout == b""
    assert "training" in seen and "10/10" in seen and "\x1b" in seen

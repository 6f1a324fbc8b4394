r"""Searches for regular expressions in a process of its own, which ends itself where a search does not end.

Python's `re` cannot be told to stop, and the engines that can read some of its patterns otherwise: `\w` beside accents
and in Indian scripts, `x{e}` in formulas. So it stays `re`, in a process that can be ended. That process is this file,
run as a script, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from typing import IO

SECONDS = 2.0
"""What a search may take; nearly all take less than a thousandth of it."""

PATIENCE = 10
HURRIED = 0.25
"""What it may take once `PATIENCE` searches have not ended: a pattern that fails on every row must not take hours."""


class Searcher:
    """Finds patterns in texts. Its process starts with the first search and ends with the searcher."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None
        # Kept, so that who asks again, to learn which row failed, is told the same in no time.
        self._found: dict[tuple[str, str], str | None] = {}
        self._endless: dict[tuple[str, str], str] = {}

    def last_group(self, pattern: str, text: str) -> str | None:
        """What the first group holds in the last match of `pattern`, which compiles; empty where it holds nothing or
        there is no group; None where the pattern is not found.

        Raises:
            TimeoutError: the search does not come to an end.
            RuntimeError: the process was ended by somebody else.
        """
        asked = (pattern, text)
        if asked not in self._found and asked not in self._endless:
            self._search(asked)
        if asked in self._endless:
            raise TimeoutError(self._endless[asked])
        return self._found[asked]

    def _search(self, asked: tuple[str, str]) -> None:
        seconds = SECONDS if len(self._endless) < PATIENCE else HURRIED
        begun = time.monotonic()
        answer = self._answer(json.dumps([seconds, *asked]))
        if answer:
            self._found[asked] = json.loads(answer)
        elif time.monotonic() - begun < seconds:
            raise RuntimeError("the process that searches for patterns was ended from outside")
        else:
            self._endless[asked] = (
                f"the search for {asked[0]!r:.60} had not come to an end after {seconds:g} seconds; write the pattern "
                "so that what it repeats can match a text in one way only"
            )

    def _answer(self, line: str) -> str:
        """The process's answer, a line; empty where the process ended instead."""
        answer = ""
        try:
            asking, answering = self._pipes()
            with contextlib.suppress(OSError):
                print(line, file=asking, flush=True)
                answer = answering.readline()
        finally:
            # Without an answer, whatever the reason, the process must not answer the next question with this one's.
            if not answer:
                self._end()
                self._process = None
        return answer

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
            )
            self._end = weakref.finalize(self, _ended, self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def _ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # What was not written any more is written when it is closed, to nobody.
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


def _serve() -> None:
    """Answers a line of JSON with a line of JSON until there is no more."""
    for line in sys.stdin:
        seconds, pattern, text = json.loads(line)
        # Ends the process, though the search holds on to the interpreter.
        faulthandler.dump_traceback_later(seconds, exit=True)
        said = _last_group(re.compile(pattern), text)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(said), flush=True)


def _last_group(pattern: re.Pattern[str], text: str) -> str | None:
    if not pattern.groups:
        return None if pattern.search(text) is None else ""
    last = None
    for match in pattern.finditer(text):
        last = match
    return None if last is None else last.group(1) or ""


if __name__ == "__main__":
    _serve()

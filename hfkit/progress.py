"""What a person sees while work goes on: a bar on a terminal, plain lines elsewhere, always on standard error."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hfkit.output import say

Update = Callable[[int, int], None]
"""Called with what is done and the total."""

_LOG = logging.getLogger("hfkit")


class Progress:
    """Reports to standard error. `quiet` leaves the log file as the only reader."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.on_terminal = sys.stderr is not None and sys.stderr.isatty() and not quiet

    def say(self, text: str) -> None:
        """A line to the user and to the log."""
        _LOG.info(text)
        if not self.quiet:
            say(text)

    @contextmanager
    def bar(self, label: str) -> Iterator[Update]:
        """A bar for as long as the block runs; call what it yields with (done, total)."""
        if self.quiet:
            yield _ignore
        elif self.on_terminal:
            with _rich_bar(label) as update:
                yield update
        else:
            yield _Lines(label)


def _ignore(done: int, total: int) -> None:
    """Nobody looks."""


@contextmanager
def _rich_bar(label: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class _Lines:
    """A line at the start, at the end, and at most every ten seconds between."""

    seconds_between = 10.0

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = time.monotonic()
        self.last = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self.last < self.seconds_between:
            return
        self.last = now
        say(f"  {self.label}: {done} of {total} after {now - self.started:.0f} s")

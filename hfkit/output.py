"""What is printed. A reader that went away (`| head`) ends neither the work nor changes what came of it."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def emit(text: str) -> None:
    """A verb's result, to standard output."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """A line for the person who watches, to standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # Nobody reads this stream any more; what else is written to it, at exit too, must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""What is printed. A reader that went away (`| head`) ends neither the work nor changes what came of it."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

# All control characters but line feed and tab, and of escape sequences all but colours.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f\x80-\x9f]|\x1b(?!\[[0-9;]*m)")


def emit(text: str) -> None:
    """A verb's result, to standard output."""
    _write(sys.stdout, text)


def say(text: str) -> None:
    """A line for the person who watches, to standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        # Closed before we were started (`2>&-`).
        return
    # Headings and file names come from elsewhere: what they hold must not drive the terminal. Colours are our own.
    text = _CONTROL.sub("\ufffd", text)
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # Nobody reads this stream any more; what else is written to it, at exit too, must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""What is printed. A reader that went away (`| head`) ends neither the work nor changes what came of it."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

# Control characters but line feed and tab, and the marks that turn the direction of what follows.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROL_BUT_COLOURS = re.compile(f"(?!\x1b\\[[0-9;]*m){_CONTROL.pattern}")


def harmless(text: str) -> str:
    """Text from elsewhere (documents, file names, rows) for a line of our own: without what drives a terminal."""
    return _CONTROL.sub("\ufffd", text)


def one_line(text: str) -> str:
    """As `harmless`, and without line breaks, so that a name cannot pass for another line."""
    return " ".join(harmless(text).splitlines())


def emit(text: str, *, styled: bool = False) -> None:
    """A verb's result, to standard output. `styled` says that colours in it are our own; what came from elsewhere has
    gone through `harmless` then."""
    _write(sys.stdout, text, _CONTROL_BUT_COLOURS if styled else _CONTROL)


def say(text: str) -> None:
    """A line for the person who watches, to standard error."""
    _write(sys.stderr, text, _CONTROL)


def _write(stream: TextIO | None, text: str, unwanted: re.Pattern[str]) -> None:
    if stream is None:
        # Closed before we were started (`2>&-`).
        return
    # Headings and file names come from elsewhere: what they hold must not drive the terminal.
    text = unwanted.sub("\ufffd", text)
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # Nobody reads this stream any more; what else is written to it, at exit too, must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

"""What training frees goes back to the system where the recipe asks for memory, and only as long as it does."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed blocks so")

# Blocks of 8 MiB, of which all but the last are freed: a heap cannot shrink below the one that is left. A freed block
# makes glibc keep others of its size, which is what happens in training.
_SCRIPT = """
import resource, sys
from contextlib import nullcontext
from hfkit.training.freed_memory import freed_memory_given_back

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

def left_of_blocks():
    before = held()
    blocks = [bytearray(b"x") * (8 * 2**20) for _ in range(20)]
    del blocks[:-1]
    return held() - before

bytearray(b"x") * (16 * 2**20)
with freed_memory_given_back() if sys.argv[1] == "back" else nullcontext():
    print(left_of_blocks())
if sys.argv[1] == "back":
    print(left_of_blocks())
"""


def left(how: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def test_freed_blocks_are_given_back() -> None:
    (kept,) = left("kept")
    back, afterwards = left("back")
    assert kept > 100, "glibc keeps them otherwise"
    assert back < 20
    assert afterwards > 100, "and again when it is over"

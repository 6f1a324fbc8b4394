"""Gives what the process frees back to the system, where memory matters more than speed."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# Of malloc.h: blocks of at least so many bytes are mapped one by one, and unmapped when they are freed.
_M_MMAP_THRESHOLD = -3
# The highest that glibc takes, and what it comes to by itself once large blocks were freed.
_HIGHEST = 32 * 2**20


@contextmanager
def freed_memory_given_back() -> Iterator[None]:
    """Blocks of 1 MiB and more, as long as this lasts; with a C library other than glibc nothing happens.

    glibc keeps freed blocks, and seldom finds a use for those of tensors: training with gradient checkpointing held
    twice as much as it used. What comes from the system anew must be cleared first, so this costs time.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, 2**20)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, _HIGHEST)

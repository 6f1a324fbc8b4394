"""Any exception into a sentence for the user and an exit code."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfkit.errors import HfkitError, RequestError

_FULL_BYTES = 2**20

# How SQLite, safetensors and PyTorch say that a write failed, without a word of why.
_FAILED_WRITES = ("disk I/O error", "unable to open database file", "iostream error", "inline_container.cc")

# How PyTorch's gloo, its store and NCCL say that the process at the other end is no longer there.
_PEER_IS_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "connection was likely closed",
    "failed to recv, got 0 bytes",
    "remote process exited",
    "broken pipe",
)


@dataclass(frozen=True, slots=True)
class Explanation:
    text: str
    exit_code: int


def explain(error: Exception) -> Explanation:
    """What `error` means to the user. An error that nobody foresaw says so, and how to see more of it."""
    if _disk_is_full(error):
        return Explanation("the disk is full; what was finished is kept. Make room and run the same command again", 1)
    if _is_too_large(error):
        return Explanation(
            "a file may not become as large as it must: there is a limit on the size of files here (see `ulimit -f`, "
            "and what the file system allows). What was finished is kept. Raise it and run the same command again",
            1,
        )
    if isinstance(error, HfkitError):
        return Explanation(str(error), error.exit_code)
    code = _code_of_rag(error)
    if code is not None:
        return Explanation(str(error), code)
    lowered = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in lowered or "allocate memory" in lowered:
        return Explanation(
            "out of memory; lower train.micro_batch_size, evaluate.batch_size or data.max_length, "
            f"or set model.quantization=nf4 ({_first_line(error)})",
            1,
        )
    if isinstance(error, RuntimeError) and any(text in lowered for text in _PEER_IS_GONE):
        return Explanation(
            "another process of this launch ended; the launcher, or logs/ in the run's folder, says why. What was "
            "finished is kept, and the same command goes on from there",
            1,
        )
    if isinstance(error, PermissionError):
        return Explanation(f"{error.filename or 'a file'}: permission denied; check who owns it", 1)
    if isinstance(error, NotADirectoryError | FileExistsError) and (file := _file_in_the_way(error)) is not None:
        return Explanation(f"{file}: is a file, and a folder is needed there; move it away", 1)
    if isinstance(error, OSError) and error.filename:
        return Explanation(f"{error.filename}: {error.strerror}", 1)
    return Explanation(
        f"unexpected {type(error).__name__}: {_first_line(error)}; what was finished is kept. "
        "--debug shows where it happened; please report it",
        1,
    )


def _code_of_rag(error: BaseException) -> int | None:
    """The exit code of an error of rag's; None for any other. Nothing is an error of a package that was not imported,
    and to import it, NumPy included, is no work for a process that has just failed."""
    if "rag.errors" not in sys.modules:
        return None
    from rag.errors import RagError, RagRequestError

    if not isinstance(error, RagError):
        return None
    return 2 if isinstance(error, RagRequestError) else 1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _disk_is_full(error: BaseException) -> bool:
    """Libraries wrap ENOSPC in errors of their own (safetensors, PyTorch, SQLite): causes and texts are searched."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(cause) for text in ("No space left on device", "os error 28", "database or disk is full")):
            return True
    if isinstance(error, RequestError) or _code_of_rag(error) == 2:
        return False
    if not any(map(_may_be_a_write, _causes(error))):
        return False
    from hfkit.run import RUNS

    # They do not say why, so the disk itself is asked.
    return shutil.disk_usage(RUNS if RUNS.exists() else Path()).free < _FULL_BYTES


def _may_be_a_write(cause: BaseException) -> bool:
    """Whether `cause` is a write that failed for a reason that it does not tell."""
    # NumPy and Pillow raise bare OSErrors of half a write; what has a class of its own says what it is.
    unexplained = type(cause) is OSError and cause.errno in (None, errno.EIO)
    return unexplained or any(text in str(cause) for text in _FAILED_WRITES)


def _is_too_large(error: BaseException) -> bool:
    """Whether a write went over the limit on the size of a file, in whatever a library wraps that."""
    return any(
        (isinstance(cause, OSError) and cause.errno == errno.EFBIG)
        or any(text in str(cause) for text in ("File too large", "os error 27"))
        for cause in _causes(error)
    )


def _file_in_the_way(error: OSError) -> Path | None:
    """The file that stands where a folder was to be: the path that the error names, or what it lies in."""
    for name in (error.filename, error.filename2):
        if isinstance(name, str):
            path = Path(name)
            for place in (*reversed(path.parents), path):
                if place.is_file():
                    return place
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__

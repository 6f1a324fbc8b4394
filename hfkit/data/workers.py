"""The same job on all cores: processes that take one piece of work at a time and answer in order.

Answers come in the order in which the work went out, so nothing depends on how many workers there are.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from hfkit.errors import HfkitError, RequestError, WorkError

Job = Callable[[bytes], bytes]

_DONE, _REFUSED, _FAILED = b"+", b"!", b"?"

# Of <sys/prctl.h>: the signal that a process gets when the one that started it is gone.
_PR_SET_PDEATHSIG = 1


def on_workers(job: str, settings: str, work: Iterable[bytes], count: int) -> Iterator[bytes]:
    """What a job makes of each piece of work, in order.

    Args:
        job: `package.module:function`; called with `settings` in each worker, the function gives the Job.
        settings: as the function wants them.
        work: read as workers become free. What it raises comes through as it is.
        count: how many processes.

    Raises:
        RequestError: the job raised it.
        WorkError: the job raised it or anything else, a worker died, or none could be started.
    """
    # Not forked: the parent's libraries have threads, which a fork would leave half alive.
    start = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    free: deque[Connection] = deque()
    # Each worker has one piece at a time, answered before the next is sent, so that no pipe fills up on both sides.
    busy: deque[Connection] = deque()
    try:
        for _ in range(count):
            ours, theirs = start.Pipe()
            process = start.Process(target=_work, args=(theirs, job, settings, os.getpid()), daemon=True)
            _start(process)
            # Only then does a worker see the end of its pipe when this process is gone.
            theirs.close()
            processes.append(process)
            free.append(ours)
        for piece in work:
            answer = None
            if not free:
                free.append(busy.popleft())
                answer = _answer(free[0])
            busy.append(free.popleft())
            _send(busy[-1], piece)
            if answer is not None:
                yield answer
        while busy:
            yield _answer(busy.popleft())
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def cores() -> int:
    """How many this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def named_job(job: str, settings: str) -> Job:
    """The job of `on_workers`, in this process."""
    module, function = job.split(":")
    made: Job = getattr(import_module(module), function)(settings)
    return made


def _start(process: SpawnProcess) -> None:
    try:
        process.start()
    except RuntimeError as error:
        # A worker reads the script that this process runs once more, and has come here again by it.
        if multiprocessing.parent_process() is None:
            raise
        script = sys.modules["__main__"].__spec__ or sys.argv[0]
        raise WorkError(
            f"{script}: the processes that prepare training data read this script too, and so would run it again; put "
            'what it does under `if __name__ == "__main__":`'
        ) from error


def _send(connection: Connection, piece: bytes) -> None:
    try:
        connection.send_bytes(piece)
    except (BrokenPipeError, ConnectionResetError) as error:
        # It may have said why before it went; then this raises that.
        _answer(connection)
        raise _died() from error


def _answer(connection: Connection) -> bytes:
    try:
        said = connection.recv_bytes()
    # Some of an answer, and then no more of it, is an OSError.
    except (EOFError, OSError) as error:
        raise _died() from error
    if said[:1] == _REFUSED:
        raise RequestError(json.loads(said[1:]))
    if said[:1] == _FAILED:
        raise WorkError(json.loads(said[1:]))
    return said[1:]


def _died() -> WorkError:
    return WorkError("a process that prepares training data died; is there enough memory?")


def _work(connection: Connection, job: str, settings: str, parent: int) -> None:
    """A worker's life: work in, answers out, until nobody is there any more."""
    _end_with(parent)
    # One process a core: threads of the tokenizer would only get into each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        _answer_all(connection, job, settings)
    # Where the parent is gone, there is nobody to tell.
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _answer_all(connection: Connection, job: str, settings: str) -> None:
    """Raises EOFError or OSError when the other end of the connection is gone."""
    piece: bytes | None = None
    do: Job | None = None
    while True:
        try:
            if do is None:
                do = named_job(job, settings)
            answer = _DONE + do(piece) if piece is not None else b""
        except RequestError as error:
            answer = _REFUSED + json.dumps(str(error)).encode()
        except HfkitError as error:
            answer = _FAILED + json.dumps(str(error)).encode()

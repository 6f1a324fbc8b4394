"""The same job on all cores: processes that take one piece of work at a time and answer in order.

Answers come in the order in which the work went out, so nothing depends on how many workers there are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from hfkit.errors import RequestError, WorkError

Job = Callable[[bytes], bytes]

_DONE, _REFUSED = b"+", b"!"


def on_workers(job: str, settings: str, work: Iterable[bytes], count: int) -> Iterator[bytes]:
    """What a job makes of each piece of work, in order.

    Args:
        job: `package.module:function`; called with `settings` in each worker, the function gives the Job.
        settings: as the function wants them.
        work: read as workers become free.
        count: how many processes.

    Raises:
        RequestError: the job raised it.
        WorkError: a worker died.
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
            process = start.Process(target=_work, args=(theirs, job, settings), daemon=True)
            process.start()
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
            busy[-1].send_bytes(piece)
            if answer is not None:
                yield answer
        while busy:
            yield _answer(busy.popleft())
    except (BrokenPipeError, EOFError, ConnectionResetError) as error:
        raise WorkError("a process that prepares training data died; is there enough memory?") from error
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


def _answer(connection: Connection) -> bytes:
    said = connection.recv_bytes()
    if said[:1] == _REFUSED:
        raise RequestError(json.loads(said[1:]))
    return said[1:]


def _work(connection: Connection, job: str, settings: str) -> None:
    """A worker's life: work in, answers out, until nobody is there any more."""
    # One process a core: threads of the tokenizer would only get into each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        do = named_job(job, settings)
        while True:
            connection.send_bytes(_DONE + do(connection.recv_bytes()))
    except RequestError as error:
        connection.send_bytes(_REFUSED + json.dumps(str(error)).encode())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return

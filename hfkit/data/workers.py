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
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess

from hfkit.errors import HfkitError, RequestError, WorkError

Job = Callable[[bytes], bytes]

_DONE, _REFUSED, _FAILED = b"+", b"!", b"?"

# From <sys/prctl.h>: the signal that a process gets when the thread that started it is gone.
_PR_SET_PDEATHSIG = 1
_SECONDS_TO_END = 10


def on_workers(job: str, settings: str, work: Iterable[bytes], count: int) -> Iterator[bytes]:
    """What a job makes of each piece of work, in order.

    Args:
        job: `package.module:function`; called with `settings` in each worker, the function gives the Job.
        settings: as the function wants them.
        work: read as workers become free; what it raises comes through as it is.
        count: how many processes.

    Raises:
        RequestError: the job raised it.
        WorkError: the job raised it, or something that nobody foresaw; or a worker died, or could not start.
    """
    # Not forked: the parent's libraries have threads, which a fork would leave half alive.
    start = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    free: deque[_Worker] = deque()
    # Each worker has one piece at a time, answered before the next is sent, so that no pipe fills up on both sides.
    busy: deque[_Worker] = deque()
    try:
        for _ in range(count):
            workers.append(_Worker.started(start, job, settings))
            free.append(workers[-1])
        for piece in work:
            answer = None
            if not free:
                free.append(busy.popleft())
                answer = free[0].answer()
            busy.append(free.popleft())
            busy[-1].send(piece)
            if answer is not None:
                yield answer
        while busy:
            yield busy.popleft().answer()
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


def named_job(job: str, settings: str) -> Job:
    """The job of `on_workers`, in this process."""
    module, function = job.split(":")
    made: Job = getattr(import_module(module), function)(settings)
    return made


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process at work, and this process's end of the pipe to it."""

    process: SpawnProcess
    connection: Connection

    @classmethod
    def started(cls, start: SpawnContext, job: str, settings: str) -> _Worker:
        ours, theirs = start.Pipe()
        process = start.Process(target=_work, args=(theirs, job, settings), daemon=True)
        process.start()
        # Only then does a worker see the end of its pipe when this process is gone.
        theirs.close()
        return cls(process, ours)

    def send(self, piece: bytes) -> None:
        try:
            self.connection.send_bytes(piece)
        except OSError as error:
            # It is gone. What it said before it went is the better reason, if it said anything.
            self.answer()
            raise self._lost() from error

    def answer(self) -> bytes:
        try:
            said = self.connection.recv_bytes()
        # The end in the midst of an answer is an OSError.
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if said[:1] == _DONE:
            return said[1:]
        text, trace = json.loads(said[1:])
        if said[:1] == _REFUSED:
            raise RequestError(text)
        raise WorkError(text) from RuntimeError(trace)

    def _lost(self) -> WorkError:
        self.process.join(_SECONDS_TO_END)
        code = self.process.exitcode
        # All that a worker's own work raises is sent here, so it can only have failed while it read the script anew.
        if code is not None and code > 0:
            return WorkError(
                f"a process that prepares training data could not start (exit code {code}): it reads the script that "
                'was run first, and what that does must stand under `if __name__ == "__main__":`'
            )
        return WorkError("a process that prepares training data died; is there enough memory?")


def _work(connection: Connection, job: str, settings: str) -> None:
    """A worker's life: work in, answers out, until nobody is there any more."""
    _end_with_parent()
    # One process a core: threads of the tokenizer would only get into each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        try:
            do = named_job(job, settings)
        except Exception as error:
            connection.send_bytes(_told(error))
            return
        while True:
            connection.send_bytes(_answered(do, connection.recv_bytes()))
    # The parent is gone, perhaps in the midst of a piece.
    except (EOFError, OSError, KeyboardInterrupt):
        return


def _answered(do: Job, piece: bytes) -> bytes:
    try:
        return _DONE + do(piece)
    # Whatever it is, it is for the parent to raise: here nobody would read it.
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> bytes:
    mark, text = _FAILED, str(error)
    if isinstance(error, RequestError):
        mark = _REFUSED
    elif not isinstance(error, HfkitError):
        said = (text.strip() or "no message").splitlines()[0]
        text = (
            f"unexpected {type(error).__name__} in a process that prepares training data: {said}; --debug shows where "
            "it happened; please report it"
        )
    return mark + json.dumps([text, "".join(traceback.format_exception(error))]).encode()


def _end_with_parent() -> None:
    """Have the system end this process as soon as its parent is gone, even where that is killed while this one works.

    Where the system cannot, a worker ends when it next reads from its pipe.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        # It was gone before the system could know that we want to be told.
        os._exit(1)

"""Work in a process of its own, and the memory it takes."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable

import psutil


class PeakMemory:
    """The largest sum of resident memory of this process and its children while the block runs, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        process = psutil.Process()
        total = 0
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def in_a_process(work: Callable[..., tuple[float, int, int]], *arguments: object) -> tuple[float, int, int]:
    # Not a daemon: the preparation starts processes of its own.
    start = multiprocessing.get_context("spawn")
    ours, theirs = start.Pipe(duplex=False)
    process = start.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    result: tuple[float, int, int] = ours.recv()
    process.join()
    return result


def _answer(connection: object, work: Callable[..., tuple[float, int, int]], arguments: tuple[object, ...]) -> None:
    connection.send(work(*arguments))  # type: ignore[attr-defined]

"""What a piece of work costs: seconds and peak memory."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil


class Measure:
    """Measures the block it surrounds.

    `peak_memory_bytes` is the largest resident set of this process, sampled every 20 ms: a peak that is shorter than
    that can be missed. It counts the whole process, so what an earlier stage still holds is in it.
    """

    interval_seconds = 0.02

    def __enter__(self) -> Measure:
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._started = time.monotonic()
        self.peak_memory_bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.monotonic() - self._started
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_seconds):
            self.peak_memory_bytes = max(self.peak_memory_bytes, self._process.memory_info().rss)

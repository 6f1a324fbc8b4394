"""How many processors there are for the workers that prepare training data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Each worker holds libraries, a tokenizer and the hashes of all test rows, some hundreds of megabytes; and one process
# reads for all of them and writes what they answer, so that many more would wait.
_MOST = 16


def cores(system: Path = Path("/")) -> int:
    """Those that this process may run on, no more of them than its control groups give it the time of, nor than _MOST.

    A container's limit (`docker --cpus=2`, a limit of Kubernetes) is such a quota of time: all processors of the
    machine can still be run on.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min([allowed, _MOST, *_quotas(system)]))


def _quotas(system: Path) -> Iterator[int]:
    """The processors whose time each control group around this process has, where it has a limit."""
    mounted = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one hierarchy, whose line names no controllers; version 1 has one for each set of them.
        hierarchy = mounted / controllers
        group = hierarchy / path.lstrip("/")
        # Inside a container the path can be the host's, and not be there: its own group is then the topmost.
        for folder in (group, *group.parents):
            quota = _quota(folder)
            if quota is not None:
                yield quota
            if folder == hierarchy:
                break


def _quota(folder: Path) -> int | None:
    """The group's microseconds in each period, as whole processors; None where it has no limit, or is not there."""
    try:
        if (folder / "cpu.max").is_file():
            time, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            time = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        # No limit is "max" in version 2, and -1 in version 1.
        return None if time == "max" or int(time) < 0 else -(-int(time) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None

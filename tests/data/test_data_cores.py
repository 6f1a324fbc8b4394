"""How many workers there are: no more than a container's share of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from hfkit.data.cores import cores

# A pod limited to four processors within a node's slice that has no limit.
VERSION_2 = {
    "proc/self/cgroup": "0::/slice/pod\n",
    "sys/fs/cgroup/slice/cpu.max": "max 100000\n",
    "sys/fs/cgroup/slice/pod/cpu.max": "350000 100000\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (VERSION_2, 4),
        (VERSION_2 | {"sys/fs/cgroup/slice/cpu.max": "150000 100000\n"}, 2),
        (VERSION_2 | {"sys/fs/cgroup/slice/pod/cpu.max": "max 100000\n"}, 16),
        # Inside a container the group's own path leads nowhere.
        (VERSION_2 | {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        (VERSION_1, 2),
        (VERSION_1 | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}, 16),
        (VERSION_1 | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "what\n"}, 16),
        ({}, 16),
    ],
    ids=["2", "2, a group around it", "2, no limit", "2, elsewhere", "1", "1, no limit", "1, unreadable", "none"],
)
def test_a_quota_of_time_counts_as_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: Mapping[str, str], expected: int
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert cores(tmp_path) == expected


def test_no_more_than_the_process_may_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert cores(tmp_path) == 3

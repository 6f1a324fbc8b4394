"""Processes that share one job: what they answer, and what becomes of them when something dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hfkit.data.workers import on_workers
from hfkit.errors import RequestError, WorkError

HERE = "worker_jobs"
JOBS = """
import os
import signal
import time

from hfkit.errors import RequestError, WorkError


def made(settings):
    if settings == "unmade":
        raise LookupError("no such thing")
    return do


def do(piece):
    match piece:
        case b"refuse":
            raise RequestError("x.yaml:3: wrong")
        case b"fail":
            raise WorkError("the work failed")
        case b"odd":
            raise ZeroDivisionError("by zero\\nand more")
        case b"disk":
            raise OSError(28, "No space left on device")
        case b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"wait":
            open("working", "x").close()
            time.sleep(600)
    return piece[::-1]
"""


@pytest.fixture
def job(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a job that does as it is told; workers inherit the path on which it is found."""
    (workplace / f"{HERE}.py").write_text(JOBS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(workplace), os.environ["PYTHONPATH"]]))
    monkeypatch.syspath_prepend(workplace)
    return f"{HERE}:made"


def test_answers_come_in_the_order_of_the_work(job: str) -> None:
    work = [f"{number:04}".encode() for number in range(50)]
    assert list(on_workers(job, "", work, 3)) == [piece[::-1] for piece in work]
    assert list(on_workers(job, "", [], 1)) == []


@pytest.mark.parametrize(
    ("piece", "settings", "kind", "said"),
    [
        (b"refuse", "", RequestError, r"^x\.yaml:3: wrong$"),
        (b"fail", "", WorkError, r"^the work failed$"),
        (b"odd", "", WorkError, r"^unexpected ZeroDivisionError in a process .*: by zero; --debug .*please report it$"),
        (b"disk", "", WorkError, "No space left on device"),
        (b"die", "", WorkError, r"died; is there enough memory\?"),
        (b"x", "unmade", WorkError, "unexpected LookupError .*: no such thing"),
    ],
    ids=str,
)
def test_what_goes_wrong_in_a_worker_is_raised_here(
    job: str, piece: bytes, settings: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        list(on_workers(job, settings, [b"a", piece, b"b", b"c"], 2))


@pytest.mark.parametrize("error", [EOFError("of the source"), BrokenPipeError("of the source"), OSError("its own")])
def test_what_the_source_raises_is_no_death_of_a_worker(job: str, error: Exception) -> None:
    def work() -> Iterator[bytes]:
        yield b"a"
        raise error

    with pytest.raises(type(error)) as caught:
        list(on_workers(job, "", work(), 1))
    assert caught.value is error


def test_a_script_that_a_worker_cannot_read_anew_is_named_as_the_cause(job: str, workplace: Path) -> None:
    script = workplace / "script.py"
    body = f"from hfkit.data.workers import on_workers\n{{}}print(list(on_workers('{job}', '', [b'ab'], 1)))\n"
    script.write_text(body.format(""), encoding="utf-8")
    bare = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert bare.returncode == 1
    assert "WorkError: a process that prepares training data could not start" in bare.stderr
    assert '`if __name__ == "__main__":`' in bare.stderr

    script.write_text(body.format("if __name__ == '__main__':\n    "), encoding="utf-8")
    guarded = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (guarded.returncode, guarded.stdout) == (0, "[b'ba']\n"), guarded.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_no_worker_outlives_a_parent_that_was_killed(job: str, workplace: Path, patiently: Callable[..., None]) -> None:
    script = workplace / "script.py"
    script.write_text(
        "from hfkit.data.workers import on_workers\n"
        "if __name__ == '__main__':\n"
        f"    list(on_workers('{job}', '', [b'wait', b'x', b'x', b'x'], 2))\n",
        encoding="utf-8",
    )
    with (workplace / "said").open("wb") as said:
        parent = subprocess.Popen([sys.executable, script], stdout=said, stderr=said)
    try:
        patiently(lambda: Path("working").exists() or parent.poll() is not None, "a worker at work")
        children = children_of(parent.pid)
        assert len(children) >= 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    # A worker that is at work reads its pipe after ten minutes at the earliest.
    patiently(lambda: not any(alive(child) for child in children), "the workers' end", 20)
    assert (workplace / "said").read_text() == ""


def children_of(pid: int) -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if status(int(path.name)).get("PPid") == str(pid)]


def alive(pid: int) -> bool:
    """A zombie that nobody has asked after is not."""
    return status(pid).get("State", "Z")[0] not in "ZX"


def status(pid: int) -> dict[str, str]:
    """What the system says of a process; nothing where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

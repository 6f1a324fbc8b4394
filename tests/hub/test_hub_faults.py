"""`hfkit publish` against a Hub that fails: nothing is half-published, the message says what to do, a rerun goes on."""

from __future__ import annotations

import errno
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from hfkit.errors import WorkError
from hfkit.hub.failures import explained, upload_explained
from tests.hub.hub_server import Fault

if TYPE_CHECKING:
    from tests.hub.conftest import Published

COMMIT = r"^POST /api/models/ada/reader/commit/main$"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, 2, "the Hub does not know the token; set HF_TOKEN"),
        (403, 2, "the token may not write there"),
        (409, 1, "somebody else changed it at this moment"),
        (412, 1, "somebody else changed it at this moment"),
        (429, 1, "the Hub asks for fewer requests. Wait some minutes"),
        (500, 1, "the Hub answered 500"),
    ],
)
def test_a_refused_commit_leaves_nothing_and_a_rerun_goes_on(
    run_to_publish: Published, status: int, code: int, said: str
) -> None:
    run_to_publish.hub.faults.append(Fault(COMMIT, status))
    done = run_to_publish()
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    repository = run_to_publish.hub.repositories["model", "ada/reader"]
    assert set(repository.head().files) == {".gitattributes"}
    uploaded = list(run_to_publish.hub.uploads)
    assert len(uploaded) == 1
    assert run_to_publish().returncode == 0
    assert len(repository.commits) == 2
    assert run_to_publish.hub.uploads == uploaded


def test_transient_faults_are_overcome_without_a_word(run_to_publish: Published) -> None:
    """Too many requests, a bad gateway, a connection cut in the middle of a file, a slow answer."""
    run_to_publish.hub.faults += [
        Fault(r"^POST .*/preupload/", 429, headers={"Retry-After": "0"}),
        Fault(r"^POST .*/objects/batch$", 502),
        Fault(r"^PUT /lfs/", "cut"),
        Fault(COMMIT, "wait"),
    ]
    done = run_to_publish()
    assert done.returncode == 0, done.stderr
    assert all(fault.times == 0 for fault in run_to_publish.hub.faults)
    assert len(run_to_publish.hub.repositories["model", "ada/reader"].commits) == 2


def test_a_process_that_is_killed_in_the_middle_of_an_upload_goes_on_where_it_was(run_to_publish: Published) -> None:
    run_to_publish.rewrite(hub={"dataset": "ada/rows"})
    process = subprocess.Popen(
        [sys.executable, "-m", "hfkit", "publish", str(run_to_publish.recipe)],
        cwd=run_to_publish.folder,
        env=run_to_publish.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The data has gone; the weights are on their way.
    run_to_publish.hub.faults.append(Fault(r"^PUT /lfs/", process.kill, after=4))
    process.wait(timeout=300)
    repositories = run_to_publish.hub.repositories
    assert len(repositories["dataset", "ada/rows"].commits) == 2
    assert set(repositories["model", "ada/reader"].head().files) == {".gitattributes"}
    done = run_to_publish()
    assert done.returncode == 0, done.stderr
    assert "dataset ada/rows: holds all of it already" in done.stderr
    uploads = run_to_publish.hub.uploads
    assert len(repositories["dataset", "ada/rows"].commits) == len(repositories["model", "ada/reader"].commits) == 2
    # The server may still have taken the file that was on its way when the process died.
    assert len(set(uploads)) == 5
    assert len(uploads) <= 6


def test_a_commit_whose_answer_was_lost_is_found_the_next_time(run_to_publish: Published) -> None:
    run_to_publish.hub.faults.append(Fault(COMMIT, "lose"))
    lost = run_to_publish()
    assert lost.returncode == 1
    assert "the connection to the Hub broke" in lost.stderr
    again = run_to_publish()
    assert (again.returncode, "holds all of it already" in again.stderr) == (0, True)
    assert len(run_to_publish.hub.repositories["model", "ada/reader"].commits) == 2


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (TimeoutError("deadline has elapsed"), WorkError, "an upload broke off (deadline has elapsed)"),
        (RuntimeError("task failed: broken pipe"), WorkError, "an upload broke off (task failed: broken pipe)"),
        (FileNotFoundError("object not found"), WorkError, "an upload broke off (object not found)"),
        (
            PermissionError("expired https://store.example/x?X-Signature=abc"),
            WorkError,
            "the Hub's storage refused an upload (expired https://store.example/x)",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "adapter.safetensors"), PermissionError, "adapter"),
        (ConnectionError("reset"), WorkError, "the connection to the Hub broke (reset)"),
    ],
)
def test_what_hf_xet_raises_says_what_to_do(raised: Exception, kind: type[Exception], said: str) -> None:
    """By its source it raises Python's own errors, without a number of the system's."""
    with pytest.raises(kind) as caught, explained("model ada/reader"), upload_explained("model ada/reader"):
        raise raised
    assert said in str(caught.value) and "Signature" not in str(caught.value)
    if kind is WorkError:
        assert "run `hfkit publish` again" in str(caught.value)


def test_a_commit_of_somebody_else_in_between_wins(run_to_publish: Published) -> None:
    hub = run_to_publish.hub

    def somebody_else() -> None:
        hub.repositories["model", "ada/reader"].push({"notes.md": b"quick"})

    hub.faults.append(Fault(COMMIT, somebody_else))
    done = run_to_publish()
    assert (done.returncode, "somebody else changed it at this moment" in done.stderr) == (1, True)
    repository = hub.repositories["model", "ada/reader"]
    assert set(repository.head().files) == {".gitattributes", "notes.md"}
    again = run_to_publish()
    assert (again.returncode, "which this run did not make" in again.stderr) == (1, True)


def test_a_repository_that_is_deleted_half_way_is_made_anew_by_a_rerun(run_to_publish: Published) -> None:
    hub = run_to_publish.hub
    hub.faults.append(Fault(COMMIT, lambda: hub.delete("model", "ada/reader")))
    done = run_to_publish()
    assert done.returncode == 1
    assert "model ada/reader: is not on the Hub any more" in done.stderr
    assert "run `hfkit publish` again, which creates it anew" in done.stderr
    assert run_to_publish().returncode == 0
    assert len(hub.repositories["model", "ada/reader"].commits) == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(r"^PUT /lfs/", 403), Fault(r"^POST .*/commit/second$", 500), Fault(r"^POST .*/branch/second$", "lose")],
    ids=["upload", "commit", "branch"],
)
def test_a_new_branch_that_was_left_at_mains_files_is_gone_on_with(run_to_publish: Published, fault: Fault) -> None:
    hub = run_to_publish.hub
    main = hub.create("model", "ada/reader", private=True).push({"notes.md": b"of somebody else"})
    hub.faults.append(replace(fault))
    done = run_to_publish("hub.branch=second")
    assert done.returncode in (1, 2), done.stderr
    repository = hub.repositories["model", "ada/reader"]
    assert repository.head("second") is main
    again = run_to_publish("hub.branch=second")
    assert again.returncode == 0, again.stderr
    assert repository.head("second").parent == main.oid
    assert repository.head() is main
    # What was on main is not this run's, and stays where it is not replaced.
    assert {"notes.md", "adapter_model.safetensors"} <= set(repository.head("second").files)


def test_a_hub_that_is_away_is_said(run_to_publish: Published) -> None:
    done = run_to_publish(HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "the connection to the Hub broke" in done.stderr
    assert "run `hfkit publish` again" in done.stderr

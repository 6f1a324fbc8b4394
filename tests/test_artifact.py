"""What makes a stage's folder count as whole, and what a crash may leave of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.artifact import (
    MARKER,
    Artifact,
    DamagedArtifact,
    fingerprint_of,
    forget_artifact,
    read_artifact,
    record_files,
    replace_folder,
    write_artifact,
    write_whole,
)
from hfkit.environment import describe_environment

NAMES = st.text("abcxyz0189_-", min_size=1, max_size=8)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "d/" * (len(parts) - 1) + "-".join(parts) + ".bin"),
    st.binary(min_size=1, max_size=200),
    min_size=1,
    max_size=5,
)

ENVIRONMENT = describe_environment()


def make(folder: Path, files: dict[str, bytes]) -> Artifact:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    artifact = Artifact(
        stage="data",
        fingerprint="f" * 64,
        files=record_files(folder),
        finished="2026-01-01T00:00:00+00:00",
        seed=7,
        seconds=1.5,
        peak_memory_bytes=1000,
        environment=ENVIRONMENT,
        result={"rows": 3, "names": ["ä", "b"]},
    )
    write_artifact(folder, artifact)
    return artifact


@given(files=TREES)
@settings(deadline=None, max_examples=25)
def test_what_was_written_is_read_back(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        written = make(Path(place), files)
        assert read_artifact(Path(place)) == written
        assert {record.path for record in written.files} == set(files)


@given(files=TREES, choice=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_a_changed_byte_is_found_even_where_the_size_stays(files: dict[str, bytes], choice: random.Random) -> None:
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), files)
        name = choice.choice(sorted(files))
        content = bytearray(files[name])
        content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
        overwrite_later(Path(place) / name, bytes(content))
        with pytest.raises(DamagedArtifact, match="damaged"):
            read_artifact(Path(place))


@given(files=TREES, choice=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_a_file_that_is_shorter_longer_or_gone_is_found(files: dict[str, bytes], choice: random.Random) -> None:
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), files)
        name = choice.choice(sorted(files))
        path = Path(place) / name
        what = choice.choice(["shorter", "longer", "gone"])
        if what == "gone":
            path.unlink()
        elif what == "longer":
            path.write_bytes(files[name] + b"x")
        else:
            path.write_bytes(files[name][: choice.randrange(len(files[name]))])
        with pytest.raises(DamagedArtifact) as raised:
            read_artifact(Path(place))
        assert Path(name).name in str(raised.value)


@given(cut=st.floats(0, 0.999))
@settings(deadline=None, max_examples=25)
def test_a_marker_cut_off_anywhere_is_damaged(cut: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), {"a": b"1"})
        marker = Path(place) / MARKER
        text = marker.read_bytes().rstrip()
        marker.write_bytes(text[: int(cut * len(text))])
        with pytest.raises(DamagedArtifact, match="damaged"):
            read_artifact(Path(place))


@pytest.mark.parametrize("garbage", [b"", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe\x00", b'{"stage": 3}'])
def test_a_marker_that_is_no_artifact_is_damaged(tmp_path: Path, garbage: bytes) -> None:
    make(tmp_path, {"a": b"1"})
    (tmp_path / MARKER).write_bytes(garbage)
    with pytest.raises(DamagedArtifact, match=MARKER):
        read_artifact(tmp_path)


def test_a_marker_with_an_unknown_key_is_not_guessed_at(tmp_path: Path) -> None:
    make(tmp_path, {"a": b"1"})
    document = json.loads((tmp_path / MARKER).read_text(encoding="utf-8"))
    (tmp_path / MARKER).write_text(json.dumps({**document, "more": 1}), encoding="utf-8")
    with pytest.raises(DamagedArtifact):
        read_artifact(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_damage_and_no_crash(tmp_path: Path) -> None:
    make(tmp_path, {"d/a": b"1"})
    (tmp_path / "d" / "a").unlink()
    (tmp_path / "d" / "a").mkdir()
    with pytest.raises(DamagedArtifact):
        read_artifact(tmp_path)


def test_a_file_in_the_place_of_a_folder_is_damage_and_no_crash(tmp_path: Path) -> None:
    make(tmp_path, {"d/a": b"1"})
    (tmp_path / "d" / "a").unlink()
    (tmp_path / "d").rmdir()
    (tmp_path / "d").write_bytes(b"")
    with pytest.raises(DamagedArtifact):
        read_artifact(tmp_path)


def test_the_same_content_written_again_is_still_whole(tmp_path: Path) -> None:
    written = make(tmp_path, {"a": b"same"})
    overwrite_later(tmp_path / "a", b"same")
    assert read_artifact(tmp_path) == written


def test_no_marker_and_no_folder_are_no_artifact(tmp_path: Path) -> None:
    assert read_artifact(tmp_path) is None
    assert read_artifact(tmp_path / "nowhere") is None


def test_a_forgotten_artifact_is_none_and_forgetting_twice_is_fine(tmp_path: Path) -> None:
    make(tmp_path, {"a": b"1"})
    forget_artifact(tmp_path)
    forget_artifact(tmp_path)
    assert read_artifact(tmp_path) is None
    assert (tmp_path / "a").read_bytes() == b"1"


def test_hidden_files_and_what_is_in_hidden_folders_are_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / ".checkpoints" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / ".checkpoints" / "checkpoint-1" / "model.bin").write_bytes(b"1")
    (tmp_path / ".aim").write_bytes(b"1")
    assert [record.path for record in make(tmp_path, {"sub/a": b"1"}).files] == ["sub/a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(parts=st.dictionaries(st.text(), JSON, max_size=5), choice=st.randoms(use_true_random=False))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(parts: dict[str, object], choice: random.Random) -> None:
    items = list(parts.items())
    choice.shuffle(items)
    assert fingerprint_of(dict(items)) == fingerprint_of(parts)  # type: ignore[arg-type]


@given(one=st.dictionaries(st.text(), JSON, max_size=4), other=st.dictionaries(st.text(), JSON, max_size=4))
def test_other_inputs_give_another_fingerprint(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint_of(one) == fingerprint_of(other)) == same  # type: ignore[arg-type]


def test_write_whole_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """A process that rewrites a file for ever is killed; what lies there is one of the whole texts."""
    path = tmp_path / "file"
    script = (
        "import sys; from pathlib import Path; from hfkit.artifact import write_whole\n"
        "for n in range(10**9): write_whole(Path(sys.argv[1]), 'ab'[n % 2] * 2_000_000)"
    )
    choose = random.Random(1)
    for _ in range(4):
        kill_after([sys.executable, "-c", script, str(path)], path, choose.uniform(0.0, 0.1))
        text = path.read_text(encoding="utf-8")
        assert text in ("a" * 2_000_000, "b" * 2_000_000)


def test_replace_folder_leaves_a_whole_folder_or_none_when_killed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hfkit.artifact import replace_folder\n"
        "place = Path(sys.argv[1])\n"
        "for n in range(10**9):\n"
        "    new = place / f'new-{n}'; new.mkdir()\n"
        "    for name in 'abcdefgh': (new / name).write_text(str(n))\n"
        "    replace_folder(new, place / 'old')"
    )
    choose = random.Random(2)
    for attempt in range(4):
        place = tmp_path / str(attempt)
        place.mkdir()
        kill_after([sys.executable, "-c", script, str(place)], place / "old", choose.uniform(0.0, 0.05))
        if (place / "old").exists():
            contents = {path.name: path.read_text(encoding="utf-8") for path in (place / "old").iterdir()}
            assert sorted(contents) == list("abcdefgh")
            assert len(set(contents.values())) == 1
        # And the next one to come finds nothing in its way.
        (place / "next").mkdir()
        replace_folder(place / "next", place / "old")
        assert list((place / "old").iterdir()) == []
        assert not (place / ".old.discarded").exists()


def test_write_whole_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "one")
    write_whole(tmp_path / "file", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "two"


def overwrite_later(path: Path, content: bytes) -> None:
    """As a later process would: with another time of change, which a fast test could miss."""
    before = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def kill_after(command: list[str], appears: Path, seconds: float) -> None:
    process = subprocess.Popen(command)
    end = time.monotonic() + 60
    while not appears.exists():
        assert process.poll() is None and time.monotonic() < end, "the process does not do its work"
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

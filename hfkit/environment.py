"""What a result was made with: machine, packages, code."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from hfkit import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "sentence-transformers",
    "bitsandbytes",
    "deepspeed",
    "liger-kernel",
    "evaluate",
    "lm-eval",
    "sacrebleu",
    "rouge-score",
    "langchain",
    "langchain-text-splitters",
    "faiss-cpu",
    "faiss-gpu",
    "gguf",
    "gradio",
    "jinja2",
    "lxml",
    "numpy",
    "pyarrow",
    "pypdf",
    "python-docx",
    "python-pptx",
    "rensa",
    "scipy",
    "snowballstemmer",
)

# The packages whose code makes results, and what of them does.
_CODE_FOLDERS = ("hfkit", "rag")
_CODE_FILES = (".py", ".jinja")


class Hardware(BaseModel):
    """`memory_bytes` is the machine's; `threads` what PyTorch may use where OMP_NUM_THREADS is set, else the cores.

    `instructions` is the widest set of vector instructions that PyTorch uses here, such as AVX512: sums are added up in
    another order with another. None where PyTorch was not loaded.
    """

    model_config = ConfigDict(frozen=True)

    processor: str
    cores: int
    threads: str
    memory_bytes: int
    gpus: tuple[str, ...]
    instructions: str | None = None


class Code(BaseModel):
    """The commit of the checkout that hfkit runs from; None outside of one. `changed` where files differ from it.

    `content` is the SHA-256 over the code itself, which is the same for the same code however it was installed.
    """

    model_config = ConfigDict(frozen=True)

    commit: str | None
    changed: bool
    content: str | None = None


class Environment(BaseModel):
    """What a result depends on beside the recipe and the data."""

    model_config = ConfigDict(frozen=True)

    hfkit: str
    python: str
    platform: str
    versions: dict[str, str]
    hardware: Hardware
    code: Code


def package_versions() -> dict[str, str]:
    """The installed version of each package that results depend on; those that are not installed are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def describe_hardware() -> Hardware:
    return Hardware(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        instructions=_instructions(),
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    # A run that trained has imported torch already; one that did nothing must not pay seconds for asking.
    if "torch" not in sys.modules:
        return ()
    import torch

    return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))


def _instructions() -> str | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return str(torch.backends.cpu.get_cpu_capability())


def describe_code() -> Code:
    here = Path(__file__).resolve().parent.parent
    commit = _git(here, "rev-parse", "HEAD") if (here / ".git").exists() else None
    changed = bool(commit and _git(here, "status", "--porcelain", "--untracked-files=no"))
    return Code(commit=commit, changed=changed, content=_code_content(here))


def _code_content(root: Path) -> str:
    """Over the names and the lines of every file; that lines end otherwise on Windows makes no other code."""
    digest = hashlib.sha256()
    files = [path for folder in _CODE_FOLDERS for path in (root / folder).rglob("*") if path.suffix in _CODE_FILES]
    for path in sorted(files):
        content = b"\n".join(path.read_bytes().splitlines())
        digest.update(f"\0{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_environment(code: Code | None = None) -> Environment:
    """As it is now; `code` where it was looked at before, by whoever may have worked while somebody edited it."""
    return Environment(
        hfkit=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=package_versions(),
        hardware=describe_hardware(),
        code=describe_code() if code is None else code,
    )

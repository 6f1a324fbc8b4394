"""What a result was made with: machine, packages, code."""

from __future__ import annotations

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
    "sentence-transformers",
    "bitsandbytes",
    "evaluate",
    "langchain",
    "faiss-cpu",
    "faiss-gpu",
    "gradio",
    "numpy",
)


class Hardware(BaseModel):
    """`memory_bytes` is the machine's; `threads` what PyTorch may use where OMP_NUM_THREADS is set, else the cores."""

    model_config = ConfigDict(frozen=True)

    processor: str
    cores: int
    threads: str
    memory_bytes: int
    gpus: tuple[str, ...]


class Code(BaseModel):
    """The commit of the checkout that hfkit runs from; None outside of one. `changed` where files differ from it."""

    model_config = ConfigDict(frozen=True)

    commit: str | None
    changed: bool


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


def describe_code() -> Code:
    here = Path(__file__).resolve().parent.parent
    commit = _git(here, "rev-parse", "HEAD") if (here / ".git").exists() else None
    return Code(commit=commit, changed=bool(commit and _git(here, "status", "--porcelain", "--untracked-files=no")))


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_environment() -> Environment:
    return Environment(
        hfkit=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        versions=package_versions(),
        hardware=describe_hardware(),
        code=describe_code(),
    )

"""`hfkit doctor`: what this machine can do, and what is amiss with the installation."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel

from hfkit import __version__
from hfkit.environment import Hardware, describe_hardware, package_versions
from hfkit.models.embedded import MODELS, PREFIX, cached_folder
from hfkit.output import emit


class Diagnosis(BaseModel):
    """`problems` are to be mended; each says how."""

    hfkit: str
    python: str
    hardware: Hardware
    precision: str
    precision_reason: str
    versions: dict[str, str]
    embedded_models: dict[str, str]
    problems: tuple[str, ...]


def run(arguments: argparse.Namespace) -> int:
    diagnosis = diagnose()
    if arguments.json:
        emit(json.dumps(diagnosis.model_dump(), indent=2))
    else:
        _print(diagnosis)
    return 1 if diagnosis.problems else 0


def diagnose() -> Diagnosis:
    from hfkit.models.precision import resolve_precision

    precision = resolve_precision("auto")
    return Diagnosis(
        hfkit=__version__,
        python=platform.python_version(),
        hardware=describe_hardware(),
        precision=precision.precision,
        precision_reason=precision.reason,
        versions=package_versions(),
        embedded_models={
            PREFIX + model.name: str(cached_folder(model)) if cached_folder(model).is_dir() else "not fetched yet"
            for model in MODELS.values()
        },
        problems=tuple(faiss_problems(_installed("faiss-cpu"), _installed("faiss-gpu"), _faiss_loads())),
    )


def faiss_problems(cpu: str | None, gpu: str | None, loads: str | None) -> list[str]:
    """What is wrong with FAISS: its two packages provide the same module, so each overwrites the other's files.

    `cpu` and `gpu` are the installed versions; `loads` is why the module does not load, None where it does.
    """
    if cpu and gpu:
        return [
            f"faiss-cpu {cpu} and faiss-gpu {gpu} are both installed and overwrite each other's files; "
            "`pip uninstall faiss-cpu faiss-gpu`, then install hfkit with one of the extras, hfkit[cpu] or hfkit[gpu]"
        ]
    if not cpu and not gpu:
        return ["FAISS is not installed; install hfkit with one of the extras, hfkit[cpu] or hfkit[gpu]"]
    if loads is not None:
        name = "cpu" if cpu else "gpu"
        return [f"FAISS is installed and does not load ({loads}); `pip install --force-reinstall hfkit[{name}]`"]
    return []


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _faiss_loads() -> str | None:
    try:
        import faiss

        faiss.IndexFlatIP(4)
    except (ImportError, AttributeError) as error:
        return str(error)
    return None


def _print(diagnosis: Diagnosis) -> None:
    hardware = diagnosis.hardware
    emit(f"hfkit {diagnosis.hfkit}, Python {diagnosis.python}")
    emit(f"processor: {hardware.processor}, {hardware.cores} cores, {hardware.memory_bytes / 2**30:.1f} GiB memory")
    emit(f"GPUs: {', '.join(hardware.gpus) or 'none'}")
    emit(f"model.precision=auto means {diagnosis.precision}: {diagnosis.precision_reason}")
    emit("packages: " + ", ".join(f"{name} {number}" for name, number in diagnosis.versions.items()))
    for name, place in diagnosis.embedded_models.items():
        emit(f"{name}: {place}")
    for problem in diagnosis.problems:
        emit(f"PROBLEM: {problem}")
    if not diagnosis.problems:
        emit("no problems found")

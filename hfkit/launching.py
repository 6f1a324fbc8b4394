"""`hfkit train --launch NAME`: the command of `accelerate launch` that it stands for."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfkit.errors import RequestError

CONFIGS = "accelerate_configs"

# Files whose processes Accelerate starts itself, one after all, unless it is told to take its launcher for several.
_ONE_PROCESS = "NO"


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """What is run, and what is set in its environment beside what is there."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it is typed into a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*settings, "accelerate launch", shlex.join(self.arguments)])

    def run(self) -> int:
        """Run it to its end and return its exit code; 1 where a signal ended it."""
        import subprocess

        command = [sys.executable, "-m", "accelerate.commands.launch", *self.arguments]
        with subprocess.Popen(command, env={**os.environ, **self.environment}) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                # Ctrl-C reaches the launcher too, SIGTERM does not; it ends its processes and then itself.
                process.terminate()
                process.wait()
                raise
        return code if code >= 0 else 1


def launch_command(config: str, processes: int | None, verb: Sequence[str]) -> LaunchCommand:
    """The command that runs `hfkit VERB` by a launch configuration.

    Args:
        config: the name of a file in `accelerate_configs/`, or the path of another one.
        processes: how many, on all machines; None leaves it to the file.
        verb: the arguments of `hfkit`.

    Raises:
        RequestError: there is no such file, it cannot be read, or it cannot be had with so many processes here.
    """
    path = find_config(config)
    settings = _read(path)
    count = _number(settings, "num_processes", path) if processes is None else processes
    if count < 1:
        raise RequestError(f"--processes: {count} is too few")
    machines = _number(settings, "num_machines", path)
    arguments = ["--config_file", str(path), "--num_processes", str(count)]
    kind = str(settings.get("distributed_type", _ONE_PROCESS)).upper()
    if kind == "MULTI_CPU":
        raise RequestError(f"{path}: Accelerate starts one process for MULTI_CPU; use `--launch cpu --processes N`")
    _require_devices(path, kind, settings, -(-count // machines))
    if kind == _ONE_PROCESS and count > 1:
        arguments.append("--multi_gpu")
    if machines == 1:
        # Any free one: two runs on one machine must not meet.
        arguments += ["--main_process_port", "0"]
    environment = {}
    if settings.get("use_cpu") is True:
        # Else PyTorch finds a GPU where there is one.
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if count > 1 and settings.get("use_cpu") is True and "OMP_NUM_THREADS" not in os.environ:
        # Else the launcher gives each process one core.
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // -(-count // machines)))
    return LaunchCommand([*arguments, "-m", "hfkit", *verb], environment)


def find_config(name: str) -> Path:
    """The file that `name` means: its path, or the name of one in `accelerate_configs/`, here or as shipped.

    Raises:
        RequestError: there is none; names those that there are.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if Path(name).is_file():
            return Path(name)
        raise RequestError(f"--launch: {name}: no such file")
    folders = [Path(CONFIGS), *shipped_configs()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise RequestError(f"--launch: {name}: no such configuration; there are {', '.join(names)}, or give a file's path")


def shipped_configs() -> list[Path]:
    """Where the configurations lie that come with hfkit: beside the package in a checkout, in it where installed."""
    package = Path(__file__).resolve().parent
    return [package / CONFIGS, package.parent / CONFIGS]


def _read(path: Path) -> dict[str, object]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"--launch: {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise RequestError(f"--launch: {path}: not a configuration of `accelerate launch`")
    return settings


def _number(settings: Mapping[str, object], key: str, path: Path) -> int:
    value = settings.get(key, 1)
    if not isinstance(value, int):
        raise RequestError(f"--launch: {path}: {key} is {value!r} and must be a number")
    return value


def _require_devices(path: Path, kind: str, settings: Mapping[str, object], processes: int) -> None:
    """A launch that would fail after minutes, or do something else than it says, is refused before it starts."""
    if settings.get("use_cpu") is True:
        return
    import torch

    gpus = torch.cuda.device_count()
    if kind == "FSDP" and not gpus:
        from hfkit.launched import require_gpu_for_fsdp

        require_gpu_for_fsdp()
    if gpus < processes:
        raise RequestError(
            f"--launch: {path} wants {processes} GPU{'s' if processes > 1 else ''} on this machine, which has {gpus}; "
            "set --processes, or use `--launch cpu`"
        )

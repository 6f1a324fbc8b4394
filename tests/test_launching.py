"""`accelerate launch` with each shipped configuration that this machine can serve, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

CONFIGS = Path(__file__).resolve().parent.parent / "accelerate_configs"


def launch(config: str, recipe: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    return subprocess.run(
        [*command, "-m", "hfkit", "train", str(recipe)], cwd=recipe.parent, capture_output=True, text=True
    )


def test_one_process_on_the_cpu(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    done = launch("cpu.yaml", recipe)
    assert done.returncode == 0, done.stderr
    again = cli("train", recipe)
    assert again.code == 0 and "train: nothing changed, kept" in again.err


@pytest.mark.gpu
def test_one_process_on_the_gpu(tiny_recipe: RecipeWriter) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    done = launch("single_gpu.yaml", tiny_recipe())
    assert done.returncode == 0, done.stderr


def test_several_processes_are_refused_and_not_run_apart(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    done = cli("train", recipe, env={**os.environ, "WORLD_SIZE": "2", "RANK": "1"})
    assert done.code == 2 and "2 processes" in done.err and "Traceback" not in done.err
    assert not (recipe.parent / "runs").exists()

"""Where the weights of a model that is to be trained are put."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hfkit.launched import weights_are_divided
from hfkit.models import loading
from hfkit.models.trainable import trainable_model
from hfkit.recipe import ModelSection

# What Accelerate sets in the environment of each process, and whether weights are divided by it.
LAUNCHES: dict[str, tuple[dict[str, str], bool]] = {
    "one process": ({}, False),
    "ddp": ({"ACCELERATE_USE_FSDP": "false"}, False),
    "fsdp2": ({"ACCELERATE_USE_FSDP": "true"}, True),
    "zero2": ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
    "zero3": ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
    "a file of DeepSpeed's": ({"ACCELERATE_USE_DEEPSPEED": "true"}, True),
}


class Placed(Exception):
    """The model would now be loaded there."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device


@pytest.fixture
def second_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process would have the second GPU of a machine."""

    def placed(settings: ModelSection, dtype: torch.dtype, device: torch.device | None = None, *rest: object) -> None:
        raise Placed(device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(loading, "load_weights", placed)


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "alpha": 8}])
@pytest.mark.parametrize("launch", LAUNCHES)
def test_weights_that_are_to_be_divided_wait_in_the_machine_s_memory(
    launch: str, adapter: Any, tiny_model: Path, second_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU need hold all of them: what fits the GPUs together is loaded on none of them whole."""
    environment, divided = LAUNCHES[launch]
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert weights_are_divided() is divided
    section = ModelSection.model_validate({"base": str(tiny_model), "precision": "fp32", "adapter": adapter})
    with pytest.raises(Placed) as placed:
        trainable_model(section)
    assert placed.value.device == (None if divided else torch.device("cuda", 1))
    # What is only read from is no part of training, and one process reads it.
    with pytest.raises(Placed) as placed:
        loading.load_model(section)
    assert placed.value.device == torch.device("cuda", 1)

"""What several files of evaluation tests answer with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hfkit.data.rendering import Renderer


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    """The tiny model, sharper than it is at random, so that greedy choices are no near ties."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(3)
    for weight in loaded.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.2)
    return loaded.eval()


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    from hfkit.models.loading import load_renderer
    from hfkit.recipe import ModelSection

    return load_renderer(ModelSection(base=str(tiny_model)))

"""A Llama whose attention matters: grouped heads, and weights far from zero, so that a misplaced row shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfkit.export.merged import TrainedModel
from hfkit.models.trainable import trainable_model
from hfkit.recipe import ModelSection

BaseMaker = Callable[..., Path]
Trainer = Callable[..., TrainedModel]


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> BaseMaker:
    """`base("name", tie_word_embeddings=True)`: a folder with such a model and the tiny tokenizer."""

    def make(name: str = "base", **settings: Any) -> Path:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        folder = Path(shutil.copytree(tiny_model, tmp_path / name))
        torch.manual_seed(0)
        known: dict[str, Any] = {
            "vocab_size": 608,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.3,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
            "rms_norm_eps": 1e-5,
        }
        LlamaForCausalLM(LlamaConfig(**{**known, **settings})).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def train(tmp_path: Path) -> Trainer:
    """`train(base)`: an adapter with weights of its own, and the tokenizer and stop tokens beside it, as a train stage
    leaves it."""

    def make(base: Path, name: str = "trained", **settings: Any) -> TrainedModel:
        import torch

        from hfkit.models.loading import load_tokenizer
        from hfkit.training.weights import TrainedWeights

        section = ModelSection.model_validate(
            {"base": str(base), "precision": "fp32", "adapter": {"rank": 4, "alpha": 8}, **settings}
        )
        model, _ = trainable_model(section)
        torch.manual_seed(3)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight += 0.05 * torch.randn_like(weight)
        tokenizer = load_tokenizer(section, chat=False)
        TrainedWeights(model, tokenizer, [tokenizer.eos_token_id]).save(tmp_path / name, None)
        return TrainedModel("harbour", section, tmp_path / name, "f" * 64)

    return make

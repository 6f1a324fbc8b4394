"""PiSSA: an adapter that starts as the largest singular vectors of each weight, which the base gives up.

Meng et al. 2024, arXiv:2404.02948. In training a layer computes (W - s B0 A0) x + s B A x. What is saved is an adapter
for the untouched W: its change of W is s (B A - B0 A0), which has twice the rank.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel


class PissaModel(PeftModelForCausalLM):
    """A model in training whose adapter began with PiSSA.

    `start` holds the weights that the adapter began with, on the CPU, under the names by which PEFT saves them. The
    same base gives the same start, so a run that goes on needs no file of it.
    """

    def __init__(self, model: PreTrainedModel, config: LoraConfig) -> None:
        super().__init__(model, config)
        self.start = {name: weight.clone() for name, weight in self._adapter_weights().items()}

    def save_for_untouched_base(self, target: Path) -> None:
        """Save the adapter to the folder `target` as plain LoRA of twice the rank, for the base as it was before.

        PEFT can do the same, but loads a second adapter into the live model for it and draws random numbers.
        """
        config = copy.deepcopy(self.peft_config["default"])
        assert isinstance(config, LoraConfig)
        # The scale of rsLoRA would change with the rank.
        scale = config.r**0.5 if config.use_rslora else 1.0
        weights = {}
        for name, weight in self._adapter_weights().items():
            if "lora_A" in name:
                weights[name] = torch.cat([weight, self.start[name]], dim=0)
            else:
                weights[name] = scale * torch.cat([weight, -self.start[name]], dim=1)
        config.r, config.lora_alpha, config.use_rslora = 2 * config.r, 2 * config.lora_alpha, False
        config.init_lora_weights = True
        config.inference_mode = True
        target.mkdir(parents=True, exist_ok=True)
        save_file(weights, target / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(target))

    def _adapter_weights(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(self, save_embedding_layers=False)
        return {name: weight.detach().cpu() for name, weight in state.items()}

"""Reads a GGUF file again through Transformers and compares it with the weights that it was written from."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfkit.errors import WorkError
from hfkit.export.llama_weights import LlamaTensors
from hfkit.export.result import GgufCheck, GgufType
from hfkit.export.vocabulary import READ_BY_TRANSFORMERS, Vocabulary
from hfkit.models.drift import PROMPTS, drift_between, log_probabilities
from hfkit.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Several times what rounding costs: float16 has 11 bits, the others one scale for 32 weights. A tensor that went astray
# is wrong by about 1.4.
_LARGEST_WEIGHT_ERROR: dict[GgufType, float] = {"f16": 2e-3, "q8_0": 3e-2, "q4_0": 0.4}
# In nats a token. What four bits cost hangs on the model, and is stated.
_LARGEST_DIVERGENCE: dict[GgufType, float] = {"f16": 1e-3, "q8_0": 3e-2}

TEXT = "\n\n".join(PROMPTS) + "\n  \tIn 1987 it\u2019s 3.14, I'll say; déjà vu — 你好 \U0001f642!\n"


def check_gguf(
    path: Path,
    kind: GgufType,
    source: Path,
    tensors: LlamaTensors,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
) -> GgufCheck:
    """Compare the file with the model in `source`. One model at a time is in memory.

    Raises:
        WorkError: it differs by more than rounding.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prompts: Sequence[Sequence[int]] = [list(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    # The reader of GGUF draws a bar of its own.
    with quiet_libraries(), redirect_stderr(io.StringIO()):
        original = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
        before = log_probabilities(original, prompts)
        del original
        gc.collect()
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        reread = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    same = list(reread(TEXT)["input_ids"]) == list(tokenizer(TEXT)["input_ids"])
    check = GgufCheck(
        drift=drift_between(before, log_probabilities(model, prompts)),
        largest_weight_error=_largest_weight_error(model, tensors),
        same_tokens=same if vocabulary.splitting in READ_BY_TRANSFORMERS else None,
    )
    _require_close(path, kind, check)
    return check


def _largest_weight_error(model: PreTrainedModel, tensors: LlamaTensors) -> float:
    held = model.state_dict()
    errors = []
    for source in tensors.sources.values():
        original = tensors.read_source(source)
        difference = float(np.linalg.norm(held[source].numpy() - original))
        # A tensor of zeros has no length to divide by.
        errors.append(difference / (float(np.linalg.norm(original)) or 1.0))
    return float(np.max(errors))


def _require_close(path: Path, kind: GgufType, check: GgufCheck) -> None:
    found = None
    # Written so that what is not a number fails as well.
    if not check.largest_weight_error <= _LARGEST_WEIGHT_ERROR[kind]:
        found = f"a tensor is off by {check.largest_weight_error:.3g} of its length"
    elif not check.drift.mean_divergence <= _LARGEST_DIVERGENCE.get(kind, np.inf):
        found = f"its next token differs by {check.drift.mean_divergence:.3g} nats on average"
    elif check.same_tokens is False:
        found = "its tokenizer gives other tokens"
    if found is not None:
        raise WorkError(
            f"{path.name}: read again through Transformers, the file is not the model that was written: {found}. "
            "Nothing was exported; export safetensors, and please report it"
        )

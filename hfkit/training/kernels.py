"""What makes a step faster or smaller and leaves its result as it is, up to rounding: compiling, Liger's kernels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from hfkit.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LIGER = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""The kernels of Liger that are used: its losses know nothing of trained positions, and ours is fused already."""


def compile_layers(model: PreTrainedModel) -> None:
    """Have torch.compile compile each decoder layer in place; the first steps take minutes.

    By layers, since they are alike and so compile fast, and since what is around them stays as it is: the loss in the
    output layer, the names of the weights, what is saved. With lengths left open, so that the very same kernels run
    whatever batch comes first, and a run that goes on computes what it would have.

    Raises:
        RequestError: the model's layers cannot be told.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise RequestError(f"train.compile: the layers of {model.config.model_type} cannot be told; leave it out")
    for layer in layers:
        layer.compile(dynamic=True)


def require_liger(model: PreTrainedModel) -> None:
    """Raises RequestError where Liger's kernels (Hsu et al. 2024, arXiv:2410.10989) cannot be used."""
    import torch

    if not torch.cuda.is_available():
        raise RequestError("train.liger: Liger's kernels run on a GPU alone, and there is none; leave it out")
    if find_spec("liger_kernel") is None:
        raise RequestError(
            'train.liger: the package liger-kernel is not installed; it comes with pip install "hfkit[gpu]"'
        )
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = model.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise RequestError(f"train.liger: Liger has no kernels for models of the kind {kind}; leave it out")

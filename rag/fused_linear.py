"""Linear layers that add their bias, and apply GELU, inside the matrix product: for bfloat16 on processors.

PyTorch runs a linear layer with a bias in two passes on a processor (the bias is copied into the result, then the
product is added), and GELU in a third. In bfloat16, where the product itself is fast, the other two take a third of an
encoder's time. oneDNN does all three in one, by the operator that PyTorch's own compiler emits; it is called here as
it stands, without compiling anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation


class FusedLinear(nn.Module):
    """The same as `linear`, followed by GELU if `gelu`."""

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._after, self._kind = ("gelu", "none") if gelu else ("none", "")

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, self._after, [], self._kind)
        return result


def fuse_linear_layers(model: nn.Module) -> bool:
    """Puts fused layers in the place of all linear ones, in place; says whether it did.

    Nothing is changed where this PyTorch has no such operator, or the operator does not give what the layer gives.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not layers or not _is_same(layers[0]):
        return False
    for module in list(model.modules()):
        children = dict(module.named_children())
        activation, dense = children.get("intermediate_act_fn"), children.get("dense")
        # The first half of a feed-forward block as BERT and its relatives have it.
        if type(activation) is GELUActivation and type(dense) is nn.Linear:
            module.add_module("dense", FusedLinear(dense, gelu=True))
            module.add_module("intermediate_act_fn", nn.Identity())
            continue
        for name, child in children.items():
            if type(child) is nn.Linear:
                module.add_module(name, FusedLinear(child, gelu=False))
    return True


@torch.inference_mode()
def _is_same(layer: nn.Linear) -> bool:
    rows = torch.linspace(-1, 1, 4 * layer.in_features).reshape(4, layer.in_features).to(layer.weight.dtype)
    plain = layer(rows)
    try:
        fused, activated = FusedLinear(layer, gelu=False)(rows), FusedLinear(layer, gelu=True)(rows)
    except (AttributeError, RuntimeError, NotImplementedError):  # no such operator here, or not for these numbers
        return False
    pairs = ((fused, plain), (activated, nn.functional.gelu(plain)))
    return all(torch.allclose(one.float(), other.float(), atol=0.05, rtol=0.05) for one, other in pairs)

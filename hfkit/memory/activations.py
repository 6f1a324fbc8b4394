"""What the forward pass keeps for the backward pass, derived layer by layer; docs/memory.md has the derivation.

Counted is what PyTorch's autograd saves, each storage once. T tokens are computed at once, in lines of L; a number
takes e bytes (4 in float32, 2 in bfloat16). Of one decoder layer:

    norm of width w         4·w·T (its input in float32) + 4·T for each row; LayerNorm e·w·T + 8·T
                            and, where its weight is trained, w·T normalised numbers more
    attention               queries, keys, values and output: 4·A·e·T, with A numbers of all heads; without a mask
                            keys and values are not repeated for each head: 2·(A + KV)·e·T
      fused (SDPA)          4·T for each head (the sum of its exponents), and a mask turned into numbers, e·L·T
      eager                 the table of weights: L·T for each head, in float32 and, in half precision, once more
    MLP, width I            what goes into the activation function, what comes out, and the other factor: 3·I·e·T;
                            without a gate only the first
    inputs of linear layers only where an adapter or trained weights need them: the output of each norm, hidden·e·T
                            (attention's output is kept already), and I·e·T before the MLP's last layer. Under autocast
                            trained weights keep a cast copy for each of the layers that read it.
    adapters                rank·e·T for each, and with dropout what is left of its input, with the mask

A frozen linear layer keeps nothing: the gradient of its input needs its weight alone.
"""

from __future__ import annotations

from hfkit.memory.setting import Batch, Setting
from hfkit.memory.shape import Layer, Linear, ModelShape

# What the loss takes at once (hfkit/training/loss.py, which imports PyTorch).
LOGITS_AT_ONCE = 1 << 25


def activation_bytes(shape: ModelShape, setting: Setting) -> int:
    """Bytes of all activations at the end of the forward pass; with gradient checkpointing those of one layer and the
    input of each."""
    tokens = setting.batch.tokens
    layers = [layer_bytes(shape, layer, setting) for layer in shape.layers]
    if setting.gradient_checkpointing:
        kept = len(layers) * tokens * shape.hidden * _residual_bytes(setting) + max(layers)
    else:
        kept = sum(layers)
    return kept + _outside_layers(shape, setting)


def layer_bytes(shape: ModelShape, layer: Layer, setting: Setting) -> int:
    """What one decoder layer keeps."""
    batch = setting.batch
    return (
        _norms(shape, layer, setting)
        + _attention(shape, batch, setting)
        + _mlp(shape, layer, setting)
        + _linear_inputs(shape, layer, setting)
        + _adapters(shape, layer, setting)
    )


def _norms(shape: ModelShape, layer: Layer, setting: Setting) -> int:
    tokens = setting.batch.tokens
    if shape.layer_norm:
        return tokens * sum(_residual_bytes(setting) * norm.width + 8 * norm.rows for norm in layer.norms)
    kept = sum(4 * norm.width + 4 * norm.rows for norm in layer.norms)
    if setting.adapter is None:
        kept += sum(4 * norm.width for norm in layer.norms)
    return tokens * kept


def _attention(shape: ModelShape, batch: Batch, setting: Setting) -> int:
    wide, tokens = setting.number_bytes, batch.tokens
    all_heads, shared = shape.attention_width, shape.key_value_width
    if shape.eager:
        table = shape.heads * batch.length * (4 if wide == 4 else 6)
        return tokens * (4 * all_heads * wide + table)
    sums = 4 * shape.heads
    if batch.masked:
        return tokens * (4 * all_heads * wide + sums + wide * batch.length)
    return tokens * (2 * (all_heads + shared) * wide + sums)


def _mlp(shape: ModelShape, layer: Layer, setting: Setting) -> int:
    wide, tokens = setting.number_bytes, setting.batch.tokens
    width = sum(linear.inputs for linear in layer.mlp_out)
    gated = sum(linear.outputs for linear in layer.mlp_in) >= 2 * width
    kept = (3 if gated else 1 + shape.kept_activations) * width
    # Each expert reads its own copy of the tokens that are sent to it, and its result is weighed by its share.
    experts = shape.experts_a_token * (4 * layer.expert_width + 2 * shape.hidden) if layer.expert_width else 0
    return tokens * wide * (kept + experts)


def _linear_inputs(shape: ModelShape, layer: Layer, setting: Setting) -> int:
    wide, tokens = setting.number_bytes, setting.batch.tokens
    width = sum(linear.inputs for linear in layer.mlp_out)
    if setting.adapter is None:
        # Autocast makes a copy of a float32 input for each layer that reads it.
        readers = len(layer.attention_in) + len(layer.mlp_in) if wide == 2 else 2
        return tokens * wide * (readers * shape.hidden + width)
    adapter = setting.adapter
    kept = sum(shape.hidden for group in (layer.attention_in, layer.mlp_in) if shape.targeted(adapter, group))
    kept += width if shape.targeted(adapter, layer.mlp_out) else 0
    return tokens * wide * kept


def _adapters(shape: ModelShape, layer: Layer, setting: Setting) -> int:
    if setting.adapter is None:
        return 0
    wide, tokens = setting.number_bytes, setting.batch.tokens
    adapted: tuple[Linear, ...] = shape.targeted(setting.adapter, layer.linears)
    kept = wide * setting.adapter.rank * len(adapted)
    if setting.adapter.dropout:
        kept += sum((wide + 1) * linear.inputs for linear in adapted)
    if setting.adapter.method == "dora":
        kept += sum(3 * wide * linear.outputs for linear in adapted)
    return tokens * kept


def _outside_layers(shape: ModelShape, setting: Setting) -> int:
    """The sines and cosines of positions; where the embeddings are trained, what the first and the last norm keep."""
    tokens = setting.batch.tokens
    kept = 2 * shape.head_width * _residual_bytes(setting)
    if setting.adapter is None:
        kept += 8 + 2 * 4 * shape.hidden
    return tokens * kept


def cast_bytes(shape: ModelShape, setting: Setting) -> int:
    """Copies of trained float32 weights in half precision, which autocast keeps until the backward pass is done."""
    if setting.number_bytes == 4:
        return 0
    if setting.adapter is not None:
        return 2 * shape.adapter_parameters(setting.adapter)
    return 2 * (shape.linear_parameters + shape.vocabulary * shape.hidden)


def _residual_bytes(setting: Setting) -> int:
    """Bytes of a number of the hidden state between layers: float32 where the master weights are."""
    return 4 if setting.adapter is None else setting.number_bytes


def logit_bytes(shape: ModelShape, setting: Setting) -> int:
    """Logits of trained tokens and what the loss makes of them (hfkit/training/loss.py): those of a chunk with their
    softmax, in float32, and in half precision both once more; where all weights are trained, the gradient of the output
    table twice. A model that changes its logits after the output layer holds them and their gradient for all of the
    batch."""
    trained = setting.batch.lines * setting.batch.positions
    a_logit = 8 if setting.number_bytes == 4 else 12
    if shape.changes_logits:
        return trained * shape.vocabulary * (a_logit + 2 * setting.number_bytes)
    chunk = min(trained, max(1, LOGITS_AT_ONCE // shape.vocabulary)) * shape.vocabulary * a_logit
    to_table = 2 * 4 * shape.vocabulary * shape.hidden if setting.adapter is None else 0
    return chunk + to_table


def backward_bytes(shape: ModelShape, setting: Setting) -> int:
    """Gradients of activations that exist at once while a layer's backward pass runs: those inside its MLP."""
    widths = [
        sum(linear.inputs for linear in layer.mlp_out) + shape.experts_a_token * layer.expert_width
        for layer in shape.layers
    ]
    return setting.batch.tokens * (3 * max(widths) * setting.number_bytes + 2 * shape.hidden * 4)

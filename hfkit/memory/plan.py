"""The memory plan: what each device will hold at the moment when it holds most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from hfkit.memory.activations import activation_bytes, backward_bytes, cast_bytes, logit_bytes
from hfkit.memory.setting import Devices, Setting
from hfkit.memory.shape import ModelShape

# Families of which the activations were compared with what PyTorch keeps, tensor by tensor (tests/memory).
MEASURED_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma3_text"})

# NF4 with double quantisation: half a byte, a byte for each 64 weights, and four for each 256 of those.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# AdamW: two averages in float32, or in 8 bits with four bytes for each 256.
_STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "paged_adamw": 0.0, "paged_adamw_8bit": 0.0}

# What Python, PyTorch, Transformers, PEFT and the Trainer take on a CPU before a model is there.
_LIBRARIES_BYTES = 600 * 2**20
# A CUDA context with its kernels and the workspace of cuBLAS.
_CONTEXT_BYTES = 700 * 2**20
# What PyTorch's allocator on a GPU holds beyond tensors, as a share of all that comes and goes in a step.
_GPU_RESERVE = 0.05
# On a CPU glibc keeps much of what was freed, probably since PyTorch asks for aligned memory, and before 2.38 glibc
# rarely gives a piece that was freed to a request of the same size. The share was read off SmolLM2-135M
# (benchmarks/memory.py).
_GLIBC_RESERVE = 0.65


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes a device, at the peak of a training step.

    Attributes:
        weights: of the base model, as they are held; where they are spread, a device's part and the
            layers that are gathered.
        adapter: what is trained beside frozen weights.
        gradients: of what is trained, and where ranks add them up, the buffers for that. Where a step takes one pass
            they come as activations go, so that only what they need beyond those counts.
        optimizer: the state of AdamW.
        activations: what the forward pass keeps for the backward pass.
        logits: of trained tokens, with what the loss makes of them; or, where that is more, the gradients of
            activations and what is expanded of quantised weights while a layer's backward pass runs. The two are never
            there at once.
        framework: the libraries, or the CUDA context, and what the allocator keeps in reserve.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    framework: int

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts())

    def parts(self) -> Iterator[tuple[str, int]]:
        """Each part by its name, in the order in which they are told."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


def plan_memory(shape: ModelShape, setting: Setting, devices: Devices) -> MemoryPlan:
    """What one of `devices` holds when `shape` is trained by `setting`."""
    adapter = 0 if setting.adapter is None else shape.adapter_parameters(setting.adapter)
    trained = adapter or shape.parameters
    of_state = devices.count if devices.spreads_state else 1
    of_weights = devices.count if devices.spreads_weights else 1
    # Buckets in which ranks add up gradients, beside the gradients themselves.
    buckets = 4 * trained if devices.count > 1 and not devices.spreads_weights else 0
    activations = activation_bytes(shape, setting)
    if not devices.spreads_weights:
        # Where weights are spread they are cast before they are gathered, a layer at a time.
        activations += cast_bytes(shape, setting)
    coming_and_going = max(logit_bytes(shape, setting), backward_bytes(shape, setting) + _expanded(shape, setting))
    gradients = 4 * trained // of_state
    optimizer = _optimizer_bytes(shape, setting, trained) // of_state
    beyond = gradients if setting.accumulates else max(0, gradients - activations - coming_and_going)
    return MemoryPlan(
        weights=_weights(shape, setting) // of_weights + _gathered(shape, setting, devices),
        adapter=4 * adapter // of_weights,
        gradients=beyond + buckets,
        optimizer=optimizer,
        activations=activations,
        logits=coming_and_going,
        framework=_framework(devices, setting, activations + coming_and_going, gradients + optimizer),
    )


def _optimizer_bytes(shape: ModelShape, setting: Setting, trained: int) -> int:
    state = _STATE_BYTES[setting.optimizer] * trained
    if setting.optimizer == "adamw_8bit" and setting.adapter is None:
        # Transformers has bitsandbytes keep the averages of the input's table in float32.
        state += (_STATE_BYTES["adamw"] - _STATE_BYTES["adamw_8bit"]) * shape.vocabulary * shape.hidden
    return round(state)


def _framework(devices: Devices, setting: Setting, coming_and_going: int, after: int) -> int:
    """`after` are the bytes that are first asked for when the first activations have gone, and find room where they
    were."""
    if devices.kind == "gpu":
        return _CONTEXT_BYTES + round(_GPU_RESERVE * coming_and_going)
    # With checkpointing the train stage gives freed memory back (hfkit/training/freed_memory.py).
    kept = 0 if setting.gradient_checkpointing else round(_GLIBC_RESERVE * coming_and_going)
    return _LIBRARIES_BYTES + max(0, kept - after)


def _weights(shape: ModelShape, setting: Setting) -> int:
    """The base model's weights: in float32 where they are trained, quantised or in the computation's format else. What
    is not quantised (tables, norms, experts kept as one table) stays in the computation's format."""
    if setting.adapter is None:
        return 4 * shape.parameters
    if setting.quantization is None:
        return setting.number_bytes * shape.parameters
    rest = setting.number_bytes * (shape.parameters - shape.linear_parameters)
    if setting.quantization == "nf4":
        return rest + round(_NF4_BYTES * shape.linear_parameters)
    rows = sum(linear.outputs for layer in shape.layers for linear in layer.linears)
    return rest + shape.linear_parameters + 4 * rows


def _gathered(shape: ModelShape, setting: Setting, devices: Devices) -> int:
    """Where weights are spread: a layer in use, the next one on its way, and the tables around them."""
    if not devices.spreads_weights:
        return 0
    share = _weights(shape, setting) / shape.parameters if setting.adapter is not None else setting.number_bytes
    return round(share * (2 * max(layer.parameters for layer in shape.layers) + shape.embedding_parameters))


def _expanded(shape: ModelShape, setting: Setting) -> int:
    """The largest linear layer's weights in the computation's format, where they are held quantised."""
    if setting.quantization is None:
        return 0
    largest = max(linear.parameters for layer in shape.layers for linear in layer.linears)
    return largest * setting.number_bytes

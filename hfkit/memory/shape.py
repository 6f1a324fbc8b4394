"""A model's sizes, taken from its configuration alone: the model is built on PyTorch's meta device, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hfkit.recipe import AdapterSection

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# Activation functions that Transformers computes in several operations, and how many of their results are kept beside
# the input.
_COMPOSED = {"gelu_new": 4, "gelu_fast": 6, "quick_gelu": 2}

_CHANGES_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: its full name, the numbers that go in and come out for each token, and its parameters."""

    name: str
    inputs: int
    outputs: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm: the numbers it reads for each token, and how many rows it cuts them into."""

    width: int
    rows: int


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Attributes:
        attention_in: the linear layers that read the hidden state for attention: query, key and value, or one for all.
        attention_out: the one that reads attention's output.
        mlp_in: those that the MLP reads the hidden state with: gate and up, or one.
        mlp_out: those that write its result.
        norms: each norm; those over the heads of attention count all heads.
        parameters: of the whole layer.
        experts: of a mixture, kept as one table; 0 where there is none.
        expert_width: numbers in the middle of one expert.
    """

    attention_in: tuple[Linear, ...]
    attention_out: tuple[Linear, ...]
    mlp_in: tuple[Linear, ...]
    mlp_out: tuple[Linear, ...]
    norms: tuple[Norm, ...]
    parameters: int
    experts: int
    expert_width: int

    @property
    def linears(self) -> tuple[Linear, ...]:
        return (*self.attention_in, *self.attention_out, *self.mlp_in, *self.mlp_out)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the memory of a causal decoder depends on.

    Attributes:
        outside: linear layers outside of the decoder layers that an adapter may sit on; the output layer is not among
            them.
        embedding_parameters: of the input's and the output's table; one that serves both counts once.
        kept_activations: results inside the MLP's activation function that are kept beside its input.
        experts_a_token: of a mixture of experts; 0 where there is none.
        layer_norm: whether its norms are PyTorch's LayerNorm, which keeps its input as it is, where an RMSNorm of
            Transformers keeps it in float32.
        changes_logits: whether logits are capped or scaled after the output layer.
        eager: whether attention is computed step by step and keeps its table of weights, not by a fused kernel.
    """

    family: str
    hidden: int
    vocabulary: int
    heads: int
    key_value_heads: int
    head_width: int
    layers: tuple[Layer, ...]
    outside: tuple[Linear, ...]
    parameters: int
    embedding_parameters: int
    kept_activations: int
    experts_a_token: int
    layer_norm: bool
    changes_logits: bool
    eager: bool

    @property
    def attention_width(self) -> int:
        """Numbers of all query heads together."""
        return self.heads * self.head_width

    @property
    def key_value_width(self) -> int:
        return self.key_value_heads * self.head_width

    @property
    def linear_parameters(self) -> int:
        """Of all linear layers but the output: what quantisation makes smaller. Experts that are kept as one table are
        not among them."""
        return sum(linear.parameters for layer in self.layers for linear in layer.linears) + sum(
            linear.parameters for linear in self.outside
        )

    def targeted(self, adapter: AdapterSection, linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
        """Those of `linears` that get an adapter, by PEFT's rule for names: the last parts of the full name."""
        if adapter.targets == "all-linear":
            return linears
        return tuple(
            linear
            for linear in linears
            if any(linear.name == target or linear.name.endswith(f".{target}") for target in adapter.targets)
        )

    def adapter_parameters(self, adapter: AdapterSection) -> int:
        """What LoRA trains: for each targeted layer rank · (inputs + outputs), and one number an output for DoRA. With
        all-linear PEFT adapts a mixture too: the router, each expert's last layer, and its first two as one layer with
        twice the rank."""
        every = (*(linear for layer in self.layers for linear in layer.linears), *self.outside)
        a_layer = [
            adapter.rank * (one.inputs + one.outputs) + (one.outputs if adapter.method == "dora" else 0)
            for one in self.targeted(adapter, every)
        ]
        if adapter.targets == "all-linear":
            a_layer += [self._mixture_parameters(layer, adapter.rank) for layer in self.layers if layer.experts]
        return sum(a_layer)

    def _mixture_parameters(self, layer: Layer, rank: int) -> int:
        first = 2 * rank * (self.hidden + 2 * layer.expert_width)
        last = rank * (layer.expert_width + self.hidden)
        return layer.experts * (first + last) + rank * (self.hidden + layer.experts)


def shape_of(config: PreTrainedConfig, *, attention: Literal["eager", "sdpa"] | None = None) -> ModelShape:
    """The sizes of the model that Transformers builds from `config`.

    Args:
        attention: how it computes attention; None leaves it to Transformers.

    Raises:
        ValueError: Transformers has no causal model for this configuration, or no decoder layers are found in it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    text = config.get_text_config()
    told = text.to_dict()
    heads = int(text.num_attention_heads)
    stack_name, stack = _decoder_layers(model, int(text.num_hidden_layers))
    head = model.get_output_embeddings()
    tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), head) if table is not None}
    activation = told.get("hidden_act") or told.get("hidden_activation") or told.get("activation_function")
    return ModelShape(
        family=str(text.model_type),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        heads=heads,
        key_value_heads=int(told.get("num_key_value_heads") or heads),
        head_width=int(told.get("head_dim") or text.hidden_size // heads),
        layers=tuple(_layer(f"{stack_name}.{number}", layer, told) for number, layer in enumerate(stack)),
        outside=tuple(
            _linear(name, module)
            for name, module in model.named_modules()
            if _is_linear(module) and module is not head and not name.startswith(f"{stack_name}.")
        ),
        parameters=sum(weight.numel() for weight in model.parameters()),
        embedding_parameters=sum(weight.numel() for weight in tables.values()),
        kept_activations=_COMPOSED.get(str(activation), 0),
        experts_a_token=int(told.get("num_experts_per_tok") or 0),
        layer_norm=any(isinstance(module, torch.nn.LayerNorm) for module in stack.modules()),
        eager=model.config.get_text_config()._attn_implementation == "eager",
        changes_logits=any(told.get(key) not in (None, 1, 1.0) for key in _CHANGES_LOGITS),
    )


def _decoder_layers(model: torch.nn.Module, count: int) -> tuple[str, torch.nn.ModuleList]:
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of {count} decoder layers")


def _layer(name: str, layer: torch.nn.Module, told: Mapping[str, Any]) -> Layer:
    """A decoder layer by what its linear layers are called and where they stand: those below a part named after
    attention are attention's, and the last of them writes its result; all others are the MLP's."""
    linears = [
        (path, _linear(f"{name}.{path}", module)) for path, module in layer.named_modules() if _is_linear(module)
    ]
    attention = [linear for path, linear in linears if "attn" in path or "attention" in path]
    mlp = [linear for path, linear in linears if "attn" not in path and "attention" not in path]
    hidden = int(told.get("hidden_size") or told["n_embd"])
    has_experts = any("experts" in path for path, _ in layer.named_parameters())
    expert = told.get("moe_intermediate_size") or told.get("intermediate_size")
    experts = told.get("num_local_experts") or told.get("num_experts") or told.get("n_routed_experts")
    return Layer(
        attention_in=tuple(attention[:-1]),
        attention_out=tuple(attention[-1:]),
        mlp_in=tuple(linear for linear in mlp if linear.inputs == hidden),
        mlp_out=tuple(linear for linear in mlp if linear.inputs != hidden),
        norms=_norms(layer, told, hidden),
        parameters=sum(weight.numel() for weight in layer.parameters()),
        experts=int(experts) if has_experts and experts else 0,
        expert_width=int(expert) if has_experts and expert else 0,
    )


def _norms(layer: torch.nn.Module, told: Mapping[str, Any], hidden: int) -> tuple[Norm, ...]:
    """The layer's norms; one over the heads of attention has the width of one head in its weight."""
    heads = int(told.get("num_attention_heads") or told["n_head"])
    found = []
    for path, module in layer.named_modules():
        if not type(module).__name__.endswith("Norm"):
            continue
        width = max((weight.numel() for weight in module.parameters()), default=hidden)
        if width == hidden or not path.endswith(("q_norm", "k_norm")):
            found.append(Norm(width, 1))
        else:
            of_keys = path.endswith("k_norm")
            rows = int(told.get("num_key_value_heads") or heads) if of_keys else heads
            found.append(Norm(width * rows, rows))
    return tuple(found)


def _is_linear(module: torch.nn.Module) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _linear(name: str, module: torch.nn.Module) -> Linear:
    import torch

    rows, columns = module.get_parameter("weight").shape
    # GPT-2's Conv1D keeps its weight the other way round.
    inputs, outputs = (columns, rows) if isinstance(module, torch.nn.Linear) else (rows, columns)
    return Linear(name, inputs, outputs, sum(weight.numel() for weight in module.parameters()))

"""`model`: which model is trained and asked, and how it is loaded."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from annotated_types import Ge, Lt, MinLen
from pydantic import Field, model_validator

from hfkit.recipe.section import FilePath, Scalar, Section, Text, broken_rule

# What rendering itself gives to a template.
_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_TOKENS = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class AdapterSection(Section):
    """A small set of trained weights beside the frozen model.

    The defaults are those of "LoRA Without Regret" (Schulman et al., Thinking Machines, 2025): every linear layer, the
    MLP's too; alpha 32 over the plain rank; and, in `train`, about ten times the learning rate of full fine-tuning.
    """

    method: Literal["lora", "dora"] = Field(
        default="lora",
        description="The kind of adapter: lora, or dora, which also trains the length of each row of weights and is "
        "slower.",
    )
    rank: Annotated[int, Ge(1)] = Field(
        default=16,
        description="Rank of the two low-rank matrices beside each layer: how much can be learned, not how fast.",
    )
    alpha: Annotated[int, Ge(1)] = Field(
        default=32,
        description="Scale of the adapter: what it adds is multiplied by alpha / rank, so that the best learning rate "
        "hardly hangs on the rank.",
    )
    dropout: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.0, description="Share of the adapter's inputs that is set to zero at each training step."
    )
    targets: Literal["all-linear"] | Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        default="all-linear",
        description="Which layers get an adapter: all-linear, or a list of module names such as q_proj. Attention "
        "alone learns worse than all layers at the same number of weights.",
    )
    rslora: bool = Field(
        default=False, description="Whether the scale is alpha / sqrt(rank) instead, as rank-stabilised LoRA has it."
    )
    init: Literal["default", "pissa"] = Field(
        default="default",
        description="How the adapter starts: default adds nothing at first; pissa takes over the largest singular "
        "vectors of each weight, and the saved adapter has twice the rank.",
    )
    start_from: FilePath | None = Field(
        default=None,
        description="A folder with an adapter that training goes on with, of the same base, method, rank, alpha and "
        "targets; null starts a fresh one.",
    )

    @model_validator(mode="after")
    def _start_fits(self) -> "AdapterSection":
        if self.init == "pissa" and self.method == "dora":
            raise broken_rule("init", "pissa starts plain LoRA alone; use method: lora, or init: default")
        if self.init == "pissa" and self.start_from is not None:
            raise broken_rule("init", "pissa starts a fresh adapter, and start_from names one; leave one of them out")
        return self


FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelSection(Section):
    """The model that is trained, evaluated and asked."""

    base: Text = Field(description="The model to start from: embedded:NAME, a Hub id, or a folder.")
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit of a Hub model; null takes its default branch."
    )
    chat_template: FilePath | None = Field(
        default=None,
        description="A Jinja file that takes the place of the tokenizer's own chat template, or builtin:chatml or "
        "builtin:plain; null keeps the tokenizer's.",
    )
    template_arguments: Mapping[Text, Scalar] = Field(
        default={},
        description="What the chat template is given beside the messages, at training and at inference alike, such as "
        "enable_thinking: false.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Whether Python code that comes with a Hub model is run to load it; needs revision to be a full "
        "commit hash, and allow_code: true.",
    )
    pickled_weights: bool = Field(
        default=False,
        description="Whether weights may be read from pickle files where there are no safetensors: only for an author "
        "whom you trust. They are unpickled by PyTorch's restricted reader.",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto",
        description="Number format of the computation; auto takes bf16 where the hardware has it, else fp32. fp16 is "
        "trained on GPUs alone.",
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None, description="Format the frozen weights are held in; null leaves them as they are."
    )
    adapter: AdapterSection | None = Field(
        default=AdapterSection(), description="The adapter that is trained; null trains all of the model's weights."
    )

    @model_validator(mode="after")
    def _code_is_pinned(self) -> "ModelSection":
        if self.trust_remote_code and not FULL_COMMIT.fullmatch(self.revision or ""):
            raise broken_rule(
                "trust_remote_code",
                "code is run as it was at one commit alone; set revision to that commit's 40 hexadecimal digits",
            )
        return self

    @model_validator(mode="after")
    def _adapter_fits_weights(self) -> "ModelSection":
        if self.quantization is None or self.adapter is None:
            return self
        if self.adapter.init == "pissa":
            raise broken_rule(
                "quantization",
                "pissa changes the weights, which quantised ones do not allow; use model.adapter.init: default",
            )
        if self.adapter.method == "dora" and self.quantization == "int8":
            raise broken_rule("quantization", "dora cannot read int8 weights; use nf4, or model.adapter.method: lora")
        return self

    @model_validator(mode="after")
    def _argument_names_are_free(self) -> "ModelSection":
        for name in self.template_arguments:
            if name in _GIVEN | _TOKENS:
                raise broken_rule(
                    "template_arguments", f"{name} is given to the template by hfkit itself; leave it out"
                )
        date = self.template_arguments.get("strftime_now")
        if date is not None:
            try:
                datetime.fromisoformat(str(date))
            except ValueError as error:
                raise broken_rule(
                    "template_arguments", f"strftime_now: expected a date such as 2025-12-31, got {date}"
                ) from error
        return self

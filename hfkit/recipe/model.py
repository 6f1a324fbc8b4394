"""`model`: which model is trained and asked, and how it is loaded."""

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
    """A small set of trained weights beside the frozen model."""

    method: Literal["lora"] = Field(default="lora", description="The kind of adapter.")
    rank: Annotated[int, Ge(1)] = Field(default=16, description="Rank of the two low-rank matrices beside each layer.")
    alpha: Annotated[int, Ge(1)] = Field(
        default=32, description="Scale of the adapter: what it adds is multiplied by alpha / rank."
    )
    dropout: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.0, description="Share of the adapter's inputs that is set to zero at each training step."
    )
    targets: Literal["all-linear"] | Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        default="all-linear",
        description="Which layers get an adapter: all-linear, or a list of module names such as q_proj.",
    )


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
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Number format of the computation; auto takes bf16 where the hardware has it, else fp32.",
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None, description="Format the frozen weights are held in; null leaves them as they are."
    )
    adapter: AdapterSection | None = Field(
        default=AdapterSection(), description="The adapter that is trained; null trains all of the model's weights."
    )

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

"""`train`: how the model is trained."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import Field, model_validator

from hfkit.recipe.section import Section, Text, broken_rule

LOSS = "loss"
"""The one validation metric that needs no replies."""


class ValidationSection(Section):
    """Rows that are kept out of training and on which the model is measured while it trains."""

    share: Annotated[float, Gt(0), Lt(1)] | Annotated[int, Ge(1)] = Field(
        default=0.05,
        description="Share of the training rows, or how many of them, that are taken out of training; whole documents.",
    )
    steps: Annotated[int, Ge(1)] = Field(default=50, description="Optimiser steps between two validations.")
    metrics: Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        default=(LOSS,),
        description="What is measured: loss, and metrics of replies such as token_f1, for which every validation row "
        "is answered.",
    )
    samples: Annotated[int, Ge(0)] = Field(
        default=2, description="Validation rows whose replies are written to samples.jsonl at each validation."
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(default=80, description="Longest reply in tokens.")

    @model_validator(mode="after")
    def _metrics_score_replies(self) -> "ValidationSection":
        named = [name for name in self.metrics if name != LOSS]
        if named:
            from hfkit.evaluation.metrics import METRICS, metric_named

            for name in named:
                try:
                    metric_named(name)
                except ValueError as error:
                    raise broken_rule("metrics", str(error)) from error
                if METRICS[name].kind != "generation":
                    raise broken_rule("metrics", f"{name} scores no replies; while a model trains, only those are had")
        return self


class TrainSection(Section):
    """The training run."""

    method: Literal["sft"] = Field(
        default="sft", description="The method: sft is supervised fine-tuning on the answers."
    )
    epochs: Annotated[float, Gt(0)] = Field(
        default=1.0, description="Passes over the training rows; fractions are allowed."
    )
    max_steps: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Most optimiser steps; the schedule ends where they end. null leaves it to epochs."
    )
    max_minutes: Annotated[float, Gt(0)] | None = Field(
        default=None,
        description="Time after which training ends as if it were finished; the result then depends on the machine.",
    )
    batch_size: Annotated[int, Ge(1)] = Field(default=8, description="Rows an optimiser step.")
    micro_batch_size: Literal["auto"] | Annotated[int, Ge(1)] = Field(
        default="auto", description="Rows that are computed at once; changes memory and speed, never the result."
    )
    learning_rate: Annotated[float, Gt(0)] = Field(default=5e-4, description="Peak learning rate of the optimiser.")
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = Field(
        default="linear",
        description="How the learning rate runs after the warm-up: down to zero in a line or a cosine, constant, with "
        "the inverse root of the step, or (wsd) constant until the last fifth of the steps and then down to zero.",
    )
    warmup: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.05, description="Share of the steps over which the learning rate rises from zero to its peak."
    )
    max_grad_norm: Annotated[float, Gt(0)] = Field(
        default=1.0, description="Norm to which the gradient of a step is cut where it is larger."
    )
    weight_decay: Annotated[float, Ge(0)] = Field(
        default=0.0,
        description="Decoupled weight decay of AdamW, on matrices alone: each step takes rate times this share away.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="The optimiser: AdamW with averages in float32 or in 8 bits; paged ones (GPU alone) move averages "
        "to the CPU's memory when the GPU's is full.",
    )
    lora_plus_ratio: Annotated[float, Ge(1)] | None = Field(
        default=None,
        description="How many times the learning rate of an adapter's A matrices its B matrices get (LoRA+); null "
        "gives both the same.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Whether activations are computed a second time in the backward pass and not kept: far less "
        "memory, one more forward pass, the same result.",
    )
    compile: bool = Field(
        default=False,
        description="Whether torch.compile compiles the model's layers; the first steps take minutes.",
    )
    liger: bool = Field(
        default=False, description="Whether Liger's kernels compute rotary positions, norms and MLPs (GPU alone)."
    )
    save_steps: Annotated[int, Ge(1)] = Field(default=50, description="Optimiser steps between two checkpoints.")
    keep_checkpoints: Literal["all"] | Annotated[int, Ge(0)] = Field(
        default=3, description="How many of the newest checkpoints' weights are kept beside the result, or all."
    )
    log_steps: Annotated[int, Ge(1)] = Field(default=10, description="Optimiser steps between two lines of the log.")
    validation: ValidationSection | None = Field(
        default=None, description="What is measured while the model trains; null trains on all rows and measures none."
    )
    best: Text | None = Field(
        default=None,
        description="One of validation.metrics: what is left is then the weights with its best value, not the last.",
    )
    patience: Annotated[int, Ge(1)] | None = Field(
        default=None,
        description="Validations without a gain (in best, else in the first of validation.metrics) after which "
        "training ends; null never ends it early.",
    )
    divergence_guard: bool = Field(
        default=True,
        description="Whether a loss that rose far above its running median ends the run; NaN always does.",
    )

    @model_validator(mode="after")
    def _validation_serves_its_purpose(self) -> "TrainSection":
        for key, value in (("best", self.best), ("patience", self.patience)):
            if value is not None and self.validation is None:
                raise broken_rule(key, "needs train.validation, which is not in this recipe")
        if self.best is not None and self.validation is not None and self.best not in self.validation.metrics:
            raise broken_rule("best", f"{self.best} is not among train.validation.metrics; add it there")
        return self

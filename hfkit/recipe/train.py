"""`train`: how the model is trained."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import Field

from hfkit.recipe.section import Section


class TrainSection(Section):
    """The training run."""

    method: Literal["sft"] = Field(
        default="sft", description="The method: sft is supervised fine-tuning on the answers."
    )
    epochs: Annotated[float, Gt(0)] = Field(
        default=1.0, description="Passes over the training rows; fractions are allowed."
    )
    batch_size: Annotated[int, Ge(1)] = Field(default=8, description="Rows an optimiser step.")
    micro_batch_size: Literal["auto"] | Annotated[int, Ge(1)] = Field(
        default="auto", description="Rows that are computed at once; changes memory and speed, never the result."
    )
    learning_rate: Annotated[float, Gt(0)] = Field(default=5e-4, description="Peak learning rate of the optimiser.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="linear", description="How the learning rate runs after the warm-up: down to zero, or constant."
    )
    warmup: Annotated[float, Ge(0), Lt(1)] = Field(
        default=0.05, description="Share of the steps over which the learning rate rises from zero to its peak."
    )
    max_grad_norm: Annotated[float, Gt(0)] = Field(
        default=1.0, description="Norm to which the gradient of a step is cut where it is larger."
    )
    save_steps: Annotated[int, Ge(1)] = Field(default=50, description="Optimiser steps between two checkpoints.")
    log_steps: Annotated[int, Ge(1)] = Field(default=10, description="Optimiser steps between two lines of the log.")

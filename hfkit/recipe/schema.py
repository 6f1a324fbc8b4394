"""The recipe: what one YAML file may say."""

from typing import Annotated, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hfkit.recipe.app import AppSection
from hfkit.recipe.data import DataSection
from hfkit.recipe.evaluate import EvaluateSection
from hfkit.recipe.hub import HubSection
from hfkit.recipe.model import ModelSection
from hfkit.recipe.problems import dotted
from hfkit.recipe.rag import RagSection
from hfkit.recipe.rules import broken_rules
from hfkit.recipe.section import Expected, Section
from hfkit.recipe.train import TrainSection

BROKEN_SECTION_RULES = "broken_section_rules"

RunName = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9._-]*$"),
    MaxLen(100),
    Expected("a name of at most 100 of the characters a-z 0-9 . _ - that starts with a letter or a digit", "names"),
]


class Recipe(Section):
    """Everything one run is told. A section that is None is not part of the run."""

    name: RunName = Field(description="Name of the run; its results go to the folder runs/NAME/.")
    # NumPy's generator, which Transformers seeds too, takes 32 bits.
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = Field(
        default=7, description="Seed of everything that is random: splits, order of rows, adapter weights, dropout."
    )
    allow_code: bool = Field(
        default=False,
        description="Whether the recipe may have Python code run: functions that it names "
        "(data.sources callable), and code that comes with a model (model.trust_remote_code).",
    )
    model: ModelSection | None = Field(default=None, description="Which model is trained and asked.")
    data: DataSection | None = Field(default=None, description="Where the examples come from and how they are split.")
    train: TrainSection | None = Field(default=None, description="How the model is trained; needs model and data.")
    evaluate: EvaluateSection | None = Field(
        default=None,
        description="What is measured: answers of the tuned model against the base model's, which needs model, train "
        "and data, or search, which needs rag.",
    )
    rag: RagSection | None = Field(default=None, description="Which documents are indexed and how they are searched.")
    app: AppSection | None = Field(
        default=None, description="The page on which questions are asked; needs model and rag."
    )
    hub: HubSection | None = Field(
        default=None, description="What is published on the Hugging Face Hub, and where; needs model, data and train."
    )
    track: Annotated[tuple[Literal["trackio"], ...], Field(strict=False)] = Field(
        default=("trackio",),
        description="Which trackers get the numbers of training beside metrics.jsonl; trackio keeps them in the run's "
        "folder and sends nothing away.",
    )

    @model_validator(mode="after")
    def _sections_fit(self) -> "Recipe":
        broken = broken_rules(self.model_dump())
        if broken:
            message = "; ".join(f"{dotted(key)}: {text}" for key, text in broken)
            raise PydanticCustomError(BROKEN_SECTION_RULES, "{message}", {"message": message})
        return self

"""`evaluate.judge`: a model that compares replies in pairs."""

from typing import Annotated

from annotated_types import Ge
from pydantic import Field, model_validator

from hfkit.recipe.asked_models import Endpoint
from hfkit.recipe.section import Section, Text, broken_rule


class JudgeSection(Section):
    """A model that reads two replies to the same prompt and says which is better, in both orders."""

    endpoint: Endpoint | None = Field(default=None, description="The judge behind an OpenAI-compatible server.")
    load: Text | None = Field(
        default=None, description="A local judge, in the place of endpoint: a folder, a Hub id, or embedded:NAME."
    )
    question: Text = Field(
        default="Which reply answers the request better: more correct, more complete, and no longer than it must be?",
        description="What the judge is asked about the two replies.",
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(default=256, description="Longest verdict, in tokens.")

    @model_validator(mode="after")
    def _is_one_model(self) -> "JudgeSection":
        if (self.endpoint is None) == (self.load is None):
            raise broken_rule("endpoint", "a judge is an endpoint or a model that load names; name one of the two")
        return self

"""`evaluate.models`: which models are asked."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from hfkit.recipe.section import Expected, Section, Text, broken_rule

CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
_LABELS = ("base", "tuned", "merged", "nf4", "int8", "checkpoints")
_TAKEN = (*_LABELS, "retrieval")

Label = Annotated[
    str,
    Field(pattern=r"^(base|tuned|merged|nf4|int8|checkpoints|checkpoint-(0|[1-9][0-9]*))$"),
    Expected(
        "one of base, tuned, merged, nf4, int8, checkpoints, checkpoint-STEP",
        "words among base, tuned, merged, nf4, int8, checkpoints, checkpoint-STEP",
    ),
]


def _free(name: str) -> str:
    if name in _TAKEN or CHECKPOINT.fullmatch(name):
        raise ValueError("is taken")
    return name


ModelName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$"),
    AfterValidator(_free),
    Expected("a name of the characters A-Z a-z 0-9 _ - that starts with a letter and is no label of its own", "names"),
]


class OfModel(Section):
    """A model of the run in another number format."""

    name: ModelName = Field(description="What the model is called in tables and gates.")
    of: Annotated[
        str,
        Field(pattern=r"^(base|tuned|checkpoint-(0|[1-9][0-9]*))$"),
        Expected("one of base, tuned, checkpoint-STEP", "words among base, tuned, checkpoint-STEP"),
    ] = Field(description="Which model of the run: base, tuned or checkpoint-STEP.")
    quantization: Literal["nf4", "int8"] = Field(description="The format that the base's weights are held in.")


class LoadedModel(Section):
    """A model or an adapter from a folder, or a model from the Hub."""

    name: ModelName = Field(description="What the model is called in tables and gates.")
    load: Text = Field(
        description="A folder with a model, or with an adapter for model.base; a Hub id; or embedded:NAME."
    )
    revision: Text | None = Field(default=None, description="Branch, tag or commit of a Hub model.")
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None, description="The format that its weights are held in; null leaves them as they are."
    )


def _usable_url(url: str) -> str:
    if not re.match(r"^https?://[^\s/]+", url):
        raise ValueError("no address")
    return url


class Endpoint(Section):
    """An OpenAI-compatible server."""

    endpoint: Annotated[
        str, AfterValidator(_usable_url), Expected("an address such as http://127.0.0.1:8000/v1", "addresses")
    ] = Field(description="The server's address up to /v1; chat/completions is asked below it.")
    model: Text = Field(description="The model's name on that server.")
    key_env: Text | None = Field(
        default=None, description="The environment variable that holds the key; the key itself is written nowhere."
    )
    timeout: Annotated[float, Gt(0)] = Field(default=60.0, description="Seconds that one reply may take.")
    retries: Annotated[int, Ge(0), Le(20)] = Field(
        default=4, description="How often a request is made again that failed for a reason that may pass."
    )
    parallel: Annotated[int, Ge(1), Le(256)] = Field(default=4, description="Requests that are made at a time.")

    @model_validator(mode="after")
    def _holds_no_key(self) -> "Endpoint":
        if "@" in self.endpoint.split("//", 1)[1].split("/", 1)[0] or "?" in self.endpoint:
            raise broken_rule("endpoint", "holds no password or key; name the environment variable in key_env")
        return self


class EndpointModel(Endpoint):
    """A model behind an OpenAI-compatible server; asked for replies alone."""

    name: ModelName = Field(description="What the model is called in tables and gates.")


_KINDS: Mapping[str, str] = {"of": "OfModel", "load": "LoadedModel", "endpoint": "EndpointModel"}


def _model_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "Label"
    if isinstance(value, OfModel | LoadedModel | EndpointModel):
        return type(value).__name__
    if not isinstance(value, Mapping):
        return None
    named = [kind for key, kind in _KINDS.items() if key in value]
    return named[0] if len(named) == 1 else None


AskedModel = Annotated[
    Annotated[Label, Tag("Label")]
    | Annotated[OfModel, Tag("OfModel")]
    | Annotated[LoadedModel, Tag("LoadedModel")]
    | Annotated[EndpointModel, Tag("EndpointModel")],
    Discriminator(_model_kind),
]
"""A model: a label, or a mapping with exactly one of the keys of, load and endpoint."""


def model_label(model: AskedModel) -> str:
    """What tables and gates call a model; `checkpoints` stands for several."""
    return model if isinstance(model, str) else model.name


def needs_training(model: AskedModel) -> bool:
    """Whether the model is one that the recipe's train stage makes."""
    if isinstance(model, str):
        return model in ("tuned", "merged", "checkpoints") or CHECKPOINT.fullmatch(model) is not None
    return isinstance(model, OfModel) and model.of != "base"

"""`evaluate`: how the tuned model is compared with the base model, and what must hold."""

from typing import Annotated, Literal

from annotated_types import Ge, MinLen
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from hfkit.recipe.gates import EXAMPLE, GATE_PATTERN, Gate
from hfkit.recipe.section import Expected, Section, broken_rule


def _gate(value: object) -> Gate:
    if isinstance(value, Gate):
        return value
    if not isinstance(value, str):
        raise ValueError("not text")
    try:
        return Gate.parse(value)
    except ValueError as error:
        raise broken_rule("", str(error)) from error


# Editors check with ECMAScript regular expressions, which know no (?P<name>…).
_EDITOR_PATTERN = GATE_PATTERN.replace("?P<", "?<")

GateText = Annotated[
    Gate,
    BeforeValidator(_gate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _EDITOR_PATTERN, "examples": [EXAMPLE]}),
    Expected(f'a gate such as "{EXAMPLE}"', f'gates such as "{EXAMPLE}"'),
]


class EvaluateSection(Section):
    """The evaluation: the base model and the tuned model on the same test rows."""

    tasks: Annotated[tuple[Literal["grounded_answers"], ...], MinLen(1), Field(strict=False)] = Field(
        description="What is measured; grounded_answers asks the test rows' questions and scores answer and citation."
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(
        default=80, description="Longest answer that is generated, in tokens."
    )
    batch_size: Annotated[int, Ge(1)] = Field(default=16, description="Rows that are generated together.")
    gates: Annotated[tuple[GateText, ...], Field(strict=False)] = Field(
        default=(),
        description="Comparisons that must hold: tuned.METRIC >= base.METRIC [+ or - NUMBER] [with confidence NUMBER], "
        "or tuned.METRIC >= NUMBER [with confidence NUMBER].",
    )

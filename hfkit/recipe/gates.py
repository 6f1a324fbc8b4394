"""Gates: comparisons of a model with another one, or with a bound, that must hold."""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

EXAMPLE = "tuned.token_f1 >= base.token_f1 + 0.05 with confidence 0.95"

NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NAME = "[A-Za-z][A-Za-z0-9_-]*"
_MEASURED = rf"(?P<{{0}}model>{_NAME})\.(?:(?P<{{0}}task>{_NAME})\.)?(?P<{{0}}metric>[A-Za-z][A-Za-z0-9_]*)"
GATE_PATTERN = (
    rf"^\s*{_MEASURED.format('')}\s*(?:"
    r"(?P<relation>[<>]=)\s*"
    rf"(?:{_MEASURED.format('other_')}(?:\s*(?P<sign>[+-])\s*(?P<margin>{NUMBER}))?|(?P<bound>[+-]?{NUMBER}))"
    rf"|\s+not\s+worse\s+than\s+(?P<guarded>{_NAME})(?:\s+by\s+(?P<by>{NUMBER}))?)"
    rf"(?:\s+with\s+confidence\s+(?P<confidence>{NUMBER}))?\s*$"
)


class Gate(BaseModel):
    """`MODEL.[TASK.]METRIC >= bound`, or `<=`, or `not worse than MODEL`, which must hold with a given confidence.

    Attributes:
        text: the gate as it was written.
        model: the label of the model that is judged.
        task: the task; None where the metric belongs to one task alone.
        metric: the metric of that task.
        relation: ">=", "<=", or "not worse", which is one of the two, as the metric's better side is.
        reference: the label of the model that it is compared with; None where the bound is `margin` alone.
        margin: in units of the metric: added to the reference's value; for "not worse", what may be lost, 0 or more.
        confidence: of the one-sided statement, more than 0 and less than 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: str
    model: str
    task: str | None
    metric: str
    relation: Literal[">=", "<=", "not worse"]
    reference: str | None
    margin: float
    confidence: float = 0.95

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """The gate that `text` says. Raises ValueError with a message for the user where it says none."""
        found = re.match(GATE_PATTERN, text)
        if found is None:
            raise ValueError(
                f'not a gate; write one such as "{EXAMPLE}", "tuned.token_f1 >= 0.5" or '
                '"tuned.mmlu.accuracy not worse than base by 0.02"'
            )
        confidence = float(found["confidence"] or 0.95)
        if not 0 < confidence < 1:
            hint = f"; did you mean {confidence / 100:g}?" if 1 < confidence < 100 else ""
            raise ValueError(f"the confidence must be more than 0 and less than 1, got {confidence:g}{hint}")
        relation: Literal[">=", "<=", "not worse"] = "not worse"
        if found["relation"] is not None:
            relation = ">=" if found["relation"] == ">=" else "<="
            _refuse_two_metrics(found)
        reference = found["guarded"] or found["other_model"]
        if reference == found["model"]:
            raise ValueError(f"compares {reference} with itself; name another model on the right")
        return cls(
            text=text.strip(),
            model=found["model"],
            task=found["task"],
            metric=found["metric"],
            relation=relation,
            reference=reference,
            margin=float(found["bound"] or found["by"] or (found["sign"] or "") + (found["margin"] or "0")),
            confidence=confidence,
        )

    def __str__(self) -> str:
        return self.text


def _refuse_two_metrics(found: re.Match[str]) -> None:
    if found["other_model"] is None:
        return
    if found["other_metric"] != found["metric"]:
        raise ValueError(
            f"compares {found['metric']} with {found['other_metric']}; both sides must name the same metric"
        )
    if found["other_task"] != found["task"]:
        one, other = (found[key] or "no task" for key in ("task", "other_task"))
        raise ValueError(f"names {one} on the left and {other} on the right; both sides must name the same task")

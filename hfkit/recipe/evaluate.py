"""`evaluate`: how the tuned model is compared with the base model, how search is measured, and what must hold."""

import re
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, MinLen
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from hfkit.recipe.gates import EXAMPLE, GATE_PATTERN, Gate
from hfkit.recipe.retrieval_gates import RETRIEVAL_EXAMPLE, RETRIEVAL_GATE_PATTERN, RetrievalGate
from hfkit.recipe.section import Expected, FilePath, Section, Text, broken_rule

TaskName = Literal["grounded_answers", "retrieval"]
AnyGate: TypeAlias = Gate | RetrievalGate


def _gate(value: object) -> AnyGate:
    if isinstance(value, Gate | RetrievalGate):
        return value
    if not isinstance(value, str):
        raise ValueError("not text")
    try:
        return RetrievalGate.parse(value) if value.strip().startswith("retrieval") else Gate.parse(value)
    except ValueError as error:
        raise broken_rule("", str(error)) from error


# Editors check with ECMAScript regular expressions, which know no (?P<name>…) and no name twice.
_EDITOR_PATTERN = re.sub(r"\(\?P<\w+>", "(?:", f"{GATE_PATTERN}|{RETRIEVAL_GATE_PATTERN}")

GateText = Annotated[
    AnyGate,
    BeforeValidator(_gate),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _EDITOR_PATTERN, "examples": [EXAMPLE, RETRIEVAL_EXAMPLE]}),
    Expected(f'a gate such as "{EXAMPLE}"', f'gates such as "{EXAMPLE}"'),
]


class RetrievalSection(Section):
    """The task `retrieval`: the recipe's index, asked the judged queries of a folder in BEIR's layout."""

    folder: FilePath = Field(description="The folder with queries.jsonl and qrels/SPLIT.tsv.")
    split: Text = Field(default="test", description="The split whose queries are measured.")
    tune: Text | None = Field(
        default=None,
        description="Another split, on whose queries the fusion weight of a further setting, tuned, is chosen; null "
        "tunes nothing.",
    )
    k: Annotated[tuple[Annotated[int, Ge(1), Le(1000)], ...], MinLen(1), Field(strict=False)] = Field(
        default=(10, 100), description="Ranks at which nDCG, recall, MRR and MAP are taken; the first is the main one."
    )

    @model_validator(mode="after")
    def _says_something_once(self) -> "RetrievalSection":
        if self.tune == self.split:
            raise broken_rule(
                "tune", f"is the split that is measured ({self.split}); what was tuned on it would look too good on it"
            )
        if len(set(self.k)) < len(self.k):
            raise broken_rule("k", "names a rank twice")
        return self


class EvaluateSection(Section):
    """The evaluation: the base model and the tuned model on the same test rows, and search on judged queries."""

    tasks: Annotated[tuple[TaskName, ...], MinLen(1), Field(strict=False)] = Field(
        description="What is measured; grounded_answers asks the test rows' questions and scores answer and citation, "
        "retrieval asks judged queries and scores the ranking of documents."
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(
        default=80, description="Longest answer that is generated, in tokens."
    )
    batch_size: Annotated[int, Ge(1)] = Field(default=16, description="Rows that are generated together.")
    retrieval: RetrievalSection | None = Field(default=None, description="What the task retrieval measures.")
    gates: Annotated[tuple[GateText, ...], Field(strict=False)] = Field(
        default=(),
        description="Comparisons that must hold: tuned.METRIC >= base.METRIC [+ or - NUMBER] [with confidence NUMBER], "
        "or tuned.METRIC >= NUMBER [with confidence NUMBER]; of search, retrieval[.SETTING].METRIC@K likewise.",
    )

    @model_validator(mode="after")
    def _fits_the_tasks(self) -> "EvaluateSection":
        if len(set(self.tasks)) < len(self.tasks):
            raise broken_rule("tasks", "names a task twice")
        if "retrieval" in self.tasks and self.retrieval is None:
            raise broken_rule("retrieval", "required key is missing: the task retrieval needs retrieval.folder")
        if "retrieval" not in self.tasks and self.retrieval is not None:
            raise broken_rule("retrieval", "is set, but tasks does not name retrieval")
        for gate in self.gates:
            if isinstance(gate, RetrievalGate):
                self._check_retrieval_gate(gate)
            elif "grounded_answers" not in self.tasks:
                raise broken_rule("gates", f"{gate}: needs the task grounded_answers")
        return self

    def _check_retrieval_gate(self, gate: RetrievalGate) -> None:
        if self.retrieval is None:
            raise broken_rule("gates", f"{gate}: needs the task retrieval")
        if gate.cutoff not in self.retrieval.k:
            measured = ", ".join(str(cutoff) for cutoff in self.retrieval.k)
            raise broken_rule("gates", f"{gate}: retrieval.k does not name {gate.cutoff}; it is {measured}")
        if "tuned" in (gate.setting, gate.other) and self.retrieval.tune is None:
            raise broken_rule("gates", f"{gate}: there is no setting tuned unless retrieval.tune names a split")

"""`evaluate`: what models are asked and compared on, how search is measured, and what must hold."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from hfkit.recipe.asked_models import AskedModel, model_label
from hfkit.recipe.gate_rules import check_gate
from hfkit.recipe.gates import EXAMPLE, GATE_PATTERN, Gate
from hfkit.recipe.harness import HarnessSection
from hfkit.recipe.judge import JudgeSection
from hfkit.recipe.retrieval_gates import RETRIEVAL_EXAMPLE, RETRIEVAL_GATE_PATTERN, RetrievalGate
from hfkit.recipe.section import Expected, FilePath, Section, Text, broken_rule
from hfkit.recipe.tasks import AnyTask, task_name

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
    """The evaluation: models on the same rows of every task, and search on judged queries."""

    tasks: Annotated[tuple[AnyTask, ...], MinLen(1), Field(strict=False)] = Field(
        default=(),
        description="What is measured: grounded_answers and conversations ask the recipe's own test rows, retrieval "
        "asks judged queries; or a mapping with use (a task that comes with hfkit), kind (one's own) or file (Python). "
        "May be left out where harness is set.",
    )
    models: Annotated[tuple[AskedModel, ...], MinLen(1), Field(strict=False)] | None = Field(
        default=None,
        description="Which models are asked; the others are compared with the first. null asks base, and tuned where "
        "there is a train section.",
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(
        default=80, description="Longest answer that is generated, in tokens."
    )
    batch_size: Literal["auto"] | Annotated[int, Ge(1)] = Field(
        default="auto",
        description="Rows that are answered together; changes memory and speed, not the results. auto takes what "
        "memory allows.",
    )
    confidence: Annotated[float, Gt(0), Lt(1)] = Field(default=0.95, description="Confidence of every interval.")
    judge: JudgeSection | None = Field(
        default=None, description="A model that compares the replies of two models in pairs; null asks none."
    )
    retrieval: RetrievalSection | None = Field(default=None, description="What the task retrieval measures.")
    harness: HarnessSection | None = Field(
        default=None, description="Tasks of lm-evaluation-harness that the models are asked as well; null runs none."
    )
    gates: Annotated[tuple[GateText, ...], Field(strict=False)] = Field(
        default=(),
        description="Comparisons that must hold: MODEL.[TASK.]METRIC >= MODEL.[TASK.]METRIC [+ or - NUMBER], "
        "MODEL.[TASK.]METRIC >= NUMBER, or the same with <=, or MODEL.[TASK.]METRIC not worse than MODEL [by NUMBER]; "
        "each [with confidence NUMBER]; of search, retrieval[.SETTING].METRIC@K >= likewise.",
    )

    def asked(self, *, trains: bool) -> tuple[AskedModel, ...]:
        """The models that are asked. `trains` says whether the recipe has a train section."""
        if self.models is not None:
            return self.models
        return ("base", "tuned") if trains else ("base",)

    @property
    def asks_models(self) -> bool:
        """Whether any task asks models, and not search alone."""
        return self.harness is not None or any(task != "retrieval" for task in self.tasks)

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluateSection":
        if not self.tasks and self.harness is None:
            raise broken_rule("tasks", "required key is missing: name a task, or set harness")
        _refuse_twice("tasks", "a task", [task_name(task) for task in self.tasks])
        _refuse_twice("models", "a model", [model_label(model) for model in self.models or ()])
        if "retrieval" in self.tasks and self.retrieval is None:
            raise broken_rule("retrieval", "required key is missing: the task retrieval needs retrieval.folder")
        if "retrieval" not in self.tasks and self.retrieval is not None:
            raise broken_rule("retrieval", "is set, but tasks does not name retrieval")
        for number, gate in enumerate(self.gates):
            try:
                if isinstance(gate, RetrievalGate):
                    self._check_retrieval_gate(gate)
                else:
                    check_gate(gate, self.tasks, self.models, judged=self.judge is not None)
            except ValueError as error:
                raise broken_rule(("gates", number), str(error)) from error
        return self

    def _check_retrieval_gate(self, gate: RetrievalGate) -> None:
        if self.retrieval is None:
            raise ValueError("needs the task retrieval")
        if gate.cutoff not in self.retrieval.k:
            measured = ", ".join(str(cutoff) for cutoff in self.retrieval.k)
            raise ValueError(f"retrieval.k does not name {gate.cutoff}; it is {measured}")
        if "tuned" in (gate.setting, gate.other) and self.retrieval.tune is None:
            raise ValueError("there is no setting tuned unless retrieval.tune names a split")


def _refuse_twice(key: str, noun: str, names: Sequence[str]) -> None:
    for position, name in enumerate(names):
        if name in names[:position]:
            raise broken_rule(key, f"names {noun} twice, {name}; give one of them another name")

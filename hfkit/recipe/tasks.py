"""`evaluate.tasks`: what models are asked and how their answers are scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from annotated_types import Ge, Le, MinLen
from pydantic import Discriminator, Field, Tag, model_validator

from hfkit.evaluation.metrics import METRICS
from hfkit.recipe.data import HubSource, PathSource
from hfkit.recipe.section import Expected, PathOrGlob, Scalar, Section, Text, broken_rule
from hfkit.recipe.suggestions import nearest_word

PlainTask = Literal["grounded_answers", "conversations", "retrieval"]
PLAIN_TASKS: tuple[PlainTask, ...] = get_args(PlainTask)
BuiltinTask = Literal["squad", "gsm8k", "mmlu", "hellaswag", "arc", "ifeval"]
BUILTIN_TASKS: tuple[BuiltinTask, ...] = get_args(BuiltinTask)
OwnKind = Literal["generation", "choice", "text", "preference", "classification"]
"""As the kinds of rows are; classification is a choice among the same labels in every row."""

GENERATION_METRICS = ("exact_match", "token_f1")
CHOICE_METRICS = ("accuracy", "accuracy_norm", "accuracy_per_token")
DEFAULT_METRICS: Mapping[str, tuple[str, ...]] = {
    "grounded_answers": (
        "token_f1",
        "citation_accuracy",
        "abstention_accuracy",
        "citation_precision",
        "citation_recall",
    ),
    "conversations": ("token_f1", "exact_match", "rougeL", "chrf"),
    "squad": GENERATION_METRICS,
    "gsm8k": ("numeric",),
    "mmlu": ("accuracy",),
    "hellaswag": CHOICE_METRICS,
    "arc": CHOICE_METRICS,
    "ifeval": ("constraints", "constraints_each"),
    "generation": GENERATION_METRICS,
    "choice": CHOICE_METRICS,
    "classification": ("accuracy", "macro_f1"),
    "text": ("perplexity", "bits_per_byte"),
    "preference": ("preference_accuracy",),
}
"""Task, or kind of a task of one's own -> its metrics where the recipe names none."""

TaskLabel = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_-]*$"),
    Expected("a name of the characters a-z 0-9 _ - that starts with a letter", "names"),
]


class MetricSection(Section):
    """A metric with settings of its own."""

    metric: Text = Field(description="The metric, such as regex.")
    settings: Mapping[Text, Scalar] = Field(description="Its settings, such as pattern: '[0-9]+'.")


AnyMetric: TypeAlias = Text | MetricSection


class TaskData(Section):
    """Where the rows of a task come from."""

    path: PathOrGlob | None = Field(
        default=None,
        description="A JSON, JSONL, CSV, TSV, Parquet or text file (.gz too), a folder of them, or a glob.",
    )
    hub: Text | None = Field(default=None, description="A dataset's Hub id, in the place of path.")
    config: Text | None = Field(default=None, description="The Hub dataset's configuration, where it has several.")
    split: Text | None = Field(
        default=None, description="The Hub dataset's split; null takes the one that the task is measured on."
    )
    revision: Text | None = Field(default=None, description="Branch, tag or commit of the Hub dataset.")
    limit: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Rows that are asked at most, the first ones; null asks all."
    )
    few_shot: Annotated[int, Ge(0), Le(100)] = Field(
        default=0, description="Solved examples shown before each row: the first rows, which are then not asked."
    )
    chat: bool | None = Field(
        default=None,
        description="Whether prompts go through the chat template; null does so for replies, not for likelihoods.",
    )
    max_new_tokens: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Longest reply in tokens, where it is not evaluate.max_new_tokens."
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> "TaskData":
        if (self.path is None) == (self.hub is None):
            raise broken_rule("path", "a task's rows come from a path or from the hub; name one of the two")
        for key, value in (("config", self.config), ("split", self.split), ("revision", self.revision)):
            if self.hub is None and value is not None:
                raise broken_rule(key, "belongs to a dataset of the Hub, and the task reads a path")
        return self

    def source(self, default_split: str) -> PathSource | HubSource:
        """The source as `data.sources` would name it."""
        if self.path is not None:
            return PathSource(path=self.path)
        assert self.hub is not None
        split = default_split if self.split is None else self.split
        return HubSource(hub=self.hub, config=self.config, split=split, revision=self.revision)


def refuse_plain_replies(chat: bool | None) -> None:
    if chat is False:
        raise broken_rule("chat", "a reply is asked for through the chat template; leave chat out")


class UsedTask(TaskData):
    """A task that comes with hfkit, on rows in the layout of its own dataset."""

    use: BuiltinTask = Field(description="The task: squad, gsm8k, mmlu, hellaswag, arc or ifeval.")
    name: TaskLabel | None = Field(default=None, description="What the task is called; null takes its own name.")

    @model_validator(mode="after")
    def _replies_are_chat(self) -> "UsedTask":
        if self.use in ("squad", "gsm8k", "ifeval"):
            refuse_plain_replies(self.chat)
        return self


class OwnTask(TaskData):
    """A task of one's own over the columns of a dataset."""

    kind: OwnKind = Field(
        description="How is asked: for a reply, for the likeliest choice or label, for the likelihood of a text, or of "
        "a better and a worse reply."
    )
    name: TaskLabel = Field(description="What the task is called in tables and gates.")
    prompt: Text | None = Field(
        default=None,
        description="A Jinja template over a row's columns that is asked; null takes the row's own conversation, text, "
        "pair of replies or labelled text, in any format that data.sources knows.",
    )
    system: Text | None = Field(default=None, description="A system prompt, a Jinja template as well.")
    references: Text | None = Field(
        default=None, description="The column with the right reply, or a list of right ones; of generation."
    )
    choices: Text | Annotated[tuple[Text, ...], MinLen(2), Field(strict=False)] | None = Field(
        default=None, description="The column with the list of choices, or the choices themselves, or the labels."
    )
    correct: Text | None = Field(
        default=None,
        description="The column with the right choice: its number from 0, its letter, or its text; of choice and "
        "classification.",
    )
    text: Text | None = Field(default=None, description="The column with the text; of kind text.")
    chosen: Text | None = Field(default=None, description="The column with the better reply; of preference.")
    rejected: Text | None = Field(default=None, description="The column with the worse reply; of preference.")
    facts: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Columns that a metric needs beside the references."
    )
    slices: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Columns that results are broken down by."
    )
    group: Text | None = Field(
        default=None, description="The column that names a row's group; alike rows are resampled together."
    )
    metrics: Annotated[tuple[AnyMetric, ...], MinLen(1), Field(strict=False)] | None = Field(
        default=None, description="How answers are scored; null takes the metrics of the kind."
    )

    def schema_files(self) -> list[Path]:
        """The files of JSON schemas that the metrics name: what their scores depend on beside the rows."""
        found = [one.settings.get("schema") for one in self.metrics or () if isinstance(one, MetricSection)]
        return [Path(one) for one in found if isinstance(one, str)]

    @model_validator(mode="after")
    def _columns_fit_the_kind(self) -> "OwnTask":
        needed = {
            "generation": ("references",),
            "choice": ("choices", "correct"),
            "classification": ("correct",),
            "preference": ("chosen", "rejected"),
            "text": (),
        }[self.kind]
        columns = {
            "references": self.references,
            "choices": self.choices,
            "correct": self.correct,
            "text": self.text,
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        allowed = {*needed, *{"classification": ("choices",), "text": ("text",)}.get(self.kind, ())}
        for key, value in columns.items():
            if value is None and self.prompt is not None and key in needed:
                raise broken_rule(key, f"required key is missing: with a prompt, {self.kind} needs it")
            if value is not None and key not in allowed:
                raise broken_rule(key, f"says nothing for a task of kind {self.kind}")
            if value is not None and self.prompt is None and key not in ("text", "choices"):
                raise broken_rule(key, "needs a prompt, a Jinja template over the row's columns")
        if self.kind in ("generation", "preference"):
            refuse_plain_replies(self.chat)
        for position, metric in enumerate(self.metrics or ()):
            name = metric.metric if isinstance(metric, MetricSection) else metric
            if name not in METRICS:
                raise broken_rule("metrics", f"unknown metric {name}{nearest_word(name, tuple(METRICS))}")
            scores = "choice" if self.kind == "classification" else self.kind
            if METRICS[name].kind != scores:
                fitting = ", ".join(one for one, entry in METRICS.items() if entry.kind == scores)
                raise broken_rule("metrics", f"{name} does not score a task of kind {self.kind}; {fitting} do")
            if name in self.metric_names[:position]:
                raise broken_rule("metrics", f"names {name} twice")
        return self

    @property
    def metric_names(self) -> tuple[str, ...]:
        if self.metrics is None:
            return DEFAULT_METRICS[self.kind]
        return tuple(one.metric if isinstance(one, MetricSection) else one for one in self.metrics)


class CodeTask(Section):
    """A task that a Python function makes; only where the recipe says allow_code: true."""

    file: Annotated[
        str,
        Field(pattern=r"^[^:]+\.py:[A-Za-z_]\w*$"),
        Expected("a function in a file, as my_task.py:make_task", "functions as my_task.py:make_task"),
    ] = Field(description="The function that gives the task, as my_task.py:make_task.")
    arguments: Mapping[Text, Scalar] = Field(default={}, description="Keyword arguments that it is called with.")
    name: TaskLabel = Field(description="What the task is called in tables and gates.")
    limit: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Rows that are asked at most, the first ones; null asks all."
    )


_KINDS: Mapping[str, str] = {"use": "UsedTask", "kind": "OwnTask", "file": "CodeTask"}


def _task_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "PlainTask"
    if isinstance(value, UsedTask | OwnTask | CodeTask):
        return type(value).__name__
    if not isinstance(value, Mapping):
        return None
    named = [kind for key, kind in _KINDS.items() if key in value]
    return named[0] if len(named) == 1 else None


AnyTask = Annotated[
    Annotated[PlainTask, Tag("PlainTask")]
    | Annotated[UsedTask, Tag("UsedTask")]
    | Annotated[OwnTask, Tag("OwnTask")]
    | Annotated[CodeTask, Tag("CodeTask")],
    Discriminator(_task_kind),
]
"""A task: a name, or a mapping with exactly one of the keys use, kind and file."""


def task_name(task: AnyTask) -> str:
    """What tables and gates call a task."""
    if isinstance(task, str):
        return task
    if isinstance(task, UsedTask):
        return task.use if task.name is None else task.name
    return task.name


def task_metrics(task: AnyTask) -> tuple[str, ...] | None:
    """The names of a task's metrics; None where only its code knows them."""
    if isinstance(task, str):
        return DEFAULT_METRICS.get(task, ())
    if isinstance(task, UsedTask):
        return DEFAULT_METRICS[task.use]
    return task.metric_names if isinstance(task, OwnTask) else None

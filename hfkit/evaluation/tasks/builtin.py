"""The tasks that come with hfkit: rows in the layout of the datasets that they are known from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hfkit.data.ledger import RowFault
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import Kind
from hfkit.evaluation.tasks.drafts import (
    Columns,
    Draft,
    Drafting,
    chosen_number,
    finished_rows,
    read_drafts,
    text_of,
    texts_of,
    value_of,
)
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe.tasks import DEFAULT_METRICS, BuiltinTask, UsedTask

UNANSWERABLE = "unanswerable"

_SQUAD = "Answer the question with a few words from the text. If the text does not answer it, say: " + UNANSWERABLE
_GSM8K = "Work it out step by step, and end with the number that answers the question."


@dataclass(frozen=True, slots=True)
class _Builtin:
    """`split` is the Hub split that it is measured on; `max_new_tokens` what its replies need."""

    title: str
    kind: Kind
    split: str
    draft: Drafting
    max_new_tokens: int | None = None


def builtin_task(entry: UsedTask) -> Task:
    """The task that `entry` names, over its rows.

    Raises:
        RequestError: the rows cannot be read, or none is in the layout of the task's own dataset.
    """
    task = _TASKS[entry.use]
    name = entry.use if entry.name is None else entry.name
    drafts, remarks = read_drafts(entry, task.split, task.draft, name)
    chat = entry.chat if entry.chat is not None else task.kind == "generation"
    return Task(
        name=name,
        title=task.title,
        kind=task.kind,
        rows=tuple(finished_rows(drafts, entry, chat=chat)),
        metrics=tuple(metric_named(metric) for metric in DEFAULT_METRICS[entry.use]),
        max_new_tokens=entry.max_new_tokens or task.max_new_tokens,
        settings={
            "use": entry.use,
            "source": entry.path or f"hub:{entry.hub}",
            "few_shot": entry.few_shot,
            "prompt": "chat template" if chat else "plain text",
        },
        remarks=tuple(remarks),
    )


def squad(columns: Columns, place: str) -> Draft:
    """Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822): context, question, answers.text. Questions
    that the text does not answer have no answers."""
    answers = value_of(columns, "answers")
    if not isinstance(answers, Mapping) or not isinstance(answers.get("text"), list):
        raise RowFault("the column answers holds no list text", f"{answers!r:.60}")
    right = tuple(dict.fromkeys(texts_of(answers, "text", 0))) or (UNANSWERABLE,)
    context = text_of(columns, "context")
    title = columns.get("title")
    return Draft(
        id=place,
        prompt=f"{context}\n\nQuestion: {text_of(columns, 'question').strip()}",
        solution=right[0],
        references=right,
        group=title if isinstance(title, str) and title else context,
        slices={"answerable": "no" if right == (UNANSWERABLE,) else "yes"},
        system=_SQUAD,
    )


def gsm8k(columns: Columns, place: str) -> Draft:
    """Cobbe et al. 2021 (arXiv:2110.14168): question, and an answer that ends with `#### NUMBER`."""
    solution = text_of(columns, "answer")
    steps, mark, number = solution.rpartition("####")
    if not mark or not number.strip():
        raise RowFault("the column answer does not end with #### and a number", f"{solution[-60:]!r}")
    # The calculator's notes are written for a tool that nobody has here.
    shown = re.sub(r"<<.*?>>", "", steps).strip()
    return Draft(
        id=place,
        prompt=text_of(columns, "question").strip(),
        solution=f"{shown}\nThe answer is {number.strip()}.",
        references=(number.strip(),),
        system=_GSM8K,
    )


def mmlu(columns: Columns, place: str) -> Draft:
    """Hendrycks et al. 2020 (arXiv:2009.03300): question, choices, answer as a number, subject."""
    choices = texts_of(columns, "choices", 2)
    letters = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)])
    listed = "".join(f"{letter}. {choice}\n" for letter, choice in zip(letters, choices, strict=True))
    correct = chosen_number(value_of(columns, "answer"), choices, "answer")
    subject = columns.get("subject")
    about = str(subject).replace("_", " ") if subject else ""
    return Draft(
        id=place,
        prompt=f"{text_of(columns, 'question').strip()}\n{listed}Answer: ",
        solution=letters[correct],
        choices=letters,
        correct=correct,
        slices={"subject": about} if about else {},
        system=f"The following are multiple choice questions (with answers){f' about {about}' if about else ''}.",
        shots=about,
    )


def hellaswag(columns: Columns, place: str) -> Draft:
    """Zellers et al. 2019 (arXiv:1905.07830): ctx_a, ctx_b, activity_label, endings, label; cleaned as
    lm-evaluation-harness does it."""
    label = value_of(columns, "label")
    if label == "":
        raise RowFault("the column label is empty", "the test split has no labels; take validation")
    endings = tuple(_without_marks(ending) for ending in texts_of(columns, "endings", 2))
    begun = str(columns.get("ctx_b") or "").strip().capitalize()
    context = f"{text_of(columns, 'activity_label')}: {value_of(columns, 'ctx_a')} {begun}"
    correct = chosen_number(label, endings, "label")
    source = columns.get("source_id")
    return Draft(
        id=place,
        prompt=f"{_without_marks(context)} ",
        solution=endings[correct],
        choices=endings,
        correct=correct,
        group=source if isinstance(source, str) and source else None,
    )


def _without_marks(text: str) -> str:
    plain = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return plain.replace("  ", " ").strip()


def arc(columns: Columns, place: str) -> Draft:
    """Clark et al. 2018 (arXiv:1803.05457): question, choices.text and choices.label, answerKey; or as first published,
    question.stem and question.choices."""
    asked = value_of(columns, "question")
    if isinstance(asked, Mapping):
        listed = value_of(asked, "choices")
        if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
            raise RowFault("the column question.choices holds no list of choices", f"{listed!r:.60}")
        question, choices = text_of(asked, "stem"), tuple(text_of(one, "text") for one in listed)
        labels = tuple(str(value_of(one, "label")) for one in listed)
    else:
        listed = value_of(columns, "choices")
        if not isinstance(listed, Mapping):
            raise RowFault("the column choices holds no lists text and label", f"{listed!r:.60}")
        question, choices, labels = text_of(columns, "question"), texts_of(listed, "text", 2), texts_of(listed, "label")
    if len(labels) != len(choices):
        raise RowFault("the choices have not one label each", f"{len(choices)} choices, {len(labels)} labels")
    correct = chosen_number(value_of(columns, "answerKey"), choices, "answerKey", labels)
    return Draft(
        id=place,
        prompt=f"Question: {question.strip()}\nAnswer: ",
        solution=choices[correct],
        choices=choices,
        correct=correct,
    )


def ifeval(columns: Columns, place: str) -> Draft:
    """Zhou et al. 2023 (arXiv:2311.07911): prompt, instruction_id_list, kwargs."""
    instructions = texts_of(columns, "instruction_id_list")
    arguments = value_of(columns, "kwargs")
    if not isinstance(arguments, list) or len(arguments) != len(instructions):
        raise RowFault("the column kwargs holds no mapping for each instruction", f"{arguments!r:.60}")
    prompt = text_of(columns, "prompt")
    return Draft(
        id=place,
        prompt=prompt,
        solution="",
        slices={"instruction": instructions[0].partition(":")[0]},
        facts={"instruction_id_list": list(instructions), "kwargs": arguments, "prompt": prompt},
    )


_TASKS: Mapping[BuiltinTask, _Builtin] = {
    "squad": _Builtin("questions on a text (SQuAD)", "generation", "validation", squad),
    "gsm8k": _Builtin("word problems (GSM8K)", "generation", "test", gsm8k, max_new_tokens=320),
    "mmlu": _Builtin("multiple choice by letter (MMLU)", "choice", "test", mmlu),
    "hellaswag": _Builtin("likeliest ending (HellaSwag)", "choice", "validation", hellaswag),
    "arc": _Builtin("science questions (ARC)", "choice", "test", arc),
    "ifeval": _Builtin("instructions that code checks (IFEval)", "generation", "train", ifeval, max_new_tokens=1024),
}

"""The evaluate stage: base and tuned model on the same test rows, search on judged queries, and the gates held."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from hfkit.data.prepared import read_examples
from hfkit.errors import RequestError
from hfkit.evaluation.generation import Generation, generate
from hfkit.evaluation.grounded_answers import GroundedRow, grounded_rows, score, wordings
from hfkit.evaluation.result import TITLES, Comparison, EvaluateResult, GateResult
from hfkit.evaluation.retrieval import held_gate, measure_retrieval
from hfkit.evaluation.statistics import compare, lower_bound
from hfkit.models.loading import load_model, load_renderer
from hfkit.models.tuned import ADAPTER, attach_adapter, load_tuned
from hfkit.recipe import Gate, MetricName
from hfkit.stage import StageContext
from rag.answer import Message

PREDICTIONS = "predictions.jsonl"


class Prediction(BaseModel):
    """A line of predictions.jsonl: a test row, what each model said, and how each was scored."""

    model_config = ConfigDict(frozen=True)

    id: str
    document: str
    question: str
    reference: str
    gold: int | None
    base: Generation
    tuned: Generation
    base_scores: dict[MetricName, float]
    tuned_scores: dict[MetricName, float]


def evaluate(context: StageContext) -> EvaluateResult:
    """Run the recipe's tasks and hold its gates against what they gave."""
    recipe = context.recipe
    assert recipe.evaluate is not None
    predictions: list[Prediction] = []
    result = EvaluateResult(gates=())
    if "grounded_answers" in recipe.evaluate.tasks:
        predictions, result = _grounded_answers(context)
    measured = measure_retrieval(context) if "retrieval" in recipe.evaluate.tasks else None
    gates: list[GateResult] = []
    for gate in recipe.evaluate.gates:
        if isinstance(gate, Gate):
            gates.append(_held(gate, predictions, recipe.seed))
        elif measured is not None:  # as it is: the recipe's own check asks for the task
            gates.append(held_gate(gate, measured, recipe.seed))
    return result.model_copy(update={"gates": tuple(gates), "retrieval": None if measured is None else measured.result})


def _grounded_answers(context: StageContext) -> tuple[list[Prediction], EvaluateResult]:
    """Score both models, keep `predictions.jsonl` and `comparison.json`."""
    recipe = context.recipe
    rows, prompts = grounded_rows(read_examples(context.upstream["data"], "test"))
    base, tuned = _answers(context, prompts)
    predictions = _predictions(rows, base, tuned)
    (context.folder / PREDICTIONS).write_text(
        "".join(prediction.model_dump_json() + "\n" for prediction in predictions), encoding="utf-8"
    )
    result = EvaluateResult(
        comparison={m: _compared(predictions, m, recipe.seed) for m in TITLES if _scored_on(predictions, m)},
        gates=(),
        cut_off={"base": sum(not a.stopped for a in base), "tuned": sum(not a.stopped for a in tuned)},
        rows=len(rows),
        unanswerable=sum(row.gold is None for row in rows),
    )
    comparison = {metric: entry.model_dump() for metric, entry in result.comparison.items()}
    (context.folder / "comparison.json").write_text(json.dumps(comparison, indent=2) + "\n", encoding="utf-8")
    return predictions, result


def _answers(context: StageContext, prompts: Sequence[Sequence[Message]]) -> tuple[list[Generation], list[Generation]]:
    """What the base model and the tuned model say."""
    recipe = context.recipe
    assert recipe.model is not None and recipe.evaluate is not None
    settings = recipe.evaluate
    renderer = load_renderer(recipe.model)
    model, _ = load_model(recipe.model)
    with context.progress.bar("base answers") as update:
        base = generate(
            model,
            renderer,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            update=update,
        )
    trained = context.upstream["train"]
    if (trained / ADAPTER).is_dir():
        model = attach_adapter(model, trained)
    else:
        model, _ = load_tuned(recipe.model, trained)
    with context.progress.bar("tuned answers") as update:
        tuned = generate(
            model,
            renderer,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            update=update,
        )
    return base, tuned


def _predictions(
    rows: Sequence[GroundedRow], base: Sequence[Generation], tuned: Sequence[Generation]
) -> list[Prediction]:
    scored = zip(rows, base, wordings(rows, base), tuned, wordings(rows, tuned), strict=True)
    return [
        Prediction(
            **row.model_dump(),
            base=of_base,
            tuned=of_tuned,
            base_scores=score(row, of_base, base_f1),
            tuned_scores=score(row, of_tuned, tuned_f1),
        )
        for row, of_base, base_f1, of_tuned, tuned_f1 in scored
    ]


def _scored_on(predictions: Sequence[Prediction], metric: MetricName) -> list[Prediction]:
    return [prediction for prediction in predictions if metric in prediction.tuned_scores]


def _compared(predictions: Sequence[Prediction], metric: MetricName, seed: int) -> Comparison:
    scored = _scored_on(predictions, metric)
    return compare(
        [prediction.base_scores[metric] for prediction in scored],
        [prediction.tuned_scores[metric] for prediction in scored],
        [prediction.document for prediction in scored],
        seed=seed,
    )


def _held(gate: Gate, predictions: Sequence[Prediction], seed: int) -> GateResult:
    scored = _scored_on(predictions, gate.metric)
    if not scored:
        raise RequestError(f"evaluate.gates: {gate.text}: no test row is scored by {gate.metric}")
    values = [prediction.tuned_scores[gate.metric] for prediction in scored]
    if gate.reference == "base":
        values = [v - p.base_scores[gate.metric] for v, p in zip(values, scored, strict=True)]
    documents = [prediction.document for prediction in scored]
    at_least = lower_bound(values, documents, confidence=gate.confidence, seed=seed)
    holds = at_least is not None and at_least >= gate.margin
    return GateResult(gate=gate.text, at_least=at_least, needed=gate.margin, holds=holds)

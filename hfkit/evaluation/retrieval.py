"""The task `retrieval`: the recipe's index asked judged queries, by every way of searching, compared with dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue

from hfkit.errors import RequestError
from hfkit.evaluation.holding import why_no_bound
from hfkit.evaluation.result import GateResult
from hfkit.evaluation.retrieval_result import (
    LeftOut,
    MeasuredSetting,
    RetrievalLead,
    RetrievalResult,
    RetrievalScore,
    TunedOn,
)
from hfkit.evaluation.significance import holm
from hfkit.evaluation.splits import read_splits
from hfkit.evaluation.statistics import Comparison, compare, interval, lower_bound
from hfkit.indexing import load_embedder
from hfkit.progress import Progress
from hfkit.recipe import RetrievalGate, RetrievalSection
from hfkit.searching import search_settings
from hfkit.stage import StageContext
from rag.index import Index
from rag.measure import RememberedQueries, rank_documents, tune_dense_weight, unknown_documents
from rag.metrics import metric_names, score_rankings
from rag.qrels import JudgedQueries
from rag.search import SearchSettings

PREDICTIONS = "retrieval.jsonl"
CONFIDENCE = 0.95

Rankings = Mapping[str, list[str]]
"""Query id -> ids of documents, best first."""
Scores = Mapping[str, Mapping[str, float]]
"""Query id -> metric -> value."""


class RankedQuery(BaseModel):
    """A line of retrieval.jsonl: a query, its relevant documents by grade, and for each setting what a search for so
    many documents found, best first, and how that was scored."""

    model_config = ConfigDict(frozen=True)

    id: str
    query: str
    relevant: dict[str, int]
    rankings: dict[str, dict[int, list[str]]]
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class MeasuredRetrieval:
    """`scores` holds each setting's, for the gates."""

    result: RetrievalResult
    scores: Mapping[str, Scores]


@dataclass(frozen=True, slots=True)
class _Way:
    """One way of searching, and how `rag.search` would say it."""

    settings: SearchSettings
    said: dict[str, JsonValue]


def measure_retrieval(context: StageContext) -> MeasuredRetrieval:
    """Measure every setting and keep `retrieval.jsonl`.

    Raises:
        RequestError, RagRequestError: the folder or a split is not there or malformed, the splits share queries, or
            none of the relevant documents is in the index.
    """
    recipe = context.recipe
    assert recipe.rag is not None and recipe.evaluate is not None and recipe.evaluate.retrieval is not None
    section = recipe.evaluate.retrieval
    judged, tuning = read_splits(section)
    own = _Way(search_settings(recipe.rag.search), recipe.rag.search.model_dump(mode="json", exclude={"top_k"}))
    ways = _plain_ways(own.settings)
    embedder = RememberedQueries(load_embedder(recipe.rag.embedder, recipe.rag.revision))
    with Index.open(context.upstream["index"], embedder) as index:
        held = index.document_ids()
        missing = unknown_documents(judged, held)
        tuned = None if tuning is None else _tuned(index, tuning, section, context.progress)
        if tuned is not None:
            ways["tuned"] = _convex(tuned.weight)
        named = _name(own.settings, ways)
        ways.setdefault(named, own)
        rankings: dict[str, dict[int, Rankings]] = {}
        for name, way in ways.items():
            rankings[name] = {}
            for cutoff in section.k:
                with context.progress.bar(f"searching, {name}, first {cutoff}") as update:
                    rankings[name][cutoff] = rank_documents(index, judged, way.settings, cutoff, update)
    scores = {name: _scored(found, judged) for name, found in rankings.items()}
    _keep(context.folder / PREDICTIONS, judged, rankings, scores)
    metrics = metric_names(section.k)
    leads = _leads(scores, metrics, recipe.seed)
    result = RetrievalResult(
        folder=section.folder.as_posix(),
        split=section.split,
        queries=len(judged.queries),
        documents=len(held),
        confidence=CONFIDENCE,
        metrics=tuple(metrics),
        recipe=named,
        tuned=tuned,
        settings={
            name: MeasuredSetting(
                search=way.said,
                scores={metric: _score(scores[name], metric, recipe.seed) for metric in metrics},
                leads=leads.get(name, {}),
            )
            for name, way in ways.items()
        },
        unknown_documents=_left_out(missing),
        unknown_queries=_left_out(judged.unknown),
        unanswered_queries=_left_out(judged.unanswered),
    )
    return MeasuredRetrieval(result, scores)


def held_gate(gate: RetrievalGate, measured: MeasuredRetrieval, seed: int) -> GateResult:
    """Raises RequestError where the gate names a setting that was not measured."""
    metric = f"{gate.metric}@{gate.cutoff}"
    values = _values(gate, gate.setting, metric, measured)
    if gate.compared:
        values = [v - other for v, other in zip(values, _values(gate, gate.other, metric, measured), strict=True)]
    queries = list(next(iter(measured.scores.values())))
    at_least = lower_bound(values, queries, confidence=gate.confidence, seed=seed)
    holds = at_least is not None and at_least >= gate.margin
    why = None if at_least is not None else why_no_bound(len(queries), gate.confidence, "queries")
    return GateResult(gate=gate.text, at_least=at_least, needed=gate.margin, holds=holds, why=why)


def _values(gate: RetrievalGate, setting: str | None, metric: str, measured: MeasuredRetrieval) -> list[float]:
    name = measured.result.recipe if setting is None else setting
    if name not in measured.scores:
        raise RequestError(
            f"evaluate.gates: {gate}: there is no setting {name}; measured are {', '.join(measured.scores)}"
        )
    return [row[metric] for row in measured.scores[name].values()]


def _plain_ways(own: SearchSettings) -> dict[str, _Way]:
    """What every recipe's own way is compared with; convex fusion takes the recipe's weight."""
    return {
        "dense": _Way(SearchSettings(mode="dense"), {"mode": "dense"}),
        "lexical": _Way(SearchSettings(mode="lexical"), {"mode": "lexical"}),
        "rrf": _Way(SearchSettings(mode="hybrid", fusion="rrf"), {"mode": "hybrid", "fusion": "rrf"}),
        "convex": _convex(own.dense_weight),
    }


def _convex(weight: float) -> _Way:
    settings = SearchSettings(mode="hybrid", fusion="convex", dense_weight=weight)
    return _Way(settings, {"mode": "hybrid", "fusion": "convex", "dense_weight": weight})


def _name(own: SearchSettings, ways: Mapping[str, _Way]) -> str:
    """Which of `ways` the recipe's own is; `reranked` or `recipe` where it is a further one."""
    if own.reranker is not None:
        return "reranked"
    plain = replace(own, top_k=SearchSettings().top_k, per_document=None, neighbours=0)
    if plain.mode != "hybrid" or plain.fusion == "rrf":  # then the weight counts for nothing
        plain = replace(plain, dense_weight=SearchSettings().dense_weight)
    if plain.mode != "hybrid":
        plain = replace(plain, fusion=SearchSettings().fusion)
    return next((name for name, way in ways.items() if way.settings == plain), "recipe")


def _tuned(index: Index, tuning: JudgedQueries, section: RetrievalSection, progress: Progress) -> TunedOn:
    with progress.bar(f"tuning on {section.tune}") as update:
        found = tune_dense_weight(index, tuning, SearchSettings(), section.k[0], update)
    return TunedOn(
        split=tuning.split,
        queries=len(tuning.queries),
        metric=found.metric,
        weight=found.weight,
        curve=tuple(found.curve.items()),
    )


def _scored(rankings: Mapping[int, Rankings], judged: JudgedQueries) -> dict[str, dict[str, float]]:
    """Each metric at k from the search for k documents: that is the search whose worth it says."""
    scores: dict[str, dict[str, float]] = {id: {} for id in judged.queries}
    for cutoff, found in rankings.items():
        for id, values in score_rankings(found, judged.relevant, [cutoff]).items():
            scores[id] |= values
    return scores


def _score(of: Scores, metric: str, seed: int) -> RetrievalScore:
    values = [row[metric] for row in of.values()]
    within = interval(values, list(of), confidence=CONFIDENCE, seed=seed)
    return RetrievalScore(mean=sum(values) / len(values), interval=within)


def _leads(scores: Mapping[str, Scores], metrics: Sequence[str], seed: int) -> dict[str, dict[str, RetrievalLead]]:
    """Each setting's lead over dense search in each metric; all at once, since Holm's correction is over all."""
    compared: dict[tuple[str, str], Comparison] = {}
    for name, of in scores.items():
        for metric in metrics if name != "dense" else ():
            dense = [row[metric] for row in scores["dense"].values()]
            values = [row[metric] for row in of.values()]
            compared[name, metric] = compare(dense, values, list(of), confidence=CONFIDENCE, seed=seed)
    adjusted = holm([one.p_value for one in compared.values()])
    leads: dict[str, dict[str, RetrievalLead]] = {}
    for ((name, metric), one), p_adjusted in zip(compared.items(), adjusted, strict=True):
        leads.setdefault(name, {})[metric] = RetrievalLead(
            difference=one.difference, interval=one.interval, p_value=one.p_value, p_adjusted=p_adjusted
        )
    return leads


def _keep(
    path: Path,
    judged: JudgedQueries,
    rankings: Mapping[str, Mapping[int, Rankings]],
    scores: Mapping[str, Scores],
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for id, text in judged.queries.items():
            row = RankedQuery(
                id=id,
                query=text,
                relevant=dict(judged.relevant[id]),
                rankings={name: {cutoff: found[id] for cutoff, found in of.items()} for name, of in rankings.items()},
                scores={name: dict(found[id]) for name, found in scores.items()},
            )
            file.write(row.model_dump_json() + "\n")


def _left_out(ids: Sequence[str]) -> LeftOut:
    return LeftOut(count=len(ids), first=tuple(ids[:5]))

"""Measured search as a table that one can read. Imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import JsonValue

from hfkit.evaluation.retrieval_result import LeftOut, MeasuredSetting, RetrievalResult, RetrievalScore

if TYPE_CHECKING:
    from rich.console import Console

_FEW = "none: too few queries"


def print_retrieval(console: Console, result: RetrievalResult) -> None:
    """A row for each setting: its figures with their intervals, and its lead over dense search."""
    from rich.table import Table

    main = result.metrics[0]
    table = Table(
        title=f"search on {result.queries} judged queries ({result.folder}, split {result.split}), "
        f"{result.documents} documents",
        caption=f"intervals: {result.confidence:.0%}, bootstrap over queries; lead: over dense on the same queries, "
        f"paired bootstrap; p: paired permutation test. {adjustment_note(result)}",
        title_justify="left",
        caption_justify="left",
    )
    shown = shown_metrics(result)
    table.add_column("setting", no_wrap=True)
    for metric in shown:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column(f"lead, {main}", justify="right", no_wrap=True)
    table.add_column("p\nadj.", justify="right", no_wrap=True, min_width=5)
    for name, setting in result.settings.items():
        figures = [setting.scores[metric] for metric in shown]
        cells = [f"{one.mean:.3f}\n{retrieval_interval(one, digits=2)}" for one in figures]
        mark = " (the recipe's)" if name == result.recipe else ""
        table.add_row(f"{name}{mark}\n{search_in_words(setting)}", *cells, *_lead(setting, main))
    console.print(table)
    for line in retrieval_notes(result):
        console.print(line, markup=False, highlight=False)


def shown_metrics(result: RetrievalResult) -> list[str]:
    """All metrics at the first rank, and of the others what is not nearly the same there: nDCG and recall."""
    first = result.metrics[0].partition("@")[2]
    return [m for m in result.metrics if m.endswith(f"@{first}") or m.startswith(("ndcg", "recall"))]


def search_in_words(setting: MeasuredSetting) -> str:
    parts: list[JsonValue] = [setting.search["mode"]]
    if setting.search["mode"] == "hybrid":
        parts.append(setting.search.get("fusion"))
    if setting.search.get("fusion") == "convex" and setting.search["mode"] == "hybrid":
        parts.append(setting.search.get("dense_weight"))
    return " ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in parts if part is not None)


def retrieval_interval(score: RetrievalScore, *, digits: int = 3) -> str:
    if score.interval is None:
        return _FEW
    low, high = score.interval
    return f"{low:.{digits}f} … {high:.{digits}f}"


def adjustment_note(result: RetrievalResult) -> str:
    """How many leads the p-values are corrected for."""
    leads = sum(len(setting.leads) for setting in result.settings.values())
    return f"Adjusted p is corrected after Holm for all {leads} leads, of every metric and setting."


def _lead(setting: MeasuredSetting, metric: str) -> tuple[str, str]:
    if metric not in setting.leads:
        return "", ""
    lead = setting.leads[metric]
    within = _FEW if lead.interval is None else f"{lead.interval[0]:+.3f} … {lead.interval[1]:+.3f}"
    return f"{lead.difference:+.3f}\n{within}", f"{lead.p_value:.3f}\n{lead.p_adjusted:.3f}"


def retrieval_notes(result: RetrievalResult) -> list[str]:
    lines = []
    if result.tuned is not None:
        tuned = result.tuned
        lines.append(
            f"tuned: dense_weight {tuned.weight:g} had the best {tuned.metric} on the {tuned.queries} queries of the "
            f"split {tuned.split}; to search with it, set rag.search.dense_weight={tuned.weight:g}"
        )
    for left_out, words in (
        (result.unknown_documents, "relevant documents are not in the index and count as not found"),
        (result.unknown_queries, "judged queries are not in queries.jsonl and were not asked"),
        (result.unanswered_queries, "queries have no relevant document and were not asked"),
    ):
        if left_out.count:
            lines.append(f"{left_out.count} {words}: {_named(left_out)}")
    return lines


def _named(left_out: LeftOut) -> str:
    more = " …" if left_out.count > len(left_out.first) else ""
    return ", ".join(left_out.first) + more

"""The report in short, as Markdown: for the model card and for whoever reads a run's folder in a terminal."""

from __future__ import annotations

from hfkit.evaluation.report.tables import Table, gate_table, harness_table, retrieval_table, task_notes, task_table
from hfkit.evaluation.report.verdicts import headlines
from hfkit.evaluation.result import EvaluateResult
from hfkit.markdown import escaped


def markdown_report(result: EvaluateResult, *, heading: str = "##") -> str:
    """What was found in sentences, then a table for each task, for search, the harness and the gates.

    `heading` is the marks of its top heading; the card of a model puts the report under a section of its own.
    """
    lines = [f"{heading} Evaluation", ""]
    lines += [f"- {escaped(sentence)}" for sentence in headlines(result)]
    for task in result.tasks.values():
        lines += ["", *_section(task_table(task, result), heading)]
        lines += [f"- {escaped(note)}" for note in task_notes(task)]
    if result.retrieval is not None:
        lines += ["", *_section(retrieval_table(result.retrieval), heading)]
    if result.harness is not None:
        lines += ["", *_section(harness_table(result.harness), heading)]
    if result.gates:
        lines += ["", *_section(gate_table(result), heading)]
    return "\n".join(lines).rstrip() + "\n"


def _section(table: Table, heading: str) -> list[str]:
    marks = ["---:" if table.is_figure(number) else "---" for number in range(len(table.headings))]
    lines = [f"{heading}# {escaped(table.title)}", "", _line(table.headings), f"| {' | '.join(marks)} |"]
    lines += [_line(row) for row in table.rows]
    return [*lines, *(line for note in table.notes for line in ("", escaped(note))), ""]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"

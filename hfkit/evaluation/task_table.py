"""What a task gave as a table that one can read in a terminal. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hfkit.evaluation.report.tables import Table, task_notes, task_table
from hfkit.evaluation.result import EvaluateResult, TaskResult
from hfkit.output import harmless

if TYPE_CHECKING:
    from rich.console import Console

# A terminal is narrower than a page: what the report tells besides.
_LEFT_TO_THE_REPORT = ("rows", "p", "effect size")


def print_task(console: Console, task: TaskResult, result: EvaluateResult) -> None:
    """A line for each metric and model: its score, its lead over the model it is compared with, and what that says."""
    print_table(console, narrowed(task_table(task, result)))
    for line in task_notes(task):
        console.print(harmless(line), markup=False, highlight=False)


def narrowed(table: Table) -> Table:
    """The table as a terminal shows it: without the columns and reasons that the report alone has, names once."""
    kept = [number for number, heading in enumerate(table.headings) if heading not in _LEFT_TO_THE_REPORT]
    rows = [[row[number] for number in kept] for row in table.rows]
    above = ""
    for row in rows:
        row[0], above = ("" if row[0] == above else row[0]), row[0]
        if table.wordy:
            row[-1] = row[-1].partition(":")[0]
    return replace(table, headings=tuple(table.headings[n] for n in kept), rows=tuple(tuple(row) for row in rows))


def print_table(console: Console, table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as RichTable

    printed = RichTable(
        title=escape(harmless(table.title)),
        caption=escape(harmless(" ".join(table.notes))),
        title_justify="left",
        caption_justify="left",
    )
    for number, heading in enumerate(table.headings):
        figures = table.is_figure(number)
        printed.add_column(escape(harmless(heading)), justify="right" if figures else "left", no_wrap=figures)
    for row in table.rows:
        printed.add_row(*(escape(harmless(cell)) for cell in row))
    console.print(printed)

"""`hfkit compare`: finished runs side by side."""

from __future__ import annotations

import argparse
import json

from hfkit.artifact import write_whole
from hfkit.errors import RequestError
from hfkit.evaluation.report.compared import comparison_page, comparison_sentences, comparison_tables
from hfkit.evaluation.run_comparison import compare_runs
from hfkit.evaluation.task_table import narrowed, print_table
from hfkit.output import emit, harmless, say


def run(arguments: argparse.Namespace) -> int:
    if arguments.html is not None and not arguments.html.parent.is_dir():
        raise RequestError(f"--html: there is no folder {arguments.html.parent} to write {arguments.html.name} into")
    comparison = compare_runs(arguments.runs)
    if arguments.html is not None:
        try:
            write_whole(arguments.html, comparison_page(comparison))
        except OSError as error:
            raise RequestError(f"--html: {arguments.html} cannot be written: {error.strerror}") from error
        say(f"written: {arguments.html}")
    if arguments.json:
        emit(json.dumps(comparison.model_dump(mode="json"), indent=2))
        return 0

    from rich.console import Console

    console = Console()
    # Off a terminal (a log, CI) there is no width to fit, so nothing need be wrapped or cut.
    if not console.is_terminal:
        console.width = 160
    with console.capture() as captured:
        for table in comparison_tables(comparison):
            print_table(console, narrowed(table))
        for sentence in comparison_sentences(comparison):
            console.print(harmless(sentence), markup=False, highlight=False)
    emit(captured.get().rstrip("\n"), styled=True)
    return 0

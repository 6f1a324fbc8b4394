"""`hfkit preview`: the exact tokens that the model is trained on, the trained ones marked."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from hfkit.data.prepared import TRAIN, PreparedRow, read_rows
from hfkit.errors import RequestError
from hfkit.models.loading import load_tokenizer
from hfkit.output import emit
from hfkit.pipeline import run_stages
from hfkit.preflight import require_ready
from hfkit.progress import Progress
from hfkit.recipe import load_recipe
from hfkit.run import Run

if TYPE_CHECKING:
    from rich.console import Console


def run(arguments: argparse.Namespace) -> int:
    if arguments.n < 0:
        raise RequestError(f"-n: expected a number of sequences, 0 or more, got {arguments.n}")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.data is None or recipe.model is None:
        raise RequestError(f"{recipe.name}: a preview needs the sections data and model in the recipe")
    require_ready(recipe, ("data",))
    run_stages(recipe, ("data",), Progress())
    rows = read_rows(Run(recipe).finished("data") / TRAIN)
    tokenizer = load_tokenizer(recipe.model)
    shown = rows[: arguments.n]
    # One token at a time, so that each has its own text; a character split over tokens shows as the pieces it is.
    pieces = [[str(tokenizer.decode([token])) for token in row.input_ids] for row in shown]
    summary = {
        "sequences": len(rows),
        "tokens": sum(row.length for row in rows),
        "trained_tokens": sum(row.length - row.prompt_length for row in rows),
    }
    if arguments.json:
        sequences = [_sequence(row, text) for row, text in zip(shown, pieces, strict=True)]
        emit(json.dumps({"summary": summary, "sequences": sequences}, indent=2))
        return 0
    _print(shown, pieces, summary)
    return 0


def _sequence(row: PreparedRow, text: list[str]) -> dict[str, object]:
    return {
        "input_ids": list(row.input_ids),
        "train": [position >= row.prompt_length for position in range(row.length)],
        "text": text,
        "source_rows": [row.id],
    }


def _print(rows: list[PreparedRow], pieces: list[list[str]], summary: dict[str, int]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    with console.capture() as captured:
        _draw(console, rows, pieces, summary)
    emit(captured.get().rstrip("\n"))


def _draw(console: Console, rows: list[PreparedRow], pieces: list[list[str]], summary: dict[str, int]) -> None:
    from rich.text import Text

    # Colours say what is trained; where there are none, brackets do.
    opening, closing = ("", "") if console.is_terminal else ("⟦", "⟧")
    for row, text in zip(rows, pieces, strict=True):
        console.print(
            Text(f"── {row.id}: {row.length - row.prompt_length} of {row.length} tokens trained", style="bold")
        )
        read, trained = "".join(text[: row.prompt_length]), "".join(text[row.prompt_length :])
        console.print(Text(read, style="dim"), Text(f"{opening}{trained}{closing}", style="bold green"), sep="")
        console.print()
    console.print(
        f"{summary['sequences']} sequences, {summary['trained_tokens']:,} of {summary['tokens']:,} tokens trained"
    )

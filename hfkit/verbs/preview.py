"""`hfkit preview`: the exact tokens that the model is trained on, the trained ones marked."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfkit.data.card import DataResult
from hfkit.data.prepared import pick_sequences, read_examples, sequence_lengths
from hfkit.errors import RequestError
from hfkit.output import emit, harmless, one_line
from hfkit.pipeline import run_stages
from hfkit.preflight import require_ready
from hfkit.progress import Progress
from hfkit.recipe import Recipe, TrainSection, load_recipe
from hfkit.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Shown:
    """One sequence as the model gets it: several rows where they are packed, one behind the other.

    Attributes:
        rows: the ids of the rows, in order.
        input_ids, trained, text, special: a value for each token; `special` marks those that no text becomes.
        borders: where each row but the first begins.
    """

    rows: tuple[str, ...]
    input_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    text: tuple[str, ...]
    special: tuple[bool, ...]
    borders: frozenset[int]


def run(arguments: argparse.Namespace) -> int:
    if arguments.n < 0:
        raise RequestError(f"-n: expected a number of sequences, 0 or more, got {arguments.n}")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.data is None:
        raise RequestError(f"{recipe.name}: a preview needs the section data in the recipe")
    require_ready(recipe, ("data",))
    outcome = run_stages(recipe, ("data",), Progress())["data"]
    result = DataResult.model_validate(outcome.artifact.result)
    folder = Run(recipe).finished("data")
    if not result.train.sequences:
        return _print_examples(folder, result, arguments.n, as_json=arguments.json)
    packs = _packs(recipe, folder)
    shown = _sequences(recipe, folder, packs[: arguments.n])
    summary = {
        "sequences": len(packs),
        "rows": result.train.rows,
        "tokens": result.train.tokens,
        "trained_tokens": result.train.trained_tokens,
        "dropped": sum(account.rows for account in result.dropped),
    }
    if arguments.json:
        sequences = [_document(one) for one in shown]
        emit(json.dumps({"summary": summary, "sequences": sequences}, indent=2))
        return 0
    _print(shown, summary)
    return 0


def _packs(recipe: Recipe, folder: Path) -> list[list[int]]:
    """Which prepared sequences stand in each sequence that is shown: one, or where rows are packed, those that the
    first epoch packs together, in the order of training."""
    lengths = sequence_lengths(folder, "train")
    assert recipe.data is not None
    if recipe.data.packing is not True:
        return [[number] for number in range(len(lengths))]
    from hfkit.training.sampling import planned_sequences

    train = recipe.train or TrainSection()
    return planned_sequences(
        lengths,
        rows_a_step=train.batch_size,
        micro_batch_size=train.micro_batch_size,
        max_length=recipe.data.max_length,
        seed=recipe.seed,
    )


def _sequences(recipe: Recipe, folder: Path, packs: Sequence[Sequence[int]]) -> list[Shown]:
    from hfkit.models.loading import load_tokenizer

    assert recipe.model is not None
    # The sequences are prepared: plain text needed no chat template for it.
    tokenizer = load_tokenizer(recipe.model, chat=False)
    specials = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    prepared = iter(pick_sequences(folder, "train", [number for pack in packs for number in pack]))
    shown = []
    for pack in packs:
        members = [next(prepared) for _ in pack]
        ids = tuple(token for member in members for token in member.input_ids)
        shown.append(
            Shown(
                rows=tuple(member.row for member in members),
                input_ids=ids,
                trained=tuple(mark for member in members for mark in member.is_trained),
                text=_pieces(tokenizer, ids),
                special=tuple(token in specials for token in ids),
                borders=frozenset(itertools.accumulate(len(member.input_ids) for member in members[:-1])),
            )
        )
    return shown


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token by itself; a character split over tokens shows as the pieces it is."""
    return tuple(str(tokenizer.decode([token])) for token in ids)


def _document(shown: Shown) -> dict[str, object]:
    return {
        "input_ids": list(shown.input_ids),
        "train": list(shown.trained),
        "text": list(shown.text),
        "source_rows": list(shown.rows),
    }


def _print_examples(folder: Path, result: DataResult, count: int, *, as_json: bool) -> int:
    """Examples of a kind that is not rendered into tokens, as they are."""
    examples = [example.model_dump(mode="json") for example in itertools.islice(read_examples(folder, "train"), count)]
    summary = {"sequences": 0, "rows": result.train.rows, "tokens": 0, "trained_tokens": 0}
    if as_json:
        emit(json.dumps({"summary": summary, "sequences": [], "examples": examples}, indent=2))
        return 0
    emit("\n".join([*(json.dumps(one, indent=2, ensure_ascii=False) for one in examples), f"{result.train.rows} rows"]))
    return 0


def _print(sequences: Sequence[Shown], summary: dict[str, int]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    with console.capture() as captured:
        _draw(console, sequences, summary)
    emit(captured.get().rstrip("\n"), styled=True)


def _draw(console: Console, sequences: Sequence[Shown], summary: dict[str, int]) -> None:
    from rich.text import Text

    # Colours say what is trained; where there are none, brackets do.
    opening, closing = ("", "") if console.is_terminal else ("⟦", "⟧")
    for shown in sequences:
        head = f"── {one_line(', '.join(shown.rows))}: {sum(shown.trained)} of {len(shown.trained)} tokens trained"
        console.print(Text(head, style="bold"))
        line = Text()
        row = 0
        for place, (piece, trained) in enumerate(zip(shown.text, shown.trained, strict=True)):
            if place in shown.borders:
                row += 1
                line.append(
                    f"\n┄┄ {one_line(shown.rows[row])}: a row of its own, which sees nothing of the one before\n",
                    "cyan",
                )
            before = place > 0 and shown.trained[place - 1] and place not in shown.borders
            after = place + 1 < len(shown.trained) and shown.trained[place + 1] and place + 1 not in shown.borders
            if trained and not before:
                line.append(opening, "bold green")
            special = shown.special[place]
            line.append(harmless(piece), f"{'bold green' if trained else 'dim'}{' reverse' if special else ''}")
            if trained and not after:
                line.append(closing, "bold green")
        console.print(line)
        console.print()
    console.print(
        f"{summary['sequences']:,} sequences of {summary['rows']:,} rows, {summary['trained_tokens']:,} of "
        f"{summary['tokens']:,} tokens trained, {summary['dropped']:,} rows dropped"
    )

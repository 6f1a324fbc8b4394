"""Several sources into one order of training rows, the same for a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hfkit.errors import RequestError
from hfkit.recipe import MixSection

# How often all rows may come round until the last source is used up.
_MOST_ROUNDS = 100

Numbers = npt.NDArray[np.int64]


def sampled(numbers: Numbers, rows: int, seed: int) -> Numbers:
    """`rows` of the row numbers, drawn at random, in their old order; all where there are no more than that."""
    if rows >= len(numbers):
        return numbers
    chosen = np.random.default_rng(seed).choice(len(numbers), size=rows, replace=False)
    chosen.sort()
    return numbers[chosen]


def mixed(
    sources: Sequence[Numbers], weights: Sequence[float], mix: MixSection, seed: int
) -> Iterator[tuple[int, int]]:
    """(source, row number), in the order of the prepared dataset; within a source rows keep theirs.

    Concatenated, a source of weight 2.5 comes as two whole passes and half of its rows. Interleaved, each next row is
    drawn from a source with a chance in proportion to its weight; until `first`, that ends as soon as a source is used
    up; until `all`, once every source has been used up, and those that are short start again until then.

    Raises:
        RequestError: with these weights that would take too long.
    """
    if mix.how == "concatenate":
        yield from _concatenated(sources, weights, seed)
    else:
        yield from _interleaved(sources, weights, mix.until, seed)


def _concatenated(sources: Sequence[Numbers], weights: Sequence[float], seed: int) -> Iterator[tuple[int, int]]:
    for at, (numbers, weight) in enumerate(zip(sources, weights, strict=True)):
        whole = int(weight)
        passes = [numbers] * whole
        rest = round((weight - whole) * len(numbers))
        if not whole and len(numbers):
            rest = max(rest, 1)  # a source that is named gives something
        if rest:
            passes.append(sampled(numbers, rest, seed + at))
        for one in passes:
            for number in one.tolist():
                yield at, number


def _require_few_draws(sources: Sequence[Numbers], weights: Sequence[float], drawn_from: Sequence[int]) -> None:
    """A source that is hardly ever drawn from would be used up only after the others have come round endlessly."""
    total = sum(weights[at] for at in drawn_from)
    draws = {at: len(sources[at]) * total / weights[at] for at in drawn_from}
    slowest = max(drawn_from, key=lambda at: draws[at])
    rows = sum(len(sources[at]) for at in drawn_from)
    if draws[slowest] > _MOST_ROUNDS * rows:
        raise RequestError(
            f"data.mix: with a weight of {weights[slowest]:g} it takes about {draws[slowest]:,.0f} draws to use up "
            f"data.sources.{slowest}, {draws[slowest] / rows:,.0f} times all rows; raise its weight, or set "
            "data.mix.until=first"
        )


def _interleaved(
    sources: Sequence[Numbers], weights: Sequence[float], until: str, seed: int
) -> Iterator[tuple[int, int]]:
    drawn_from = [at for at, numbers in enumerate(sources) if len(numbers)]
    places = dict.fromkeys(drawn_from, 0)
    unfinished = set(drawn_from)
    if until == "all" and drawn_from:
        _require_few_draws(sources, weights, drawn_from)
    choose = random.Random(seed)
    while unfinished:
        at = choose.choices(drawn_from, [weights[source] for source in drawn_from])[0]
        yield at, int(sources[at][places[at]])
        places[at] += 1
        if places[at] == len(sources[at]):
            places[at] = 0
            unfinished.discard(at)
            if until == "first":
                return

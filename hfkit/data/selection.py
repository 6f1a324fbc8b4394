"""Which of the landed rows are trained on and which are tested on: duplicates, samples, splits, contamination."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.data.duplicates import NearDuplicates
from hfkit.data.landing import Landed
from hfkit.data.ledger import Account, Ledger
from hfkit.data.mixing import Numbers, sampled
from hfkit.data.splitting import choose_test_rows
from hfkit.recipe import DataSection

_NAMED = 5


@dataclass(slots=True)
class Sides:
    """For each source, the numbers of its rows on either side, ascending."""

    train: list[Numbers]
    test: list[Numbers]


def choose_rows(landed: Sequence[Landed], data: DataSection, seed: int, ledger: Ledger) -> Sides:
    """Raises RequestError where rows cannot be split as the recipe says."""
    numbers: list[Numbers] = [np.arange(len(source.keys)) for source in landed]
    if data.quality.duplicates == "drop":
        # Before the split, so that it deals each content out once; equal rows on two sides are contamination.
        for use in ("split", "train", "test"):
            alike = [at for at, source in enumerate(landed) if source.use == use]
            if alike:
                left = _without_repeats([landed[at] for at in alike], [numbers[at] for at in alike], ledger)
                for at, here in zip(alike, left, strict=True):
                    numbers[at] = here
    if data.quality.near_duplicates != "off":
        numbers = _without_near_duplicates(landed, numbers, data, ledger)
    numbers = [
        here if source.rows is None else sampled(here, source.rows, seed + at)
        for at, (source, here) in enumerate(zip(landed, numbers, strict=True))
    ]
    sides = _split(landed, numbers, data, seed)
    _drop_shared_groups(landed, sides, ledger)
    if data.quality.duplicates == "drop":
        # Sources that are all for one side can repeat what the split put there.
        sides.train = _without_repeats(landed, sides.train, ledger)
        sides.test = _without_repeats(landed, sides.test, ledger)
    return sides


def _without_repeats(landed: Sequence[Landed], numbers: Sequence[Numbers], ledger: Ledger) -> list[Numbers]:
    """Of rows with equal content the first stays."""
    keys = np.concatenate([source.keys[here] for source, here in zip(landed, numbers, strict=True)])
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    ends = np.cumsum([len(here) for here in numbers])
    left = []
    for source, here, mask in zip(landed, numbers, np.split(first, ends[:-1]), strict=True):
        _account(source, here[~mask], "says word for word what an earlier row says", ledger.merge_dropped)
        left.append(here[mask])
    return left


def _without_near_duplicates(
    landed: Sequence[Landed], numbers: Sequence[Numbers], data: DataSection, ledger: Ledger
) -> list[Numbers]:
    examples = itertools.chain.from_iterable(
        source.examples(here) for source, here in zip(landed, numbers, strict=True)
    )
    found = list(NearDuplicates(data.quality.similarity).add(examples))
    ends = np.cumsum([len(here) for here in numbers])
    words = f"says almost what an earlier row says (data.quality.similarity {data.quality.similarity:g})"
    dropping = data.quality.near_duplicates == "drop"
    left = []
    for source, here, end in zip(landed, numbers, ends.tolist(), strict=True):
        likes = found[end - len(here) : end]
        like = np.array([one is not None for one in likes], dtype=bool)
        details = [f"{one.similarity:.2f} like {one.of}" for one in likes if one is not None]
        _account(source, here[like], words, ledger.merge_dropped if dropping else ledger.merge_noted, details)
        left.append(here[~like] if dropping else here)
    return left


def _split(landed: Sequence[Landed], numbers: Sequence[Numbers], data: DataSection, seed: int) -> Sides:
    nothing = np.empty(0, dtype=np.int64)
    sides = Sides(
        [here if source.use == "train" else nothing for source, here in zip(landed, numbers, strict=True)],
        [here if source.use == "test" else nothing for source, here in zip(landed, numbers, strict=True)],
    )
    dealt = [at for at, source in enumerate(landed) if source.use == "split" and len(numbers[at])]
    if not dealt:
        return sides
    times = [landed[at].times for at in dealt]
    test = choose_test_rows(
        np.concatenate([landed[at].groups[numbers[at]] for at in dealt]),
        data.splits.test,
        seed,
        strata=np.concatenate([landed[at].strata[numbers[at]] for at in dealt]) if data.splits.stratify else None,
        times=np.concatenate([t[numbers[at]] for at, t in zip(dealt, times, strict=True) if t is not None])
        if data.splits.by == "time"
        else None,
    )
    ends = np.cumsum([len(numbers[at]) for at in dealt])
    for at, mask in zip(dealt, np.split(test, ends[:-1]), strict=True):
        sides.test[at] = numbers[at][mask]
        sides.train[at] = numbers[at][~mask]
    return sides


def _drop_shared_groups(landed: Sequence[Landed], sides: Sides, ledger: Ledger) -> None:
    """Sources that are all for one side can bring a group that the other side has."""
    trained = np.unique(np.concatenate([source.groups[here] for source, here in zip(landed, sides.train, strict=True)]))
    for at, source in enumerate(landed):
        shared = np.isin(source.groups[sides.test[at]], trained)
        _account(source, sides.test[at][shared], "test row whose group stands in training", ledger.merge_dropped)
        sides.test[at] = sides.test[at][~shared]


def drop_shown(landed: Sequence[Landed], sides: Sides, shown: Mapping[int, str], ledger: Ledger) -> None:
    """Take those test rows out that training shows: `shown` says where, by their number over all sources."""
    start = 0
    for at, here in enumerate(sides.test):
        details = [shown.get(number) for number in range(start, start + len(here))]
        start += len(here)
        mask = np.array([detail is not None for detail in details], dtype=bool)
        reason = "test row whose question or answer stands in training"
        _account(landed[at], here[mask], reason, ledger.merge_dropped, [d for d in details if d is not None])
        sides.test[at] = here[~mask]


def _account(
    source: Landed, numbers: Numbers, reason: str, count: Callable[[Account], None], details: Sequence[str] = ()
) -> None:
    if len(numbers):
        named = [example.id for example in source.examples(numbers[:_NAMED])]
        if details:
            named = [f"{id}: {detail}" for id, detail in zip(named, details, strict=False)]
        count(Account(reason=reason, rows=len(numbers), first=tuple(named)))

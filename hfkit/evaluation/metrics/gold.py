"""Which passages answer a grounded row, as its fact `gold` says it."""

from __future__ import annotations

from hfkit.evaluation.rows import GenerationRow

GOLD = "gold"


def gold_passages(row: GenerationRow) -> set[int] | None:
    """The numbers of the passages that answer: `facts["gold"]` is a number, a list of numbers where several do, or null
    where none does and the reader should abstain (then the set is empty). None where the row has no such fact.

    Raises:
        ValueError: the fact is neither a number, nor a list of different ones, nor null.
    """
    if GOLD not in row.facts:
        return None
    fact = row.facts[GOLD]
    numbers = [] if fact is None else fact if isinstance(fact, list) else [fact]
    found = {number for number in numbers if isinstance(number, int) and not isinstance(number, bool)}
    if len(found) < len(numbers):
        raise ValueError(f"the fact {GOLD} must be a passage's number, different numbers, or null; got {fact!r}")
    return found

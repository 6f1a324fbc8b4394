"""The account of every row that was dropped or changed: why, how many, and which."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_SHOWN = 5


class RowFault(Exception):
    """Why one row cannot be used.

    Attributes:
        reason: the kind of fault, the same for all rows that have it: "not valid JSON", "an empty turn".
        detail: what it is in this row, such as "messages.2.content is null"; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason
        self.detail = detail


class Account(BaseModel):
    """Rows that share a reason: how many, and the first few by name, with what was found in each."""

    model_config = ConfigDict(frozen=True)

    reason: str
    rows: int
    first: tuple[str, ...]


class Ledger:
    """Counts by reason. `drop` is for rows that are left out, `note` for rows that stay and should be known of."""

    def __init__(self) -> None:
        self._dropped: dict[str, tuple[int, list[str]]] = {}
        self._noted: dict[str, tuple[int, list[str]]] = {}

    def drop(self, reason: str, place: str, detail: str = "") -> None:
        _add(self._dropped, reason, place, detail)

    def note(self, reason: str, place: str, detail: str = "") -> None:
        _add(self._noted, reason, place, detail)

    def merge_dropped(self, account: Account) -> None:
        """Adds what was counted elsewhere."""
        _merge(self._dropped, account)

    def merge_noted(self, account: Account) -> None:
        _merge(self._noted, account)

    @property
    def dropped(self) -> tuple[Account, ...]:
        return _accounts(self._dropped)

    @property
    def noted(self) -> tuple[Account, ...]:
        return _accounts(self._noted)

    @property
    def rows_dropped(self) -> int:
        return sum(rows for rows, _ in self._dropped.values())


def _add(into: dict[str, tuple[int, list[str]]], reason: str, place: str, detail: str) -> None:
    rows, first = into.get(reason, (0, []))
    if len(first) < _SHOWN:
        first = [*first, f"{place}: {detail}" if detail else place]
    into[reason] = (rows + 1, first)


def _merge(into: dict[str, tuple[int, list[str]]], account: Account) -> None:
    rows, first = into.get(account.reason, (0, []))
    into[account.reason] = (rows + account.rows, [*first, *account.first][:_SHOWN])


def _accounts(counted: dict[str, tuple[int, list[str]]]) -> tuple[Account, ...]:
    return tuple(Account(reason=reason, rows=rows, first=tuple(first)) for reason, (rows, first) in counted.items())

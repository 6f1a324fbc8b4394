"""Which rows are kept out of training for validation: whole documents of the training side."""

from __future__ import annotations

from pathlib import Path

from hfkit.data.examples import Example
from hfkit.data.prepared import EXAMPLES, read_examples, shards
from hfkit.data.splitting import choose_test_rows
from hfkit.errors import RequestError


def hold_out(prepared: Path, share: float | int, seed: int) -> frozenset[str]:
    """The ids of the rows that are kept out: documents are drawn until they have `share` of the training side's rows.

    No row of the test side is ever among them: it is what the result is measured on in the end.

    Args:
        prepared: what the data stage left.
        share: of the rows (below 1), or how many of them.
        seed: of the order in which documents are drawn.

    Raises:
        RequestError: all rows are of one document, or no fewer rows are wanted than there are.
    """
    rows, documents = _rows_and_documents(prepared)
    if len(set(documents)) < 2:
        raise RequestError(
            "train.validation: whole documents are kept out of training, and all training rows are of one document; "
            "leave train.validation out, or set data.splits.by=row"
        )
    if isinstance(share, int) and share >= len(rows):
        raise RequestError(
            f"train.validation.share: {share} rows are to be taken out of training, which has {len(rows)}"
        )
    kept_out = choose_test_rows(documents, share, seed)
    return frozenset(row for row, out in zip(rows, kept_out, strict=True) if out)


def read_held_out(prepared: Path, held_out: frozenset[str]) -> list[Example]:
    """The rows themselves, in the order of the prepared dataset."""
    return [example for example in read_examples(prepared, "train") if example.id in held_out]


def _rows_and_documents(prepared: Path) -> tuple[list[str], list[str]]:
    """Of each row of the training side, its id and the document that it comes from."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["id", "document"]) for path in shards(prepared, EXAMPLES, "train")]
    rows = [str(row) for table in tables for row in table.column("id").to_pylist()]
    return rows, [str(document) for table in tables for document in table.column("document").to_pylist()]

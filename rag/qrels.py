"""Queries and the judgements of which documents answer them, read from a folder in BEIR's layout.

BEIR (Thakur et al. 2021) is the layout in which public retrieval corpora are handed around: `corpus.jsonl`,
`queries.jsonl` and `qrels/SPLIT.tsv`. `queries.jsonl` may be compressed (`.gz`), and `qrels-SPLIT.tsv` beside it is
read as well.
"""

from __future__ import annotations

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rag.errors import RagRequestError

_COLUMNS = 3
_GRADE = re.compile(r"[+-]?[0-9]{1,9}")


@dataclass(frozen=True)
class JudgedQueries:
    """The queries of one split that can be scored.

    Attributes:
        queries: query id -> text; only queries for which some document is relevant.
        relevant: query id -> document id -> grade, 1 or more; the same ids in the same order as `queries`.
        unknown: ids that the judgements name and `queries.jsonl` does not hold; nobody can ask them.
        unanswered: ids of queries without a relevant document (every grade is 0 or less); no metric is defined on them.
    """

    split: str
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]
    unknown: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()


def read_judged_queries(folder: Path, split: str) -> JudgedQueries:
    """The judged queries of `folder`, in the order of `queries.jsonl`. Grades above 0 say relevant; higher is more so.

    Raises:
        RagRequestError: the folder, its queries or the split is not there, a line is malformed (named by file and
            line), or no query has a relevant document.
    """
    texts = _read_queries(_queries_file(folder))
    place = _qrels_file(folder, split)
    grades = _read_qrels(place)
    relevant = {id: {doc: grade for doc, grade in grades[id].items() if grade > 0} for id in texts if id in grades}
    answered = {id: found for id, found in relevant.items() if found}
    unknown = tuple(id for id in grades if id not in texts)
    if not answered:
        if not grades:
            said = "it holds no judgement"
        elif len(unknown) == len(grades):
            said = f"none of its {len(grades)} queries is in {_queries_file(folder)} (the first is {unknown[0]!r})"
        else:
            said = "no query has a document of grade 1 or more"
        raise RagRequestError(f"{place}: {said}, so there is nothing to measure")
    return JudgedQueries(
        split=split,
        queries={id: texts[id] for id in answered},
        relevant=answered,
        unknown=unknown,
        unanswered=tuple(id for id, found in relevant.items() if not found),
    )


def judged_files(folder: Path, split: str) -> tuple[Path, Path]:
    """The files that `read_judged_queries` reads, queries first. Raises RagRequestError as it does."""
    return _queries_file(folder), _qrels_file(folder, split)


def splits(folder: Path) -> list[str]:
    """The splits for which `folder` has judgements, by name."""
    nested = [path.stem for path in folder.glob("qrels/*.tsv")]
    return sorted({*nested, *(path.stem.removeprefix("qrels-") for path in folder.glob("qrels-*.tsv"))})


def _queries_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise RagRequestError(f"there is no folder {folder}")
    for name in ("queries.jsonl", "queries.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise RagRequestError(f"{folder} holds no queries.jsonl, so it is no folder in BEIR's layout")


def _qrels_file(folder: Path, split: str) -> Path:
    # The split is a name, not a way out of the folder.
    if split in splits(folder):
        nested = folder / "qrels" / f"{split}.tsv"
        return nested if nested.is_file() else folder / f"qrels-{split}.tsv"
    there = splits(folder)
    if not there:
        raise RagRequestError(f"{folder} holds no judgements; they are expected in {folder / 'qrels' / split}.tsv")
    near = difflib.get_close_matches(split, there, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise RagRequestError(f"{folder} has no split {split!r}; it has {', '.join(there)}{hint}")


def _read_queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # nested a thousand levels deep, JSON ends in the latter
            raise RagRequestError(f"{path}:{number}: is no JSON; expected one object a line") from None
        if not isinstance(row, dict):
            raise RagRequestError(f'{path}:{number}: expected an object such as {{"_id": "1", "text": "…"}}')
        id, text = row.get("_id"), row.get("text")
        if isinstance(id, int) and not isinstance(id, bool):
            id = str(id)
        if not isinstance(id, str) or not id:
            raise RagRequestError(f"{path}:{number}: _id must be text that is not empty")
        if not isinstance(text, str) or not text.strip():
            raise RagRequestError(f"{path}:{number}: the text of query {id!r} is missing or empty")
        if id in texts:
            raise RagRequestError(f"{path}:{number}: a second query has the _id {id!r}")
        texts[id] = text
    return texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> document id -> grade, in the order of the file."""
    grades: dict[str, dict[str, int]] = {}
    first = True
    for number, line in _lines(path):
        columns = [column.strip() for column in line.split("\t")]
        heading, first = first and len(columns) == _COLUMNS and columns[2].lower() == "score", False
        if heading:
            continue
        if len(columns) != _COLUMNS:
            raise RagRequestError(
                f"{path}:{number}: expected 3 columns with tabs between them (query-id, corpus-id, score), got "
                f"{len(columns)}"
            )
        query, document, grade = columns
        if not query or not document:
            raise RagRequestError(f"{path}:{number}: the {'document' if query else 'query'}'s id is empty")
        if not _GRADE.fullmatch(grade):
            raise RagRequestError(f"{path}:{number}: the score must be a whole number, got {grade!r}")
        judged = grades.setdefault(query, {})
        if judged.setdefault(document, int(grade)) != int(grade):
            raise RagRequestError(
                f"{path}:{number}: query {query!r} and document {document!r} have been judged {judged[document]} "
                f"above and {int(grade)} here"
            )
    return grades


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) for each line that is not blank."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise RagRequestError(f"{path}:{number}: is not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except (OSError, EOFError, zlib.error) as error:  # gzip's own errors are OSErrors
        raise RagRequestError(f"{path} cannot be read: {error}") from error

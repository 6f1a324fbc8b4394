"""SQuAD's own files: articles of paragraphs of questions, as one row a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located, Row

_NOT_SQUAD = "not as SQuAD nests it"


def is_squad_article(row: Row) -> bool:
    paragraphs = row.get("paragraphs")
    return isinstance(paragraphs, list) and any(isinstance(one, Mapping) and "qas" in one for one in paragraphs)


def squad_rows(article: Row, place: str, ledger: Ledger) -> Iterator[Located]:
    """Each question with title and context, as the Hub's SQuAD has it: answers are two lists, text and answer_start."""
    for number, paragraph in enumerate(article["paragraphs"]):
        where = f"{place}.paragraphs[{number}]"
        if not isinstance(paragraph, Mapping) or not isinstance(paragraph.get("qas"), list):
            ledger.drop(_NOT_SQUAD, where, "a paragraph has a context and a list qas")
            continue
        context = paragraph.get("context")
        for position, question in enumerate(paragraph["qas"]):
            which = f"{where}.qas[{position}]"
            if not isinstance(question, Mapping) or not isinstance(context, str):
                ledger.drop(_NOT_SQUAD, which, "a question is an object, its paragraph's context is text")
                continue
            answers = _answers(question.get("answers"))
            if answers is None:
                ledger.drop(_NOT_SQUAD, which, "answers is a list of objects with text and answer_start")
                continue
            row = {
                "id": question.get("id"),
                "title": article.get("title"),
                "context": context,
                "question": question.get("question"),
                "answers": answers,
                "is_impossible": bool(question.get("is_impossible", False)),
            }
            yield row, which, len(context)


def _answers(found: object) -> dict[str, list[Any]] | None:
    """A question of SQuAD 2 that cannot be answered has no answers, or an empty list of them."""
    if found is None:
        found = []
    if not isinstance(found, list) or not all(isinstance(one, Mapping) and "text" in one for one in found):
        return None
    return {"text": [one["text"] for one in found], "answer_start": [one.get("answer_start") for one in found]}

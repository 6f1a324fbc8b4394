"""`question_answer`: a question and its answer, perhaps with the text that holds it, as SQuAD writes them.

    {"question": "Who wrote it?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}}

With a context the row becomes just what the app will ask: one numbered passage, a question, and a quoted answer that
cites the passage or says that the documents do not say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import SYSTEM
from hfkit.data.formats.turns import assistant, conversation_of, user, with_system
from hfkit.data.formats.values import is_list, is_text, is_truth, key_of, optional_text, parsed, text_of, truth_of
from hfkit.data.ledger import RowFault
from hfkit.data.sources.batch import Row
from hfkit.data.words import wording
from rag.answer import ABSTENTION, Passage, cited_answer, grounded_messages


def convert(values: Values, origin: Origin) -> Conversation:
    question = text_of(values["question"], "question")
    context = optional_text(values["context"], "context")
    answer = _answer(values, origin)
    if context is None:
        if answer is None:
            raise RowFault("a question without an answer", "and without a context that could say so")
        turns = with_system((user(question), assistant(answer)), optional_text(values["system"], "system"), origin)
        return conversation_of(turns, (), origin)
    if not question.strip():
        raise RowFault("an empty question")
    title = optional_text(values["title"], "title")
    if answer is not None and answer not in context:
        origin.note("answers that do not stand in their context word for word")
    passage = Passage(heading_path=() if title is None else (title,), text=context)
    prompt = tuple(
        Turn(role=message["role"], content=message["content"]) for message in grounded_messages(question, [passage])
    )
    reply = ABSTENTION if answer is None else cited_answer(answer, 1)
    document = origin.document
    if document is None:
        # All questions about one article, or one paragraph, stand on one side of a split.
        document = key_of(context, "context") if title is None else title
    return Conversation(
        id=origin.id,
        document=document,
        messages=(*prompt, assistant(reply)),
        grounding=Grounding(question=question, gold=None if answer is None else 1),
        metadata=origin.metadata,
    )


def articles_flattened(row: Row) -> Iterator[Row]:
    """The questions of one article as SQuAD's own JSON nests them; any other row as it is.

    An article is `{"title": ..., "paragraphs": [{"context": ..., "qas": [{"question": ..., "answers": ...}]}]}`.
    """
    if not _is_article(row) or not any(paragraph["qas"] for paragraph in row["paragraphs"]):
        yield row
        return
    for paragraph in row["paragraphs"]:
        for asked in paragraph["qas"]:
            yield {"title": row.get("title"), "context": paragraph.get("context"), **asked}


def _is_article(row: Row) -> bool:
    paragraphs = row.get("paragraphs")
    return isinstance(paragraphs, list | tuple) and all(
        isinstance(paragraph, Mapping)
        and is_list(paragraph.get("qas"))
        and all(isinstance(asked, Mapping) for asked in paragraph["qas"])
        for paragraph in paragraphs
    )


def _answer(values: Values, origin: Origin) -> str | None:
    """The answer that is trained; None where the row says that there is none: by its mark, or by an empty list.

    A null or a blank is no such statement: it may as well be a value that was lost.
    """
    mark = values["unanswerable"]
    unanswerable = mark is not None and truth_of(mark, "unanswerable", "a mark that is neither true nor false")
    if unanswerable:
        return None
    given = _answers(values["answers"])
    if not given and mark is None:
        return None
    if not any(text.strip() for text in given):
        raise RowFault("a question without an answer", "an empty list of answers says that there is none")
    # Several annotators: the answer that most of them gave, the first where none leads.
    counted = Counter(wording(text) for text in given if text.strip())
    if len(counted) > 1:
        origin.note("questions with several different answers, of which one is used")
    return max((text for text in given if text.strip()), key=lambda text: counted[wording(text)])


def _answers(value: Any) -> tuple[str, ...]:
    answers = parsed(value, "answers")
    if isinstance(answers, Mapping):
        answers = answers.get("text")
    if not is_list(answers):
        return (text_of(answers, "answers"),)
    texts = [answer.get("text") if isinstance(answer, Mapping) else answer for answer in answers]
    return tuple(text_of(text, f"answers.{number}") for number, text in enumerate(texts))


def _looks_like_answers(value: Any) -> bool:
    if isinstance(value, Mapping):
        return is_list(value.get("text")) or is_text(value.get("text"))
    if is_list(value):
        return all(is_text(item) or (isinstance(item, Mapping) and is_text(item.get("text"))) for item in value)
    return is_text(value)


QUESTION_ANSWER = Format(
    name="question_answer",
    kind="conversation",
    fields=(
        FormatField("question", is_text, "text", ("query",)),
        FormatField("answers", _looks_like_answers, "text, a list of texts, or SQuAD's answers", ("answer",)),
        FormatField("context", is_text, "text", ("passage", "paragraph"), required=False),
        FormatField("title", is_text, "text", required=False),
        FormatField("unanswerable", is_truth, "true or false", ("is_impossible",), required=False),
        SYSTEM,
    ),
    convert=convert,
    becomes="a question with its answer, over one numbered passage where there is a context",
)

"""Instructions that code can check, as IFEval has them (Zhou et al. 2023, arXiv:2311.07911).

A row says in `facts["instruction_id_list"]` which, such as `length_constraints:number_words`, and in `facts["kwargs"]`
with what arguments, one mapping each; that is the layout of IFEval's published rows. Nothing here depends on a
language: what IFEval gives to a language detector (`language:response_language`) is not checked, and a row that asks
for it is not scored; sentences end where their punctuation says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics.row_mean import RowMean, asked_and_said, ratio, reply_score
from hfkit.evaluation.rows import Answer, GenerationRow, Row

INSTRUCTIONS = "instruction_id_list"
ARGUMENTS = "kwargs"

_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|[。！？]+")
_CAPITAL_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_FENCE = re.compile(r"\A```(?:json|Json|JSON)?|```\Z")


class Arguments:
    """What an instruction is given; an argument that is missing, or of another type, is named."""

    def __init__(self, given: Mapping[str, JsonValue]) -> None:
        self._given = given

    def number(self, name: str) -> int:
        value = self._given.get(name)
        if isinstance(value, int | float) and value == int(value):
            return int(value)
        raise ValueError(f"needs a whole number as {name}, has {value!r}")

    def text(self, name: str) -> str:
        value = self._given.get(name)
        if isinstance(value, str):
            return value
        raise ValueError(f"needs a text as {name}, has {value!r}")

    def texts(self, name: str) -> list[str]:
        value = self._given.get(name)
        if isinstance(value, list):
            return [str(one) for one in value]
        raise ValueError(f"needs a list of texts as {name}, has {value!r}")

    def allow(self, count: int, number: str, relation: str) -> bool:
        """Whether `count` is less than, or at least, the argument `number`, as the argument `relation` says."""
        said = self._given.get(relation) or "at least"
        if said not in ("less than", "at least"):
            raise ValueError(f"{relation} must be less than or at least, is {said!r}")
        return count < self.number(number) if said == "less than" else count >= self.number(number)


Check = Callable[[str, Arguments], bool]


def _contains(text: str, word: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


def _existence(reply: str, given: Arguments) -> bool:
    return all(_contains(reply, keyword) for keyword in given.texts("keywords"))


def _frequency(reply: str, given: Arguments) -> bool:
    return given.allow(_contains(reply, given.text("keyword")), "frequency", "relation")


def _forbidden_words(reply: str, given: Arguments) -> bool:
    words = given.texts("forbidden_words")
    return not any(re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in words)


def _letter_frequency(reply: str, given: Arguments) -> bool:
    return given.allow(reply.lower().count(given.text("letter").lower()), "let_frequency", "let_relation")


def _number_words(reply: str, given: Arguments) -> bool:
    return given.allow(len(re.findall(r"\w+", reply)), "num_words", "relation")


def _number_sentences(reply: str, given: Arguments) -> bool:
    pieces = [piece for piece in _SENTENCE_END.split(reply) if piece.strip()]
    return given.allow(len(pieces), "num_sentences", "relation")


def _number_paragraphs(reply: str, given: Arguments) -> bool:
    """Parted by `***`, of which one may stand before the first and after the last."""
    first, *others = re.split(r"\s?\*\*\*\s?", reply)
    paragraphs = [first, *others]
    inner = paragraphs[1:-1]
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    return all(paragraph.strip() for paragraph in inner) and filled == given.number("num_paragraphs")


def _first_word(reply: str, given: Arguments) -> bool:
    """Paragraphs are parted by an empty line; the one that is asked for starts with the word."""
    pieces = reply.split("\n\n")
    count, asked = sum(bool(piece.strip()) for piece in pieces), given.number("nth_paragraph")
    if count != given.number("num_paragraphs") or not 1 <= asked <= count or not pieces[asked - 1].strip():
        return False
    word = pieces[asked - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == given.text("first_word").lower()


def _placeholders(reply: str, given: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", reply)) >= given.number("num_placeholders")


def _postscript(reply: str, given: Arguments) -> bool:
    marker = given.text("postscript_marker").strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(spaced.get(marker, re.escape(marker.lower())), reply.lower()) is not None


def _bullets(reply: str, given: Arguments) -> bool:
    """Lines that start with `-`, or with one `*`."""
    stars = re.findall(r"^\s*\*[^*].*$", reply, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", reply, re.MULTILINE)
    return len(stars) + len(dashes) == given.number("num_bullets")


def _constrained(reply: str, given: Arguments) -> bool:
    return any(option in reply for option in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


def _highlights(reply: str, given: Arguments) -> bool:
    """`*So*` counts once and `**so**` as well, empty ones do not."""
    single = [one for one in re.findall(r"\*[^\n*]*\*", reply) if one.strip("*").strip()]
    double = [one for one in re.findall(r"\*\*[^\n*]*\*\*", reply) if one[2:-2].strip()]
    return len(single) + len(double) >= given.number("num_highlights")


def _sections(reply: str, given: Arguments) -> bool:
    marks = re.findall(rf"\s?{re.escape(given.text('section_spliter'))}\s?\d+\s?", reply)
    return len(marks) >= given.number("num_sections")


def _json(reply: str, given: Arguments) -> bool:
    inside = _FENCE.sub("", reply.strip()).strip()
    try:
        json.loads(inside)
    except (ValueError, RecursionError):
        return False
    return True


def _title(reply: str, given: Arguments) -> bool:
    return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", reply))


def _two_responses(reply: str, given: Arguments) -> bool:
    """Parted by six asterisks, and not the same."""
    pieces = [piece.strip() for piece in reply.split("******")]
    filled = [piece for piece in pieces if piece]
    return all(pieces[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def _repeat_prompt(reply: str, given: Arguments) -> bool:
    return reply.strip().lower().startswith(given.text("prompt_to_repeat").strip().lower())


def _end(reply: str, given: Arguments) -> bool:
    return reply.strip().strip('"').lower().endswith(given.text("end_phrase").strip().lower())


def _quotation(reply: str, given: Arguments) -> bool:
    said = reply.strip()
    return len(said) > 1 and said[0] == said[-1] == '"'


def _capital_words(reply: str, given: Arguments) -> bool:
    words = [word for word in _CAPITAL_WORD.findall(reply) if word.isupper()]
    return given.allow(len(words), "capital_frequency", "capital_relation")


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _existence,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "length_constraints:number_words": _number_words,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda reply, given: reply.isupper(),
    "change_case:english_lowercase": lambda reply, given: reply.islower(),
    "punctuation:no_comma": lambda reply, given: "," not in reply,
}


def followed(reply: str, row: GenerationRow) -> list[bool] | None:
    """Which of the row's instructions the reply follows, none where it is empty; None where the row has none, or one
    that is not checked here.

    Raises:
        ValueError: the facts are not as IFEval has them, or an instruction lacks an argument.
    """
    ids, given = row.facts.get(INSTRUCTIONS), row.facts.get(ARGUMENTS)
    if not ids:
        return None
    if not isinstance(ids, list) or not isinstance(given, list) or len(ids) != len(given):
        raise ValueError(f"the facts {INSTRUCTIONS} and {ARGUMENTS} must be lists of the same length")
    found = []
    for id, arguments in zip(ids, given, strict=True):
        check = CHECKS.get(str(id))
        if check is None:
            return None
        try:
            holds = check(reply, Arguments(arguments if isinstance(arguments, dict) else {}))
        except ValueError as error:
            raise ValueError(f"{id}: {error}") from error
        found.append(bool(reply.strip()) and holds)
    return found


def _all(reply: str, row: GenerationRow) -> float | None:
    found = followed(reply, row)
    return None if found is None else float(all(found))


@dataclass(frozen=True, slots=True)
class EachInstruction:
    """The share of all instructions that is followed. The numbers of a row: instructions followed, instructions."""

    name: str
    title: str
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        numbers: list[Sequence[float] | None] = []
        for asked, reply in (asked_and_said(row, answer) for row, answer in zip(rows, answers, strict=True)):
            found = followed(reply or "", asked)
            numbers.append(None if found is None else (float(sum(found)), float(len(found))))
        return numbers

    def value(self, sums: Numbers) -> Numbers:
        return ratio(sums[..., 0], sums[..., 1])


def metric(name: str) -> Metric:
    if name == "constraints_each":
        return EachInstruction(name, "instructions followed, each")
    return RowMean(name, "all instructions followed", reply_score(_all), is_binary=True)

"""`text_pair`: two texts that belong together, or that are alike to a degree.

{"sentence1": "A man sleeps.", "sentence2": "Somebody is asleep.", "score": 4.6}
{"anchor": "What is BM25?", "positive": "A ranking function over words."}
"""

from __future__ import annotations

from collections.abc import Mapping

from hfkit.data.examples import TextPair
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.values import is_decimal, is_number, is_text, number_of, text_of

_FIRST = ("anchor", "sentence1", "sentence_1", "sentence_a", "text1", "text_1", "text_a", "premise", "question1")
_SECOND = ("positive", "sentence2", "sentence_2", "sentence_b", "text2", "text_2", "text_b", "hypothesis", "question2")


def convert(values: Values, origin: Origin) -> TextPair:
    score = values["label"] if values["score"] is None else values["score"]
    return TextPair(
        id=origin.id,
        document=origin.id if origin.document is None else origin.document,
        metadata=origin.metadata,
        first=text_of(values["first"], "first"),
        second=text_of(values["second"], "second"),
        score=None if score is None else number_of(score, "score"),
    )


def _belongs(columns: Mapping[str, str]) -> bool:
    # Halves of two ways to name a pair, such as premise and positive, are no pair; what the recipe maps is.
    first, second = columns["first"], columns["second"]
    if first not in _FIRST or second not in _SECOND:
        return True
    return _FIRST.index(first) == _SECOND.index(second)


TEXT_PAIR = Format(
    name="text_pair",
    kind="text_pair",
    fields=(
        FormatField("first", is_text, "text", _FIRST),
        FormatField("second", is_text, "text", _SECOND),
        FormatField("score", is_number, "a number", ("similarity", "similarity_score"), required=False),
        # Whole numbers there are classes, and the format is another.
        FormatField("label", is_decimal, "a number with decimals", required=False),
    ),
    convert=convert,
    becomes="a pair of texts",
    belongs=_belongs,
)

"""`labelled_text`: a text, or two, and the class.

{"text": "Where is my parcel?", "label": "delivery"}
{"text1": "A man sleeps.", "text2": "A man is awake.", "label": "contradiction"}
"""

from __future__ import annotations

from hfkit.data.examples import LabelledText
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.values import class_of, is_class, is_text, text_of


def convert(values: Values, origin: Origin) -> LabelledText:
    second = values["second_text"]
    return LabelledText(
        id=origin.id,
        document=origin.id if origin.document is None else origin.document,
        metadata=origin.metadata,
        text=text_of(values["text"], "text"),
        second_text=None if second is None else text_of(second, "second_text"),
        label=class_of(values["label"], "label"),
    )


LABELLED_TEXT = Format(
    name="labelled_text",
    kind="labelled_text",
    fields=(
        FormatField(
            "text",
            is_text,
            "text",
            ("sentence", "text1", "text_1", "text_a", "sentence1", "sentence_1", "sentence_a", "premise", "question1"),
        ),
        FormatField(
            "label", is_class, "a word or a whole number", ("labels",), loose=("class", "category", "intent", "topic")
        ),
        FormatField(
            "second_text",
            is_text,
            "text",
            ("text2", "text_2", "text_b", "sentence2", "sentence_2", "sentence_b", "hypothesis", "question2"),
            required=False,
        ),
    ),
    convert=convert,
    becomes="a text with its class",
)

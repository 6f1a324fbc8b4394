"""`text`: running text, all of which is trained.

{"text": "BM25 ranks documents by the words that they share with a query."}
"""

from __future__ import annotations

from hfkit.data.examples import PlainText
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.values import is_text, text_of


def convert(values: Values, origin: Origin) -> PlainText:
    return PlainText(
        id=origin.id,
        document=origin.id if origin.document is None else origin.document,
        metadata=origin.metadata,
        text=text_of(values["text"], "text"),
    )


TEXT = Format(
    name="text",
    kind="text",
    fields=(FormatField("text", is_text, "text"),),
    convert=convert,
    becomes="text to be continued",
)

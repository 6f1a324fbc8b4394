"""Text from elsewhere (documents, rows, file names, recipes) in the Markdown that hfkit writes."""

from __future__ import annotations

import re

from hfkit.output import one_line

# What would start markup in Markdown. A dot or a dash is harmless inside a line.
_MARKUP = re.compile(r"([\\`*_{}\[\]>#|~$&!])")


def escaped(text: str) -> str:
    """Text of one line that Markdown shows as it is, and no reader of HTML takes for a tag."""
    return _MARKUP.sub(r"\\\1", one_line(text)).replace("<", "&lt;")

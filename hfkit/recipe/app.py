"""`app`: the page on which questions are asked."""

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field

from hfkit.recipe.section import Section, Text


class AppSection(Section):
    """The Gradio app."""

    title: Text = Field(default="Ask the documents", description="Heading of the page.")
    examples: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Questions that are offered on the empty page."
    )
    host: Text = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 lets other machines in.")
    port: Annotated[int, Ge(1), Le(65535)] | None = Field(
        default=None, description="Port to listen on; null takes the first free one from 7860."
    )
    max_new_tokens: Annotated[int, Ge(1)] = Field(
        default=200, description="Longest answer that is generated, in tokens."
    )

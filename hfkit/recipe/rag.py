"""`rag`: which documents are indexed, and how they are searched."""

from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from hfkit.recipe.section import Section, Text, broken_rule


class ChunkSection(Section):
    """How documents are cut into the pieces that are retrieved."""

    tokens: Annotated[int, Ge(16)] = Field(default=200, description="Longest chunk, in tokens of the embedder.")
    overlap: Annotated[int, Ge(0)] = Field(
        default=30, description="Tokens that a chunk repeats from the end of the one before; fewer than tokens."
    )
    splitter: Literal["structure", "recursive"] = Field(
        default="structure",
        description="Where text is cut: along headings and paragraphs, or at the largest separator that fits.",
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> "ChunkSection":
        if self.overlap >= self.tokens:
            said = "" if "overlap" in self.model_fields_set else ", which is the default"
            raise broken_rule("overlap", f"expected less than tokens ({self.tokens}), got {self.overlap}{said}")
        return self


class SearchSection(Section):
    """How chunks are found for a question."""

    mode: Literal["hybrid", "dense", "lexical"] = Field(
        default="hybrid",
        description="What ranks the chunks: meaning (dense), words (lexical), or both together (hybrid).",
    )
    top_k: Annotated[int, Ge(1), Le(50)] = Field(default=5, description="Chunks that are handed to the reader.")


class RagSection(Section):
    """The index over the documents."""

    documents: Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        description="Files, folders or globs; python-docstrings: is the standard library's documentation, "
        "python-docstrings:json,pathlib that of those modules."
    )
    embedder: Text = Field(
        default="embedded:all-minilm-l6-v2", description="The embedding model: embedded:NAME, a Hub id, or a folder."
    )
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit of a Hub embedder; null takes its default branch."
    )
    chunk: ChunkSection = Field(default=ChunkSection(), description="How documents are cut into chunks.")
    search: SearchSection = Field(default=SearchSection(), description="How chunks are ranked and how many are taken.")

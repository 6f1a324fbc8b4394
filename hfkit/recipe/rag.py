"""`rag`: which documents are indexed, and how they are searched."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from hfkit.recipe.section import Expected, Section, Text, broken_rule

Splitter = Literal[
    "structure",
    "recursive",
    "RecursiveCharacterTextSplitter",
    "CharacterTextSplitter",
    "MarkdownTextSplitter",
    "PythonCodeTextSplitter",
    "LatexTextSplitter",
]


class ChunkSection(Section):
    """How documents are cut into the pieces that are retrieved."""

    tokens: Annotated[int, Ge(16)] = Field(default=200, description="Longest chunk, in tokens of the embedder.")
    overlap: Annotated[int, Ge(0)] = Field(
        default=30, description="Tokens that a chunk repeats from the end of the one before; fewer than tokens."
    )
    splitter: Splitter = Field(
        default="structure",
        description="Where text is cut: structure follows headings, paragraphs, lists, tables and code; the others are "
        "LangChain's text splitters by name (recursive is RecursiveCharacterTextSplitter).",
    )

    @model_validator(mode="after")
    def _overlap_fits(self) -> "ChunkSection":
        if self.overlap >= self.tokens:
            said = "" if "overlap" in self.model_fields_set else ", which is the default"
            raise broken_rule("overlap", f"expected less than tokens ({self.tokens}), got {self.overlap}{said}")
        return self


class VectorsSection(Section):
    """How the vectors are kept and searched."""

    type: Literal["auto", "flat", "hnsw", "ivf"] = Field(
        default="auto",
        description="Compare with every vector (flat), follow a graph (hnsw), or look into the nearest clusters (ivf); "
        "auto takes flat up to 50,000 chunks, hnsw up to 100,000 and ivf above.",
    )
    storage: Literal["float32", "float16", "int8", "binary"] = Field(
        default="float32",
        description="What a number of a vector takes: 4, 2 or 1 bytes, or one bit, with which the candidates are found "
        "that float16 then ranks.",
    )

    @model_validator(mode="after")
    def _graphs_hold_numbers(self) -> "VectorsSection":
        if self.type == "hnsw" and self.storage == "binary":
            raise broken_rule("storage", "expected float32, float16 or int8 with type hnsw, got binary")
        return self


# `rag.filters` checks it, before anything is searched.
FilterCondition = Annotated[
    Any, Expected("a value, a list of values, or a mapping of operators such as gte", "values, lists or mappings")
]


class SearchSection(Section):
    """How chunks are found for a question."""

    mode: Literal["hybrid", "dense", "lexical"] = Field(
        default="hybrid",
        description="What ranks the chunks: meaning (dense), words (lexical), or both together (hybrid).",
    )
    top_k: Annotated[int, Ge(1), Le(50)] = Field(default=5, description="Chunks that are handed to the reader.")
    fusion: Literal["convex", "rrf"] = Field(
        default="convex",
        description="How hybrid search merges: by adding scores with a weight (convex), or by ranks alone (rrf).",
    )
    dense_weight: Annotated[float, Ge(0), Le(1)] = Field(
        default=0.5, description="What meaning counts in the convex fusion; words count the rest."
    )
    rerank: Text | None = Field(
        default=None,
        description="A sentence-transformers CrossEncoder, a Hub id or a folder, that ranks the best candidates anew.",
    )
    rerank_candidates: Annotated[int, Ge(1), Le(1000)] = Field(default=50, description="How many it reads.")
    diversity: Annotated[float, Ge(0), Le(1)] = Field(
        default=0.0, description="From 0 (the most relevant chunks) to 1 (the most unlike): maximal marginal relevance."
    )
    filter: dict[Text, FilterCondition] | None = Field(
        default=None,
        description="Which documents may be found, by document, source, title or metadata: {year: {gte: 2020}}.",
    )
    per_document: Annotated[int, Ge(1)] | None = Field(default=None, description="The most chunks of one document.")
    neighbours: Annotated[int, Ge(0), Le(10)] = Field(
        default=0, description="Chunks before and after a found one that are handed over with it."
    )
    min_similarity: Annotated[float, Ge(-1), Le(1)] | None = Field(
        default=None, description="Chunks whose cosine to the question is lower are left out."
    )


class RagSection(Section):
    """The index over the documents."""

    documents: Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        description="Files, folders, globs, archives and https:// addresses; python-docstrings: is the standard "
        "library's documentation, python-docstrings:json,pathlib that of those modules; beir:FOLDER a corpus in BEIR's "
        "layout; dataset:WHERE#text=COLUMN the rows of a table."
    )
    hosts: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(),
        description="Hosts that addresses among the documents may be fetched from, as docs.example.org; no others are.",
    )
    embedder: Text = Field(
        default="embedded:all-minilm-l6-v2", description="The embedding model: embedded:NAME, a Hub id, or a folder."
    )
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit of a Hub embedder; null takes its default branch."
    )
    chunk: ChunkSection = Field(default=ChunkSection(), description="How documents are cut into chunks.")
    index: VectorsSection = Field(default=VectorsSection(), description="How vectors are kept and searched.")
    search: SearchSection = Field(default=SearchSection(), description="How chunks are ranked and how many are taken.")

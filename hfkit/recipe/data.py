"""`data`: where the training examples come from, and how they are split."""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Discriminator, Field, Tag

from hfkit.recipe.section import FilePath, Section, Text


class PathSource(Section):
    """Examples that lie in a file."""

    path: FilePath = Field(description='A JSONL file, one {"messages": [...]} conversation a line.')


class SynthesizeSection(Section):
    """How questions and answers are written from the documents of `rag`."""

    documents: Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] | None = Field(
        default=None,
        description="Globs over document ids that pick the documents to write about; null takes all of them.",
    )
    questions: Annotated[int, Ge(1)] = Field(default=4, description="Questions written about one document, at most.")
    rows: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Rows written in all, at most; null sets no such limit."
    )
    passages: Annotated[int, Ge(2), Le(50)] = Field(
        default=4, description="Passages shown with each question, the one that holds the answer among them."
    )
    unanswerable: Annotated[float, Ge(0), Le(1)] = Field(
        default=0.25,
        description="Share of the rows whose passages do not hold the answer, so that the reader learns to say so.",
    )


class SynthesizeSource(Section):
    """Examples that are written from the documents of `rag`."""

    synthesize: SynthesizeSection = Field(description="Write examples from the documents; {} takes every default.")


class SplitsSection(Section):
    """What is kept back from training."""

    test: Annotated[float, Gt(0), Lt(1)] = Field(
        default=0.2, description="Share that is kept for evaluation, never trained on."
    )
    by: Literal["document", "row"] = Field(
        default="document",
        description="What is dealt out: whole documents, so that no document is on both sides, or rows.",
    )


def _source_kind(value: object) -> str | None:
    """Which kind of source `value` is, by the key it has; None where it has none of them, or more than one."""
    if isinstance(value, PathSource | SynthesizeSource):
        return type(value).__name__
    if not isinstance(value, Mapping):
        return None
    kinds = {"path": "PathSource", "synthesize": "SynthesizeSource"}
    named = [kind for key, kind in kinds.items() if key in value]
    return named[0] if len(named) == 1 else None


DataSource = Annotated[
    Annotated[PathSource, Tag("PathSource")] | Annotated[SynthesizeSource, Tag("SynthesizeSource")],
    Discriminator(_source_kind),
]
"""One source of examples. Each kind is named by the one key that it has."""


class DataSection(Section):
    """The examples that the model is trained and evaluated on."""

    sources: Annotated[tuple[DataSource, ...], MinLen(1), Field(strict=False)] = Field(
        description="Where examples come from; each item has exactly one of the keys path, synthesize."
    )
    splits: SplitsSection = Field(default=SplitsSection(), description="How examples are split into training and test.")
    max_length: Annotated[int, Ge(16)] = Field(
        default=1024,
        description="Longest training sequence, in tokens of the model; longer rows are counted and named.",
    )

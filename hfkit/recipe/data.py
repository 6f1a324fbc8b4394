"""`data`: where the training examples come from, how they are mixed, checked and split."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Discriminator, Field, Tag, model_validator

from hfkit.recipe.section import Expected, PathOrGlob, Scalar, Section, Text, broken_rule

FormatName = Literal[
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "text",
    "preference",
    "rated_reply",
    "labelled_text",
    "text_pair",
    "retrieval",
    "question_answer",
]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_PERCENT = r"^ *(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?) *% *$"


class SourceOptions(Section):
    """What every source of ready-made examples may say beside where it lies."""

    format: Literal["auto"] | FormatName = Field(
        default="auto", description="The shape of a row; auto detects it and says what it took it for."
    )
    fields: Mapping[Text, Text] = Field(
        default={}, description="Columns under other names, as FIELD: COLUMN, such as prompt: question."
    )
    weight: Annotated[float, Gt(0), Le(100)] = Field(
        default=1.0,
        description="How often a training row of this source is used: 0.5 draws half of the rows, 2 takes each twice; "
        "with data.mix.how=interleave, the source's share of the draws.",
    )
    rows: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Rows drawn from this source at most, at random under the seed; null takes all."
    )
    system: Text | None = Field(
        default=None, description="A system prompt for those conversations of this source that have none."
    )
    group: Text | None = Field(
        default=None, description="The column that names a row's group; a group is never on both sides of a split."
    )
    keep: Annotated[tuple[Text, ...], Field(strict=False)] = Field(
        default=(), description="Columns that are carried along as metadata, for slices of a report."
    )
    use: Literal["split", "train", "test"] = Field(
        default="split", description="Whether the rows are split as data.splits says, or are all for one side."
    )


class PathSource(SourceOptions):
    """Examples that lie in files."""

    path: PathOrGlob = Field(
        description="A JSON, JSONL, CSV, TSV, Parquet or text file (.gz too), a folder of them, or a glob."
    )


class HubSource(SourceOptions):
    """Examples of a dataset on the Hub."""

    hub: Text = Field(description="The dataset's Hub id, such as rajpurkar/squad.")
    config: Text | None = Field(default=None, description="The dataset's configuration, where it has several.")
    split: Text = Field(default="train", description="The dataset's split that is read.")
    revision: Text | None = Field(default=None, description="Branch, tag or commit; null takes the default branch.")
    streaming: bool = Field(default=False, description="Read without storing the whole dataset first.")


class SqlSource(SourceOptions):
    """Examples that a database gives."""

    sql: Text = Field(description="The query; values are bound as :name, never pasted in.")
    url: Text = Field(
        description="The database as SQLAlchemy writes it, such as sqlite:///chats.db; env:NAME takes it from the "
        "environment, so that no password stands in the recipe."
    )
    parameters: Mapping[Text, Scalar] = Field(default={}, description="The values that the query's :names stand for.")


class CallableSource(SourceOptions):
    """Examples that a Python function gives; only where the recipe says allow_code: true."""

    callable: Annotated[
        str,
        Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"),
        Expected("a function as package.module:function", "functions as package.module:function"),
    ] = Field(description="A function that yields rows as mappings, as package.module:function.")
    arguments: Mapping[Text, Scalar] = Field(default={}, description="Keyword arguments that it is called with.")


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


ReadSource: TypeAlias = PathSource | HubSource | SqlSource | CallableSource
"""A source of ready-made examples."""

# By the one key that only it has.
_KINDS: Mapping[str, type[ReadSource] | type[SynthesizeSource]] = {
    "path": PathSource,
    "hub": HubSource,
    "sql": SqlSource,
    "callable": CallableSource,
    "synthesize": SynthesizeSource,
}


def _source_kind(value: object) -> str | None:
    """Which kind of source `value` is, by the key it has; None where it has none of them, or more than one."""
    if isinstance(value, SourceOptions | SynthesizeSource):
        return type(value).__name__
    if not isinstance(value, Mapping):
        return None
    named = [kind.__name__ for key, kind in _KINDS.items() if key in value]
    return named[0] if len(named) == 1 else None


DataSource = Annotated[
    Annotated[PathSource, Tag("PathSource")]
    | Annotated[HubSource, Tag("HubSource")]
    | Annotated[SqlSource, Tag("SqlSource")]
    | Annotated[CallableSource, Tag("CallableSource")]
    | Annotated[SynthesizeSource, Tag("SynthesizeSource")],
    Discriminator(_source_kind),
]
"""One source of examples. Each kind is named by the one key that only it has."""


class SplitsSection(Section):
    """What is kept back from training."""

    test: Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)] = Field(
        default=0.2, description="Rows kept for evaluation, never trained on: a share such as 0.2, or a count."
    )
    by: Literal["document", "row", "time"] = Field(
        default="document",
        description="What is dealt out: whole documents (or groups, where a source names group), so that none is on "
        "both sides; rows; or time, where the newest rows are for testing.",
    )
    key: Text | None = Field(default=None, description="The column that says when, for by: time.")
    stratify: Text | None = Field(
        default=None,
        description="The field whose values have the same shares on both sides, such as label, or a column kept.",
    )

    @model_validator(mode="after")
    def _time_has_a_key(self) -> "SplitsSection":
        if self.by == "time" and self.key is None:
            raise broken_rule("key", "by: time needs the column that says when, such as key: created_at")
        if self.by == "time" and self.stratify is not None:
            raise broken_rule("stratify", "cannot be had together with by: time; leave one of them out")
        return self


class MixSection(Section):
    """How the training rows of several sources become one order."""

    how: Literal["concatenate", "interleave"] = Field(
        default="concatenate", description="All rows of all sources, or rows drawn from the sources in turn."
    )
    until: Literal["first", "all"] = Field(
        default="all",
        description="When interleaving ends: once the first source is used up, or all are (others then start again).",
    )


Percentage = Annotated[str, Field(pattern=_PERCENT), Expected("a percentage such as 2%", "percentages such as 2%")]


class QualitySection(Section):
    """What is looked for in the rows, and what becomes of those in which it is found."""

    duplicates: Literal["drop", "keep"] = Field(
        default="drop", description="Rows that say word for word what an earlier row of the same side says."
    )
    near_duplicates: Literal["off", "report", "drop"] = Field(
        default="off", description="Rows whose words are almost those of an earlier row (MinHash)."
    )
    similarity: Annotated[float, Gt(0), Le(1)] = Field(
        default=0.8, description="The share of word triples (Jaccard) from which two rows are near duplicates."
    )
    contamination: Literal["drop", "keep"] = Field(
        default="drop", description="Test rows of which training shows the question or the answer."
    )
    special_tokens: Literal["escape", "drop", "refuse"] = Field(
        default="escape",
        description="Content that spells a special token: kept as plain text, or the row dropped, or an error.",
    )
    invalid_unicode: Literal["drop", "replace"] = Field(
        default="drop", description="Rows with lone surrogates, replacement or control characters."
    )
    emails: Literal["keep", "redact", "drop"] = Field(default="keep", description="Rows that hold e-mail addresses.")
    secrets: Literal["keep", "redact", "drop"] = Field(
        default="keep", description="Rows that hold what looks like a password, token or private key."
    )
    max_dropped: Percentage | Annotated[int, Ge(0)] | None = Field(
        default=None,
        description="Rows that may be dropped before that is an error: a percentage of all, such as 2%, or a count; "
        "null sets no limit, and every dropped row is counted and named all the same.",
    )

    def allowed(self, rows: int) -> int:
        """How many of `rows` may be dropped."""
        if self.max_dropped is None:
            return rows
        if isinstance(self.max_dropped, int):
            return self.max_dropped
        return int(rows * float(self.max_dropped.strip().removesuffix("%")) / 100)


class DataSection(Section):
    """The examples that the model is trained and evaluated on."""

    sources: Annotated[tuple[DataSource, ...], MinLen(1), Field(strict=False)] = Field(
        description="Where examples come from; each item has exactly one of the keys path, hub, sql, callable, "
        "synthesize."
    )
    mix: MixSection = Field(default=MixSection(), description="How several sources become one order.")
    quality: QualitySection = Field(default=QualitySection(), description="What is looked for in the rows.")
    splits: SplitsSection = Field(default=SplitsSection(), description="How examples are split into training and test.")
    max_length: Annotated[int, Ge(16)] = Field(
        default=1024,
        description="Longest training sequence, in tokens of the model; longer rows are counted and named.",
    )
    packing: Literal["auto"] | bool = Field(
        default="auto",
        description="Several rows of a step in one sequence, none seeing another; changes speed, never the result.",
    )

    @model_validator(mode="after")
    def _groups_are_dealt_out_whole(self) -> "DataSection":
        grouped = any(isinstance(source, SourceOptions) and source.group is not None for source in self.sources)
        if grouped and self.splits.by == "row":
            raise broken_rule(
                "splits", "by: row deals out rows one by one, and a source names a group; take by: document"
            )
        return self

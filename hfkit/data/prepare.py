"""The data stage: sources in, the prepared dataset out, and an account of every row that was dropped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from hfkit.data.conversation import Conversation
from hfkit.data.prepared import TEST, TRAIN, PreparedRow, write_rows
from hfkit.data.rendering import Renderer
from hfkit.data.sources import read_conversations
from hfkit.data.splitting import choose_test_groups
from hfkit.data.synthesis import Question, normalised, questions_from, write_examples
from hfkit.errors import RequestError
from hfkit.models.loading import load_tokenizer
from hfkit.recipe import PathSource, Recipe, SplitsSection, SynthesizeSection, SynthesizeSource
from hfkit.stage import StageContext
from rag.answer import ABSTENTION, without_citations
from rag.chunking import Chunk
from rag.search import SearchSettings


class SplitSummary(BaseModel):
    """`tokens` counts all tokens of the rows' sequences, `trained_tokens` those the loss is computed on."""

    model_config = ConfigDict(frozen=True)

    rows: int
    documents: int
    unanswerable: int
    tokens: int
    trained_tokens: int
    longest: int


class Dropped(BaseModel):
    """Rows that were left out for one reason, and the first few of their names."""

    model_config = ConfigDict(frozen=True)

    reason: str
    rows: int
    first: tuple[str, ...]


class DataResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    train: SplitSummary
    test: SplitSummary
    dropped: tuple[Dropped, ...]
    special_tokens_as_text: int


@dataclass(slots=True)
class _Splits:
    train: list[Conversation] = field(default_factory=list)
    test: list[Conversation] = field(default_factory=list)


def prepare(context: StageContext) -> DataResult:
    """Make the prepared dataset in `context.folder`.

    Raises:
        RequestError: a source is at fault, or nothing is left to train or to test on.
    """
    recipe = context.recipe
    assert recipe.data is not None and recipe.model is not None
    renderer = Renderer(load_tokenizer(recipe.model))
    splits = _Splits()
    for source in recipe.data.sources:
        if isinstance(source, PathSource):
            _split_conversations(read_conversations(source.path), recipe, splits)
    synthesized = [s.synthesize for s in recipe.data.sources if isinstance(s, SynthesizeSource)]
    if synthesized:
        _synthesise(context, synthesized, splits)
    ledger = _Ledger()
    splits.test = _uncontaminated(splits.test, splits.train, ledger)
    train = _render(splits.train, renderer, recipe.data.max_length, ledger)
    test = _render(splits.test, renderer, recipe.data.max_length, ledger)
    for name, rows in (("train", train), ("test", test)):
        if not rows:
            raise RequestError(f"data: no rows are left to {name} on ({ledger.in_words() or 'the sources gave none'})")
    write_rows(train, context.folder / TRAIN)
    write_rows(test, context.folder / TEST)
    spelled = sum(bool(renderer.spelled_specials(c.as_messages())) for c in (*splits.train, *splits.test))
    result = DataResult(
        train=_summary(train), test=_summary(test), dropped=ledger.dropped(), special_tokens_as_text=spelled
    )
    context.progress.say(
        f"  {result.train.rows} rows to train on ({result.train.trained_tokens:,} trained of {result.train.tokens:,} "
        f"tokens), {result.test.rows} test rows from {result.test.documents} documents that training never sees"
    )
    if ledger.reasons:
        context.progress.say(f"  dropped: {ledger.in_words()}")
    if spelled:
        context.progress.say(f"  {spelled} rows spell special tokens in their text; these stay text")
    return result


def _split_conversations(conversations: Sequence[Conversation], recipe: Recipe, splits: _Splits) -> None:
    assert recipe.data is not None
    test = choose_test_groups([row.document for row in conversations], recipe.data.splits.test, recipe.seed)
    splits.train += [row for row in conversations if row.document not in test]
    splits.test += [row for row in conversations if row.document in test]


def _synthesise(context: StageContext, sources: Sequence[SynthesizeSection], splits: _Splits) -> None:
    """Write the rows of all `sources` at once: what one of them tests on, no other may show while it trains."""
    from hfkit.indexing import open_index

    recipe = context.recipe
    assert recipe.data is not None and recipe.rag is not None
    mode = recipe.rag.search.mode
    with open_index(context.upstream["index"], recipe.rag) as index:
        chunks = index.chunks()
        everything = frozenset(chunk.document_id for chunk in chunks)
        dealt = _deal_questions(chunks, sources, recipe.data.splits, recipe.seed)
        unseen = frozenset().union(*(source.test_documents for source in dealt))

        def retrieve(texts: Sequence[str], top_k: int, within: Collection[str]) -> list[list[Chunk]]:
            found = index.search_many(texts, SearchSettings(mode, top_k), within)
            return [[hit.chunk for hit in hits] for hits in found]

        with context.progress.bar("writing examples") as update:
            for number, source in enumerate(dealt):
                update(number, len(dealt))
                training_documents = everything - unseen
                splits.train += write_examples(source.train, retrieve, training_documents, source.settings, recipe.seed)
                # The passages beside a test question's own come from everything that is indexed.
                splits.test += write_examples(source.test, retrieve, everything, source.settings, recipe.seed + 1)
            update(len(dealt), len(dealt))


@dataclass(frozen=True, slots=True)
class _Dealt:
    """One source's questions, dealt out. `test_documents` may not be shown in training."""

    settings: SynthesizeSection
    train: list[Question]
    test: list[Question]
    test_documents: frozenset[str]


def _deal_questions(
    chunks: Sequence[Chunk], sources: Sequence[SynthesizeSection], splits: SplitsSection, seed: int
) -> list[_Dealt]:
    seen: set[str] = set()
    dealt = []
    for number, settings in enumerate(sources):
        questions = questions_from(chunks, settings, seed + number, seen)
        if not questions:
            of = "the documents" if settings.documents is None else f"the documents {', '.join(settings.documents)}"
            raise RequestError(
                f"data.sources: {of} give no questions: they need headings with a sentence of prose below them"
            )
        whole = splits.by == "document"
        groups = [q.chunk.document_id if whole else f"{n:09}" for n, q in enumerate(questions)]
        test = choose_test_groups(groups, splits.test, seed)
        dealt.append(
            _Dealt(
                settings=settings,
                train=[q for q, group in zip(questions, groups, strict=True) if group not in test],
                test=[q for q, group in zip(questions, groups, strict=True) if group in test],
                test_documents=test if whole else frozenset(),
            )
        )
    # Two sources may ask about one document; where the first tests on it, the second must not train on it.
    unseen = frozenset().union(*(source.test_documents for source in dealt))
    return [replace(source, train=[q for q in source.train if q.chunk.document_id not in unseen]) for source in dealt]


def _uncontaminated(test: Sequence[Conversation], train: Sequence[Conversation], ledger: _Ledger) -> list[Conversation]:
    """The test rows of which training shows neither the question nor the answer, anywhere in any row."""
    prompts = {_prompt(row) for row in train if row.grounding is None}
    shown = "\n".join(f" {normalised(turn.content)} " for row in train for turn in row.messages)
    clean = []
    for row in test:
        # Chats share short turns; what must be new in one is all that comes before the answer.
        texts = [] if row.grounding is None else [row.grounding.question]
        answer = without_citations(row.messages[-1].content)
        # Labels and abstentions are the same everywhere; what must be new there is the question.
        if len(answer.split()) > 3 and answer != ABSTENTION:
            texts.append(answer)
        if _prompt(row) in prompts or any(f" {normalised(text)} " in shown for text in texts):
            ledger.drop("test row whose question or answer stands in training", row.id)
        else:
            clean.append(row)
    return clean


def _prompt(row: Conversation) -> tuple[tuple[str, str], ...]:
    return tuple((turn.role, normalised(turn.content)) for turn in row.messages[:-1])


def _render(rows: Sequence[Conversation], renderer: Renderer, max_length: int, ledger: _Ledger) -> list[PreparedRow]:
    prepared = []
    for row in rows:
        try:
            rendered = renderer.training_sequences(row.as_messages())
        except RequestError as error:
            raise RequestError(f"{row.id}: {error}") from error
        sequences = [PreparedRow.of(row, sequence) for sequence in rendered]
        if not sequences:
            ledger.drop("nothing in it would be trained", row.id)
        for sequence in sequences:
            if sequence.length > max_length:
                ledger.drop(f"longer than data.max_length ({max_length} tokens)", row.id)
            else:
                prepared.append(sequence)
    return prepared


def _summary(rows: Sequence[PreparedRow]) -> SplitSummary:
    return SplitSummary(
        rows=len(rows),
        documents=len({row.document for row in rows}),
        unanswerable=sum(row.grounding is not None and row.grounding.gold is None for row in rows),
        tokens=sum(row.length for row in rows),
        trained_tokens=sum(row.length - row.prompt_length for row in rows),
        longest=max(row.length for row in rows),
    )


class _Ledger:
    """Which rows were dropped, and why."""

    shown = 5

    def __init__(self) -> None:
        self.reasons: dict[str, list[str]] = {}

    def drop(self, reason: str, row: str) -> None:
        self.reasons.setdefault(reason, []).append(row)

    def dropped(self) -> tuple[Dropped, ...]:
        return tuple(
            Dropped(reason=reason, rows=len(rows), first=tuple(rows[: self.shown]))
            for reason, rows in self.reasons.items()
        )

    def in_words(self) -> str:
        return "; ".join(f"{len(rows)} rows: {reason}, such as {rows[0]}" for reason, rows in self.reasons.items())

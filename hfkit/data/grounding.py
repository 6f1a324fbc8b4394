"""Examples written from the documents of the index: which questions, on which side, over which passages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from hfkit.data.conversation import Conversation
from hfkit.data.splitting import choose_test_groups
from hfkit.data.synthesis import Question, questions_from, write_examples
from hfkit.errors import RequestError
from hfkit.recipe import SplitsSection, SynthesizeSection
from hfkit.stage import StageContext
from rag.chunking import Chunk
from rag.search import SearchSettings


def write_grounded_examples(
    context: StageContext, sources: Sequence[SynthesizeSection]
) -> tuple[list[Conversation], list[Conversation]]:
    """(training rows, test rows) of all `sources` at once: what one of them tests on, no other may show while it
    trains.

    Raises:
        RequestError: the documents give no questions.
    """
    from hfkit.indexing import open_index

    recipe = context.recipe
    assert recipe.data is not None and recipe.rag is not None
    mode = recipe.rag.search.mode
    train: list[Conversation] = []
    test: list[Conversation] = []
    with open_index(context.upstream["index"], recipe.rag) as index:
        chunks = index.chunks()
        everything = frozenset(chunk.document_id for chunk in chunks)
        dealt = _deal_questions(chunks, sources, recipe.data.splits, recipe.seed)
        unseen = frozenset().union(*(source.test_documents for source in dealt))

        def retrieve(texts: Sequence[str], top_k: int, within: Collection[str]) -> list[list[Chunk]]:
            found = index.search_many(texts, SearchSettings(mode=mode, top_k=top_k), within)
            return [[hit.chunk for hit in hits] for hits in found]

        with context.progress.bar("writing examples") as update:
            for number, source in enumerate(dealt):
                update(number, len(dealt))
                train += write_examples(source.train, retrieve, everything - unseen, source.settings, recipe.seed)
                # The passages beside a test question's own come from everything that is indexed.
                test += write_examples(source.test, retrieve, everything, source.settings, recipe.seed + 1)
            update(len(dealt), len(dealt))
    return train, test


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

"""The index stage: the recipe's documents into the index of its run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hfkit.errors import RequestError, WorkError
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.models.loading import locate
from hfkit.progress import Progress
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ChunkSection, RagSection
from hfkit.stage import PartialResult, StageContext
from rag.chunking import ChunkSettings
from rag.documents import load_corpus
from rag.embedder import SentenceTransformerEmbedder
from rag.errors import DamagedIndexError, IncompatibleIndexError
from rag.index import Index, remove_index
from rag.layout import IndexSettings
from rag.manifest import Manifest
from rag.renewal import renewing
from rag.repair import repair_index


class SkippedDocument(BaseModel):
    model_config = ConfigDict(frozen=True)

    source: str
    reason: str


class IndexResult(PartialResult):
    """The first four count documents; `embedded` counts the texts that the embedder had to read. `kept` are documents
    that could not be read this time and stay as they were; `unembeddable` are passages that are left out; `missing` are
    the skipped ones that may be readable another time."""

    added: int
    changed: int
    removed: int
    unchanged: int
    chunks: int
    embedded: int
    generation: int
    embedder: str
    embedder_precision: str
    vectors: str
    skipped: tuple[SkippedDocument, ...]
    kept: tuple[str, ...] = ()
    unembeddable: tuple[str, ...] = ()


def run_index(context: StageContext) -> IndexResult:
    """Bring the index in `context.folder` to what the recipe's documents say.

    An index that is damaged is repaired. One that cannot be, or that was made with another embedder or other chunks,
    is made anew: all that is in it comes from the documents. If it can be searched, it is until the new one is whole.
    """
    recipe = context.recipe
    assert recipe.rag is not None
    corpus = load_corpus(recipe.rag.documents, recipe.rag.hosts)
    for skipped in corpus.skipped:
        again = " (the next run looks again)" if skipped.passing else ""
        context.progress.say(f"  not indexed: {skipped.source}: {skipped.reason}{again}")
    if not corpus.documents:
        raise RequestError("rag.documents: none of the documents can be read; the lines above say why of each")
    embedder = load_embedder(recipe.rag.embedder, recipe.rag.revision)
    context.progress.say(f"  embedder: {embedder.precision_reason}")
    settings = _chunk_settings(recipe.rag.chunk)
    layout = IndexSettings(recipe.rag.index.type, recipe.rag.index.storage)
    with (
        _index_to_sync(context.folder, embedder, settings, layout, context.progress) as index,
        context.progress.bar("embedding chunks") as update,
    ):
        report = index.sync(corpus, update)
        vectors = index.vectors_in_words
    context.progress.say(
        f"  {report.chunks} chunks: {report.added} documents added, {report.changed} changed, "
        f"{report.removed} removed, {report.unchanged} unchanged"
    )
    for id in report.kept:
        context.progress.say(f"  kept as it was: {id}, which could not be read now; delete the file to remove it")
    for passage in report.unembeddable:
        context.progress.say(f"  left out: {passage}: the embedder knows none of its words")
    context.progress.say(f"  vectors: {vectors}")
    return IndexResult(
        added=report.added,
        changed=report.changed,
        removed=report.removed,
        unchanged=report.unchanged,
        chunks=report.chunks,
        embedded=report.embedded,
        generation=report.generation,
        embedder=embedder.name,
        embedder_precision=embedder.precision_reason,
        vectors=vectors,
        skipped=tuple(SkippedDocument(source=s.source, reason=s.reason) for s in corpus.skipped),
        missing=tuple(s.source for s in corpus.skipped if s.passing),
        kept=report.kept,
        unembeddable=report.unembeddable,
    )


def open_index(folder: Path, settings: RagSection) -> Index:
    """The finished index of a run, ready to search."""
    return Index.open(folder, load_embedder(settings.embedder, settings.revision))


def open_any_index(folder: Path) -> Index:
    """An index that nobody has told us about: its manifest names the embedder.

    Raises:
        WorkError: nothing was ever indexed there.
    """
    manifest = finished_manifest(folder)
    # For what is no Hub id the revision is a hash, and not a place to load from.
    return Index.open(folder, load_embedder(manifest.embedder_name, manifest.embedder_revision))


def finished_manifest(folder: Path) -> Manifest:
    """What the index there was made with. It is whole as the last sync left it that came to its end, whether another
    one is at work or was stopped.

    Raises:
        WorkError: none ever came to its end.
    """
    with Index.open(folder) as index:
        if index.generation == 0:
            raise WorkError(
                f"{folder}: nothing is indexed there yet, the index stage has not finished; run `hfkit index` with the "
                "recipe"
            )
        return index.manifest


def made_otherwise(manifest: Manifest, settings: RagSection) -> bool:
    """Whether an index was made with another embedder, chunks or storage than `settings` ask for."""
    made_with = (manifest.embedder_name, manifest.chunk, manifest.storage)
    return made_with != (settings.embedder, _chunk_settings(settings.chunk), settings.index.storage)


def load_embedder(reference: str, revision: str | None) -> SentenceTransformerEmbedder:
    where = locate(reference, revision)
    # An embedded model is what its wheel's hash says; hashing its files again would cost time and say no more.
    identity = embedded_model(reference).revision if reference.startswith(PREFIX) else None
    with quiet_libraries():
        return SentenceTransformerEmbedder.load(where.path_or_id, reference, where.revision, identity=identity)


def _chunk_settings(section: ChunkSection) -> ChunkSettings:
    return ChunkSettings(tokens=section.tokens, overlap=section.overlap, splitter=section.splitter)


def _index_to_sync(
    folder: Path,
    embedder: SentenceTransformerEmbedder,
    settings: ChunkSettings,
    layout: IndexSettings,
    progress: Progress,
) -> AbstractContextManager[Index]:
    """The index that is there; or one that takes its place once it is synced; or an empty one in its place, where what
    is there cannot be searched."""
    try:
        try:
            return Index.create_or_open(folder, embedder, settings, layout)
        except DamagedIndexError as error:
            progress.say(f"  {error}")
            repair = repair_index(folder)
            progress.say(f"  the index is repaired; {len(repair.dropped)} documents have to be embedded again")
            return Index.create_or_open(folder, embedder, settings, layout)
    except (IncompatibleIndexError, DamagedIndexError) as error:
        progress.say(f"  {error}")
        progress.say("  the index is made anew from the documents")
    if _can_be_searched(folder):
        progress.say("  until it is whole, the one that is there is searched")
        return renewing(folder, embedder, settings, layout)
    remove_index(folder)
    return Index.create_or_open(folder, embedder, settings, layout)


def _can_be_searched(folder: Path) -> bool:
    try:
        with Index.open(folder) as index:
            return index.generation > 0
    except (IncompatibleIndexError, DamagedIndexError):  # of an older format, or not to be repaired
        return False

"""The index stage: the recipe's documents into the index of its run."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hfkit.errors import RequestError
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.models.loading import locate
from hfkit.progress import Progress
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ChunkSection, RagSection
from hfkit.stage import StageContext
from rag.chunking import ChunkSettings
from rag.documents import load_corpus
from rag.embedder import SentenceTransformerEmbedder
from rag.errors import DamagedIndexError, IncompatibleIndexError
from rag.index import Index


class SkippedDocument(BaseModel):
    model_config = ConfigDict(frozen=True)

    source: str
    reason: str


class IndexResult(BaseModel):
    """The first four count documents; `embedded` counts the texts that the embedder had to read."""

    model_config = ConfigDict(frozen=True)

    added: int
    changed: int
    removed: int
    unchanged: int
    chunks: int
    embedded: int
    generation: int
    embedder: str
    embedder_precision: str
    skipped: tuple[SkippedDocument, ...]


def run_index(context: StageContext) -> IndexResult:
    """Bring the index in `context.folder` to what the recipe's documents say.

    An index that was made with another embedder or other chunks, or that is damaged, is made anew: all that is in it
    comes from the documents.
    """
    recipe = context.recipe
    assert recipe.rag is not None
    corpus = load_corpus(recipe.rag.documents)
    for skipped in corpus.skipped:
        context.progress.say(f"  not indexed: {skipped.source}: {skipped.reason}")
    if not corpus.documents:
        raise RequestError("rag.documents: none of the documents can be read; the lines above say why of each")
    embedder = load_embedder(recipe.rag.embedder, recipe.rag.revision)
    context.progress.say(f"  embedder: {embedder.precision_reason}")
    settings = _chunk_settings(recipe.rag.chunk)
    with (
        _create_or_renew(context.folder, embedder, settings, context.progress) as index,
        context.progress.bar("embedding chunks") as update,
    ):
        report = index.sync(corpus, update)
    context.progress.say(
        f"  {report.chunks} chunks: {report.added} documents added, {report.changed} changed, "
        f"{report.removed} removed, {report.unchanged} unchanged"
    )
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
        skipped=tuple(SkippedDocument(source=s.source, reason=s.reason) for s in corpus.skipped),
    )


def open_index(folder: Path, settings: RagSection) -> Index:
    """The finished index of a run, ready to search."""
    return Index.open(folder, load_embedder(settings.embedder, settings.revision))


def open_any_index(folder: Path) -> Index:
    """An index that nobody has told us about: its manifest names the embedder."""
    with Index.open(folder) as index:
        manifest = index.manifest
    # An embedded model's revision is its wheel's hash, which only its name stands for.
    revision = None if manifest.embedder_name.startswith(PREFIX) else manifest.embedder_revision
    return Index.open(folder, load_embedder(manifest.embedder_name, revision))


def load_embedder(reference: str, revision: str | None) -> SentenceTransformerEmbedder:
    where = locate(reference, revision)
    if reference.startswith(PREFIX):
        revision = embedded_model(reference).revision
    with quiet_libraries():
        return SentenceTransformerEmbedder.load(where.path_or_id, name=reference, revision=revision)


def _chunk_settings(section: ChunkSection) -> ChunkSettings:
    return ChunkSettings(tokens=section.tokens, overlap=section.overlap, splitter=section.splitter)


def _create_or_renew(
    folder: Path, embedder: SentenceTransformerEmbedder, settings: ChunkSettings, progress: Progress
) -> Index:
    try:
        return Index.create_or_open(folder, embedder, settings)
    except (IncompatibleIndexError, DamagedIndexError) as error:
        progress.say(f"  {error}")
        progress.say("  the index is made anew from the documents")
    for path in folder.iterdir():
        if path.name.startswith(("index.sqlite", "vectors-")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Index.create_or_open(folder, embedder, settings)

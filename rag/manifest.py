"""What an index was made with: written once, compared at every opening."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rag.chunking import CHUNKER_VERSION, ChunkSettings
from rag.embedder import Embedder
from rag.errors import DamagedIndexError, IncompatibleIndexError, RagRequestError
from rag.layout import IndexSettings, Storage
from rag.schema import FORMAT_VERSION


@dataclass(frozen=True)
class Manifest:
    """The embedder, the chunker and the file format of an index."""

    format_version: int
    index_id: str
    """Random, given once: tells what a killed sync of this index embedded from what one of another did."""
    embedder_name: str
    embedder_revision: str
    dimension: int
    query_prompt: str
    passage_prompt: str
    normalized: bool
    """Vectors are unit rows, so that their dot product is the cosine."""
    chunker_version: int
    chunk: ChunkSettings
    storage: Storage
    """What a stored vector's number takes."""

    @classmethod
    def of(cls, index_id: str, embedder: Embedder, settings: ChunkSettings, storage: Storage) -> Manifest:
        """The manifest of a new index."""
        return cls(
            format_version=FORMAT_VERSION,
            index_id=index_id,
            embedder_name=embedder.name,
            embedder_revision=embedder.revision,
            dimension=embedder.dimension,
            query_prompt=embedder.query_prompt,
            passage_prompt=embedder.passage_prompt,
            normalized=True,
            chunker_version=CHUNKER_VERSION,
            chunk=settings,
            storage=storage,
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, file: Path) -> Manifest:
        """Raises DamagedIndexError where `text` is no manifest."""
        try:
            values = json.loads(text)
            IndexSettings(storage=values["storage"])
            return cls(**{**values, "chunk": ChunkSettings(**values["chunk"])})
        except (ValueError, TypeError, KeyError, RagRequestError) as error:
            raise DamagedIndexError(
                f"{file}: its manifest is damaged ({error}); delete the folder and index again"
            ) from error

    def check(
        self, folder: Path, embedder: Embedder, settings: ChunkSettings | None = None, storage: Storage | None = None
    ) -> None:
        """`settings` and `storage` are the index's own where they are None. Raises IncompatibleIndexError naming
        everything in which the index differs from what is asked for now."""
        asked = Manifest.of(self.index_id, embedder, settings or self.chunk, storage or self.storage)
        names = {
            "embedder_name": "embedder",
            "embedder_revision": "embedder's revision",
            "dimension": "embedder's dimension",
            "query_prompt": "embedder's query prompt",
            "passage_prompt": "embedder's passage prompt",
            "chunker_version": "chunker's version",
            "chunk": "chunk settings",
            "storage": "storage of vectors",
        }
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(asked)
        differences = [
            f"{words}: {_shown(mine[key])} then, {_shown(theirs[key])} now"
            for key, words in names.items()
            if mine[key] != theirs[key] and not (key == "chunker_version" and settings is None)
        ]
        if differences:
            raise IncompatibleIndexError(
                f"the index {folder} was made otherwise: {'; '.join(differences)}. To index again, delete the folder "
                f"{folder} (everything in it is derived from the documents) or choose another, or go back to what it "
                "was made with"
            )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return repr(value) if isinstance(value, str) else str(value)

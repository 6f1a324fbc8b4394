"""What is to be pushed: files of kinds that run no code when they are read, and the repositories they go to."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import file_sha256
from hfkit.errors import WorkError

RepositoryKind = Literal["model", "dataset", "space"]

TEXT = (".md", ".json", ".yaml", ".txt", ".jinja", ".html")
# The app of a Space, and nothing else that is published.
CODE = (".py", ".typed")
DATABASE = ".sqlite"
PARQUET = ".parquet"
WEIGHTS = ".safetensors"
# A tokenizer's vocabulary, as SentencePiece saves it.
VOCABULARY = ".model"
SAFE = (*TEXT, DATABASE, PARQUET, WEIGHTS, VOCABULARY)

_MAGIC = {DATABASE: b"SQLite format 3\0", PARQUET: b"PAR1"}
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of this machine and its path in the repository."""

    path: str
    source: Path

    @property
    def bytes(self) -> int:
        return self.source.stat().st_size

    def has_content(self, oid: str, *, is_large: bool) -> bool:
        """Whether the Hub's `oid` (SHA-256 of a large file, git's SHA-1 of any other) is that of this file."""
        if is_large:
            return file_sha256(self.source) == oid
        content = self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == oid


@dataclass(frozen=True, slots=True)
class PlannedRepository:
    """A repository and all the files that it gets, in the order of their paths; README.md is its card."""

    kind: RepositoryKind
    id: str
    files: tuple[PlannedFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def card(self) -> str:
        (card,) = (file.source for file in self.files if file.path == "README.md")
        return card.read_text(encoding="utf-8")


class PublishedFile(BaseModel):
    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class PublishedRepository(BaseModel):
    """`commit` is the commit of `branch` that holds the files; `new_commit` is False where it held them already."""

    model_config = ConfigDict(frozen=True)

    kind: RepositoryKind
    id: str
    private: bool
    branch: str
    tag: str | None
    commit: str
    url: str
    new_commit: bool
    files: tuple[PublishedFile, ...]


class PublishResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    repositories: tuple[PublishedRepository, ...]


def files_below(
    folder: Path, prefix: str = "", *, but: tuple[str, ...] = (), kinds: tuple[str, ...] = SAFE
) -> list[PlannedFile]:
    """The files in `folder` of these kinds, but those of these names; nothing that is hidden."""
    return [
        PlannedFile(prefix + path.relative_to(folder).as_posix(), path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix in kinds
        and path.name not in but
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def require_safe(repository: PlannedRepository) -> None:
    """Raises WorkError for a file that is not of a kind that is pushed, whatever its name says."""
    for file in repository.files:
        fault = _fault(file, SAFE if repository.kind != "space" else (*SAFE, *CODE))
        if fault is not None:
            raise WorkError(
                f"{file.source}: {fault}; only safetensors, JSON, text, Markdown, Parquet, SQLite and SentencePiece "
                "files are published. Run the stage that made it again"
            )


def _fault(file: PlannedFile, kinds: tuple[str, ...]) -> str | None:
    suffix = PurePosixPath(file.path).suffix
    if suffix not in kinds:
        return f"files that end in {suffix or 'nothing'} are not published"
    if suffix == WEIGHTS:
        return None if _is_safetensors(file.source) else "is called safetensors and is something else"
    if suffix == VOCABULARY:
        return None
    if suffix in _MAGIC:
        with file.source.open("rb") as opened:
            begins = opened.read(len(_MAGIC[suffix]))
        return None if begins == _MAGIC[suffix] else f"is called {suffix} and is something else"
    try:
        is_text = "\0" not in file.source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        is_text = False
    return None if is_text else f"is called {suffix} and is no text"


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with a header as the format's specification has it: its length, then a JSON object."""
    with path.open("rb") as file:
        begins = file.read(8)
        if len(begins) < 8:
            return False
        (length,) = struct.unpack("<Q", begins)
        if length > _LONGEST_HEADER:
            return False
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except ValueError:
            return False

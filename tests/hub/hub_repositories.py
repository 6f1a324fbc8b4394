"""What the tests' Hub keeps, in memory: repositories with their commits, branches and tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["model", "dataset", "space"]

# Files that go to the storage for large ones.
LARGE = (".safetensors", ".parquet", ".sqlite", ".bin", ".png", ".faiss")


class Blob(NamedTuple):
    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def oid(self) -> str:
        return self.sha256 if self.is_large else self.git_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repository:
    kind: Kind
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def head(self, branch: str = "main") -> Commit:
        return self.commits[self.branches[branch]]

    def at(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, branch: str, title: str, files: Mapping[str, Blob]) -> Commit:
        """`files` is all that there is afterwards."""
        parent = self.branches.get(branch)
        content = json.dumps([self.kind, self.id, parent, title, {path: blob.oid for path, blob in files.items()}])
        made = Commit(hashlib.sha1(content.encode()).hexdigest(), parent, title, dict(files))
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def push(self, files: Mapping[str, bytes], title: str = "by hand", branch: str = "main") -> Commit:
        """Add files as somebody else would."""
        added = {path: Blob(content, path.endswith(LARGE)) for path, content in files.items()}
        return self.commit(branch, title, {**self.head(branch).files, **added})

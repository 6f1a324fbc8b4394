"""How a repository on the Hub stands to what is to be pushed: what is there, and whose commits these are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.errors import RequestError, WorkError
from hfkit.hub.access import public_words
from hfkit.hub.files import PlannedRepository, RepositoryKind
from hfkit.hub.remembered import Remembered, recall
from hfkit.recipe import HubSection

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

MAIN = "main"
# What the Hub itself puts into a repository that it creates. A Space's README.md has the settings that it runs with.
_BY_THE_HUB: Mapping[RepositoryKind, frozenset[str]] = {
    "model": frozenset({".gitattributes"}),
    "dataset": frozenset({".gitattributes"}),
    "space": frozenset({".gitattributes", "README.md"}),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A repository as it is.

    Attributes:
        branch: the one that is published to.
        commit: its newest commit; where there is no such branch yet, main's, from which it will begin.
        files: those of that commit.
        has_branch: whether there is such a branch.
        tag: the one that the recipe gives; None where it gives none.
        tagged: the commit that has this tag already.
        known: what the run knows of the branch.
    """

    private: bool
    branch: str
    commit: str
    files: Mapping[str, RepoFile]
    has_branch: bool
    tag: str | None
    tagged: str | None
    known: Remembered | None

    def stale(self, repository: PlannedRepository) -> list[str]:
        """Files that this run put there once and that are not planned any more."""
        planned = {file.path for file in repository.files}
        known = () if self.known is None else self.known.files
        return [path for path in known if path in self.files and path not in planned]

    def holds(self, repository: PlannedRepository) -> bool:
        """Whether all that is planned is there with the same content, as after a commit whose answer was lost, and
        nothing stale. Small files are looked at first: where something changed, no hash of the weights is needed."""
        if self.stale(repository):
            return False
        for file in sorted(repository.files, key=lambda file: file.bytes):
            entry = self.files.get(file.path)
            if entry is None or entry.size != file.bytes:
                return False
            oid = entry.blob_id if entry.lfs is None else entry.lfs.sha256
            if not file.has_content(oid, is_large=entry.lfs is not None):
                return False
        return True


def target_of(repository: PlannedRepository) -> str:
    """What messages call it."""
    return f"{repository.kind} {repository.id}"


def standing(api: HfApi, repository: PlannedRepository, section: HubSection, memory: Path) -> Standing | None:
    """The repository as it is on the Hub; None where there is none. `memory` is the run's folder.

    Raises:
        RequestError: it is public and must not be.
    """
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    branch, tag = (MAIN, None) if repository.kind == "space" else (section.branch or MAIN, section.tag)
    try:
        private = bool(api.repo_info(repository.id, repo_type=repository.kind).private)
    except RepositoryNotFoundError:
        return None
    if section.private and not private:
        raise RequestError(f"hub.private: {public_words(repository.id)}")
    refs = api.list_repo_refs(repository.id, repo_type=repository.kind)
    heads = {ref.name: ref.target_commit for ref in refs.branches}
    commit = heads[branch if branch in heads else MAIN]
    listed = api.list_repo_tree(repository.id, recursive=True, revision=commit, repo_type=repository.kind)
    return Standing(
        private=private,
        branch=branch,
        commit=commit,
        files={entry.path: entry for entry in listed if isinstance(entry, RepoFile)},
        has_branch=branch in heads,
        tag=tag,
        tagged={ref.name: ref.target_commit for ref in refs.tags}.get(tag or ""),
        # Of a branch that is gone nothing is known: where it begins anew, main's files are not this run's.
        known=recall(memory, repository, branch) if branch in heads else None,
    )


def require_free(there: Standing, repository: PlannedRepository, section: HubSection) -> bool:
    """Whether everything is there already.

    Raises:
        RequestError: the tag is that of another commit.
        WorkError: the newest commit is one that the run does not know, and does not hold just its files.
    """
    is_there = there.has_branch and there.holds(repository)
    if there.tagged is not None and not (is_there and there.tagged == there.commit):
        raise RequestError(
            f"hub.tag: {there.tag} is a tag of {target_of(repository)} already, of another commit "
            f"({there.tagged[:10]}); name another one"
        )
    is_new = set(there.files) <= _BY_THE_HUB[repository.kind]
    if is_there or not there.has_branch or "unknown_commits" in section.despite or is_new:
        return is_there
    known = there.known
    if known is not None and known.commit == there.commit:
        return False
    since = "" if known is None else f", and the last one of this run is {known.commit[:10]}"
    raise WorkError(
        f"{target_of(repository)}: the newest commit on {there.branch} is {there.commit[:10]}, which this run did not "
        f"make{since}; nothing was published there. Look at it, then publish to another hub.branch, or on top of it "
        "with hub.despite=[unknown_commits] (files of the same names are replaced, others stay)"
    )

"""Pushes one repository: all its files in one commit on top of a commit that this run knows, or nothing at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.artifact import file_sha256
from hfkit.errors import RequestError, WorkError
from hfkit.hub.access import public_words
from hfkit.hub.failures import explained
from hfkit.hub.files import PlannedRepository, PublishedFile, PublishedRepository
from hfkit.hub.remembered import Remembered, recall, remember
from hfkit.progress import Progress
from hfkit.recipe import HubSection

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

MAIN = "main"
# The Hub puts this into every repository that it creates.
_BY_THE_HUB = frozenset({".gitattributes"})


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch as it is: its newest commit, the files of that, and whether it came into being just now."""

    commit: str
    files: dict[str, RepoFile]
    is_new: bool


def push(
    api: HfApi, repository: PlannedRepository, section: HubSection, message: str, memory: Path, progress: Progress
) -> PublishedRepository:
    """Bring `repository` on the Hub to what is planned, by one commit at most. `memory` is the run's folder.

    Files that an earlier publishing of the run put there and that are not planned any more are deleted in the same
    commit; files of others stay.

    Raises:
        RequestError: the token may not write there; the repository is public and must not be; the tag is taken.
        WorkError: the Hub fails; somebody else's commits are there, or come while it is pushed.
    """
    branch = MAIN if section.branch is None or repository.kind == "space" else section.branch
    tag = None if repository.kind == "space" else section.tag
    target = f"{repository.kind} {repository.id}"
    with explained(target), _libraries_silent(bars=progress.on_terminal):
        private = _ready_repository(api, repository, section)
        refs = api.list_repo_refs(repository.id, repo_type=repository.kind)
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        there = _ready_branch(api, repository, branch, {ref.name: ref.target_commit for ref in refs.branches})
        known = recall(memory, repository, branch)
        stale = _stale(repository, there, known)
        is_there = not stale and _holds(there, repository)
        commit = there.commit
        if tag in tags and not (is_there and tags[tag] == commit):
            raise RequestError(
                f"hub.tag: {tag} is a tag of {target} already, of another commit ({tags[tag][:10]}); name another one"
            )
        if is_there:
            progress.say(f"  {target}: holds all of it already")
        else:
            _require_known(target, branch, there, known, section)
            progress.say(f"  {target}: {len(repository.files)} files, {in_bytes(repository.bytes)}, to {branch}")
            commit = _commit(api, repository, branch, there.commit, stale, message)
        remember(memory, repository, branch, Remembered(commit=commit, files=tuple(f.path for f in repository.files)))
        if tag is not None and tag not in tags:
            api.create_tag(repository.id, tag=tag, revision=commit, repo_type=repository.kind)
    return PublishedRepository(
        kind=repository.kind,
        id=repository.id,
        private=private,
        branch=branch,
        tag=tag,
        commit=commit,
        url=_url(api, repository, commit),
        new_commit=not is_there,
        files=tuple(
            PublishedFile(path=file.path, bytes=file.bytes, sha256=file_sha256(file.source))
            for file in repository.files
        ),
    )


def in_bytes(number: int) -> str:
    """A number of bytes for people, in powers of 1,000 as the Hub shows them."""
    amount = float(number)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def _ready_repository(api: HfApi, repository: PlannedRepository, section: HubSection) -> bool:
    """Create the repository where it is not; says whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.repo_info(repository.id, repo_type=repository.kind).private)
    except RepositoryNotFoundError:
        api.create_repo(
            repository.id,
            repo_type=repository.kind,
            private=section.private,
            exist_ok=True,
            space_sdk="gradio" if repository.kind == "space" else None,
        )
        private = section.private
    if section.private and not private:
        raise RequestError(f"hub.private: {public_words(repository.id)}")
    return private


def _ready_branch(api: HfApi, repository: PlannedRepository, branch: str, heads: Mapping[str, str]) -> _Branch:
    """The branch, begun at main where there is none. `heads` are the newest commits of those that there are."""
    from huggingface_hub.hf_api import RepoFile

    is_new = branch not in heads
    if is_new:
        api.create_branch(repository.id, branch=branch, repo_type=repository.kind, exist_ok=True)
    head = heads[MAIN] if is_new else heads[branch]
    listed = api.list_repo_tree(repository.id, recursive=True, revision=head, repo_type=repository.kind)
    return _Branch(head, {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}, is_new)


def _holds(there: _Branch, repository: PlannedRepository) -> bool:
    """Whether every planned file is there with the same content, as after a commit whose answer was lost."""
    for file in repository.files:
        entry = there.files.get(file.path)
        if entry is None or entry.size != file.bytes:
            return False
        oid = entry.blob_id if entry.lfs is None else entry.lfs.sha256
        if not file.has_content(oid, is_large=entry.lfs is not None):
            return False
    return True


def _stale(repository: PlannedRepository, there: _Branch, known: Remembered | None) -> list[str]:
    """Files that this run put there once and that are not planned any more."""
    planned = {file.path for file in repository.files}
    return [] if known is None else [path for path in known.files if path in there.files and path not in planned]


def _require_known(target: str, branch: str, there: _Branch, known: Remembered | None, section: HubSection) -> None:
    if there.is_new or "unknown_commits" in section.despite or set(there.files) <= _BY_THE_HUB:
        return
    if known is not None and known.commit == there.commit:
        return
    since = "" if known is None else f", and the last one of this run is {known.commit[:10]}"
    raise WorkError(
        f"{target}: the newest commit on {branch} is {there.commit[:10]}, which this run did not make{since}; nothing "
        "was published. Look at it, then publish to another hub.branch, or on top of it with "
        "hub.despite=[unknown_commits] (files of the same names are replaced, others stay)"
    )


def _commit(
    api: HfApi, repository: PlannedRepository, branch: str, parent: str, stale: Sequence[str], message: str
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(file.path, str(file.source)) for file in repository.files
    ]
    operations += [CommitOperationDelete(path, is_folder=False) for path in stale]
    done = api.create_commit(
        repository.id,
        operations,
        commit_message=message,
        repo_type=repository.kind,
        revision=branch,
        parent_commit=parent,
    )
    return str(done.oid)


def _url(api: HfApi, repository: PlannedRepository, commit: str) -> str:
    prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
    return f"{api.endpoint}/{prefix}{repository.id}/tree/{commit}"


@contextmanager
def _libraries_silent(*, bars: bool) -> Iterator[None]:
    """Within, the Hub's library draws bars only if `bars`; and its HTTP library does not log each address that it asks,
    for those of the storage carry their permission in them."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    had_bars = not are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    if not bars:
        disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars and not bars:
            enable_progress_bars()

"""Pushes one repository: all its files in one commit on top of a commit that this run knows, or nothing at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.artifact import file_sha256
from hfkit.errors import WorkError
from hfkit.hub.failures import AGAIN, explained, upload_explained
from hfkit.hub.files import PlannedRepository, PublishedFile, PublishedRepository
from hfkit.hub.remembered import Remembered, remember
from hfkit.hub.standing import Standing, require_free, standing, target_of
from hfkit.progress import Progress
from hfkit.recipe import HubSection

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def require_pushable(
    api: HfApi, planned: Sequence[PlannedRepository], section: HubSection, memory: Path, progress: Progress
) -> None:
    """Look at every repository before anything is sent to the first, so that none is published without the others.

    Raises: as `push` does, but for what only shows when files are sent.
    """
    for repository in planned:
        with explained(target_of(repository)), _libraries_silent(bars=progress.on_terminal):
            there = standing(api, repository, section, memory)
            if there is not None:
                require_free(there, repository, section)


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
    target = target_of(repository)
    with explained(target), _libraries_silent(bars=progress.on_terminal):
        there = _found_or_created(api, repository, section, memory)
        commit, is_there = there.commit, require_free(there, repository, section)
        if is_there:
            progress.say(f"  {target}: holds all of it already")
        else:
            progress.say(f"  {target}: {len(repository.files)} files, {in_bytes(repository.bytes)}, to {there.branch}")
            if not there.has_branch:
                _begin_branch(api, repository, there, memory)
            commit = _commit(api, repository, there, message)
        known = Remembered(commit=commit, files=tuple(file.path for file in repository.files))
        remember(memory, repository, there.branch, known)
        if there.tag is not None and there.tagged is None:
            api.create_tag(repository.id, tag=there.tag, revision=commit, repo_type=repository.kind)
    return PublishedRepository(
        kind=repository.kind,
        id=repository.id,
        private=there.private,
        branch=there.branch,
        tag=there.tag,
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


def _found_or_created(api: HfApi, repository: PlannedRepository, section: HubSection, memory: Path) -> Standing:
    there = standing(api, repository, section, memory)
    if there is not None:
        return there
    api.create_repo(
        repository.id,
        repo_type=repository.kind,
        private=section.private,
        exist_ok=True,
        space_sdk="gradio" if repository.kind == "space" else None,
    )
    created = standing(api, repository, section, memory)
    if created is None:
        raise WorkError(f"{target_of(repository)}: was deleted when it had just been created; {AGAIN}")
    return created


def _begin_branch(api: HfApi, repository: PlannedRepository, there: Standing, memory: Path) -> None:
    """Create the branch where main was seen. That commit is remembered first: whoever is stopped between here and the
    commit finds main's files on the branch the next time, and must know that they are nobody's work there."""
    remember(memory, repository, there.branch, Remembered(commit=there.commit))
    api.create_branch(
        repository.id, branch=there.branch, revision=there.commit, repo_type=repository.kind, exist_ok=True
    )


def _commit(api: HfApi, repository: PlannedRepository, there: Standing, message: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(file.path, str(file.source)) for file in repository.files
    ]
    operations += [CommitOperationDelete(path, is_folder=False) for path in there.stale(repository)]
    with upload_explained(target_of(repository)):
        done = api.create_commit(
            repository.id,
            operations,
            commit_message=message,
            repo_type=repository.kind,
            revision=there.branch,
            parent_commit=there.commit,
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

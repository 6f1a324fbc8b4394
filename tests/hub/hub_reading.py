"""How the tests' Hub answers who reads: what is in a repository, and its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qs

from tests.hub.hub_repositories import Blob, Repository

if TYPE_CHECKING:
    from tests.hub.hub_server import HubRequest


def info(request: HubRequest, repository: Repository, revision: str) -> NoReturn:
    commit = request.commit_at(repository, revision)
    request.json(
        {
            "id": repository.id,
            "modelId": repository.id,
            "sha": commit.oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
    )


def refs(request: HubRequest, repository: Repository) -> NoReturn:
    def listed(names: Mapping[str, str], where: str) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": oid} for n, oid in names.items()]

    branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
    request.json({"branches": branches, "tags": tags, "converts": []})


def _file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
    if blob.is_large:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
    return entry


def tree(request: HubRequest, repository: Repository, revision: str, folder: str) -> NoReturn:
    files = request.commit_at(repository, revision).files
    prefix = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in sorted(files.items()) if path.startswith(prefix)}
    if folder and not inside:
        request.refuse(404, f"{folder} does not exist", "EntryNotFound")
    entries, folders = [], set()
    for path, blob in inside.items():
        steps = path.removeprefix(prefix).split("/")
        deep = request.query.get("recursive", "").lower() == "true"
        for end in range(1, len(steps) if deep else min(2, len(steps))):
            folders.add(prefix + "/".join(steps[:end]))
        if deep or len(steps) == 1:
            entries.append(_file_entry(path, blob))
    listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    request.json(listed + entries)


def paths(request: HubRequest, repository: Repository, revision: str) -> NoReturn:
    files = request.commit_at(repository, revision).files
    if request.headers.get("Content-Type", "").startswith("application/json"):
        asked = request.asked_for()["paths"]
    else:
        asked = parse_qs(request.body.decode()).get("paths", [])
    entries: list[dict[str, Any]] = []
    for path in asked:
        if path in files:
            entries.append(_file_entry(path, files[path]))
        elif any(name.startswith(f"{path}/") for name in files):
            entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
    request.json(entries)


def resolve(request: HubRequest, repository: Repository, revision: str, path: str) -> NoReturn:
    commit = request.commit_at(repository, revision)
    blob = commit.files.get(path)
    if blob is None:
        headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
        request.json({"error": "Entry not found"}, 404, headers)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
    if blob.is_large:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        request.send(200, blob.content, headers)
    start, end = int(wanted[1]), min(int(wanted[2] or len(blob.content)), len(blob.content) - 1)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.content)}"
    request.send(206, blob.content[start : end + 1], headers)

"""How the tests' Hub takes what is written: large files, commits, branches and tags."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, NoReturn

from tests.hub.hub_repositories import LARGE, Blob, Repository

if TYPE_CHECKING:
    from tests.hub.hub_server import HubRequest


def preupload(request: HubRequest, repository: Repository, revision: str) -> NoReturn:
    there = request.commit_at(repository, revision).files
    answer = []
    for file in request.asked_for()["files"]:
        mode = "lfs" if file["path"].endswith(LARGE) or file["size"] > 10_000_000 else "regular"
        entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if file["path"] in there:
            entry["oid"] = there[file["path"]].oid
        answer.append(entry)
    request.json({"files": answer})


def batch(request: HubRequest, repository: Repository) -> NoReturn:
    objects = []
    for asked in request.asked_for()["objects"]:
        entry = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in request.hub.store:
            # As a bucket's signed links: whoever has the link may write.
            upload = {"href": f"{request.hub.url}/lfs/{asked['oid']}?X-Signature=signed-and-secret", "header": {}}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{request.hub.url}/lfs/verify"}}
        objects.append(entry)
    request.json({"transfer": "basic", "objects": objects})


def take(request: HubRequest, oid: str) -> NoReturn:
    if hashlib.sha256(request.body).hexdigest() != oid:
        request.refuse(400, "the content is not what was announced")
    request.hub.store[oid] = request.body
    request.hub.uploads.append(oid)
    request.json({})


def take_commit(request: HubRequest, repository: Repository, branch: str) -> NoReturn:
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = lines[0]["value"]
    if branch not in repository.branches:
        request.refuse(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    parent = header.get("parentCommit")
    if parent is not None and parent != repository.branches[branch]:
        request.refuse(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.head(branch).files)
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in request.hub.store:
                request.refuse(400, f"{value['path']} was never uploaded")
            files[value["path"]] = Blob(request.hub.store[value["oid"]], True)
        elif line["key"] == "deletedFile":
            if value["path"] not in files:
                request.refuse(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[value["path"]]
    made = repository.commit(branch, header["summary"], files)
    prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
    url = f"{request.hub.url}/{prefix}{repository.id}/commit/{made.oid}"
    request.json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def make_branch(request: HubRequest, repository: Repository, name: str) -> NoReturn:
    if name in repository.branches:
        request.refuse(409, f"Reference already exists: refs/heads/{name}")
    start = request.commit_at(repository, request.asked_for().get("startingPoint") or "main")
    repository.branches[name] = start.oid
    request.json({})


def make_tag(request: HubRequest, repository: Repository, revision: str) -> NoReturn:
    name = request.asked_for()["tag"]
    if name in repository.tags:
        request.refuse(409, f"Tag reference exists already: refs/tags/{name}")
    repository.tags[name] = request.commit_at(repository, revision).oid
    request.json({})

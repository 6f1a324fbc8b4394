"""A small Hub on 127.0.0.1, in memory: what huggingface_hub needs to create, push, list and load repositories.

    with HubServer() as hub:
        hub.tokens["hf_…"] = Account("ada")
        …                               # a process with HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1, HF_TOKEN=hf_…
        hub.repositories["model", "ada/reader"].head().files["README.md"].content

`hub.faults` makes it misbehave: each `Fault` is used up by the requests that it fits, in order.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

Kind = Literal["model", "dataset", "space"]

_PREFIXES: Mapping[str, Kind] = {"datasets": "dataset", "spaces": "space"}
_LARGE = (".safetensors", ".parquet", ".sqlite", ".bin", ".png", ".faiss")
_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to. `role` is that of the token; `orgs` maps organisations to the role in them."""

    name: str
    role: Literal["write", "read", "fineGrained"] = "write"
    orgs: Mapping[str, str] = field(default_factory=dict)
    scoped: tuple[Mapping[str, Any], ...] = ()


@dataclass
class Fault:
    """What happens to requests whose "METHOD /path" `fits`, `times` times after the first `after` of them.

    `answer` is a status, "cut" (the connection is closed after a part of the body has come), "lose" (the request is
    served and its answer never arrives), "wait" (0.3 s, then served) or a function that is called before it is served.
    """

    fits: str
    answer: int | Literal["cut", "lose", "wait"] | Callable[[], None]
    times: int = 1
    after: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


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
        added = {path: Blob(content, path.endswith(_LARGE)) for path, content in files.items()}
        return self.commit(branch, title, {**self.head(branch).files, **added})


class HubServer:
    """Serves while the block runs. `requests` are "METHOD /path" of all that came; `uploads` those files' sha256 whose
    content came whole."""

    def __init__(self) -> None:
        self.forget()
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def forget(self) -> None:
        """Be as new."""
        self.tokens: dict[str, Account] = {}
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.uploads: list[str] = []
        self.store: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, kind: Kind, id: str, *, private: bool = False) -> Repository:
        repository = Repository(kind, id, private)
        repository.commit("main", "initial commit", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
        self.repositories[kind, id] = repository
        return repository

    def delete(self, kind: Kind, id: str) -> None:
        del self.repositories[kind, id]


class _Answered(Exception):
    """The request has its answer."""


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"
    # Otherwise the answer's head and body are two packets, and the second waits for the first's confirmation.
    wbufsize = -1

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    # ---- requests and answers

    def _serve(self) -> None:
        self.hub = self.server_hub
        parts = urlsplit(self.path)
        self.asked = unquote(parts.path)
        self.query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.is_lost = False
        try:
            with self.hub.lock:
                self.hub.requests.append(f"{self.command} {self.asked}")
                fault = self._fault()
            if fault is not None:
                self._misbehave(fault)
            self.body = self._read_body()
            self.account = self._account()
            with self.hub.lock:
                self._route()
        except _Answered:
            return
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times and re.search(fault.fits, f"{self.command} {self.asked}"):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _misbehave(self, fault: Fault) -> None:
        if callable(fault.answer):
            fault.answer()
        elif fault.answer == "wait":
            time.sleep(0.3)
        elif fault.answer == "lose":
            self.is_lost = True
        elif fault.answer == "cut":
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0) // 2))
            self._hang_up()
        else:
            self._read_body()
            self._json({"error": f"answered {fault.answer}"}, fault.answer, fault.headers)

    def _hang_up(self) -> NoReturn:
        self.close_connection = True
        self.connection.close()
        raise _Answered

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> NoReturn:
        if self.is_lost:
            self._hang_up()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
        raise _Answered

    def _json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> NoReturn:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _refuse(self, status: int, message: str, code: str | None = None) -> NoReturn:
        headers = {"X-Error-Message": message} | ({} if code is None else {"X-Error-Code": code})
        self._json({"error": message}, status, headers)

    def _asked_for(self) -> Any:
        return json.loads(self.body or b"{}")

    # ---- who asks, and for what

    def _account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            self._refuse(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def _may_write(self, owner: str) -> bool:
        account = self.account
        if account is None or account.role == "read":
            return False
        if account.role == "fineGrained":
            return any(
                scope["entity"]["name"].split("/")[0] == owner and "repo.write" in scope["permissions"]
                for scope in account.scoped
            )
        return owner == account.name or account.orgs.get(owner) in ("admin", "write", "contributor")

    def _repository(self, kind: Kind, id: str, *, write: bool = False) -> Repository:
        found = self.hub.repositories.get((kind, id))
        owner = id.split("/")[0]
        may_read = self.account is not None and (owner == self.account.name or owner in self.account.orgs)
        if found is None or (found.private and not may_read):
            self._refuse(401 if self.account is None else 404, "Repository not found", "RepoNotFound")
        if write and not self._may_write(owner):
            self._refuse(403, "You do not have the rights to write to this repository")
        return found

    def _commit(self, repository: Repository, revision: str) -> Commit:
        found = repository.at(revision)
        if found is None:
            self._refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    # ---- what there is

    def _route(self) -> None:
        if self.asked == "/api/whoami-v2":
            self._whoami()
        if self.asked == "/api/repos/create":
            self._create()
        if self.asked == "/api/validate-yaml":
            self._validate()
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", self.asked):
            self._take(found[1])
        if self.asked == "/lfs/verify":
            self._json({})
        if found := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.asked):
            self._batch(self._repository(_PREFIXES.get(found[1] or "", "model"), found[2], write=True))
        if found := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.asked):
            self._resolve(self._repository(_PREFIXES.get(found[1] or "", "model"), found[2]), found[3], found[4])
        if found := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?", self.asked):
            kind: Kind = found[1]  # type: ignore[assignment]
            self._about(kind, found[2], found[3] or "")
        self._refuse(404, f"Sorry, we can't find the page you are looking for ({self.asked})")

    def _about(self, kind: Kind, id: str, rest: str) -> None:
        what, _, argument = rest.partition("/")
        if what == "auth-check":
            self._repository(kind, id, write=argument == "write")
            self._json({})
        repository = self._repository(kind, id, write=self.command == "POST" and what != "paths-info")
        if what in ("", "revision"):
            self._info(repository, argument or "main")
        if what == "refs":
            self._refs(repository)
        if what == "tree":
            revision, _, folder = argument.partition("/")
            self._tree(repository, revision, folder)
        if what == "paths-info":
            self._paths(repository, argument)
        if what == "preupload":
            self._preupload(repository, argument)
        if what == "commit":
            self._take_commit(repository, argument)
        if what == "branch":
            self._make_branch(repository, argument)
        if what == "tag":
            self._make_tag(repository, argument)

    def _whoami(self) -> None:
        account = self.account
        if account is None:
            self._refuse(401, "Invalid username or password.")
        token: dict[str, Any] = {"displayName": "for tests", "role": account.role}
        if account.role == "fineGrained":
            token["fineGrained"] = {"global": [], "scoped": list(account.scoped)}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in account.orgs.items()]
        self._json(
            {"type": "user", "name": account.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
        )

    def _create(self) -> None:
        asked = self._asked_for()
        kind: Kind = asked.get("type") or "model"
        if self.account is None:
            self._refuse(401, "Invalid username or password.")
        owner = asked.get("organization") or self.account.name
        id = f"{owner}/{asked['name']}"
        if not self._may_write(owner):
            self._refuse(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if not _NAME.fullmatch(asked["name"]):
            self._refuse(400, f"Invalid repo name: {asked['name']}")
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{id}"
        if (kind, id) in self.hub.repositories:
            self._json({"error": f"You already created this {kind} repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.create(kind, id, private=private)
        self._json({"url": url, "name": id, "id": id})

    def _validate(self) -> None:
        content = self._asked_for()["content"]
        errors = []
        if found := re.match(r"---\n(.*?)\n---", content, re.DOTALL):
            try:
                if not isinstance(yaml.safe_load(found[1]), dict):
                    errors.append("metadata must be a mapping")
            except yaml.YAMLError as error:
                errors.append(str(error))
        listed = [{"message": message} for message in errors]
        self._json({"errors": listed, "warnings": []}, 400 if errors else 200)

    def _info(self, repository: Repository, revision: str) -> None:
        commit = self._commit(repository, revision)
        self._json(
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

    def _refs(self, repository: Repository) -> None:
        def listed(names: Mapping[str, str], where: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": oid} for n, oid in names.items()]

        branches, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
        self._json({"branches": branches, "tags": tags, "converts": []})

    def _entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.git_oid}
        if blob.is_large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
        return entry

    def _tree(self, repository: Repository, revision: str, folder: str) -> None:
        files = self._commit(repository, revision).files
        prefix = f"{folder}/" if folder else ""
        inside = {path: blob for path, blob in sorted(files.items()) if path.startswith(prefix)}
        if folder and not inside:
            self._refuse(404, f"{folder} does not exist", "EntryNotFound")
        entries, folders = [], set()
        for path, blob in inside.items():
            steps = path.removeprefix(prefix).split("/")
            deep = self.query.get("recursive", "").lower() == "true"
            for end in range(1, len(steps) if deep else min(2, len(steps))):
                folders.add(prefix + "/".join(steps[:end]))
            if deep or len(steps) == 1:
                entries.append(self._entry(path, blob))
        listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        self._json(listed + entries)

    def _paths(self, repository: Repository, revision: str) -> None:
        files = self._commit(repository, revision).files
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = self._asked_for()["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        entries: list[dict[str, Any]] = []
        for path in paths:
            if path in files:
                entries.append(self._entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40, "size": 0})
        self._json(entries)

    def _resolve(self, repository: Repository, revision: str, path: str) -> None:
        commit = self._commit(repository, revision)
        blob = commit.files.get(path)
        if blob is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
            self._json({"error": "Entry not found"}, 404, headers)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.is_large:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, blob.content, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(blob.content)), len(blob.content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(blob.content)}"
        self._send(206, blob.content[start : end + 1], headers)

    # ---- what is written

    def _preupload(self, repository: Repository, revision: str) -> None:
        there = self._commit(repository, revision).files
        answer = []
        for file in self._asked_for()["files"]:
            mode = "lfs" if file["path"].endswith(_LARGE) or file["size"] > 10_000_000 else "regular"
            entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in there:
                entry["oid"] = there[file["path"]].oid
            answer.append(entry)
        self._json({"files": answer})

    def _batch(self, repository: Repository) -> None:
        objects = []
        for asked in self._asked_for()["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.store:
                # As a bucket's signed links: whoever has the link may write.
                upload = {"href": f"{self.hub.url}/lfs/{asked['oid']}?X-Signature=signed-and-secret", "header": {}}
                entry["actions"] = {"upload": upload, "verify": {"href": f"{self.hub.url}/lfs/verify"}}
            objects.append(entry)
        self._json({"transfer": "basic", "objects": objects})

    def _take(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._refuse(400, "the content is not what was announced")
        self.hub.store[oid] = self.body
        self.hub.uploads.append(oid)
        self._json({})

    def _take_commit(self, repository: Repository, branch: str) -> None:
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if branch not in repository.branches:
            self._refuse(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        parent = header.get("parentCommit")
        if parent is not None and parent != repository.branches[branch]:
            self._refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.head(branch).files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.store:
                    self._refuse(400, f"{value['path']} was never uploaded")
                files[value["path"]] = Blob(self.hub.store[value["oid"]], True)
            elif line["key"] == "deletedFile":
                if value["path"] not in files:
                    self._refuse(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[value["path"]]
        made = repository.commit(branch, header["summary"], files)
        prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
        url = f"{self.hub.url}/{prefix}{repository.id}/commit/{made.oid}"
        self._json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})

    def _make_branch(self, repository: Repository, name: str) -> None:
        if name in repository.branches:
            self._refuse(409, f"Reference already exists: refs/heads/{name}")
        start = self._commit(repository, self._asked_for().get("startingPoint") or "main")
        repository.branches[name] = start.oid
        self._json({})

    def _make_tag(self, repository: Repository, revision: str) -> None:
        name = self._asked_for()["tag"]
        if name in repository.tags:
            self._refuse(409, f"Tag reference exists already: refs/tags/{name}")
        repository.tags[name] = self._commit(repository, revision).oid
        self._json({})

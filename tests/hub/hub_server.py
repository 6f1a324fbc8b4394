"""A small Hub on 127.0.0.1, in memory: what huggingface_hub needs to create, push, list and load repositories.

    with HubServer() as hub:
        hub.tokens["hf_…"] = Account("ada")
        …                               # a process with HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET=1, HF_TOKEN=hf_…
        hub.repositories["model", "ada/reader"].head().files["README.md"].content

`hub.faults` makes it misbehave: each `Fault` is used up by the requests that it fits, in order.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub import hub_reading, hub_writing
from tests.hub.hub_repositories import Blob, Commit, Kind, Repository

_PREFIXES: Mapping[str, Kind] = {"datasets": "dataset", "spaces": "space"}
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


class HubServer:
    """Serves while the block runs. `requests` are "METHOD /path" of all that came; `uploads` those files' sha256 whose
    content came whole."""

    def __init__(self) -> None:
        self.forget()
        self.lock = threading.RLock()
        hub = self

        class Handler(HubRequest):
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
        files = {".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)}
        if kind == "space":
            files["README.md"] = Blob(b"---\ntitle: App\nsdk: gradio\n---\n", False)
        repository.commit("main", "initial commit", files)
        self.repositories[kind, id] = repository
        return repository

    def delete(self, kind: Kind, id: str) -> None:
        del self.repositories[kind, id]


class _Answered(Exception):
    """The request has its answer."""


class HubRequest(BaseHTTPRequestHandler):
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
            self.json({"error": f"answered {fault.answer}"}, fault.answer, fault.headers)

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

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> NoReturn:
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

    def json(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> NoReturn:
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def refuse(self, status: int, message: str, code: str | None = None) -> NoReturn:
        headers = {"X-Error-Message": message} | ({} if code is None else {"X-Error-Code": code})
        self.json({"error": message}, status, headers)

    def asked_for(self) -> Any:
        return json.loads(self.body or b"{}")

    # ---- who asks, and for what

    def _account(self) -> Account | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if token not in self.hub.tokens:
            self.refuse(401, "Invalid credentials in Authorization header")
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
            self.refuse(401 if self.account is None else 404, "Repository not found", "RepoNotFound")
        if write and not self._may_write(owner):
            self.refuse(403, "You do not have the rights to write to this repository")
        return found

    def commit_at(self, repository: Repository, revision: str) -> Commit:
        found = repository.at(revision)
        if found is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
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
            hub_writing.take(self, found[1])
        if self.asked == "/lfs/verify":
            self.json({})
        if found := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.asked):
            hub_writing.batch(self, self._repository(_PREFIXES.get(found[1] or "", "model"), found[2], write=True))
        if found := re.fullmatch(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.asked):
            hub_reading.resolve(
                self, self._repository(_PREFIXES.get(found[1] or "", "model"), found[2]), found[3], found[4]
            )
        if found := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?", self.asked):
            kind: Kind = found[1]  # type: ignore[assignment]
            self._about(kind, found[2], found[3] or "")
        self.refuse(404, f"Sorry, we can't find the page you are looking for ({self.asked})")

    def _about(self, kind: Kind, id: str, rest: str) -> None:
        what, _, argument = rest.partition("/")
        if what == "auth-check":
            self._repository(kind, id, write=argument == "write")
            self.json({})
        repository = self._repository(kind, id, write=self.command == "POST" and what != "paths-info")
        if what in ("", "revision"):
            hub_reading.info(self, repository, argument or "main")
        if what == "refs":
            hub_reading.refs(self, repository)
        if what == "tree":
            revision, _, folder = argument.partition("/")
            hub_reading.tree(self, repository, revision, folder)
        if what == "paths-info":
            hub_reading.paths(self, repository, argument)
        if what == "preupload":
            hub_writing.preupload(self, repository, argument)
        if what == "commit":
            hub_writing.take_commit(self, repository, argument)
        if what == "branch":
            hub_writing.make_branch(self, repository, argument)
        if what == "tag":
            hub_writing.make_tag(self, repository, argument)

    def _whoami(self) -> None:
        account = self.account
        if account is None:
            self.refuse(401, "Invalid username or password.")
        token: dict[str, Any] = {"displayName": "for tests", "role": account.role}
        if account.role == "fineGrained":
            token["fineGrained"] = {"global": [], "scoped": list(account.scoped)}
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in account.orgs.items()]
        self.json(
            {"type": "user", "name": account.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
        )

    def _create(self) -> None:
        asked = self.asked_for()
        kind: Kind = asked.get("type") or "model"
        if self.account is None:
            self.refuse(401, "Invalid username or password.")
        owner = asked.get("organization") or self.account.name
        id = f"{owner}/{asked['name']}"
        if not self._may_write(owner):
            self.refuse(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if not _NAME.fullmatch(asked["name"]):
            self.refuse(400, f"Invalid repo name: {asked['name']}")
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{id}"
        if (kind, id) in self.hub.repositories:
            self.json({"error": f"You already created this {kind} repo", "url": url}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.create(kind, id, private=private)
        self.json({"url": url, "name": id, "id": id})

    def _validate(self) -> None:
        content = self.asked_for()["content"]
        errors = []
        if found := re.match(r"---\n(.*?)\n---", content, re.DOTALL):
            try:
                if not isinstance(yaml.safe_load(found[1]), dict):
                    errors.append("metadata must be a mapping")
            except yaml.YAMLError as error:
                errors.append(str(error))
        listed = [{"message": message} for message in errors]
        self.json({"errors": listed, "warnings": []}, 400 if errors else 200)

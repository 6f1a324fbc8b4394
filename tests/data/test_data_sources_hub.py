"""Hub datasets, from a server on this machine that speaks as much of the Hub's protocol as reading needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

_CARD = """---
configs:
- config_name: chats
  data_files:
  - {split: train, path: chats/train.parquet}
  - {split: test, path: chats/test.parquet}
- config_name: labelled
  data_files: labelled.parquet
---
"""


def _labelled() -> bytes:
    """A Parquet file as `datasets` writes it: classes as numbers, pictures as bytes."""
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["bad", "good"], "_type": "ClassLabel"},
        "picture": {"_type": "Image"},
    }
    table = pa.table(
        {"text": ["x", "y", "z"], "label": [1, 0, -1], "picture": [{"bytes": b"\x89PNG", "path": None}] * 3}
    )
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return _parquet(table)


def _chats(numbers: list[int]) -> bytes:
    return _parquet(pa.table({"n": numbers, "text": [f"t{number}" for number in numbers]}))


def _parquet(table: pa.Table) -> bytes:
    written = BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


FILES = {
    "README.md": _CARD.encode(),
    "chats/train.parquet": _chats([0, 1, 2, 3, 4]),
    "chats/test.parquet": _chats([9]),
    "labelled.parquet": _labelled(),
}


class _Hub(BaseHTTPRequestHandler):
    """The dataset `me/chats`, at one commit."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not re.search(r"/datasets/me/chats(/|$)", path):
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif found := re.fullmatch(r"/api/datasets/me/chats(?:/revision/([^/]+))?", path):
            self._at_revision(found[1] or "main", lambda: self._answer(200, self._info()))
        elif found := re.fullmatch(r"/api/datasets/me/chats/tree/([^/]+)(?:/(.*))?", path):
            folder = found[2]
            self._at_revision(found[1], lambda: self._answer(200, self._tree(folder or "")))
        elif found := re.fullmatch(r"/datasets/me/chats/resolve/([^/]+)/(.+)", path):
            name = found[2]
            self._at_revision(found[1], lambda: self._file(name))
        else:
            self._answer(404, {"error": "no such page"}, {})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self._answer(200, [self._entry(name) for name in asked if name in FILES])

    def _at_revision(self, revision: str, answer: Any) -> None:
        if revision in ("main", COMMIT):
            answer()
        else:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})

    def _info(self) -> dict[str, Any]:
        siblings = [{"rfilename": name} for name in FILES]
        return {"id": "me/chats", "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings}

    def _tree(self, folder: str) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        inside = [name for name in FILES if name.startswith(prefix)]
        folders = sorted({name[len(prefix) :].split("/")[0] for name in inside if "/" in name[len(prefix) :]})
        entries = [{"type": "directory", "path": prefix + name, "oid": COMMIT, "size": 0} for name in folders]
        return entries + [self._entry(name) for name in inside if "/" not in name[len(prefix) :]]

    def _entry(self, name: str) -> dict[str, Any]:
        content = FILES[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, name: str) -> None:
        if name not in FILES:
            self._answer(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content, headers, code = FILES[name], {"X-Repo-Commit": COMMIT}, 200
        headers["ETag"] = f'"{hashlib.sha1(content).hexdigest()}"'
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            content, code = content[start : end + 1], 206
        self._answer(code, content, headers)

    def _answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


# Reads each source that it is given, as JSON, and says what came of it.
_READER = """
import json, sys
from hfkit.data.ledger import Ledger
from hfkit.data.sources import check_source, identify_source, read_source
from hfkit.errors import RequestError
from hfkit.recipe import HubSource

for source in map(HubSource.model_validate, json.loads(sys.argv[1])):
    ledger, said = Ledger(), {}
    said["check"] = check_source(source)
    try:
        said["identity"] = identify_source(source)
        batches = list(read_source(source, ledger, batch_rows=2))
        said["rows"] = [[p, dict(r)] for batch in batches for p, r in zip(batch.places, batch.rows)]
    except RequestError as error:
        said["error"] = str(error)
    said["noted"] = [list(account.first) for account in ledger.noted]
    print(json.dumps(said))
"""


class Reader(Protocol):
    def __call__(self, *sources: dict[str, Any], offline: bool = False) -> list[dict[str, Any]]: ...


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """`read({"hub": …}, …)` reads in a process of its own: the libraries look at their environment once, when they are
    imported. The cache is the same for all of the module's tests."""
    home = tmp_path_factory.mktemp("hub-home")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def run(*sources: dict[str, Any], offline: bool = False) -> list[dict[str, Any]]:
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1" if offline else "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_TOKEN"):
            environment.pop(name, None)
        command = [sys.executable, "-c", _READER, json.dumps(sources)]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield run
    server.shutdown()
    thread.join()
    server.server_close()


def test_hub_datasets(read: Reader) -> None:
    chats = {"hub": "me/chats", "config": "chats"}

    def five(name: str) -> list[Any]:
        return [[f"{name}#{n}", {"n": n, "text": f"t{n}"}] for n in range(5)]

    whole, streamed, test, labelled, missing, no_split, no_config, no_revision = read(
        chats,
        chats | {"streaming": True},
        chats | {"split": "test", "revision": COMMIT},
        {"hub": "me/chats", "config": "labelled"},
        {"hub": "me/missing"},
        chats | {"split": "nope"},
        {"hub": "me/chats"},
        chats | {"revision": "nope"},
    )
    assert whole["check"] == ["note", "me/chats will be fetched from the Hub"]
    assert whole["identity"] == {"hub": "me/chats", "commit": COMMIT, "rows": "hub:me/chats:chats/train"}
    assert whole["rows"] == streamed["rows"] == five("hub:me/chats:chats/train")
    assert test["rows"] == [[f"hub:me/chats:chats/test@{COMMIT}#0", {"n": 9, "text": "t9"}]]
    assert [row for _, row in labelled["rows"]] == [
        {"text": "x", "label": "good"},
        {"text": "y", "label": "bad"},
        {"text": "z", "label": None},
    ]
    assert labelled["noted"] == [["hub:me/chats:labelled/train: picture"]]
    assert missing["error"].startswith("hub: me/missing: there is no such dataset on the Hub")
    assert "nope" in no_split["error"] and "train" in no_split["error"] and "test" in no_split["error"]
    assert "chats" in no_config["error"] and "labelled" in no_config["error"]
    assert "at revision nope" in no_revision["error"]
    for said in (missing, no_split, no_config, no_revision):
        assert "\n" not in said["error"] and "rows" not in said

    # Offline, what was fetched is there; what was not is said in one sentence; a revision is not taken for another.
    cached, pinned, wrong, absent = read(
        chats, chats | {"revision": COMMIT}, chats | {"revision": "v1"}, {"hub": "me/missing"}, offline=True
    )
    assert cached["check"] == ["ok", "me/chats is in the cache"]
    assert cached["rows"] == five("hub:me/chats:chats/train")
    assert pinned["rows"] == five(f"hub:me/chats:chats/train@{COMMIT}")
    assert cached["identity"] == whole["identity"]
    assert pinned["identity"]["commit"] == COMMIT
    assert "revision v1 is not in the cache" in wrong["error"]
    assert absent["check"] == ["error", absent["error"]]
    assert "HF_HUB_OFFLINE" in absent["error"] and "\n" not in absent["error"]

"""Pages from listed hosts, over real connections to a server of this test; no address of this machine is ever asked
otherwise."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import rag.web
from rag.documents import Corpus, Limits, fingerprint_sources, load_corpus
from rag.errors import RagRequestError
from rag.web import check_url, is_public
from tests.rag.hostile_files import zipped

HOST = "docs.example.org"
ASKED: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ASKED.append(self.path)
        match self.path:
            case "/page":
                self.answer(b"<title>Page</title><script>x</script><p>words of it</p>", "text/html; charset=utf-8")
            case "/notes.md":
                self.answer(b"# Notes\n\nplain", "text/plain")
            case "/a.zip":
                self.answer(zipped({"x.md": "# X\n\nin it"}), "application/zip")
            case "/picture":
                self.answer(b"\x89PNG", "image/png")
            case "/large":
                self.answer(b"x" * 50_000, "text/plain")
            case "/packed":
                self.answer(b"x", "text/plain", ("Content-Encoding", "gzip"))
            case "/short":
                self.answer(b"half of it", "text/plain", length=99)
            case "/moved":
                self.answer(b"", "text/html", ("Location", "/page"), status=302)
            case "/round":
                self.answer(b"", "text/html", ("Location", "/round"), status=302)
            case "/elsewhere":
                self.answer(b"", "text/html", ("Location", "http://169.254.169.254/latest"), status=302)
            case "/file":
                self.answer(b"", "text/html", ("Location", "file:///etc/passwd"), status=302)
            case "/busy":
                self.answer(b"", "text/html", status=503)
            case "/often":
                self.answer(b"", "text/html", status=429)
            case "/slow":
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                for _ in range(200):
                    try:
                        self.wfile.write(b"x")
                        self.wfile.flush()
                    except OSError:
                        return
                    time.sleep(0.1)
            case _:
                self.answer(b"", "text/html", status=404)

    def answer(
        self, body: bytes, kind: str, *headers: tuple[str, str], status: int = 200, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(length or len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        return


@pytest.fixture
def port() -> Iterator[int]:
    ASKED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes every host's name stand for an address."""

    def resolve(address: str) -> None:
        def found(host: str, port: int, *_: object, **__: object) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(rag.web.socket, "getaddrinfo", found)

    return resolve


@pytest.fixture
def fetched(port: int, resolved: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Corpus]:
    """Loads a path of the server, which for this passes as a public host."""
    resolved("127.0.0.1")
    monkeypatch.setattr(rag.web, "is_public", lambda address: address == "127.0.0.1")

    def load(path: str, limits: Limits | None = None) -> Corpus:
        return load_corpus([f"http://{HOST}:{port}{path}"], [f"{HOST}:{port}"], limits)

    return load


def test_a_page_is_a_document(fetched: Callable[..., Corpus], port: int) -> None:
    (document,) = fetched("/page#part").documents
    assert document.id == f"http://{HOST}:{port}/page"
    assert (document.title, document.text.strip()) == ("Page", "words of it")
    assert fetched("/moved").documents[0].title == "Page"
    assert fetched("/notes.md").documents[0].sections[0].heading_path == ("Notes",)
    assert fetched("/a.zip").documents[0].id == f"http://{HOST}:{port}/a.zip!/x.md"


@pytest.mark.parametrize(
    ("path", "reason", "passing"),
    [
        ("/gone", "the host answers 404", False),
        ("/busy", "the host answers 503", True),
        ("/often", "the host answers 429", True),
        ("/picture", "no reader for image/png", False),
        ("/packed", "comes packed", False),
        ("/short", "cut off: 10 of 99 bytes came", True),
        ("/round", "sends on more than 5 times", False),
        ("/elsewhere", "sends on to a place that is not asked: .*169.254.169.254 is not among the hosts", False),
        ("/file", "sends on to a place that is not asked", False),
        ("/large", "more than the 20,000 bytes that one file may have", False),
    ],
)
def test_what_cannot_be_had_is_named(fetched: Callable[..., Corpus], path: str, reason: str, passing: bool) -> None:
    corpus = fetched(path, Limits(bytes=20_000))
    assert corpus.documents == ()
    (skipped,) = corpus.skipped
    assert skipped.source.endswith(path)
    assert re.search(reason, skipped.reason), skipped
    assert skipped.passing == passing


def test_a_host_that_drips_is_cut(fetched: Callable[..., Corpus]) -> None:
    (skipped,) = fetched("/slow", Limits(download_seconds=0.5)).skipped
    assert skipped.reason == "took more than the 0.5 seconds that it may take" and skipped.passing


def test_a_lookup_that_hangs_is_cut(fetched: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        answered.wait(60)
        return []

    monkeypatch.setattr(rag.web.socket, "getaddrinfo", hang)
    (skipped,) = fetched("/page", Limits(download_seconds=0.3)).skipped
    assert skipped.reason == "took more than the 0.3 seconds that it may take"
    assert not answered.is_set()
    answered.set()


def test_a_host_that_is_not_found_is_named(fetched: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(rag.web.socket, "getaddrinfo", unknown)
    (skipped,) = fetched("/page").skipped
    assert "the host docs.example.org is not found" in skipped.reason and skipped.passing


def test_a_listed_host_with_a_private_address_is_not_asked(port: int, resolved: Callable[[str], None]) -> None:
    resolved("127.0.0.1")
    (skipped,) = load_corpus([f"http://{HOST}:{port}/page"], [f"{HOST}:{port}"]).skipped
    assert "stands for 127.0.0.1, which is no public address" in skipped.reason
    assert ASKED == []


def test_the_connection_itself_is_checked_again(
    port: int, resolved: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved("127.0.0.1")
    answers = iter([True, False])
    monkeypatch.setattr(rag.web, "is_public", lambda address: next(answers))
    (skipped,) = load_corpus([f"http://{HOST}:{port}/page"], [f"{HOST}:{port}"]).skipped
    assert "the connection leads to a private address" in skipped.reason
    assert ASKED == []


def test_no_network_without_a_listed_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(rag.web.socket, "getaddrinfo", refuse)
    monkeypatch.setattr(rag.web.socket, "create_connection", refuse)
    with pytest.raises(RagRequestError, match=r"docs\.example\.org is not among the hosts .*none are listed"):
        load_corpus([f"https://{HOST}/x"])
    with pytest.raises(RagRequestError, match=r"listed are other\.example\.org"):
        fingerprint_sources([f"https://{HOST}/x"], ["other.example.org"])
    first = fingerprint_sources([f"https://{HOST}/x"], [HOST])
    assert first != fingerprint_sources([f"https://{HOST}/y"], [HOST])
    assert first != fingerprint_sources([f"https://{HOST}/x#again"], [HOST])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "198.18.0.1",
        "fec0::1", "3fff::1", "3fff:fff::1", "5f00::1", "64:ff9b:1::1", "168.63.129.16", "::ffff:168.63.129.16",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("https://docs.example.org.evil.org/", [HOST]),
        ("https://evil.org/docs.example.org", [HOST]),
        ("https://docs.example.org@evil.org/", [HOST]),
        ("https://user:password@docs.example.org/", [HOST]),
        ("https://docs.example.org:8443/", [HOST]),
        ("https://sub.docs.example.org/", [HOST]),
        ("https:///x", [HOST]),
        ("https://docs.example.org:99999/", [HOST]),
        ("http://docs.example.org/a b", [HOST]),
        ("http://docs.example.org/\r\nHost: x", [HOST]),
    ],
)
def test_addresses_that_are_not_asked(url: str, hosts: list[str]) -> None:
    with pytest.raises(RagRequestError) as error:
        check_url(url, hosts)
    assert "password" not in str(error.value).replace("a user or a password", "")


def test_addresses_that_are_asked() -> None:
    assert check_url("https://DOCS.example.org/a?b=c#d", [HOST]) == "https://DOCS.example.org/a?b=c"
    assert check_url("http://docs.example.org:8080/", [f"{HOST}:8080"]) == "http://docs.example.org:8080/"

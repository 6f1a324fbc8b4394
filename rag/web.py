"""Fetches a page from a host that the user has listed, and from no other place.

What a page links to is not followed; a redirect is, to listed hosts alone. A host's addresses are checked before the
connection, which then goes to the very address that was checked: a name that means another address a moment later
gains nothing. No proxy is used.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit, urlunsplit

from rag.errors import RagRequestError
from rag.limits import Limits
from rag.readers.formats import is_archive, suffix_of, without_reader
from rag.readers.unreadable import Unreadable, UnreadableNow, megabytes

_SCHEMES = ("http://", "https://")
_REDIRECTS = 5
# Not of the open internet, though Python's lists, which differ by version, may take them for it: site-local addresses,
# documentation, segment routing, translation inside a network, and the host that serves a machine in Azure.
_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in ("fec0::/10", "3fff::/20", "5f00::/16", "64:ff9b:1::/48", "168.63.129.16")
)
_PIECE = 65_536
# Error statuses below 500 by which a host says: not now.
_PASSING = (408, 425, 429)
# Which reader a page's own word asks for; for others the end of the address decides.
_SUFFIXES = {
    "application/epub+zip": ".epub",
    "application/gzip": ".gz",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/xhtml+xml": ".html",
    "application/zip": ".zip",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "text/tab-separated-values": ".tsv",
}


@dataclass(frozen=True)
class Page:
    """What an address gave: its bytes, and a file name that tells their format."""

    data: bytes
    name: str


def is_url(source: str) -> bool:
    return source.lower().startswith(_SCHEMES)


def check_url(source: str, hosts: Collection[str]) -> str:
    """The address without its fragment: a document's id. Touches no network.

    Raises:
        RagRequestError: it is no address, carries a password, or its host is not listed.
    """
    parts = _split(source)
    if parts.username is not None or parts.password is not None:
        raise RagRequestError(f"{parts.scheme}://{parts.hostname}: an address with a user or a password is not fetched")
    if not _listed(parts, hosts):
        said = f"listed are {', '.join(sorted(hosts))}" if hosts else "none are listed"
        raise RagRequestError(f"{source}: its host {parts.hostname} is not among the hosts that may be asked ({said})")
    return urlunsplit(parts._replace(fragment=""))


def fetch(url: str, hosts: Collection[str], limits: Limits) -> Page:
    """Asks for a page that `check_url` let pass.

    Raises:
        Unreadable: it cannot be had: a redirect elsewhere, an error status, a limit. UnreadableNow where that may pass:
            the network, the time, a host that is not able to answer now.
    """
    deadline = time.monotonic() + limits.download_seconds
    for _ in range(_REDIRECTS + 1):
        answer = _ask(_split(url), limits, deadline)
        if isinstance(answer, Page):
            return answer
        target = urljoin(url, answer)
        try:
            checked = check_url(target, hosts)
        except RagRequestError as error:
            raise Unreadable(f"sends on to a place that is not asked: {error}") from None
        if url.lower().startswith("https") and not checked.lower().startswith("https"):
            raise Unreadable("sends on from https to http")
        url = checked
    raise Unreadable(f"sends on more than {_REDIRECTS} times")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: none of this machine, of a private or local network, and
    none kept for other ends."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if found in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 carries an IPv4 address in its last bytes
            return is_public(str(ipaddress.IPv4Address(found.packed[-4:])))
    denied = any(found in network for network in _DENIED)
    return found.is_global and not (found.is_multicast or found.is_reserved or denied)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise RagRequestError(f"{url}: no address that can be asked: {error}") from None
    if not parts.hostname or f"{parts.scheme}://" not in _SCHEMES or port == 0 or re.search(r"[\x00-\x20\x7f]", url):
        raise RagRequestError(f"{url}: no address that can be asked; it must be https://HOST/... or http://HOST/...")
    return parts


def _listed(parts: SplitResult, hosts: Collection[str]) -> bool:
    """`example.org` allows that host at the usual port, `example.org:8080` at that one."""
    usual = 443 if parts.scheme == "https" else 80
    host, port = (parts.hostname or "").lower().rstrip("."), parts.port or usual
    allowed = {entry.strip().lower() for entry in hosts}
    return f"{host}:{port}" in allowed or (port == usual and host in allowed)


def _ask(parts: SplitResult, limits: Limits, deadline: float) -> Page | str:
    """The page, or the address that it sends on to."""
    host = parts.hostname or ""
    connection = _Connection(host, parts.port, parts.scheme == "https", deadline)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else ""
    )
    # A host that sends a byte now and then would never run into a socket's own timeout.
    timer = threading.Timer(max(deadline - time.monotonic(), 0.001), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        connection.request("GET", path, headers={"User-Agent": "rag-reader", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
            return str(response.getheader("Location"))
        if response.status != 200:
            passing = response.status in _PASSING or response.status >= 500
            said = f"the host answers {response.status} {response.reason}".rstrip()
            raise UnreadableNow(said) if passing else Unreadable(said)
        if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise Unreadable("comes packed, though it was asked for as it is")
        return Page(_body(response, limits, deadline), _name(parts.path, response.getheader("Content-Type") or ""))
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() >= deadline:
            raise UnreadableNow(f"took more than the {limits.download_seconds:g} seconds that it may take") from None
        raise UnreadableNow(f"cannot be fetched: {error or type(error).__name__}") from None
    finally:
        timer.cancel()
        connection.close()


def _body(response: http.client.HTTPResponse, limits: Limits, deadline: float) -> bytes:
    """The whole of it: a connection that is cut gives no error of itself, only an early end."""
    announced = response.getheader("Content-Length")
    pieces: list[bytes] = []
    size = 0
    while piece := response.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > limits.bytes:
            raise Unreadable(f"more than the {megabytes(limits.bytes)} that one file may have")
    if time.monotonic() >= deadline:
        raise TimeoutError
    if announced is not None and announced.isdecimal() and int(announced) != size:
        raise UnreadableNow(f"cut off: {size:,} of {int(announced):,} bytes came")
    return b"".join(pieces)


def _name(path: str, content_type: str) -> str:
    """A file name whose end is that of the format."""
    kind = content_type.partition(";")[0].strip().lower()
    last = path.rpartition("/")[2]
    # "text/plain" is said of Markdown and of source code, too: the name of the file knows better.
    general = kind in ("", "text/plain", "application/octet-stream", "application/gzip", "application/x-gzip")
    if last and (suffix_of(last) == _SUFFIXES.get(kind) or (general and without_reader(last) is None)):
        return last
    if kind in _SUFFIXES:
        return f"page{_SUFFIXES[kind]}"
    if last and (is_archive(last) or without_reader(last) is None):
        return last
    raise Unreadable(f"no reader for {kind or 'what it gives'}")


class _Connection(http.client.HTTPConnection):
    """A connection to an address that was found to be public, for the whole of which there is one deadline."""

    def __init__(self, host: str, port: int | None, secure: bool, deadline: float) -> None:
        super().__init__(host, port or (443 if secure else 80))
        self._secure = secure
        self._deadline = deadline
        # The base class forgets its socket once an answer comes whose end is the end of the connection.
        self._held: socket.socket | None = None

    def connect(self) -> None:
        address = _public_address(self.host, self.port, self._deadline)
        left = max(self._deadline - time.monotonic(), 0.001)
        plain = self.sock = self._held = socket.create_connection((address, self.port), timeout=left)
        try:
            if not is_public(str(plain.getpeername()[0])):
                raise OSError("the connection leads to a private address")
            if self._secure:
                self.sock = self._held = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        except OSError:
            plain.close()
            raise

    def cut(self) -> None:
        """Ends what goes on, from another thread."""
        held = self._held
        if held is not None:
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                return


def _public_address(host: str, port: int, deadline: float) -> str:
    """The first address of a host, all of which must be public."""
    addresses = _addresses(host, port, deadline)
    private = [address for address in addresses if not is_public(address)]
    if private or not addresses:
        raise OSError(f"the host {host} stands for {', '.join(private) or 'nothing'}, which is no public address")
    return addresses[0]


def _addresses(host: str, port: int, deadline: float) -> list[str]:
    """Asked for by another thread: the system's own lookup knows no deadline, and cannot be broken off."""
    found: list[str] = []
    faults: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            faults.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(max(deadline - time.monotonic(), 0.001))
    if faults:
        raise OSError(f"the host {host} is not found ({faults[0]})")
    if thread.is_alive():
        raise TimeoutError(f"the host {host} is not found in time")
    return found

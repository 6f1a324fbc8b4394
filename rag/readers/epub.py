"""EPUB into text: the chapters in the order of the book's spine, each read as HTML."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from typing import TYPE_CHECKING
from urllib.parse import unquote

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.draft import Draft
from rag.readers.html import write_html
from rag.readers.unreadable import Unreadable
from rag.readers.zipped import check_document

if TYPE_CHECKING:
    from lxml.etree import _Element

_CONTAINER = "META-INF/container.xml"
_DESCRIBING = ("creator", "date", "language", "publisher", "subject", "description", "identifier")


def read_epub(id: str, data: bytes, limits: Limits) -> Document:
    """A book; its title, creator, date, language and publisher are those that the book says.

    Raises:
        Unreadable: it is no EPUB, is encrypted, over the limits, or has no text.
    """
    archive = check_document(data, limits, "EPUB")
    if "META-INF/encryption.xml" in archive.namelist() and b"CipherReference" in _member(
        archive, "META-INF/encryption.xml"
    ):
        fonts_alone = b"fonts/" in _member(archive, "META-INF/encryption.xml").lower()
        if not fonts_alone:
            raise Unreadable("encrypted (DRM)")
    container = _xml(archive, _CONTAINER)
    package_name = next((found.get("full-path") or "" for found in container.iter("{*}rootfile")), "")
    if not package_name:
        raise Unreadable(f"no EPUB: its {_CONTAINER} names no package")
    package = _xml(archive, package_name)
    files = {item.get("id"): item for item in package.iter("{*}item")}
    chapters = [files[found.get("idref")] for found in package.iter("{*}itemref") if found.get("idref") in files]
    if len(chapters) > limits.pages:
        raise Unreadable(f"{len(chapters):,} chapters, more than the {limits.pages:,} that one document may have")
    described: dict[str, object] = {}
    title = ""
    for element in package.iter("{http://purl.org/dc/elements/1.1/}*"):
        name = str(element.tag).rpartition("}")[2]
        text = "".join(str(piece) for piece in element.itertext()).strip()
        if name == "title" and not title:
            title = text
        elif name in _DESCRIBING:
            described.setdefault(name, text)
    draft = Draft(limits)
    base = posixpath.dirname(package_name)
    for chapter in chapters:
        if chapter.get("media-type") in ("application/xhtml+xml", "text/html") and chapter.get("properties") != "nav":
            draft.under(())
            draft.section()
            name = posixpath.normpath(posixpath.join(base, unquote(chapter.get("href") or "")))
            # One level down: the book's title is above all chapters.
            write_html(draft, _member(archive, name), lowest=1)
    return draft.document(id, title, described)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise Unreadable(f"no EPUB, or damaged: it has no {name}") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise Unreadable(f"damaged: {name} cannot be unpacked ({error})") from None


def _xml(archive: zipfile.ZipFile, name: str) -> _Element:
    """XML without entities: none is expanded, none is fetched."""
    import lxml.etree

    parser = lxml.etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return lxml.etree.fromstring(_member(archive, name), parser)
    except lxml.etree.XMLSyntaxError as error:
        raise Unreadable(f"damaged: {name} is not well-formed ({error})") from None

"""Small generators of broken and hostile files: name, bytes, and what must come of each."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# XXE and path traversal point to this very file, and so to this word.
SECRET = "the-secret-of-the-outside"
SECRET_FILE = Path(__file__).resolve().as_posix()

LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'ha'>{}]>".format(
    "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
)
WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="{}"/>'
    "</rootfiles></container>"
)
PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{}'
    '</dc:title></metadata><manifest><item id="a" href="{}" media-type="application/xhtml+xml"/></manifest><spine>'
    '<itemref idref="a"/></spine></package>'
)


@dataclass(frozen=True)
class Hostile:
    """A file, and either a pattern of the reason for which it is skipped, or words that are read from it."""

    name: str
    content: bytes | Callable[[], bytes]
    skipped: str = ""
    read: str = ""

    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content()


def zipped(members: Mapping[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def docx(body: str, head: str = "", document: bytes | None = None) -> bytes:
    """A DOCX with this XML in its body and `head` before the root element."""
    xml = f'<?xml version="1.0"?>{head}<w:document {WORD}><w:body>{body}</w:body></w:document>'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    return zipped(
        {
            "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{kind}"/></Types>',
            "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r" Type="{office}" Target="word/document.xml"/></Relationships>',
            "word/document.xml": xml.encode() if document is None else document,
        }
    )


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def epub(chapter: str, package: str | None = None, container: str = "c.opf", href: str = "c.xhtml") -> bytes:
    return zipped(
        {
            "META-INF/container.xml": CONTAINER.format(container),
            "c.opf": PACKAGE.format("Book", href) if package is None else package,
            "c.xhtml": chapter,
        }
    )


def pdf(objects: Sequence[str | bytes], trailer: str = "/Root 1 0 R") -> bytes:
    """A PDF of these objects, numbered from 1."""
    out = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        body = content if isinstance(content, bytes) else content.encode()
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer\n<< /Size {len(objects) + 1} {trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()


def stream(content: bytes, packed: bool = False) -> bytes:
    body = zlib.compress(content, 9) if packed else content
    kind = b"/Filter /FlateDecode " if packed else b""
    return b"<< " + kind + f"/Length {len(body)} >>\nstream\n".encode() + body + b"\nendstream"


def pages(*contents: bytes, catalog: str = "", packed: bool = False) -> list[str | bytes]:
    """The objects of a PDF with these content streams, one a page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(contents)))
    objects: list[str | bytes] = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, content in enumerate(contents):
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(stream(content, packed))
    return objects


def shown(text: str) -> bytes:
    return f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()


def protected_pdf(password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf(pages(shown("behind a password"))))))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def tarred(entries: Sequence[tuple[str, bytes, bytes, str]], mode: str = "w") -> bytes:
    """(name, type, content, link) of each member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, kind, content, link in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), link
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def nested_zip(depth: int) -> bytes:
    inner = zipped({"note.md": "# Deep\n\nin the middle"})
    for _ in range(depth - 1):
        inner = zipped({"inner.zip": inner}, zipfile.ZIP_STORED)
    return inner


def with_unix_mode(mode: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("link.md")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def flagged_zip(flag: int) -> bytes:
    """A zip file whose one member says in both of its headers that it is encrypted."""
    data = bytearray(zipped({"a.md": "# A\n\nsecret"}))
    data[6] |= flag
    data[data.index(b"PK\1\2") + 8] |= flag
    return bytes(data)


def overlapping_zip() -> bytes:
    """Two entries of the directory that stand for the same bytes."""
    data = zipped({"a.md": "# A\n\nfirst"})
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[start:end]
    both = entry + entry.replace(b"a.md", b"b.md")
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(both), start, 0)
    return data[:start] + both + tail


def lying_zip() -> bytes:
    """A member that unpacks to more than its headers say."""
    data = bytearray(zipped({"a.md": "# A\n\n" + "word " * 10_000}))
    for place in (22, data.index(b"PK\1\2") + 24):
        data[place : place + 4] = struct.pack("<L", 20)
    return bytes(data)


def lying_tar() -> bytes:
    """A member of eight exabytes, as far as its header knows."""
    info = tarfile.TarInfo("huge.md")
    info.size = 2**63 - 1
    return info.tobuf(tarfile.GNU_FORMAT) + b"# Huge\n" + b"\0" * 505


def notebook(cells: object) -> bytes:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def hostile_files() -> list[Hostile]:
    """All of them; what is costly to make is made when it is asked for."""
    secret = SECRET_FILE
    page = "<html><head><title>T</title></head><body>{}</body></html>".format
    xhtml = '<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{}</p></body></html>'.format
    xxe = f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{secret}">]>'
    loop = f"{'<div>' * 100_000}deep{'</div>' * 100_000}"
    good_docx = docx(paragraph("kept text"))
    good_zip = zipped({"a.md": "# A\n\nkept " + "text " * 500, "b.md": "# B\n\nmore " + "text " * 500})
    outlined = pages(shown("under a loop"), catalog="/Outlines 6 0 R")
    outlined += [
        "<< /Type /Outlines /First 7 0 R /Last 7 0 R /Count 1 >>",
        "<< /Title (Again) /Parent 6 0 R /Next 7 0 R /First 7 0 R /Dest [4 0 R /Fit] >>",
    ]
    return [
        # Text.
        Hostile("empty.md", b"", "^empty$"),
        Hostile("blank.txt", b" \n\t\n \n", "^empty$"),
        Hostile("mark-alone.md", b"\xef\xbb\xbf", "^empty$"),
        Hostile("nul.md", b"# A\n\na\0b", "NUL bytes"),
        Hostile("latin1.md", b"caf\xe9", r"not UTF-8 \(byte 0xe9 at offset 3\)"),
        Hostile("utf16.md", "# Sechzehn\n\nBits für alle".encode("utf-16"), read="Bits für alle"),
        Hostile("utf32.txt", "zweiunddreißig Bits".encode("utf-32"), read="zweiunddreißig Bits"),
        Hostile("utf16-odd.txt", "halb".encode("utf-16") + b"x", "not UTF-16"),
        Hostile("overlong.txt", b"\xc0\xaf\xe0\x80\xaf", "not UTF-8"),
        Hostile("program.md", b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff", "NUL bytes"),
        Hostile("elf.txt", b"\x7fELF\2\1\1" + b"\0" * 60, "NUL bytes"),
        Hostile("one-line.txt", lambda: b"x" * 50_000_000, "more than the 20,000,000 characters"),
        Hostile("dots.md", b"# Dots\n\nstart " + b"." * 2_000_000 + b"x", read="start"),
        Hostile("spaces.md", b"# Wide" + b" " * 2_000_000 + b"end\n\nbody of it", read="body of it"),
        Hostile("hashes.md", b"#" * 2_000_000 + b"\n\nunder hashes", read="under hashes"),
        Hostile("ticks.md", b"`" * 2_000_000 + b" x `\n\nunder ticks", read="under ticks"),
        Hostile("rules.md", b"- " * 200_000 + b"x\n\nunder rules", read="under rules"),
        Hostile("quotes.md", b">" * 1_000_000 + b"[" * 1_000_000 + b" nested text", read="nested text"),
        Hostile("merge.md", _merging() + b"# Merged\n\nyaml bomb", read="yaml bomb"),
        Hostile("deep-yaml.md", b"---\na: " + b"[" * 20_000 + b"\n---\n# D\n\nflow bomb", read="flow bomb"),
        Hostile(
            "object.md",
            b'---\na: !!python/object/apply:os.system ["touch pwned"]\n---\n# O\n\nno object',
            read="no object",
        ),
        Hostile("include.rst", f"T\n=\n\n.. include:: {secret}\n\nplain directive\n".encode(), read="plain directive"),
        # HTML.
        Hostile(
            "scripts.html",
            page(
                "<script>stolen()</script><style>p{color:stolen}</style><nav>stolen menu</nav><p onclick='stolen()'>"
                "shown words</p><noscript>stolen</noscript><template>stolen</template><p hidden>stolen</p><!--stolen-->"
                "<iframe src='http://127.0.0.1:9/'>stolen</iframe><svg><script>stolen</script></svg>"
            ).encode(),
            read="shown words",
        ),
        Hostile("deep.html", page(loop).encode(), "deep"),
        Hostile("deep-tables.html", page("<table><tr><td>" * 30_000 + "x").encode(), "deep"),
        Hostile(
            "attributes.html", ("<p " + "a=1 " * 400_000 + ">many attributes</p>").encode(), read="many attributes"
        ),
        Hostile("unclosed.html", b"<p>unclosed words<a href='" + b"x" * 1_000_000, read="unclosed words"),
        Hostile("nul.html", b"<p>a\0b</p>", "NUL bytes"),
        Hostile("charset.html", b"<meta charset=zlib_codec><p>odd charset</p>", read="odd charset"),
        Hostile(
            "wrong-charset.html", b"<meta charset=shift_jis><p>\xff\xfe\xfd</p>", "encoding shift_jis that it declares"
        ),
        Hostile("laughs.html", (LAUGHS + "<p>&a11;laughing</p>").encode(), read="laughing"),
        Hostile(
            "xxe.xhtml", f'<?xml version="1.0"?>{xxe}{xhtml("&x; external entity")}'.encode(), read="external entity"
        ),
        Hostile("only-scripts.html", page("<script>x()</script>").encode(), "no text"),
        # PDF.
        Hostile("picture.pdf", b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "is not a PDF"),
        Hostile("page.pdf", page("no PDF").encode(), "is not a PDF"),
        Hostile("truncated.pdf", pdf(pages(shown("cut")))[:300], "cut off"),
        Hostile("password.pdf", lambda: protected_pdf("open sesame"), "protected by a password"),
        Hostile("owner.pdf", lambda: protected_pdf(""), read="behind a password"),
        Hostile("garbage.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 40 + b"\n%%EOF\n", "damaged"),
        Hostile(
            "no-pages.pdf", pdf(["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [] /Count 0 >>"]), "."
        ),
        Hostile(
            "tree-loop.pdf",
            pdf(["<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"]),
            ".",
        ),
        Hostile(
            "count.pdf",
            pdf(pages(shown("one page alone"))).replace(b"/Count 1 ", b"/Count 999999999 "),
            read="one page alone",
        ),
        Hostile("bomb.pdf", lambda: pdf(pages(b"\n" * 100_000_000, packed=True)), "."),
        Hostile(
            "script.pdf",
            pdf(pages(shown("calm text"), catalog="/OpenAction << /S /JavaScript /JS (app.alert\\(1\\)) >>")),
            read="calm text",
        ),
        Hostile("outline-loop.pdf", pdf(outlined), read="under a loop"),
        Hostile(
            "nested.pdf", pdf([f"<< /Type /Catalog /Pages 2 0 R /X {'[' * 50_000} >>", *pages(shown("x"))[1:]]), "."
        ),
        Hostile("scan.pdf", pdf(pages(b"0 0 100 100 re f")), "scanned"),
        # Office and EPUB.
        Hostile("laughs.docx", docx(paragraph("&a11;"), LAUGHS), "."),
        Hostile("xxe.docx", docx(paragraph("&x;") + paragraph("outer entity"), xxe), read="outer entity"),
        Hostile("bomb.docx", lambda: docx("", document=b"<a>" + b" " * 20_000_000), "times its size"),
        Hostile("truncated.docx", good_docx[:-40], "damaged, or no DOCX"),
        Hostile("archive.docx", good_zip, "damaged, or no DOCX"),
        Hostile("words.docx", b"only words", "damaged, or no DOCX"),
        Hostile("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "protected by a password, or an Office"),
        Hostile("deep.docx", lambda: docx("<w:p>" * 30_000 + "</w:p>" * 30_000), "."),
        Hostile("malformed.docx", docx("<w:p>", document=b"<w:document"), "damaged"),
        Hostile("encrypted.docx", flagged_zip(1), "protected by a password"),
        Hostile("macros.docm", good_docx, r"no reader for \.docm"),
        Hostile("word.pptx", good_docx, "damaged"),
        Hostile("truncated.pptx", good_docx[:200], "damaged, or no PPTX"),
        Hostile("no-container.epub", zipped({"a.xhtml": xhtml("x")}), "has no META-INF/container.xml"),
        Hostile("outside.epub", epub(xhtml("x"), container=f"../../..{secret}"), "it has no"),
        Hostile("outside-chapter.epub", epub(xhtml("x"), href=f"../../../../../..{secret}"), "it has no"),
        Hostile("laughs.epub", epub(xhtml("read all the same"), LAUGHS + PACKAGE.format("&a11;", "c.xhtml")), "."),
        Hostile("xxe.epub", epub(xhtml("chapter stays"), xxe + PACKAGE.format("&x;", "c.xhtml")), read="chapter stays"),
        Hostile("deep.epub", epub(xhtml(loop)), "deep"),
        Hostile(
            "drm.epub",
            zipped({"META-INF/container.xml": "<a/>", "META-INF/encryption.xml": "<a><CipherReference/></a>"}),
            "encrypted",
        ),
        # Archives.
        Hostile("traversal.zip", zipped({"../../pwned.md": "# P\n\nx"}), "leads out of the archive"),
        Hostile("absolute.zip", zipped({"/tmp/pwned.md": "# P\n\nx"}), "leads out of the archive"),
        Hostile("windows.zip", zipped({"..\\..\\pwned.md": "# P\n\nx"}), "leads out of the archive"),
        Hostile("symlink.zip", with_unix_mode(0o120777), "a link, a device or a pipe"),
        Hostile("bomb.zip", lambda: zipped({"zeros.md": b"\0" * 20_000_000}), "times its size"),
        Hostile("nested.zip", nested_zip(6), "lies in more than 2 archives"),
        Hostile("shallow.zip", nested_zip(3), read="in the middle"),
        Hostile("many.zip", lambda: zipped({f"{number}.png": b"" for number in range(10_500)}), "10,500 members"),
        Hostile("truncated.zip", good_zip[:-60], "damaged, or no zip"),
        Hostile("broken.zip", good_zip.replace(good_zip[60:70], b"\xff" * 10), "."),
        Hostile("password.zip", flagged_zip(1), "protected by a password"),
        Hostile("overlapping.zip", overlapping_zip(), "."),
        Hostile("lying.zip", lying_zip(), "."),
        Hostile("empty.zip", zipped({}), "holds no files"),
        Hostile("picture.zip", b"\x89PNG\r\n\x1a\n", "damaged, or no zip"),
        Hostile("long-name.zip", zipped({"n" * 5_000 + ".md": "x"}), "more than 1,000 characters"),
        Hostile("traversal.tar", tarred([("../pwned.md", tarfile.REGTYPE, b"# P", "")]), "leads out of the archive"),
        Hostile("link.tar", tarred([("a.md", tarfile.SYMTYPE, b"", secret)]), "a link, a device or a pipe"),
        Hostile("hard-link.tar", tarred([("a.md", tarfile.LNKTYPE, b"", secret)]), "a link, a device or a pipe"),
        Hostile("device.tar", tarred([("a.md", tarfile.CHRTYPE, b"", "")]), "a link, a device or a pipe"),
        Hostile("pipe.tar", tarred([("a.md", tarfile.FIFOTYPE, b"", "")]), "a link, a device or a pipe"),
        Hostile("lying.tar", lying_tar(), "."),
        Hostile("truncated.tar.gz", gzip.compress(b"\1" * 20_000)[:-12], "damaged archive"),
        Hostile(
            "bomb.tgz", lambda: tarred([("z.md", tarfile.REGTYPE, b" " * 20_000_000, "")], "w:gz"), "times its size"
        ),
        Hostile("bomb.md.gz", lambda: gzip.compress(b"# B\n" + b" " * 20_000_000), "times its size"),
        Hostile("truncated.md.gz", gzip.compress(b"# A\n\ntext " * 900)[:-9], "damaged archive"),
        Hostile("notes.txt.gz", gzip.compress(b"packed notes"), read="packed notes"),
        # Data, notebooks and code.
        Hostile("deep.json", b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        Hostile("deep-object.json", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        Hostile("digits.json", b'{"n": ' + b"9" * 100_000 + b"}", "not JSON"),
        Hostile("half.json", b'{"a": ', "not JSON"),
        Hostile("nan.json", b'{"a": NaN, "b": Infinity, "c": "finite words"}', read="finite words"),
        Hostile("surrogate.json", b'{"a": "lone \\ud800 and \\u0000 nul"}', read="lone ? and \ufffd nul"),
        Hostile("half.jsonl", b'{"a": "x"}\n{"b": \n', "line 2: not JSON"),
        Hostile("deep.jsonl", b'{"a": 1}\n' + b"[" * 100_000 + b"\n", "line 2: JSON nested too deep"),
        Hostile("field.csv", b"a,b\nshort words," + b"y" * 5_000_000 + b"\n", read="short words"),
        Hostile("quote.csv", b'a,b\n"never closed,' + b"z\n" * 100_000, read="never closed"),
        Hostile("columns.csv", b"," * 1_000_000 + b"\n1,2\n", "columns, more than the 1,000"),
        Hostile("nul.csv", b"a,b\n\0,1\n", "NUL bytes"),
        Hostile("head.csv", b"a,b,c\n", "a head without rows"),
        Hostile("list.ipynb", b"[1, 2]", "no notebook"),
        Hostile("cells.ipynb", notebook("cells"), "no list of cells"),
        Hostile(
            "odd-cells.ipynb", notebook([7, None, {"cell_type": 3}, {"cell_type": "code", "source": {"a": 1}}]), "."
        ),
        Hostile(
            "output.ipynb",
            notebook(
                [{"cell_type": "code", "source": ["1\n", 2, "+1"], "outputs": [7, {"data": {"text/html": "<script>"}}]}]
            ),
            read="+1",
        ),
        Hostile("deep.py", b"x = " + b"(" * 100_000 + b")" * 100_000, read="x = "),
        Hostile("minus.py", b"x = " + b"-" * 300_000 + b"1", read="x = "),
        Hostile("cookie.py", b"# coding: rot13\nvzcbeg bf\n", read="vzcbeg"),
        Hostile("touch.py", b"open('pwned', 'w')\nimport os; os.system('touch pwned')\n", read="os.system"),
        Hostile("minified.js", b"function a(){" + b"b();" * 500_000 + b"}", read="function a()"),
        Hostile("picture.png", b"\x89PNG\r\n\x1a\n", r"no reader for \.png"),
        Hostile("n" * 200 + ".weird", b"x", r"no reader for \.weird"),
    ]


def _merging() -> bytes:
    """YAML whose merge keys give ten to the ninth pairs to whoever merges them."""
    lines = ["---", "m0: &m0 {x: 1}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    return ("\n".join(lines) + "\n---\n").encode()

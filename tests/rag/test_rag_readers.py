"""What each format gives: text, headings, pages, title and metadata."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.corpus import Corpus, Document
from rag.documents import Limits, load_corpus
from rag.errors import RagRequestError
from rag.readers.formats import READERS, read
from rag.readers.text import parse_rst
from rag.readers.unreadable import Unreadable
from tests.rag.hostile_files import epub, pages, pdf, shown, zipped

LIMITS = Limits()
Parts = list[tuple[tuple[str, ...], str]]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(name: str, content: str | bytes) -> Document:
    return read(name, name, content.encode() if isinstance(content, str) else content, LIMITS)


def parts(document: Document) -> Parts:
    return [(part.heading_path, document.text[part.start : part.end].strip()) for part in document.sections]


def only(corpus: Corpus) -> Document:
    assert corpus.skipped == ()
    (document,) = corpus.documents
    return document


def test_markdown_front_matter_is_metadata() -> None:
    document = of(
        "a.md",
        "---\ntitle: 'The page'\nauthor: Ann\ndate: 2024-05-01\ntags: [one, two]\ndraft: false\nweight: 3\nscore: 0.5\n"
        "nothing: null\nnested: {a: 1}\n---\n# Head\n\nbody\n",
    )
    assert document.title == "The page"
    assert document.metadata == {
        "author": "Ann",
        "date": "2024-05-01",
        "tags": "one, two",
        "draft": False,
        "weight": 3,
        "score": 0.5,
    }
    assert parts(document) == [(("Head",), "body")]


def test_front_matter_that_is_no_yaml_is_no_metadata() -> None:
    document = of("a.md", "---\ntitle: Kept\n\t: [\n---\nbody\n")
    assert (document.title, document.metadata) == ("Kept", {})


def test_a_heading_of_pages_is_cut() -> None:
    document = of("a.md", f"# {'word ' * 1_000}\n\nbody")
    assert len(document.sections[0].heading_path[0]) <= 300
    assert document.title.endswith("…")


def test_rst_titles() -> None:
    document = parse_rst(
        "a.rst",
        "intro\n\n=====\nTitle\n=====\n\nfirst\n\nSub one\n-------\n\nbody\n\n::\n\n    ---\n\nDeep\n~~~~\nx\n\n"
        "Sub two\n-------\ny\n\n- item\n- item\n\n====  ====\na     b\n====  ====\n",
    )
    assert document.title == "Title"
    assert parts(document) == [
        (("Title",), "intro"),
        (("Title",), "first"),
        (("Title", "Sub one"), "body\n\n::\n\n    ---"),
        (("Title", "Sub one", "Deep"), "x"),
        (("Title", "Sub two"), "y\n\n- item\n- item\n\n====  ====\na     b\n====  ===="),
    ]


def test_rst_titles_are_not_looked_for_right_behind_one() -> None:
    assert parts(parse_rst("a.rst", "A\n==\n--\n==\nB\n==")) == [(("A",), "--"), (("A", "B"), "==\nB\n==")]


LINES = 50_000
# Each with the limit that it is over.
ENDLESS = {
    "headings.md": (b"# a\n" * LINES, Limits(characters=1_000)),
    "more-headings.md": (b"# a\n" * LINES, Limits(sections=1_000)),
    "underlined.md": (b"a\n=\n" * LINES, Limits(sections=1_000)),
    "lines.rst": (b"a" + b"\n" * 4 * LINES, Limits(characters=1_000)),
    "titles.rst": (b"aa\n==\n\n" * LINES, Limits(sections=1_000)),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_over_a_limit_is_given_up_before_memory_is_taken_for_it(name: str) -> None:
    data, limits = ENDLESS[name]
    assert peak(lambda: refused(name, data, limits)) < 10 * len(data)


def test_lines_of_an_rst_file_are_not_all_held_at_once() -> None:
    text = "\n" * LINES
    assert peak(lambda: parse_rst("a.rst", text)) < 4 * len(text)


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python held at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(name: str, data: bytes, limits: Limits) -> None:
    with pytest.raises(Unreadable, match=r"more than the 1,000 (characters|sections) that one document may have"):
        read(name, name, data, limits)


def test_html() -> None:
    document = of(
        "a.html",
        """<!doctype html><html lang="en"><head><title>Page &amp; more</title><meta name="author" content="Bob">
        <meta property="article:published_time" content="2024-01-02"></head><body><header><nav>menu</nav></header>
        <main><h1>Head<a href="#x">¶</a></h1><p>First <b>bold</b>\n  words.<br>line two</p>
        <ol><li>one<ul><li>inner</li></ul></li><li><p>two</p></li></ol>
        <h2>Table</h2><table><thead><tr><th>name<th>port</thead><tr><td>http<td>80</table>
        <pre>def f():\n    return 1</pre><div>loose<p>para</p>tail</div>
        <h3>Deeper</h3><dl><dt>term<dd>meaning</dl></main><footer>foot</footer></body></html>""",
    )
    assert document.title == "Page & more"
    assert document.metadata == {"language": "en", "author": "Bob", "published_time": "2024-01-02"}
    assert parts(document) == [
        (("Head",), "First bold words.\nline two\n\n1. one\n  - inner\n2. two"),
        (
            ("Head", "Table"),
            "| name | port |\n|---|---|\n| http | 80 |\n\n```\ndef f():\n    return 1\n```\n\nloose\n\npara\n\ntail",
        ),
        (("Head", "Table", "Deeper"), "term\n\nmeaning"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.rst", "Guide\n=====\n\nReset\n-----\n\nUse\n---\nwords\n", ["Guide / Reset", "Guide / Use"]),
        ("a.rst", "Guide\n=====\n", ["Guide"]),
        ("a.html", "<h1>Guide</h1><h2>Reset</h2><h2>Use</h2><p>words</p>", ["Guide / Reset", "Guide / Use"]),
        ("a.html", "<h1>Guide</h1><h2>Reset</h2>", ["Guide / Reset"]),
        ("a.md", "# Guide\n## Reset\n## Use\nwords\n", ["Guide / Reset", "Guide / Use"]),
        ("a.md", "# Guide\n", ["Guide"]),
    ],
)
def test_a_heading_with_nothing_under_it_is_a_section(name: str, text: str, expected: list[str]) -> None:
    found = [(path, body) for path, body in parts(of(name, text)) if body]
    assert [" / ".join(path) for path, _ in found] == expected
    assert all("words" in body or path[-1] in body for path, body in found)


def test_html_without_headings_is_under_its_title() -> None:
    assert parts(of("a.html", "<title>T</title><p>x")) == [(("T",), "x")]
    assert parts(of("dir/name.htm", "just <i>words</i>")) == [(("name",), "just words")]


@pytest.mark.parametrize("codec", ["iso-8859-1", "windows-1252", "shift_jis", "utf-16", "utf-8"])
def test_html_in_the_encoding_that_it_declares(codec: str) -> None:
    word = "日本" if codec in ("shift_jis", "utf-8", "utf-16") else "café"
    assert word in of("a.html", f'<meta charset="{codec}"><p>{word}</p>'.encode(codec)).text


def test_pdf_pages_bookmarks_and_metadata() -> None:
    objects = pages(shown("Hello page one."), shown("And the second."), shown("Third."), catalog="/Outlines 10 0 R")
    objects += [
        "<< /Type /Outlines /First 11 0 R /Last 11 0 R /Count 2 >>",
        "<< /Title (Chapter) /Parent 10 0 R /Dest [6 0 R /Fit] /First 12 0 R /Last 12 0 R /Count 1 >>",
        "<< /Title (Part) /Parent 11 0 R /Dest [8 0 R /Fit] >>",
        "<< /Title (The book) /Author (Ann) /CreationDate (D:20240131120000Z) >>",
    ]
    Path("a.pdf").write_bytes(pdf(objects, "/Root 1 0 R /Info 13 0 R"))
    document = only(load_corpus(["a.pdf"]))
    assert document.title == "The book"
    assert document.metadata == {"pages": 3, "author": "Ann", "created": "2024-01-31"}
    assert [(part.page, part.heading_path) for part in document.sections] == [
        (1, ("The book",)),
        (2, ("The book", "Chapter")),
        (3, ("The book", "Chapter", "Part")),
    ]
    assert [text for _, text in parts(document)] == ["Hello page one.", "And the second.", "Third."]


def test_docx(tmp_path: Path) -> None:
    import docx

    made = docx.Document()
    made.add_heading("The title", 0)
    made.add_paragraph("Intro.")
    made.add_heading("First", 1)
    made.add_paragraph("item a", style="List Bullet")
    made.add_paragraph("item b", style="List Bullet")
    made.add_heading("Below", 2)
    table = made.add_table(2, 2)
    for row, column, text in ((0, 0, "name"), (0, 1, "port"), (1, 0, "http"), (1, 1, "80")):
        table.cell(row, column).text = text
    made.add_paragraph("After the table.")
    made.core_properties.author = "Ann"
    made.save(str(tmp_path / "a.docx"))
    document = only(load_corpus(["a.docx"]))
    assert document.title == "The title"
    assert document.metadata["author"] == "Ann"
    assert parts(document) == [
        (("The title",), "Intro."),
        (("The title", "First"), "- item a\n- item b"),
        (("The title", "First", "Below"), "| name | port |\n|---|---|\n| http | 80 |\n\nAfter the table."),
    ]


def test_pptx(tmp_path: Path) -> None:
    import pptx

    made = pptx.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "Slide one"
    slide.placeholders[1].text = "point\nother"
    slide.notes_slide.notes_text_frame.text = "spoken"
    slide = made.slides.add_slide(made.slide_layouts[6])
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "in a group"
    cells = slide.shapes.add_table(2, 2, 0, 0, 9, 9).table
    for row, column, text in ((0, 0, "a"), (0, 1, "b"), (1, 0, "1"), (1, 1, "2")):
        cells.cell(row, column).text = text
    made.core_properties.title = "Deck"
    made.save(str(tmp_path / "a.pptx"))
    document = only(load_corpus(["a.pptx"]))
    assert (document.title, document.metadata["pages"]) == ("Deck", 2)
    assert [part.page for part in document.sections] == [1, 2]
    assert parts(document) == [
        (("Deck", "Slide one"), "point\nother\n\nspoken"),
        (("Deck",), "in a group\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
    ]


def test_epub() -> None:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>'
        "Book</dc:title><dc:creator>Cy</dc:creator></metadata><manifest>"
        '<item id="n" href="n.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        '<item id="a" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="gone"/></spine></package>'
    )
    document = of(
        "a.epub", epub("<html><body><h1>One</h1><p>Once.</p><h2>Part</h2><p>More.</p></body></html>", package)
    )
    assert (document.title, document.metadata) == ("Book", {"creator": "Cy"})
    assert parts(document) == [(("Book", "One"), "Once."), (("Book", "One", "Part"), "More.")]


def test_csv_and_tsv() -> None:
    document = of("ports.csv", 'name,port\nhttp,80\n"a, ""b""",\n,,\nextra,1,2\n')
    assert document.metadata == {"columns": "name, port, column 3", "rows": 4}
    assert parts(document) == [
        (("ports",), "name: http\nport: 80"),
        (("ports",), 'name: a, "b"'),
        (("ports",), "name: extra\nport: 1\ncolumn 3: 2"),
    ]
    assert parts(of("a.csv", "x;y\n1,5;2\n")) == [(("a",), "x: 1,5\ny: 2")]
    assert parts(of("a.tsv", "x\ty\n1\t2\n")) == [(("a",), "x: 1\ny: 2")]


def test_json_and_jsonl() -> None:
    value = [{"a": {"b": 1, "c": [1, "x"]}, "on": True, "no": None}, {"list": [{"k": 1}, {"k": 2}]}, "alone"]
    assert parts(of("a.json", json.dumps(value))) == [
        (("a",), "a.b: 1\na.c: 1, x\non: true"),
        (("a",), "list.k: 1\nlist.k: 2"),
        (("a",), "alone"),
    ]
    assert parts(of("a.json", '{"one": {"x": 1}, "two": "y"}')) == [(("a",), "one.x: 1"), (("a",), "two: y")]
    document = of("rows.jsonl", '{"q": "first"}\n\n{"q": "second"}\n')
    assert document.metadata == {"rows": 2}
    assert parts(document) == [(("rows",), "q: first"), (("rows",), "q: second")]


def test_notebook() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Note\n", "text"]},
        {
            "cell_type": "code",
            "source": "print('```')",
            "outputs": [
                {"output_type": "stream", "text": ["```\n"]},
                {"output_type": "display_data", "data": {"image/png": "aGk=", "text/plain": "<Figure>"}},
                {"output_type": "error", "traceback": ["hidden"]},
            ],
        },
        {"cell_type": "markdown", "source": "## Next\nmore"},
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python"}}
    document = of("a.ipynb", json.dumps({"nbformat": 4, "metadata": kernel, "cells": cells}))
    assert document.title == "Note"
    assert document.metadata == {"kernel": "Python 3", "language": "python", "cells": 3}
    assert parts(document) == [
        (("Note",), "text\n\n````python\nprint('```')\n````\n\n````\n```\n````\n\n```\n<Figure>\n```"),
        (("Note", "Next"), "more"),
    ]


def test_python_code() -> None:
    methods = "".join(f'    def m{number}(self):\n        """{"word " * 60}"""\n\n' for number in range(5))
    document = of(
        "pkg/code.py",
        '"""Doc."""\nimport os\n\n# about f\n@cache\ndef f(x):\n    return x\n\n\nclass Small:\n    def m(self): ...\n'
        f"\n\nclass Large(Small):\n    x = 1\n\n{methods}X = 1\n",
    )
    assert document.title == "code.py"
    assert document.metadata == {"language": "Python"}
    found = parts(document)
    assert found[:4] == [
        (("code.py",), '"""Doc."""\nimport os'),
        (("code.py", "def f"), "# about f\n@cache\ndef f(x):\n    return x"),
        (("code.py", "class Small"), "class Small:\n    def m(self): ..."),
        (("code.py", "class Large"), "class Large(Small):\n    x = 1"),
    ]
    assert [path for path, _ in found[4:]] == [
        *(("code.py", "class Large", f"def m{number}") for number in range(5)),
        ("code.py",),
    ]
    assert "".join("".join(text.split()) for _, text in found) == "".join(document.text.split())


@pytest.mark.parametrize(
    ("name", "code", "headings"),
    [
        (
            "a.go",
            "package main\n\n// Adds.\nfunc (c *Calc) Add(a int) int {\n\treturn a\n}\n\ntype T struct {\n}\n",
            ["", "func (c *Calc) Add(a int) int", "type T struct"],
        ),
        (
            "a.rs",
            "use x;\npub fn f<T>(a: T) {\n}\nimpl<T> S<T> {\n  fn g() {}\n}\n",
            ["", "fn f<T>(a: T)", "impl S<T>"],
        ),
        ("a.ts", "export default class A {\n}\nexport async function f(x) {\n}\n", ["class A", "function f(x)"]),
        ("a.c", "#include <x>\n\nint main(int argc) {\n  if (x) {\n  }\n}\nstruct s {\n};\n", ["", "main", "struct s"]),
        ("a.sql", "-- all\nCREATE TABLE t (\n id int);\nselect 1;\n", ["CREATE TABLE t"]),
        ("a.sh", "set -e\nfunction go() {\n}\n", ["", "function go()"]),
    ],
)
def test_other_code(name: str, code: str, headings: list[str]) -> None:
    document = of(name, code)
    assert [" ".join(path[1:]) for path, _ in parts(document)] == headings
    assert "".join(document.text[part.start : part.end] for part in document.sections) == code


def test_python_that_does_not_parse_is_text_all_the_same() -> None:
    document = of("old.py", "import x\n\ndef f():\n    print 'two'\n")
    assert [path for path, _ in parts(document)] == [("old.py",), ("old.py", "def f()")]


def test_every_reader_takes_text_or_says_why_not() -> None:
    from rag.readers.unreadable import Unreadable

    for suffix in READERS:
        try:
            document = of(f"a{suffix}", "name,x\nplain words,1\n")
        except Unreadable as reason:
            assert str(reason)
        else:
            assert "plain words" in document.text


def test_archives() -> None:
    inner = zipped({"deep/y.md": "# Y\n\nin two"})
    Path("a.zip").write_bytes(
        zipped(
            {
                "docs/x.md": "# X\n\nin one",
                "b.zip": inner,
                ".hidden.md": "# H\n\nh",
                "__MACOSX/x.md": "# M",
                "p.png": "x",
            }
        )
    )
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("./z.html")
        info.size = 12
        archive.addfile(info, io.BytesIO(b"<p>in tar</p>"[:12]))
    Path("c.tar.gz").write_bytes(out.getvalue())
    Path("d.md.gz").write_bytes(gzip.compress(b"# D\n\nalone"))
    corpus = load_corpus(["a.zip", "c.tar.gz", "d.md.gz"])
    assert [document.id for document in corpus.documents] == [
        "a.zip!/docs/x.md",
        "a.zip!/b.zip!/deep/y.md",
        "c.tar.gz!/./z.html",
        "d.md.gz!/d.md",
    ]
    assert [document.title for document in corpus.documents] == ["X", "Y", "z", "D"]
    assert [(skipped.source, skipped.reason) for skipped in corpus.skipped] == [("a.zip!/p.png", "no reader for .png")]


def test_the_order_is_the_folders_whoever_is_read_where() -> None:
    names = [f"{letter}.{suffix}" for letter in "abcdef" for suffix in ("csv", "html", "md", "txt")]
    for name in names:
        Path(name).write_text("word,x\nmore,1\n")
    assert [document.id for document in load_corpus(["."]).documents] == names


def test_two_documents_of_one_id_are_named(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a.md", "text": "one"}\n')
    Path("a.md").write_text("# Other\n\nwords")
    corpus = load_corpus([f"beir:{tmp_path}", "a.md"])
    assert [document.text for document in corpus.documents] == ["one"]
    assert [skipped.reason for skipped in corpus.skipped] == ["another document has this id; the first one is kept"]


def test_beir(tmp_path: Path) -> None:
    rows = [
        {"_id": "7", "title": "A title", "text": "Some text.", "metadata": {"year": 2020, "links": {}}},
        {"_id": "8", "title": "", "text": "Only text."},
        {"_id": "9", "title": "Only title", "text": ""},
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "corpus.jsonl.gz").write_bytes(
        gzip.compress(f'{lines}\n\n{{"_id": "7", "text": "again"}}\n{{"text": "x"}}\nnot\n{{"_id": "x"}}\n'.encode())
    )
    corpus = load_corpus([f"beir:{tmp_path}"])
    assert [(doc.id, doc.title, doc.text) for doc in corpus.documents] == [
        ("7", "A title", "A title Some text."),
        ("8", "", "Only text."),
        ("9", "Only title", "Only title"),
    ]
    assert [parts(doc) for doc in corpus.documents] == [
        [(("A title",), "Some text.")],
        [((), "Only text.")],
        [((), "Only title")],
    ]
    assert corpus.documents[0].metadata == {"year": 2020}
    assert corpus.documents[0].source == (tmp_path / "corpus.jsonl.gz").as_posix()
    assert [skipped.source.rpartition(":")[2] for skipped in corpus.skipped] == ["5", "6", "7", "8"]
    with pytest.raises(RagRequestError, match=r"there is no corpus\.jsonl and no corpus\.jsonl\.gz in nowhere"):
        load_corpus(["beir:nowhere"])

"""Source code: the text as it is, with classes and functions as headings. Nothing is imported or run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import PurePath

from rag.corpus import Document, Section
from rag.limits import Limits
from rag.readers.decoding import decode
from rag.readers.draft import check_size, one_line
from rag.readers.unreadable import Unreadable

# (heading path below the title, first line, line after the last one), lines counted from 0.
_Part = tuple[tuple[str, ...], int, int]

# A class of at most so many characters stays one section.
_SMALL_CLASS = 1_000

LANGUAGES = {
    ".bash": "shell",
    ".c": "C",
    ".cc": "C++",
    ".cpp": "C++",
    ".cs": "C#",
    ".cu": "CUDA",
    ".cxx": "C++",
    ".go": "Go",
    ".h": "C",
    ".hpp": "C++",
    ".java": "Java",
    ".jl": "Julia",
    ".js": "JavaScript",
    ".jsx": "JavaScript",
    ".kt": "Kotlin",
    ".lua": "Lua",
    ".mjs": "JavaScript",
    ".php": "PHP",
    ".pl": "Perl",
    ".ps1": "PowerShell",
    ".r": "R",
    ".rb": "Ruby",
    ".rs": "Rust",
    ".scala": "Scala",
    ".sh": "shell",
    ".sql": "SQL",
    ".swift": "Swift",
    ".ts": "TypeScript",
    ".tsx": "TypeScript",
}

# What opens a definition at the start of a line, in the languages above, and the name that it gives.
_WORDS = (
    r"(?:export|default|public|private|protected|internal|static|final|abstract|sealed|open|override|async|pub"
    r"(?:\([a-z]+\))?|unsafe|inline|virtual|extern|partial|data|local|const|constexpr)"
)
_DEFINITION = re.compile(
    rf"(?:{_WORDS}[ \t]+){{0,6}}"
    r"(class|struct|interface|enum|trait|impl|protocol|extension|namespace|module|object|record|function|func|fun|fn|"
    r"def|sub|type|typedef|macro_rules!|CREATE(?: OR REPLACE)? (?:TABLE|VIEW|FUNCTION|PROCEDURE|TRIGGER|INDEX))\b"
    r"(?:<[^>\n]{0,80}>)?[ \t]+(\([^)\n]{0,80}\)[ \t]*)?([\w.$:~@]{1,100}[^\n{=;]{0,60})",
    re.I,
)
# C and its family name no keyword: `static int main(int argc, ...) {` at the start of a line.
_C_FUNCTION = re.compile(
    r"[A-Za-z_][\w:<>,*&~ \t]{0,120}[ \t*&]([A-Za-z_~][\w:~]{0,80})[ \t]*\([^;{}\n]{0,200}(?:\{|$)"
)
_C_FAMILY = {"C", "C++", "CUDA", "Java", "C#"}
_COMMENT = re.compile(r"(?://|/\*| ?\*|#|--|;|@|\[|\"\"\")")
_NOT_FUNCTIONS = {"if", "for", "while", "switch", "return", "else", "catch", "sizeof"}


def read_python(id: str, data: bytes, limits: Limits) -> Document:
    """A Python file, by `ast`: a section for each function and class; large classes have one for each method. One that
    does not parse (of Python 2, for example) is read as other code is.

    Raises:
        Unreadable: it is no text.
    """
    text = decode(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # an odd escape in somebody else's source
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last is how Python says "nested too deep"
        return _document(id, text, _by_lines(text, ""), "Python", limits)
    starts = _line_starts(text)
    parts = list(_python_parts(tree.body, (), text.split("\n"), starts, 0, len(starts)))
    return _document(id, text, parts, "Python", limits)


def read_code(id: str, data: bytes, limits: Limits) -> Document:
    """Code of another language: a section for each definition that starts at the left margin.

    Raises:
        Unreadable: it is no text.
    """
    text = decode(data)
    language = LANGUAGES.get(PurePath(id).suffix.lower(), "")
    return _document(id, text, _by_lines(text, language), language, limits)


def _document(id: str, text: str, parts: list[_Part], language: str, limits: Limits) -> Document:
    name = PurePath(id).name
    starts = [*_line_starts(text), len(text)]
    sections = [
        Section((name, *path), starts[first], starts[after])
        for path, first, after in parts
        if text[starts[first] : starts[after]].strip()
    ]
    if len(parts) > limits.sections:
        raise Unreadable(f"more than the {limits.sections:,} sections that one document may have")
    return check_size(
        Document(id, name, text, tuple(sections), metadata={"language": language} if language else {}), limits
    )


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _python_parts(
    body: list[ast.stmt], path: tuple[str, ...], lines: list[str], starts: list[int], first: int, after: int
) -> Iterator[_Part]:
    """Parts that cover the lines from `first` up to `after`: definitions, and what lies between them."""
    position = first
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        begin = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        while begin > position and lines[begin - 1].lstrip().startswith("#"):  # the comment right above belongs to it
            begin -= 1
        end = node.end_lineno or node.lineno
        if begin < position:  # a second definition on the same line
            continue
        if begin > position:
            yield path, position, begin
        kind = "class" if isinstance(node, ast.ClassDef) else "def"
        below = (*path, one_line(f"{kind} {node.name}"))
        size = (starts[end] if end < len(starts) else starts[-1]) - starts[begin]
        if isinstance(node, ast.ClassDef) and size > _SMALL_CLASS and len(path) < 5:
            yield from _python_parts(node.body, below, lines, starts, begin, end)
        else:
            yield below, begin, end
        position = end
    if position < after:
        yield path, position, after


def _by_lines(text: str, language: str) -> list[_Part]:
    """A part from each line at the left margin that opens a definition to the next; comments above go with it."""
    lines = text.split("\n")
    parts: list[_Part] = []
    path: tuple[str, ...] = ()
    start = 0
    for number, line in enumerate(lines):
        name = _defined(line[:500], language)
        if not name:
            continue
        begin = number
        while begin > start and _COMMENT.match(lines[begin - 1]):
            begin -= 1
        if begin > start:
            parts.append((path, start, begin))
            start = begin
        path = (name,)
    parts.append((path, start, len(lines)))
    return parts


def _defined(line: str, language: str) -> str:
    """The definition that a line opens, as a heading; "" where it opens none."""
    if not line[:1].isalpha():
        return ""
    found = _DEFINITION.match(line)
    if found:
        return one_line(f"{found.group(1)} {found.group(2) or ''}{found.group(3)}").rstrip(" ({:,")
    if language in _C_FAMILY:
        function = _C_FUNCTION.match(line)
        if function and function.group(1) not in _NOT_FUNCTIONS and line.split()[0] not in _NOT_FUNCTIONS:
            return one_line(function.group(1))
    return ""

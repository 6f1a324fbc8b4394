"""The docstrings of the standard library as documents, read with `ast`: nothing is imported or run."""

from __future__ import annotations

import ast
import difflib
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rag.corpus import Corpus, Document, Section, Skipped
from rag.errors import RagRequestError

PREFIX = "python-docstrings:"
_SIGNATURE_LIMIT = 100
_LEFT_OUT = {
    "dist-packages",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def is_source(source: str) -> bool:
    """Whether a source names docstrings and not a path."""
    return source.startswith(PREFIX)


def read_source(source: str) -> Corpus:
    """One document a module for `python-docstrings:` (the whole public standard library) or
    `python-docstrings:json,pathlib` (those modules); modules without docstrings give none.

    Raises:
        RagRequestError: a module that the standard library does not have.
    """
    documents: list[Document] = []
    skipped: list[Skipped] = []
    bodies: set[frozenset[str]] = set()
    for module, path in _selected(source):
        try:
            document = parse_module(module, path.read_bytes())
        except OSError as error:
            skipped.append(Skipped(PREFIX + module, (error.strerror or str(error)).lower()))
            continue
        except (SyntaxError, ValueError, RecursionError) as error:
            skipped.append(Skipped(PREFIX + module, f"{path.name} does not parse as Python: {error}"))
            continue
        if document is None:
            if source != PREFIX:
                skipped.append(Skipped(PREFIX + module, "has no docstrings of its own"))
            continue
        content = frozenset(document.text[section.start : section.end] for section in document.sections)
        if content not in bodies:  # a module that only repeats another under a second name
            bodies.add(content)
            documents.append(document)
    return Corpus(tuple(documents), tuple(skipped))


def source_files(source: str) -> list[tuple[str, Path]]:
    """(document id, path) of each module file that `read_source(source)` would parse."""
    return [(PREFIX + module, path) for module, path in _selected(source)]


def parse_module(module: str, source: bytes) -> Document | None:
    """The document of one module, or None where it has no docstring. Sections: the module's own docstring, then each
    public function, class and method that has one, in the order of the file; the same words are kept once.

    Raises:
        SyntaxError, ValueError: the source is not Python.
    """
    pieces = _Pieces()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", SyntaxWarning
        )  # an odd escape in somebody else's source is not our user's matter
        tree = ast.parse(source)
    pieces.add((module,), ast.get_docstring(tree, clean=False))
    for node, qualified, owner in _definitions(tree.body, module, None):
        pieces.add((module, _heading(node, qualified, owner)), ast.get_docstring(node, clean=False))
    if not pieces.sections:
        return None
    return Document(PREFIX + module, module, pieces.text, tuple(pieces.sections))


@dataclass
class _Pieces:
    """Grows the document: each section's heading on a line of its own, then its body, then a blank line."""

    text: str = ""
    sections: list[Section] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def add(self, heading_path: tuple[str, ...], docstring: str | None) -> None:
        # A literal may hold escapes that UTF-8 text cannot: lone surrogates and NUL.
        body = inspect.cleandoc(docstring or "").replace("\0", "\ufffd").strip()
        body = body.encode("utf-8", "replace").decode("utf-8")
        if not body or body in self.seen:
            return
        self.seen.add(body)
        self.text += f"{heading_path[-1]}\n"
        self.sections.append(Section(heading_path, len(self.text), len(self.text) + len(body)))
        self.text += f"{body}\n\n"


def _definitions(
    body: list[ast.stmt], prefix: str, owner: ast.ClassDef | None
) -> Iterator[tuple[_Definition, str, ast.ClassDef | None]]:
    """(node, dotted name, class it is in) of the public definitions, also of those under `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node, f"{prefix}.{node.name}", owner
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, f"{prefix}.{node.name}", node)
        elif isinstance(node, ast.If):
            yield from _definitions(node.body + node.orelse, prefix, owner)
        elif isinstance(node, ast.With):
            yield from _definitions(node.body, prefix, owner)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions(node.body + handlers + node.orelse + node.finalbody, prefix, owner)


def _heading(node: _Definition, qualified: str, owner: ast.ClassDef | None) -> str:
    """`json.dumps(obj, *, skipkeys=False, …)`; a class shows what its own __init__ takes; a property no parentheses."""
    decorators = {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}
    if isinstance(node, ast.ClassDef):
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return f"class {_signature(qualified, inits[0].args, True)}" if inits else f"class {qualified}"
    if decorators & {"property", "cached_property", "getter", "setter"}:
        return qualified
    return _signature(qualified, node.args, owner is not None and "staticmethod" not in decorators)


def _signature(name: str, arguments: ast.arguments, bound: bool) -> str:
    """`name(arguments)`, whole arguments left off at the end for … where it would pass 100 characters."""
    shown = _without_annotations(arguments, bound)
    full = f"{name}({', '.join(shown)})"
    while len(full) > _SIGNATURE_LIMIT and shown:
        shown.pop()
        full = f"{name}({', '.join([*shown, '…'])})"
    return full if len(full) <= _SIGNATURE_LIMIT else f"{full[: _SIGNATURE_LIMIT - 1]}…"


def _without_annotations(arguments: ast.arguments, bound: bool) -> list[str]:
    positional = arguments.posonlyargs + arguments.args
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    with_defaults = zip(positional, defaults + list(arguments.defaults), strict=True)
    shown = [_argument(argument, default) for argument, default in with_defaults]
    if arguments.posonlyargs:
        shown.insert(len(arguments.posonlyargs), "/")
    if bound and shown:
        shown = shown[1:]  # self or cls
        if shown[:1] == ["/"]:
            shown = shown[1:]
    if arguments.vararg:
        shown.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        shown.append("*")
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    shown += [_argument(argument, default) for argument, default in keywords]
    if arguments.kwarg:
        shown.append(f"**{arguments.kwarg.arg}")
    return shown


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return argument.arg if default is None else f"{argument.arg}={ast.unparse(default)}"


def _selected(source: str) -> list[tuple[str, Path]]:
    wanted = [name.strip() for name in source.removeprefix(PREFIX).split(",") if name.strip()]
    modules = dict(_modules(Path(sysconfig.get_path("stdlib")), ""))
    if not wanted:
        return sorted(modules.items())
    for name in wanted:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise RagRequestError(
                f"{source}: the standard library here has no public Python module {name!r} written in Python{hint}"
            )
    return [(name, modules[name]) for name in dict.fromkeys(wanted)]


def _modules(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        name = path.stem if path.suffix == ".py" else path.name
        if name.startswith("_") or name in _LEFT_OUT or not name.isidentifier():
            continue
        if path.suffix == ".py":
            yield prefix + name, path
        elif (path / "__init__.py").is_file():
            yield prefix + name, path / "__init__.py"
            yield from _modules(path, f"{prefix}{name}.")

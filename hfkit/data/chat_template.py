"""A chat template, compiled once: rendered as Transformers renders it, within bounds of time and size.

The environment is the sandbox that Transformers documents for chat templates: blocks trimmed, `break` and `continue`,
`generation` blocks, `raise_exception`, `strftime_now`, and a `tojson` that leaves HTML's characters alone. What is
added counts the steps of loops and macros and looks at what grows, so that no template can hold up a run. What differs
is what would make training unrepeatable: the date that `strftime_now` gives is fixed, and chance is refused.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# A template takes some ten steps a message; these stop only what would never end.
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_LENGTH = 64_000_000

DATE = datetime(2025, 1, 1)
"""The date that a template's `strftime_now` gives, unless the template arguments name another."""

# Names that no template can write, hence neither read nor replace.
_BUDGET = "the steps left"
_STEP = "one step"
_GROWN = "what has grown"

_DICT_NAMES = frozenset(dir(dict))
_TEXT_METHODS = frozenset({"endswith", "lower", "lstrip", "replace", "rstrip", "split", "startswith", "strip", "upper"})

_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*\d{6}")


class TemplateFault(Exception):
    """A template does not compile or does not render; the text says why, in the template's own words if it has any."""


class ChatTemplate:
    """A compiled chat template.

    Attributes:
        reads_date: True once a rendering has asked for today's date.

    Raises:
        TemplateFault: it does not compile.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.reads_date = False
        self._template = _compiled(text)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of `messages`, made of plain JSON types.

        `variables` are the special tokens by name and the recipe's template arguments; `strftime_now` among them, an
        ISO date, takes the place of the fixed date.

        Raises:
            TemplateFault: the template refuses the messages, fails on them, or does not come to an end.
        """
        given = dict(variables or {})
        date = given.pop("strftime_now", DATE)
        pieces: list[str] = []
        length = 0
        try:
            moment = date if isinstance(date, datetime) else datetime.fromisoformat(str(date))
            values = {
                "messages": messages,
                "tools": tools,
                "documents": None,
                "add_generation_prompt": generation_prompt,
                **given,
                "strftime_now": self._clock(moment),
                _BUDGET: _Budget(),
            }
            for piece in self._template.generate(values):
                length += len(piece)
                _within_length(length)
                pieces.append(piece)
        except RecursionError as error:
            raise TemplateFault("it calls itself without end") from error
        except MemoryError as error:
            raise TemplateFault("it makes more text than memory holds") from error
        # What templates raise: their own words, and whatever the expressions in them run into.
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateFault(str(error).strip() or type(error).__name__) from error
        return "".join(pieces)

    def _clock(self, moment: datetime) -> Callable[[str], str]:
        def strftime_now(format: str) -> str:
            self.reads_date = True
            return moment.strftime(format)

        return strftime_now


class _Budget:
    """What one rendering may still spend."""

    __slots__ = ("deadline", "steps")

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.deadline:
            raise TemplateError(f"it does not come to an end: over {MAX_STEPS} steps or {MAX_SECONDS:.0f} seconds")


@pass_context
def _step(context: Context, value: bool) -> bool:
    context.parent[_BUDGET].spend()
    return value


def _grown(value: Any) -> Any:
    if isinstance(value, str | list | tuple):
        _within_length(len(value))
    return value


def _within_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise TemplateError(f"it makes a text of over {MAX_LENGTH} characters")


class _Bounding(NodeTransformer):
    """Puts a step at the head of every loop's and macro's body, and a look at the length behind every joining."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            # What a loop passes over takes time as well.
            node.test = nodes.And(_a_step(), node.test)
        return self._stepping(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._stepping(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._stepping(node)

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        return self._watched(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return self._watched(node)

    def _stepping(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_a_step()).set_lineno(node.lineno))
        return node

    def _watched(self, node: nodes.Add | nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        # One look behind a whole chain is enough: what a chain can add is limited by the template's own length.
        if isinstance(node, nodes.Add):
            node.left, node.right = _unwatched(node.left), _unwatched(node.right)
        return nodes.Filter(node, _GROWN, [], [], None, None)


def _a_step() -> nodes.Expr:
    return nodes.Filter(nodes.Const(True), _STEP, [], [], None, None)


def _unwatched(node: nodes.Expr) -> nodes.Expr:
    if isinstance(node, nodes.Filter) and node.name == _GROWN and isinstance(node.node, nodes.Expr):
        return node.node
    return node


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        _Bounding().visit(source)
        source.set_environment(self)
        for node in source.find_all(nodes.Node):
            if not node.lineno:
                node.lineno = 1
        return super()._generate(source, name, filename, defer_init)

    def getattr(self, obj: Any, attribute: str) -> Any:
        # Two short ways to what the sandbox itself arrives at: keys of messages, and harmless methods of texts.
        if type(obj) is dict and attribute not in _DICT_NAMES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is str and attribute in _TEXT_METHODS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(times, int):
                    _within_length(len(value) * times)
            if isinstance(left, int) and isinstance(right, int):
                _within_length(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _within_length(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise TemplateError("it pads text to a width of over 99999 characters")
        return super().call_binop(context, operator, left, right)


class _GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}`, with which some templates mark what an assistant says: its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, so that what is set inside stays inside, as in Transformers.
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """`dict` as templates may use it: to make one, and nothing else."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


class _Namespace(Namespace):
    """Jinja's namespace without names that reach into Python."""

    def __init__(*items: Any, **named: Any) -> None:
        itself, *rest = items
        attributes = dict(*rest, **named)
        for name in attributes:
            _public(name)
        Namespace.__init__(itself, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)


def _public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _by_chance(*arguments: object, **named: object) -> NoReturn:
    raise TemplateError("it writes what chance decides, so training would not show what inference feeds")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, loopcontrols])
    made.filters.update({"tojson": _to_json, "random": _by_chance, _STEP: _step, _GROWN: _grown})
    made.globals.update(
        {"raise_exception": _raise_exception, "lipsum": _by_chance, "dict": _Dict(), "namespace": _Namespace}
    )
    return made


@lru_cache(maxsize=32)
def _compiled(text: str) -> Template:
    try:
        return _environment().from_string(text)
    except TemplateSyntaxError as error:
        raise TemplateFault(f"line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError, MemoryError, ValueError, SyntaxError, ArithmeticError, TypeError) as error:
        raise TemplateFault(f"it does not compile: {str(error) or type(error).__name__}") from error

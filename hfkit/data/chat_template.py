"""A chat template, compiled once: rendered as Transformers renders it, within bounds of time and size.

The environment is the sandbox that Transformers documents for chat templates: blocks trimmed, `break` and `continue`,
`generation` blocks, `raise_exception`, `strftime_now`, and a `tojson` that leaves HTML's characters alone. What differs
is what would make training unrepeatable: the date that `strftime_now` gives is fixed, and chance is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from hfkit.data.bounded_templates import BoundedEnvironment, TemplateFault, rendered

DATE = datetime(2025, 1, 1)
"""The date that a template's `strftime_now` gives, unless the template arguments name another."""

_DICT_NAMES = frozenset(dir(dict))
_TEXT_METHODS = frozenset({"endswith", "lower", "lstrip", "replace", "rstrip", "split", "startswith", "strip", "upper"})


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
        try:
            moment = date if isinstance(date, datetime) else datetime.fromisoformat(str(date))
        except ValueError as error:
            raise TemplateFault(str(error)) from error
        values = {
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": generation_prompt,
            **given,
            "strftime_now": self._clock(moment),
        }
        return rendered(self._template, values)

    def _clock(self, moment: datetime) -> Callable[[str], str]:
        def strftime_now(format: str) -> str:
            self.reads_date = True
            return moment.strftime(format)

        return strftime_now


class _Environment(BoundedEnvironment, ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        # Two short ways to what the sandbox itself arrives at: keys of messages, and harmless methods of texts.
        if type(obj) is dict and attribute not in _DICT_NAMES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is str and attribute in _TEXT_METHODS:
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


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
    made.filters.update({"tojson": _to_json, "random": _by_chance})
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

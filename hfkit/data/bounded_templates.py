"""Jinja templates of somebody else's, in a sandbox that bounds the time and the size of one rendering.

The steps of loops and macros are counted and what grows is looked at, so that no template can hold up a run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

# A template takes some ten steps a message; these stop only what would never end.
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_LENGTH = 64_000_000

# Names that no template can write, hence neither read nor replace.
_BUDGET = "the steps left"
_STEP = "one step"
_GROWN = "what has grown"

_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*\d{6}")


class TemplateFault(Exception):
    """A template does not compile or does not render; the text says why, in the template's own words if it has any."""


class EndlessTemplate(TemplateFault):
    """A template does not come to an end, or not within the bounds."""


def rendered(template: Template, values: Mapping[str, Any]) -> str:
    """What `template`, of a `BoundedEnvironment`, writes for `values`.

    Raises:
        EndlessTemplate: it does not come to an end.
        TemplateFault: it refuses the values or fails on them, or makes too long a text.
    """
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate({**values, _BUDGET: _Budget()}):
            length += len(piece)
            _within_length(length)
            pieces.append(piece)
    except RecursionError as error:
        raise EndlessTemplate("it calls itself without end") from error
    except MemoryError as error:
        raise TemplateFault("it makes more text than memory holds") from error
    # What templates raise: their own words, and whatever the expressions in them run into.
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TemplateFault(str(error).strip() or type(error).__name__) from error
    return "".join(pieces)


class BoundedEnvironment(SandboxedEnvironment):
    """A sandbox whose templates `rendered` bounds."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters.update({_STEP: _step, _GROWN: _grown})

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        _Bounding().visit(source)
        source.set_environment(self)
        for node in source.find_all(nodes.Node):
            if not node.lineno:
                node.lineno = 1
        return super()._generate(source, name, filename, defer_init)

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


class _Budget:
    """What one rendering may still spend."""

    __slots__ = ("deadline", "steps")

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.deadline = time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0 or time.monotonic() > self.deadline:
            raise EndlessTemplate(f"it does not come to an end: over {MAX_STEPS} steps or {MAX_SECONDS:.0f} seconds")


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

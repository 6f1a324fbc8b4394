"""YAML text to a tree that knows where each value was said."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import yaml

from hfkit.recipe.problems import KeyPath, Location, Problem, dotted, one_line
from hfkit.recipe.tree import ListNode, MappingNode, Node, PlainScalar, ScalarNode
from hfkit.recipe.yaml_errors import syntax_problem
from hfkit.recipe.yaml_rules import MAX_DEPTH, SCALARS, TAG, RecipeLoader

MAX_VALUES = 20_000
"""Values in one file, aliases counted as often as they are used."""

_MAX_DIGITS = 19


@dataclass(frozen=True)
class Parsed:
    """What a text holds: `node` is None where it is empty or cannot be read; `problems` says what was wrong."""

    node: Node | None
    problems: tuple[Problem, ...]


def parse_yaml(text: str, place: Location, prefix: KeyPath = ()) -> Parsed:
    """Parse one YAML document.

    Args:
        text: the document.
        place: the file or the override that it stands in. Values in a file get lines of their own.
        prefix: where in the recipe the document's value goes; only errors name it.
    """
    loader = RecipeLoader(text) if _readable(text) else None
    if loader is None:
        return Parsed(None, (_unreadable(text, place),))
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        return Parsed(None, (syntax_problem(error, place, dotted(prefix)),))
    finally:
        loader.dispose()
    if root is None:
        return Parsed(None, ())
    builder = _Builder(place, lambda mark: _located(place, mark))
    try:
        node = builder.build(root, prefix, None)
    except _RefusedError as refused:
        return Parsed(None, (*builder.problems, refused.problem))
    return Parsed(node, tuple(builder.problems))


def _located(place: Location, mark: yaml.Mark) -> Location:
    return place if place.file is None else replace(place, line=mark.line + 1)


def _readable(text: str) -> bool:
    return yaml.reader.Reader.NON_PRINTABLE.search(text) is None


def _unreadable(text: str, place: Location) -> Problem:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    assert found is not None
    line = text.count("\n", 0, found.start()) + 1
    column = found.start() - text.rfind("\n", 0, found.start())
    where = place if place.file is None else replace(place, line=line, column=column)
    code = f"U+{ord(found.group()):04X}"
    return Problem(where, "", f"holds the control character {code}; a recipe is a plain text file")


class _RefusedError(Exception):
    """The document is not read any further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class _Builder:
    """PyYAML's nodes to ours. Aliases are written out, so the count of values bounds what they can grow to."""

    place: Location
    locate: Callable[[yaml.Mark], Location]
    problems: list[Problem] = field(default_factory=list)
    values: int = 0
    open: list[yaml.Node] = field(default_factory=list)

    def build(self, node: yaml.Node, path: KeyPath, at: Location | None) -> Node:
        """`at` is the place of the key that the value belongs to; None where the value itself is the place."""
        here = self.locate(node.start_mark) if at is None else at
        self.values += 1
        if self.values > MAX_VALUES:
            message = f"holds more than {MAX_VALUES:,} values once its aliases are written out; a recipe is small"
            raise _RefusedError(Problem(replace(self.place, line=None), "", message))
        if any(node is outer for outer in self.open):
            raise _RefusedError(Problem(here, dotted(path), "an alias stands inside the very value that it repeats"))
        if len(self.open) >= MAX_DEPTH:
            raise _RefusedError(Problem(here, "", f"nested more than {MAX_DEPTH} levels deep"))
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                self._refuse_tag(node, "map", path, here)
                return MappingNode(self._entries(node, path), here)
            if isinstance(node, yaml.SequenceNode):
                self._refuse_tag(node, "seq", path, here)
                items = [self.build(item, (*path, at), None) for at, item in enumerate(node.value)]
                return ListNode(tuple(items), here)
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node, path, here)
        finally:
            self.open.pop()

    def _entries(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        lines: dict[str, Location] = {}
        for key_node, value_node in node.value:
            at = self.locate(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self.problems.append(Problem(at, dotted(path), "a key must be a word"))
                continue
            key = key_node.value
            if key in lines:
                first = f"; it stands on line {lines[key].line} already" if lines[key].line else ""
                self.problems.append(Problem(at, dotted((*path, key)), f"duplicate key{first}"))
                continue
            lines[key] = at
            if key_node.tag == TAG + "merge":
                merged = self._merged(value_node, path, at)
            else:
                entries[key] = self.build(value_node, (*path, key), at)
        return {**merged, **entries}

    def _merged(self, node: yaml.Node, path: KeyPath, at: Location) -> dict[str, Node]:
        """What `<<: *anchor` or `<<: [*first, *second]` brings; the first of a list wins."""
        members = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Node] = {}
        for member in members:
            if not isinstance(member, yaml.MappingNode):
                self.problems.append(Problem(at, dotted((*path, "<<")), "takes a mapping, or a list of mappings"))
                continue
            built = self.build(member, path, at)
            assert isinstance(built, MappingNode)
            merged = {**built.entries, **merged}
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, at: Location) -> ScalarNode:
        text: str = node.value
        kind = node.tag.removeprefix(TAG)
        quoted = node.style is not None
        value: PlainScalar = text
        pattern = next((pattern for tag, pattern, _ in SCALARS if tag == node.tag), None)
        if pattern is None:
            # A plain `<<` that is not a key carries the tag of a merge key; it is only text.
            if kind != "merge":
                self._refuse_tag(node, "str", path, at)
        elif not pattern.match(text):
            self.problems.append(Problem(at, dotted(path), f'"{one_line(text)}" is tagged !!{kind} and is none'))
        elif kind == "null":
            value = None
        elif kind == "bool":
            value = text.lower() == "true"
        elif kind == "float":
            value = float(text.replace(".inf", "inf").replace(".nan", "nan")) if text[-1].isdigit() else _special(text)
        elif len(text.lstrip("+-0")) > _MAX_DIGITS:
            self.problems.append(Problem(at, dotted(path), f"{one_line(text, 24)} is too large a number"))
        else:
            value = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        return ScalarNode(value, text, quoted, at)

    def _refuse_tag(self, node: yaml.Node, allowed: str, path: KeyPath, at: Location) -> None:
        if node.tag not in (TAG + allowed, "!"):
            shown = one_line(node.tag.replace(TAG, "!!"))
            message = (
                f"the tag {shown} is not allowed; a recipe holds text, numbers, true, false, null, lists and mappings"
            )
            self.problems.append(Problem(at, dotted(path), message))


def _special(text: str) -> float:
    """`1.` and the words for infinity and for no number at all."""
    word = text.lower()
    return float(word) if word.endswith(".") else float(word.replace(".", ""))

"""A recipe before it is checked: plain values that remember where they were said."""

from dataclasses import dataclass
from typing import TypeAlias

from hfkit.recipe.problems import KeyPath, Location, dotted

PlainScalar: TypeAlias = str | int | float | bool | None
Plain: TypeAlias = "PlainScalar | list[Plain] | dict[str, Plain]"


@dataclass(frozen=True)
class ScalarNode:
    """One value. `text` is how it was written, without quotes; `quoted` says whether it had them."""

    value: PlainScalar
    text: str
    quoted: bool
    at: Location


@dataclass(frozen=True)
class ListNode:
    items: tuple["Node", ...]
    at: Location


@dataclass(frozen=True)
class MappingNode:
    """Keys and their values. The value of a key is `at` the place of its key."""

    entries: dict[str, "Node"]
    at: Location


Node: TypeAlias = ScalarNode | ListNode | MappingNode


def plain(node: Node) -> Plain:
    """The node's value as YAML's plain types."""
    if isinstance(node, MappingNode):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, ListNode):
        return [plain(item) for item in node.items]
    return node.value


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings merge key by key, anything else replaces what was there.

    Order counts where the same key is a mapping in one file and a value in another, so a chain of files is
    always folded from the one at its root: each file sees what the file it extends amounts to.
    """
    if not (isinstance(base, MappingNode) and isinstance(over, MappingNode)):
        return over
    entries = dict(base.entries)
    for key, value in over.entries.items():
        entries[key] = merge(entries[key], value) if key in entries else value
    return MappingNode(entries, over.at)


def assign(node: Node, path: KeyPath, value: Node, done: KeyPath = ()) -> Node:
    """`node` with `value` at `path`; missing mappings on the way are made, list items must exist.

    Raises ValueError with a message for the user where the path leads through something that holds no keys.
    """
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(node, ListNode):
        position = int(step) if str(step).isascii() and str(step).isdigit() and len(str(step)) < 10 else None
        if position is None or position >= len(node.items):
            allowed = f"a position from 0 to {len(node.items) - 1}" if node.items else "no position: it is empty"
            raise ValueError(f"{dotted(done)} is a list and takes {allowed}; got {step}")
        changed = assign(node.items[position], rest, value, (*done, position))
        return ListNode((*node.items[:position], changed, *node.items[position + 1 :]), node.at)
    if isinstance(node, ScalarNode):
        if node.value is not None:
            raise ValueError(f"{dotted(done)} is a value and holds no key {step}")
        node = MappingNode({}, value.at)
    key = str(step)
    inner = node.entries.get(key, MappingNode({}, value.at))
    return MappingNode({**node.entries, key: assign(inner, rest, value, (*done, key))}, node.at)


def find(node: Node, path: KeyPath) -> Node:
    """The node at `path`, or the last one on the way where the path leads further than the tree."""
    for step in path:
        if isinstance(node, MappingNode) and isinstance(step, str) and step in node.entries:
            node = node.entries[step]
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            break
    return node


def locations(node: Node, path: KeyPath = ()) -> dict[str, Location]:
    """Where each key was last set, by its dotted path."""
    found: dict[str, Location] = {dotted(path): node.at} if path else {}
    if isinstance(node, MappingNode):
        for key, value in node.entries.items():
            found |= locations(value, (*path, key))
    elif isinstance(node, ListNode):
        for position, item in enumerate(node.items):
            found |= locations(item, (*path, position))
    return found

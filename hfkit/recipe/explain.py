"""Pydantic's errors to problems: the same words for the same mistake, at the line where it was made."""

import json
from collections.abc import Iterable, Sequence

from pydantic_core import ErrorDetails

from hfkit.recipe.expected import Shape
from hfkit.recipe.problems import KeyPath, Problem, dotted, one_line
from hfkit.recipe.schema import BROKEN_SECTION_RULES
from hfkit.recipe.section import BROKEN_RULE
from hfkit.recipe.suggestions import nearest_word, unknown_key
from hfkit.recipe.tree import ListNode, MappingNode, Node, ScalarNode, find
from hfkit.recipe.yaml_rules import SCALARS


def explain(errors: Iterable[ErrorDetails], tree: MappingNode, recipe: Shape) -> list[Problem]:
    """A problem for each key at fault. A union reports an error for each of its kinds: the key is named once."""
    found: dict[KeyPath, Problem] = {}
    for error in errors:
        if error["type"] == BROKEN_SECTION_RULES:
            continue
        for path, problem in _problems(error, tree, recipe):
            found.setdefault(path, problem)
    # A list whose only item is wrong counts as too short for Pydantic; the item says all there is to say.
    return [
        problem
        for path, problem in found.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found)
    ]


def empty_sections(tree: MappingNode, shape: Shape, path: KeyPath = ()) -> list[Problem]:
    """Keys of mappings that were written and left empty: YAML takes `train:` for null, its author hardly does."""
    found: list[Problem] = []
    for key, inner in shape.keys.items():
        node = tree.entries.get(key)
        if isinstance(node, ScalarNode) and inner.keys and inner.nullable and not node.text:
            full = dotted((*path, key))
            found.append(Problem(node.at, full, "is empty; write {} to take its defaults, or null to do without it"))
        elif isinstance(node, MappingNode):
            found += empty_sections(node, inner, (*path, key))
    return found


def _problems(error: ErrorDetails, tree: MappingNode, recipe: Shape) -> list[tuple[KeyPath, Problem]]:
    path, around, shape = _walk(error["loc"], tree, recipe)
    kind = error["type"]
    if kind == BROKEN_RULE:
        context = error.get("ctx", {})
        key = (*path, *context["key"])
        return [(key, Problem(find(tree, key).at, dotted(key), str(context["message"])))]
    node = find(tree, path)
    if kind == "extra_forbidden":
        return [(path, Problem(node.at, dotted(path), unknown_key(recipe, around, path)))]
    if kind == "missing":
        return [(path, Problem(node.at, dotted(path), "required key is missing"))]
    if shape.variants > 1 and isinstance(node, MappingNode):
        return _variants(node, path, shape, recipe)
    return [(path, Problem(node.at, dotted(path), _mismatch(node, shape)))]


def _walk(loc: Sequence[int | str], tree: MappingNode, recipe: Shape) -> tuple[KeyPath, Shape, Shape]:
    """The key that `loc` means, the shape of what stands around it, and its own.

    Pydantic puts names of its own for the kinds of a union between the keys; they are passed over.
    """
    path: KeyPath = ()
    around = shape = recipe
    for step in loc:
        if isinstance(step, int):
            if shape.item is None:
                break
            around, shape = shape, shape.item
        elif step in shape.keys:
            around, shape = shape, shape.keys[step]
        elif shape.values is not None and step in _keys_of(find(tree, path)):
            around, shape = shape, shape.values
        elif shape.keys and step in _keys_of(find(tree, path)):
            return (*path, step), shape, shape
        else:
            continue
        path = (*path, step)
    return path, around, shape


def _keys_of(node: Node) -> Iterable[str]:
    return node.entries if isinstance(node, MappingNode) else ()


def _variants(node: MappingNode, path: KeyPath, shape: Shape, recipe: Shape) -> list[tuple[KeyPath, Problem]]:
    """A mapping that must be one of several kinds and is none: its unknown keys, or else what it must have."""
    unknown = [key for key in node.entries if key not in shape.keys]
    if unknown:
        paths = [(*path, key) for key in unknown]
        return [
            (full, Problem(node.entries[key].at, dotted(full), unknown_key(recipe, shape, full)))
            for key, full in zip(unknown, paths, strict=True)
        ]
    both = " and ".join(node.entries) or "none of them"
    return [(path, Problem(node.at, dotted(path), f"expected {shape.phrase}, got {both}"))]


def _mismatch(node: Node, shape: Shape) -> str:
    """`expected …, got …`, and what to write instead where that can be told."""
    comma = ";" if shape.phrase.startswith("one of ") else ","
    return f"expected {shape.phrase}{comma} got {_shown(node)}{_advice(node, shape)}"


def _shown(node: Node) -> str:
    if isinstance(node, MappingNode):
        return f"a mapping ({one_line(', '.join(node.entries), 40)})" if node.entries else "an empty mapping"
    if isinstance(node, ListNode):
        return "a list" if node.items else "an empty list"
    if isinstance(node.value, str):
        return f'"{one_line(node.text)}"'
    return one_line(node.text) or "nothing"


def _advice(node: Node, shape: Shape) -> str:
    if not isinstance(node, ScalarNode):
        return ""
    if shape.choices and isinstance(node.value, str):
        near = nearest_word(node.value, shape.choices)
        if near:
            return near
    if isinstance(node.value, str) and shape.item is not None and shape.item.text:
        return f"; write [{json.dumps(one_line(node.text), ensure_ascii=False)}]"
    if not isinstance(node.value, str) and node.value is not None and shape.text:
        return "; put it in quotes"
    number = any(pattern.match(node.text) for tag, pattern, _ in SCALARS if tag.endswith(("int", "float")))
    if isinstance(node.value, str) and node.quoted and number and not shape.text and not shape.choices:
        return "; write it without quotes"
    return ""

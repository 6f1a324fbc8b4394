"""What each key of a recipe may hold, in words, read off the models: one source for every error message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hfkit.recipe.problems import KeyPath
from hfkit.recipe.section import Expected


@dataclass(frozen=True)
class Shape:
    """What a key may hold.

    Attributes:
        phrase: follows "expected": "a number > 0".
        many: follows "a list of": "numbers > 0".
        choices: the words that are allowed, where words are.
        keys: the keys of a mapping, with the shapes of their values; of all variants where there are several.
        variants: how many kinds of mapping there are; an item that is one of several is told by the key it has.
        item: the shape of a list's items.
        values: the shape of the values of a mapping whose keys are the user's own.
        nullable: whether null is allowed.
        text: whether text is allowed; a field that says what it expects in words of its own is written as text.
    """

    phrase: str
    many: str
    choices: tuple[str, ...] = ()
    keys: dict[str, "Shape"] = field(default_factory=dict)
    variants: int = 0
    item: "Shape | None" = None
    values: "Shape | None" = None
    nullable: bool = False
    text: bool = False


@cache
def shape_of_model(model: type[BaseModel]) -> Shape:
    """The shape of a section."""
    keys = {name: _shape(info.annotation, info.metadata) for name, info in model.model_fields.items()}
    return Shape("a mapping of keys", "mappings", keys=keys, variants=1)


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The section that `annotation` stands for, `Section | None` included; None for anything else."""
    for member in get_args(annotation) or (annotation,):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def all_keys(shape: Shape, prefix: KeyPath = ()) -> list[KeyPath]:
    """Every key that a recipe can have, in the order of the models; a list's items are named by its first."""
    if shape.item is not None:
        return all_keys(shape.item, (*prefix, 0))
    found: list[KeyPath] = []
    for name, inner in shape.keys.items():
        found += [(*prefix, name), *all_keys(inner, (*prefix, name))]
    return found


def _shape(annotation: Any, metadata: Sequence[object]) -> Shape:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        # A Field() inside Annotated carries constraints of its own.
        flat = [one for extra in more for one in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        return _shape(inner, [*flat, *metadata])
    for extra in metadata:
        if isinstance(extra, Expected):
            return Shape(extra.phrase, extra.many, text=True)
    return _plain_shape(annotation, origin, metadata)


def _plain_shape(annotation: Any, origin: Any, metadata: Sequence[object]) -> Shape:
    if origin is Literal:
        return _choice(get_args(annotation))
    if origin in (Union, UnionType):
        return _either([_shape(one, ()) for one in get_args(annotation) if one is not NoneType], annotation)
    if origin is tuple:
        item = _shape(get_args(annotation)[0], ())
        nonempty = any(isinstance(one, MinLen) and one.min_length > 0 for one in metadata)
        phrase = f"a {'non-empty ' if nonempty else ''}list of {item.many}"
        return Shape(phrase, "lists", item=item)
    if origin in (Mapping, dict):
        values = _shape(get_args(annotation)[1], ())
        return Shape(f"a mapping of names to {values.many}", "mappings", values=values)
    if annotation is bool:
        return Shape("true or false", "words among true, false", choices=("true", "false"))
    if annotation is int or annotation is float:
        bounds = _bounds(metadata)
        noun = "integer" if annotation is int else "number"
        article = "an" if annotation is int else "a"
        return Shape(f"{article} {noun}{bounds}", f"{noun}s{bounds}")
    if annotation is str or annotation is Path:
        return Shape("text", "text", text=True)
    if issubclass(annotation, BaseModel):
        return shape_of_model(annotation)
    raise TypeError(f"a recipe's field has a type that errors have no words for: {annotation!r}")


def _choice(words: tuple[str, ...]) -> Shape:
    named = ", ".join(words)
    return Shape(f"one of {named}" if len(words) > 1 else named, f"words among {named}", choices=words)


def _either(shapes: list[Shape], annotation: Any) -> Shape:
    """One shape for a union: words first, then the rest, then null."""
    nullable = NoneType in get_args(annotation)
    choices = tuple(word for shape in shapes for word in shape.choices) + (("null",) if nullable else ())
    if len(shapes) == 1 and shapes[0].choices:
        return replace(_choice(choices), nullable=nullable)
    first = shapes[0]
    if len(shapes) > 1 and all(shape.keys for shape in shapes):
        keys = {name: inner for shape in shapes for name, inner in shape.keys.items()}
        # Each kind is known by the first key that no other kind has.
        own = [next(k for k in shape.keys if sum(k in other.keys for other in shapes) == 1) for shape in shapes]
        phrase = f"a mapping with exactly one of the keys {', '.join(own)}"
        return Shape(phrase, "mappings", keys=keys, variants=len(shapes), nullable=nullable)
    mappings = [shape for shape in shapes if shape.keys]
    if mappings and len(mappings) < len(shapes):
        # Words or text, or a mapping that may be of several kinds.
        shapes = [*(shape for shape in shapes if not shape.keys), _either(mappings, Union)]
        both = f"{shapes[0].many} or mappings"
        first = replace(shapes[0], many=both, keys=shapes[-1].keys, variants=shapes[-1].variants)
    item = next((shape.item for shape in shapes if shape.item is not None), None)
    phrases = [shape.phrase for shape in shapes] + (["null"] if nullable else [])
    text = any(shape.text for shape in shapes)
    return replace(first, phrase=" or ".join(phrases), choices=choices, item=item, nullable=nullable, text=text)


def _bounds(metadata: Sequence[object]) -> str:
    signs: list[str] = []
    for one in metadata:
        if isinstance(one, Ge):
            signs.append(f">= {one.ge}")
        elif isinstance(one, Gt):
            signs.append(f"> {one.gt}")
        elif isinstance(one, Le):
            signs.append(f"<= {one.le}")
        elif isinstance(one, Lt):
            signs.append(f"< {one.lt}")
    return f" {' and '.join(signs)}" if signs else ""

"""Recipe files: reading one, and following `extends` from it."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from hfkit.recipe.problems import Location, Problem, RecipeError, one_line
from hfkit.recipe.tree import MappingNode, Node, ScalarNode, merge
from hfkit.recipe.yaml_text import parse_yaml

MAX_BYTES = 256 * 1024


@dataclass(frozen=True)
class Chain:
    """A recipe file and those it extends, laid over each other.

    Attributes:
        tree: all their keys; a key stands where the last file to set it says so.
        files: their names, the given one first.
        problems: what was wrong with them, short of making them unreadable.
    """

    tree: MappingNode
    files: tuple[str, ...]
    problems: tuple[Problem, ...]


def read_chain(path: Path) -> Chain:
    """Read `path` and what it extends. Raises RecipeError where a file cannot be read at all."""
    trees: list[MappingNode] = []
    names: list[str] = []
    seen: list[Path] = []
    problems: list[Problem] = []
    current: Path | None = path
    said_at: Location | None = None
    while current is not None:
        real = Path(os.path.realpath(current))
        if real in seen and said_at is not None:
            circle = " -> ".join([*names[seen.index(real) :], str(current)])
            raise RecipeError([*problems, Problem(said_at, "extends", f"goes in a circle: {circle}")])
        seen.append(real)
        names.append(str(current))
        parsed = parse_yaml(_read(current, said_at, problems), Location(str(current)))
        problems += parsed.problems
        if not isinstance(parsed.node, MappingNode):
            if not parsed.problems:
                problems.append(Problem(Location(str(current)), "", _not_a_recipe(parsed.node)))
            raise RecipeError(problems)
        entries = dict(parsed.node.entries)
        extends = entries.pop("extends", None)
        trees.append(MappingNode(entries, Location(str(current))))
        current, said_at = _extended(current, extends, problems)
    tree: Node = trees[-1]
    for over in reversed(trees[:-1]):
        tree = merge(tree, over)
    assert isinstance(tree, MappingNode)
    return Chain(tree, tuple(names), tuple(problems))


def _extended(path: Path, extends: Node | None, problems: list[Problem]) -> tuple[Path | None, Location | None]:
    """The file that `path` extends, and where it says so."""
    if extends is None or (isinstance(extends, ScalarNode) and extends.value is None):
        return None, None
    if not isinstance(extends, ScalarNode) or not isinstance(extends.value, str) or "\0" in extends.value:
        problems.append(Problem(extends.at, "extends", "expected the path of one recipe file"))
        return None, None
    return Path(os.path.normpath(path.parent / extends.value)), extends.at


def _read(path: Path, said_at: Location | None, problems: list[Problem]) -> str:
    """The text of a recipe file. What is wrong with it is said where it was asked for: in `extends`, or outright."""

    def refused(message: str) -> RecipeError:
        if said_at is None:
            return RecipeError([*problems, Problem(Location(str(path)), "", message)])
        return RecipeError([*problems, Problem(said_at, "extends", f"{one_line(str(path), 200)}: {message}")])

    try:
        if path.is_dir():
            raise refused(f"is a folder, not a recipe file{_recipes_in(path)}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise refused(f"no such file{_near(path)}") from error
    except OSError as error:
        raise refused(f"cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise refused(f"is larger than {MAX_BYTES // 1024} KiB; a recipe is a small YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = (
            f"is not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); a recipe is a YAML file"
        )
        raise refused(message) from error


def _not_a_recipe(node: Node | None) -> str:
    if node is None:
        return "the file is empty; a recipe says at least its name, such as name: quickstart"
    kind = "one value" if isinstance(node, ScalarNode) else "a list"
    return f"expected keys such as name: quickstart at the top of the file, got {kind}"


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {one_line(str(folder), 200)} either"
    near = get_close_matches(path.name, _recipe_names(folder), n=1, cutoff=0.6)
    return f"; did you mean {one_line(str(folder / near[0]), 200)}?" if near else _recipes_in(folder)


def _recipe_names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except PermissionError:  # Nothing to suggest then; what was asked for is told all the same.
        return []


def _recipes_in(folder: Path) -> str:
    names = [one_line(name) for name in _recipe_names(folder)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"; {one_line(str(folder), 200)} holds {', '.join(names[:5])}{more}" if names else ""

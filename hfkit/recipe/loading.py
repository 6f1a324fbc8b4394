"""A recipe from its file: extended, overridden, checked, with every mistake named at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hfkit.recipe.expected import shape_of_model
from hfkit.recipe.explain import empty_sections, explain
from hfkit.recipe.files import read_chain
from hfkit.recipe.overrides import apply_overrides
from hfkit.recipe.problems import Location, Problem, RecipeError, dotted
from hfkit.recipe.rules import broken_rules
from hfkit.recipe.schema import Recipe
from hfkit.recipe.tree import MappingNode, find, locations, plain


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe, and where it was said.

    Attributes:
        recipe: the checked recipe, defaults filled in.
        files: the file it was read from, then those it extends.
        sources: for each key that was set, by its dotted path, the place that last set it.
    """

    recipe: Recipe
    files: tuple[str, ...]
    sources: dict[str, Location]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file `path`, with `key.path=value` overrides. Raises RecipeError naming all that is wrong."""
    return resolve_recipe(path, overrides).recipe


def resolve_recipe(path: Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """As `load_recipe`, and says where each key was set."""
    chain = read_chain(path)
    tree, unusable = apply_overrides(chain.tree, overrides)
    problems = [*chain.problems, *unusable]
    recipe, wrong = _check(tree)
    # A value that could not even be read is not told a second time for what it is not.
    unread = {(problem.location, problem.key) for problem in problems}
    problems += [problem for problem in wrong if (problem.location, problem.key) not in unread]
    if recipe is None or problems:
        raise RecipeError(sorted(problems, key=lambda problem: _position(problem.location, chain.files, overrides)))
    return ResolvedRecipe(recipe, chain.files, locations(tree))


def _check(tree: MappingNode) -> tuple[Recipe | None, list[Problem]]:
    shape = shape_of_model(Recipe)
    value = plain(tree)
    assert isinstance(value, dict)
    problems = empty_sections(tree, shape)
    problems += [Problem(find(tree, key).at, dotted(key), message) for key, message in broken_rules(value)]
    try:
        return Recipe.model_validate(value), problems
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, [*problems, *explain(details, tree, shape)]


def _position(location: Location, files: Sequence[str], overrides: Sequence[str]) -> tuple[int, int]:
    """Problems are told in the order in which the user meets their places: file by file, then the overrides."""
    if location.override is not None:
        return len(files), overrides.index(location.override)
    return files.index(location.file or ""), location.line or 0

"""`key.path=value` from the command line, laid on a recipe."""

from collections.abc import Sequence

from hfkit.recipe.problems import KeyPath, Location, Problem, dotted
from hfkit.recipe.tree import MappingNode, ScalarNode, assign
from hfkit.recipe.yaml_text import parse_yaml


def apply_overrides(tree: MappingNode, overrides: Sequence[str]) -> tuple[MappingNode, list[Problem]]:
    """`tree` with each override laid on it, in order, and what was wrong with those that could not be.

    A value is YAML and takes the place of what was there, a mapping too; items of lists go by their position:
    `train.learning_rate=1e-3`, `model.adapter=null`, `data.sources.0.path=x.jsonl`.
    """
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        key = key.strip()
        path: KeyPath = tuple(key.split("."))
        place = Location(override=text, override_key=dotted(path))
        if not equals or not all(path):
            problems.append(Problem(place, "", "expected key.path=value, such as train.epochs=2"))
            continue
        if path[0] == "extends":
            problems.append(Problem(place, "", "a file says what it extends; give the other file instead"))
            continue
        parsed = parse_yaml(value, place, path)
        problems += parsed.problems
        if parsed.problems:
            continue
        try:
            changed = assign(tree, path, parsed.node or ScalarNode(None, "", False, place))
        except ValueError as error:
            problems.append(Problem(place, "", str(error)))
            continue
        assert isinstance(changed, MappingNode)
        tree = changed
    return tree, problems

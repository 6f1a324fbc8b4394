"""The laws of laying one recipe on another."""

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfkit.recipe.files import read_chain
from hfkit.recipe.problems import Location
from hfkit.recipe.tree import ListNode, MappingNode, Node, ScalarNode, assign, find, locations, merge, plain

PLACES = st.integers(1, 99).map(lambda line: Location("x.yaml", line))
SCALARS = st.builds(ScalarNode, st.integers(-(10**9), 10**9) | st.none(), st.just("text"), st.booleans(), PLACES)
LISTS = st.builds(ListNode, st.lists(SCALARS, max_size=2).map(tuple), PLACES)
LEAVES = SCALARS | LISTS


def mappings(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[MappingNode]:
    return st.builds(MappingNode, st.fixed_dictionaries({}, optional=values), PLACES)


# As in recipes that follow the schema, a key is a mapping in every file or in none.
TREES = mappings({"a": LEAVES, "b": mappings({"c": LEAVES, "d": mappings({"e": LEAVES, "f": LEAVES})})})
ANY_TREES = st.recursive(LEAVES, lambda inner: mappings({"a": inner, "b": inner}), max_leaves=6)


@given(TREES, TREES, TREES)
def test_grouping_does_not_count(first: Node, second: Node, third: Node) -> None:
    assert merge(merge(first, second), third) == merge(first, merge(second, third))


@given(ANY_TREES, ANY_TREES)
def test_what_is_laid_over_wins_and_the_rest_stays(base: Node, over: Node) -> None:
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merge(base, base) == base
    places = locations(merged)
    assert locations(over).items() <= places.items()
    for key, place in places.items():
        assert place in (locations(over).get(key), locations(base).get(key))


@given(ANY_TREES, st.lists(st.sampled_from("abz"), min_size=1, max_size=3), SCALARS)
def test_assigning_changes_one_place(tree: Node, keys: list[str], value: ScalarNode) -> None:
    path = tuple(keys)
    try:
        changed = assign(tree, path, value)
    except ValueError:
        return
    assert find(changed, path) == value
    before, after = locations(tree), locations(changed)
    inside = {".".join(path[: end + 1]) for end in range(len(path))}
    for key in before:
        if key not in inside and not key.startswith(".".join(path) + "."):
            assert after[key] == before[key]


@given(st.lists(ANY_TREES.filter(lambda tree: isinstance(tree, MappingNode)).map(plain), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_chain_of_files_is_folded_from_its_root(folder: Path, trees: list[dict[str, Any]]) -> None:
    expected: Any = {}
    for number, tree in enumerate(trees):
        expected = merged(expected, tree)
        link = f"extends: f{number - 1}.yaml\n" if number else ""
        body = yaml.safe_dump(tree) if tree else ""
        (folder / f"f{number}.yaml").write_text(link + body or "{}")
    assert plain(read_chain(Path(f"f{len(trees) - 1}.yaml")).tree) == expected


def merged(base: Any, over: Any) -> Any:
    """The same law, written once more on plain values."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}

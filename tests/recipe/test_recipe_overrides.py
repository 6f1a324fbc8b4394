"""`key.path=value`: what it changes, and what is said when it cannot."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfkit.recipe import PathSource, Recipe, RecipeError, load_recipe

FULL = """\
name: x
model: {base: m}
data: {sources: [{path: a.jsonl}, {path: b.jsonl}]}
train: {epochs: 2}
evaluate: {tasks: [grounded_answers], gates: [tuned.token_f1 >= 0.5]}
rag: {documents: [docs/]}
"""


def load(folder: Path, *overrides: str) -> Recipe:
    (folder / "x.yaml").write_text(FULL)
    return load_recipe(Path("x.yaml"), overrides)


def test_values_are_yaml(folder: Path) -> None:
    recipe = load(
        folder, "train.learning_rate=1e-3", "evaluate.gates=[]", "model.adapter=null", "app={}", "app.title=a = b"
    )
    assert recipe.train is not None and recipe.train.learning_rate == 0.001 and recipe.train.epochs == 2
    assert recipe.evaluate is not None and recipe.evaluate.gates == ()
    assert recipe.model is not None and recipe.model.adapter is None
    assert recipe.app is not None and recipe.app.title == "a = b"


def test_items_of_lists_go_by_position(folder: Path) -> None:
    recipe = load(folder, "data.sources.1.path=c.jsonl", "rag.documents.0=other/")
    assert recipe.data is not None
    assert recipe.data.sources == (PathSource(path="a.jsonl"), PathSource(path="c.jsonl"))
    assert recipe.rag is not None and recipe.rag.documents == ("other/",)


def test_a_mapping_replaces_a_mapping_and_the_last_override_wins(folder: Path) -> None:
    recipe = load(folder, "train.warmup=0.5", "train={batch_size: 3}", "train.batch_size=4", "seed=1", "seed=2")
    assert recipe.train is not None
    assert (recipe.train.epochs, recipe.train.warmup, recipe.train.batch_size, recipe.seed) == (1, 0.05, 4, 2)


def test_a_section_that_is_not_there_is_made(folder: Path) -> None:
    recipe = load(folder, "model.adapter=null", "model.adapter.rank=2", "app.port=8000")
    assert recipe.model is not None and recipe.model.adapter is not None and recipe.model.adapter.rank == 2
    assert recipe.app is not None and recipe.app.port == 8000


YAML_TAG = "the tag !x is not allowed; a recipe holds text, numbers, true, false, null, lists and mappings"
BROKEN = [
    ("train.learning_rte=1", "unknown key; did you mean learning_rate?"),
    ("trian.epochs=1", "trian: unknown key; did you mean train?"),
    ("train.epochs=three", 'expected a number > 0, got "three"'),
    ("train.epochs=", "expected a number > 0, got nothing"),
    ("train={epochs: three}", 'train.epochs: expected a number > 0, got "three"'),
    ("train.epochs", "expected key.path=value, such as train.epochs=2"),
    ("=3", "expected key.path=value, such as train.epochs=2"),
    ("train..epochs=3", "expected key.path=value, such as train.epochs=2"),
    ("name.first=3", "name is a value and holds no key first"),
    ("data.sources.2=3", "data.sources is a list and takes a position from 0 to 1; got 2"),
    ("data.sources.-1=3", "data.sources is a list and takes a position from 0 to 1; got -1"),
    ("data.sources.first.path=3", "data.sources is a list and takes a position from 0 to 1; got first"),
    ("data.sources.0.path=3", "expected a path or a glob, got 3; put it in quotes"),
    ("data.sources=[", "a value is missing here, or a bracket or comma is one too many"),
    ("extends=b.yaml", "a file says what it extends; give the other file instead"),
    ("name=!x y", YAML_TAG),
    ("train={epochs: 1, epochs: 2}", "train.epochs: duplicate key"),
]


@pytest.mark.parametrize(("override", "message"), BROKEN)
def test_an_override_that_cannot_be(folder: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(folder, "seed=1", override)
    assert str(caught.value) == f"override {override}: {message}"


def test_a_rule_that_an_override_breaks_is_told_where_it_holds(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(folder, "model=null")
    assert str(caught.value).splitlines() == [
        "x.yaml:4: train: needs the section model, which is not in this recipe",
        "x.yaml:5: evaluate: needs the section model, which is not in this recipe",
    ]


def test_control_characters_reach_no_terminal(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load(folder, "app.title=\x1b[0m")
    assert str(caught.value) == (
        "override app.title=\\u001b[0m: holds the control character U+001B; a recipe is a plain text file"
    )


@given(
    seed=st.integers(0, 2**32 - 1), rate=st.floats(1e-12, 1e3), title=st.text(st.characters(codec="utf-8"), min_size=1)
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_override_wins_over_the_file(folder: Path, seed: int, rate: float, title: str) -> None:
    single = "'" + title.replace("'", "''") + "'"
    overrides = [f"seed={seed}", f"train.learning_rate={rate!r}"]
    recipe = load(folder, *overrides, *(["model.base=" + single] if title.isprintable() else []))
    assert recipe.seed == seed
    assert recipe.train is not None and recipe.train.learning_rate == rate
    assert recipe.model is not None and recipe.model.base == (title if title.isprintable() else "m")


def test_overrides_apply_after_extends(folder: Path) -> None:
    (folder / "base.yaml").write_text("name: base\nseed: 1\n")
    (folder / "leaf.yaml").write_text("extends: base.yaml\nseed: 2\n")
    assert load_recipe(Path("leaf.yaml"), ["seed=3"]).seed == 3
    assert load_recipe(Path("leaf.yaml")).seed == 2

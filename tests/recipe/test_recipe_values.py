"""What plain words mean in a recipe, and what a recipe says when it says nothing."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from hfkit.errors import HfkitError, RequestError, WorkError
from hfkit.recipe import (
    AdapterSection,
    AppSection,
    ChunkSection,
    Location,
    ModelSection,
    Problem,
    RagSection,
    Recipe,
    RecipeError,
    SearchSection,
    SplitsSection,
    SynthesizeSection,
    SynthesizeSource,
    TrainSection,
    load_recipe,
)
from hfkit.recipe.tree import plain
from hfkit.recipe.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5e-4", 0.0005),
        ("1E3", 1000.0),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("-.5e+1", -5.0),
        ("12", 12),
        ("010", 10),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("On", "On"),
        ("off", "off"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b11", "0b11"),
        ("2026-01-01", "2026-01-01"),
        ("1e", "1e"),
        (".", "."),
        ("=", "="),
        ("'5e-4'", "5e-4"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[<<]", ["<<"]),
    ],
)
def test_words_mean_what_yaml_1_2_says(written: str, value: object) -> None:
    parsed = parse_yaml(f"key: {written}", Location(file="x.yaml"))
    assert parsed.problems == ()
    assert parsed.node is not None
    read = plain(parsed.node)
    assert read == {"key": value}
    assert isinstance(read, dict) and type(read["key"]) is type(value)


def test_infinities_are_read_as_such_to_be_refused_by_the_models() -> None:
    parsed = parse_yaml("[.inf, -.INF, +.Inf, .nan]", Location(file="x.yaml"))
    assert parsed.node is not None
    assert str(plain(parsed.node)) == "[inf, -inf, inf, nan]"


def test_merge_keys_and_aliases(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        """\
name: x
model: {base: &base m, adapter: null}
rag: {documents: &docs [a, b], chunk: &chunk {tokens: 90, overlap: 9}, revision: *base}
data: {sources: [{synthesize: {documents: *docs}}]}
app: {examples: *docs}
"""
    )
    recipe = load_recipe(Path("x.yaml"))
    assert recipe.rag is not None and recipe.rag.revision == "m"
    assert recipe.app is not None and recipe.app.examples == ("a", "b")
    merged = parse_yaml(
        "{a: &a {x: 1, y: 1}, b: &b {y: 2, z: 2}, c: {<<: [*a, *b], z: 3}, d: {x: 9, <<: *a}}", Location("f")
    )
    assert merged.node is not None
    read = plain(merged.node)
    assert isinstance(read, dict)
    assert read["c"] == {"x": 1, "y": 1, "z": 3}
    assert read["d"] == {"x": 9, "y": 1}


def test_the_defaults_are_those_that_the_handbook_states(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        """\
name: x
model: {base: m}
data: {sources: [{path: a.jsonl}, {synthesize: {}}]}
train: {}
evaluate: {tasks: [grounded_answers]}
rag: {documents: [docs/]}
app: {}
"""
    )
    recipe = load_recipe(Path("x.yaml"))
    assert recipe.seed == 7
    assert recipe.model == ModelSection(
        base="m",
        revision=None,
        chat_template=None,
        precision="auto",
        quantization=None,
        adapter=AdapterSection(method="lora", rank=16, alpha=32, dropout=0.0, targets="all-linear"),
    )
    assert recipe.data is not None
    assert recipe.data.splits == SplitsSection(test=0.2, by="document")
    assert recipe.data.max_length == 1024
    assert recipe.data.sources[1] == SynthesizeSource(
        synthesize=SynthesizeSection(documents=None, questions=4, rows=None, passages=4, unanswerable=0.25)
    )
    assert recipe.train == TrainSection(
        method="sft",
        epochs=1,
        batch_size=8,
        micro_batch_size="auto",
        learning_rate=5e-4,
        schedule="linear",
        warmup=0.05,
        max_grad_norm=1.0,
        save_steps=50,
        log_steps=10,
    )
    assert recipe.evaluate is not None
    assert (recipe.evaluate.max_new_tokens, recipe.evaluate.batch_size, recipe.evaluate.gates) == (80, "auto", ())
    assert recipe.rag == RagSection(
        documents=("docs/",),
        embedder="embedded:all-minilm-l6-v2",
        revision=None,
        chunk=ChunkSection(tokens=200, overlap=30, splitter="structure"),
        search=SearchSection(mode="hybrid", top_k=5),
    )
    assert recipe.app == AppSection(
        title="Ask the documents", examples=(), host="127.0.0.1", port=None, max_new_tokens=200
    )


def test_integers_do_for_numbers_and_bounds_are_included(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        "name: x\nseed: 0\nmodel: {base: m}\ntrain: {epochs: 2, warmup: 0, micro_batch_size: 1}\n"
        "data: {sources: [{synthesize: {passages: 50, unanswerable: 1}}], max_length: 16}\n"
        "rag: {documents: [d], search: {top_k: 50}, chunk: {tokens: 16, overlap: 15}}\n"
    )
    recipe = load_recipe(Path("x.yaml"))
    assert recipe.train is not None and recipe.train.epochs == 2.0 and isinstance(recipe.train.epochs, float)


def test_a_name_alone_is_a_recipe(folder: Path) -> None:
    (folder / "x.yaml").write_text("name: x\n")
    assert load_recipe(Path("x.yaml")) == Recipe(name="x")


def test_recipes_are_frozen_and_checked_in_python_too() -> None:
    recipe = Recipe(name="x")
    with pytest.raises(ValidationError):
        Recipe.__setattr__(recipe, "name", "y")
    with pytest.raises(ValidationError, match="train: needs the sections model and data"):
        Recipe(name="x", train=TrainSection())
    with pytest.raises(ValidationError, match="less than tokens"):
        ChunkSection(tokens=20, overlap=20)


def test_a_recipe_error_is_a_wrong_request_and_holds_its_problems() -> None:
    problem = Problem(Location("x.yaml", 3), "train.epochs", "is wrong")
    error = RecipeError([problem, problem])
    assert error.problems == (problem, problem)
    assert str(error) == "x.yaml:3: train.epochs: is wrong\nx.yaml:3: train.epochs: is wrong"
    assert isinstance(error, RequestError) and isinstance(error, HfkitError)
    assert (HfkitError.exit_code, RequestError.exit_code, WorkError.exit_code, RecipeError.exit_code) == (1, 2, 1, 2)

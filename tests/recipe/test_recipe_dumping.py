"""What is dumped loads again to the same recipe."""

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfkit.recipe import Recipe, dump_recipe, load_recipe

# Words that one version of YAML or the other takes for something else than text come up often on purpose.
PLAIN = r"yes no on null ~ true 5e-4 1_0 0o7 010 1:30 2026-01-01 .inf << = # !x &a *a @ ` % [ { ' \ --- ... ? | >"
BREAKS = ["\n", "\t", "a\n\nb", "\u2028", "\x85", "\ufeff", "\x1b", "a\x85b"]
WORDS = st.sampled_from(
    [*PLAIN.split(" "), *BREAKS, "- a", "a: b", "a #b", " a ", '"', "? a", "é", "😀", "a" * 2000, "a b " * 600]
)
TEXT = WORDS | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
PATHS = TEXT.filter(lambda text: str(Path(text)) != ".")
SHARES = st.floats(0, 1, exclude_max=True)
COUNTS = st.integers(1, 2**60)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
TEXTS = st.lists(TEXT, min_size=1, max_size=3)


def some(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


ADAPTER = some({}, rank=COUNTS, alpha=COUNTS, dropout=SHARES, targets=st.just("all-linear") | TEXTS)
MODEL = some(
    {"base": TEXT},
    revision=st.none() | TEXT,
    chat_template=st.none() | PATHS,
    precision=st.sampled_from(["auto", "bf16", "fp32"]),
    quantization=st.sampled_from([None, "nf4", "int8"]),
    adapter=st.none() | ADAPTER,
)
SYNTHESIZE = some(
    {},
    documents=st.none() | TEXTS,
    questions=COUNTS,
    rows=st.none() | COUNTS,
    passages=st.integers(2, 50),
    unanswerable=st.floats(0, 1),
)
SOURCE = some({"path": PATHS}) | some({"synthesize": SYNTHESIZE})
DATA = some({"sources": st.lists(SOURCE, min_size=1, max_size=3)}, max_length=st.integers(16, 10**6))
TRAIN = some({}, epochs=POSITIVE, micro_batch_size=st.just("auto") | COUNTS, learning_rate=POSITIVE, warmup=SHARES)
GATES = ["tuned.token_f1 >= base.token_f1 + 0.05 with confidence 0.9", "tuned.citation_accuracy>=.5"]
EVALUATE = some({"tasks": st.just(["grounded_answers"])}, gates=st.lists(st.sampled_from(GATES), max_size=2))
RAG = some(
    {"documents": TEXTS},
    embedder=TEXT,
    chunk=some({"tokens": st.integers(31, 999)}, splitter=st.sampled_from(["structure", "MarkdownTextSplitter"])),
    search=some({}, mode=st.sampled_from(["hybrid", "dense", "lexical"]), top_k=st.integers(1, 50)),
)
APP = some({}, title=TEXT, examples=st.lists(TEXT, max_size=3), host=TEXT, port=st.none() | st.integers(1, 65535))
READER = some({"name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True), "rag": RAG, "model": MODEL}, app=APP)
TRAINED = some(
    {"name": st.just("x"), "model": MODEL, "data": DATA, "train": TRAIN, "rag": RAG}, evaluate=EVALUATE, app=APP
)


@given(value=READER | TRAINED)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_round_trip(folder: Path, value: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(value)
    (folder / "x.yaml").write_text(dump_recipe(recipe), encoding="utf-8", newline="\n")
    loaded = load_recipe(Path("x.yaml"))
    assert loaded == recipe
    assert dump_recipe(loaded) == dump_recipe(recipe)


def test_what_is_dumped_is_for_people_too() -> None:
    recipe = Recipe.model_validate({"name": "x", "rag": {"documents": ["docs/é"], "chunk": {"tokens": 90}}})
    assert dump_recipe(recipe) == (
        "name: x\nseed: 7\nallow_code: false\nrag:\n  documents:\n  - docs/é\n  hosts: []\n"
        "  embedder: embedded:all-minilm-l6-v2\n  revision: null\n"
        "  chunk:\n    tokens: 90\n    overlap: 30\n    splitter: structure\n"
        "  index:\n    type: auto\n    storage: float32\n  search:\n"
        "    mode: hybrid\n    top_k: 5\n    fusion: convex\n    dense_weight: 0.5\n    rerank: null\n"
        "    rerank_candidates: 50\n    diversity: 0.0\n    filter: null\n    per_document: null\n    neighbours: 0\n"
        "    min_similarity: null\ntrack:\n- trackio\n"
    )


def test_no_adapter_stays_no_adapter(folder: Path) -> None:
    recipe = Recipe.model_validate({"name": "x", "model": {"base": "m", "adapter": None}})
    (folder / "x.yaml").write_text(dump_recipe(recipe))
    loaded = load_recipe(Path("x.yaml"))
    assert loaded.model is not None and loaded.model.adapter is None

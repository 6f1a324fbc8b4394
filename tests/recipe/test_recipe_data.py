"""The keys of `data`: sources of each kind, mixing, quality and splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.recipe import QualitySection, dump_recipe, load_recipe

ONE = "expected a mapping with exactly one of the keys path, hub, sql, callable, synthesize, got"


def data(line: str) -> str:
    """A recipe whose `data` section has `line` on line 4."""
    return f"name: x\ndata:\n  sources: [{{path: a.jsonl}}]\n  {line}\n"


def source(entry: str) -> str:
    return f"name: x\ndata:\n  sources:\n    - {entry}\n"


BROKEN = [
    (source("{path: a, hub: b/c}"), f"x.yaml:4: data.sources.0: {ONE} path and hub"),
    (source("{format: messages}"), f"x.yaml:4: data.sources.0: {ONE} format"),
    (source("{path: a, formt: messages}"), "x.yaml:4: data.sources.0.formt: unknown key; did you mean format?"),
    (
        source("{path: a, format: mesages}"),
        "x.yaml:4: data.sources.0.format: expected auto or one of messages, sharegpt, alpaca, prompt_completion, text, "
        'preference, rated_reply, labelled_text, text_pair, retrieval, question_answer, got "mesages"; did you mean '
        "messages?",
    ),
    (
        source("{path: a, fields: {prompt: 3}}"),
        "x.yaml:4: data.sources.0.fields.prompt: expected text, got 3; put it in quotes",
    ),
    (
        source("{path: a, fields: prompt}"),
        'x.yaml:4: data.sources.0.fields: expected a mapping of names to text, got "prompt"',
    ),
    (source("{path: a, weight: 0}"), "x.yaml:4: data.sources.0.weight: expected a number > 0 and <= 100, got 0"),
    (
        source('{callable: "os.system"}'),
        'x.yaml:4: data.sources.0.callable: expected a function as package.module:function, got "os.system"',
    ),
    (source("{sql: select 1}"), "x.yaml:4: data.sources.0.url: required key is missing"),
    (data("packing: maybe"), 'x.yaml:4: data.packing: expected auto or true or false, got "maybe"'),
    (
        data("splits: {by: time}"),
        "x.yaml:4: data.splits.key: by: time needs the column that says when, such as key: created_at",
    ),
    (
        data("splits: {test: 1.5}"),
        "x.yaml:4: data.splits.test: expected an integer >= 1 or a number > 0 and < 1, got 1.5",
    ),
    (data("splits: {test: 0}"), "x.yaml:4: data.splits.test: expected an integer >= 1 or a number > 0 and < 1, got 0"),
    (
        data("quality: {max_dropped: 120%}"),
        'x.yaml:4: data.quality.max_dropped: expected a percentage such as 2% or an integer >= 0 or null, got "120%"',
    ),
    (data("mix: {how: shuffle}"), 'x.yaml:4: data.mix.how: expected one of concatenate, interleave; got "shuffle"'),
]


@pytest.mark.parametrize(("content", "line"), BROKEN, ids=[line.split(": ")[1] for _, line in BROKEN])
def test_a_broken_key_gets_its_line(broken: Callable[..., list[str]], content: str, line: str) -> None:
    assert broken(content) == [line]


def test_every_kind_of_source_loads_and_dumps(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        """name: x
allow_code: true
data:
  sources:
    - {path: "chats/*.jsonl.gz", fields: {prompt: q}, keep: [lang], group: user, weight: 0.5, use: train}
    - {hub: owner/name, config: en, split: train, revision: abc, streaming: true}
    - {sql: "SELECT a FROM t WHERE b = :b", url: "env:DB", parameters: {b: 1}}
    - {callable: "my.module:rows", arguments: {deep: true}}
  mix: {how: interleave, until: first}
  quality: {near_duplicates: off, max_dropped: 2.5%}
  splits: {test: 50, by: time, key: when}
  packing: true
""",
        encoding="utf-8",
    )
    recipe = load_recipe(Path("x.yaml"))
    assert recipe.data is not None
    assert [type(one).__name__ for one in recipe.data.sources] == [
        "PathSource",
        "HubSource",
        "SqlSource",
        "CallableSource",
    ]
    (folder / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(Path("again.yaml")) == recipe


@given(st.integers(0, 10_000_000), st.integers(0, 1000))
def test_a_limit_is_a_share_of_the_rows_or_a_count(rows: int, tenths: int) -> None:
    share = f"{tenths / 10}%"
    allowed = QualitySection(max_dropped=share).allowed(rows)
    assert allowed <= rows * tenths / 1000 + 1e-6 < allowed + 1 + 1e-6
    assert QualitySection(max_dropped=tenths).allowed(rows) == tenths
    assert QualitySection().allowed(rows) == rows

"""Laws of the formats: whatever a row holds, it becomes an example or a fault that says why."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation
from hfkit.data.examples import EXAMPLE
from hfkit.data.formats import FORMATS, choose_format
from hfkit.data.formats.columns import Columns, resolve
from hfkit.data.ledger import RowFault
from hfkit.data.quality import examine
from hfkit.errors import RequestError
from hfkit.recipe.data import QualitySection

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just(10**400)
ANYTHING = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
KEYS = st.sampled_from(
    ["role", "content", "from", "value", "text", "tool_calls", "train", "weight", "name", "thinking", "function_call"]
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool", "human", "gpt", "function_call", "nobody"])
CALLS = st.lists(
    st.fixed_dictionaries({}, optional={"name": TEXTS, "arguments": ANYTHING, "function": ANYTHING, "id": ANYTHING}),
    max_size=2,
)
TURN = st.fixed_dictionaries(
    {"role": ROLES, "content": TEXTS | st.none()},
    optional={"tool_calls": CALLS, "train": st.booleans(), "reasoning": TEXTS, "extra": ANYTHING},
)
VALUE = ANYTHING | st.lists(TURN, max_size=4) | st.lists(st.dictionaries(KEYS, ANYTHING, max_size=3), max_size=3)
COLUMNS = sorted({name for format in FORMATS.values() for field in format.fields for name in field.names})


@st.composite
def rows_of_a_format(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(FORMATS)))
    return name, {field.name: draw(VALUE) for field in FORMATS[name].fields if field.required or draw(st.booleans())}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows_of_a_format(), st.none() | TEXTS)
def test_any_row_becomes_an_example_or_a_fault(of_format: tuple[Any, dict[str, Any]], system: str | None) -> None:
    name, row = of_format
    chosen = choose_format([row], name, {}, "k")
    try:
        made = chosen.convert(row, id="f:1", system=system)
    except RowFault as fault:
        assert fault.reason
        return
    # What is made can be written and read, once the gates have taken out what no file can hold.
    kept = examine(made, QualitySection(invalid_unicode="replace")).example
    if kept is not None:
        assert EXAMPLE.validate_json(EXAMPLE.dump_json(kept)) == kept
    if isinstance(made, Conversation):
        assert made.messages[-1].role == "assistant"
        assert any(turn.is_trained for turn in made.messages)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.dictionaries(st.sampled_from(COLUMNS) | TEXTS, VALUE, max_size=5), min_size=1, max_size=4), st.randoms()
)
def test_detection_knows_no_order_of_columns(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = []
    for row in rows:
        names = list(row)
        random.shuffle(names)
        shuffled.append({name: row[name] for name in names})

    assert _told(rows) == _told(shuffled)


def _told(rows: list[dict[str, Any]]) -> object:
    """The format and its columns, or that there is none."""
    try:
        chosen = choose_format(rows, "auto", {}, "k")
    except RequestError:
        return None
    return chosen.name, dict(chosen.columns)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn"]), min_size=1, max_size=30).filter(
    lambda text: text.strip() != ""
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.none() | WORDS, st.booleans())
def test_conversations_come_back_as_they_were_written(
    rounds: list[tuple[str, str]], system: str | None, as_json: bool
) -> None:
    expected = [] if system is None else [("system", system)]
    for asked, answered in rounds:
        expected += [("user", asked), ("assistant", answered)]
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    messages: Any = [{"role": role, "content": content} for role, content in expected]
    shared: Any = [{"from": names[role], "value": content} for role, content in expected]
    *history, last = rounds
    written: list[tuple[Any, dict[str, Any]]] = [
        ("messages", {"messages": json.dumps(messages) if as_json else messages}),
        ("sharegpt", {"conversations": json.dumps(shared) if as_json else shared}),
        ("prompt_completion", {"prompt": messages[:-1], "completion": messages[-1:]}),
        ("alpaca", {"instruction": last[0], "output": last[1], "history": history, "system": system}),
    ]
    for name, row in written:
        made = choose_format([row], name, {}, "k").convert(row, id="f:1")
        assert isinstance(made, Conversation)
        assert [(turn.role, turn.content) for turn in made.messages] == expected


def test_every_format_reads_each_of_its_own_names() -> None:
    for format in FORMATS.values():
        for field in format.fields:
            for name in field.names:
                resolved = resolve(format, Columns([{name.upper(): None}]), {}, by_shape=False)
                assert resolved.columns[field.name] == name.upper()

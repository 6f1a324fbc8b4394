"""The grammar of gates, and what a gate may speak of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hfkit.recipe import Gate

TOKEN_F1 = "tuned.token_f1 >= "


@pytest.mark.parametrize(
    ("text", "reference", "margin", "confidence"),
    [
        (TOKEN_F1 + "base.token_f1", "base", 0.0, 0.95),
        (TOKEN_F1 + "base.token_f1 + 0.05", "base", 0.05, 0.95),
        (TOKEN_F1 + "base.token_f1-.02 with confidence 0.99", "base", -0.02, 0.99),
        (TOKEN_F1 + "base.token_f1 with confidence 9e-1", "base", 0.0, 0.9),
        (TOKEN_F1 + "0.5", None, 0.5, 0.95),
        ("tuned.token_f1>=1 with   confidence 0.5", None, 1.0, 0.5),
        (TOKEN_F1 + "base.token_f1 + 5e-2", "base", 0.05, 0.95),
    ],
)
def test_gates_that_parse(text: str, reference: str | None, margin: float, confidence: float) -> None:
    gate = Gate.parse(f"  {text} ")
    assert (gate.model, gate.task, gate.metric, gate.relation) == ("tuned", None, "token_f1", ">=")
    assert (gate.reference, gate.margin, gate.confidence) == (reference, margin, confidence)
    assert gate.text == str(gate) == text
    assert Gate.parse(gate.text) == gate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("checkpoint-50.mmlu.accuracy >= tuned.mmlu.accuracy", ("checkpoint-50", "mmlu", ">=", "tuned", 0.0)),
        ("tuned.wiki.perplexity <= base.wiki.perplexity - 2", ("tuned", "wiki", "<=", "base", -2.0)),
        ("my_model.perplexity <= 12.5", ("my_model", None, "<=", None, 12.5)),
        ("tuned.mmlu.accuracy not worse than base", ("tuned", "mmlu", "not worse", "base", 0.0)),
        (
            "tuned.mmlu.accuracy  not  worse than base by 0.02 with confidence 0.9",
            ("tuned", "mmlu", "not worse", "base", 0.02),
        ),
    ],
)
def test_models_tasks_and_relations(text: str, expected: tuple[object, ...]) -> None:
    gate = Gate.parse(text)
    assert (gate.model, gate.task, gate.relation, gate.reference, gate.margin) == expected
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tuned.token_f1",
        "tuned.token_f1 > 0.5",
        "tuned.token_f1 >= ",
        "token_f1 >= 0.5",
        "tuned.token_f1 >= base.token_f1 +",
        "tuned.token_f1 >= base.token_f1 * 2",
        "tuned.token_f1 >= 0.5 + 0.1",
        "tuned.token_f1 >= 0.5 with confidence",
        "tuned.token_f1 >= 0.5with confidence 0.9",
        "tuned.token_f1 >= 0.5 with confidence 0.9 or so",
        "tuned.token_f1 >= 0.5, tuned.token_f1 >= 0.6",
        "tuned.token_f1 >= \u0660",
        "tuned.token_f1 not worse than base.token_f1",
        "tuned.token_f1 not worse than base by -0.1",
        "tuned.token_f1not worse than base",
        "tuned.a.b.token_f1 >= 0.5",
    ],
)
def test_what_is_no_gate_is_shown_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a gate; write one such as \"tuned\.token_f1 >= base\.token_f1 \+ 0\.05"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tuned.token_f1 >= base.citation_accuracy",
            "compares token_f1 with citation_accuracy; both sides must name the same metric",
        ),
        (
            "tuned.a.token_f1 >= base.b.token_f1",
            "names a on the left and b on the right; both sides must name the same task",
        ),
        (
            "tuned.a.token_f1 >= base.token_f1",
            "names a on the left and no task on the right; both sides must name the same task",
        ),
        ("tuned.token_f1 >= tuned.token_f1", "compares tuned with itself; name another model on the right"),
        ("tuned.token_f1 not worse than tuned", "compares tuned with itself; name another model on the right"),
        (
            "tuned.token_f1 >= 0.5 with confidence 95",
            "the confidence must be more than 0 and less than 1, got 95; did you mean 0.95?",
        ),
        ("tuned.token_f1 >= 0.5 with confidence 1", "the confidence must be more than 0 and less than 1, got 1"),
        ("tuned.token_f1 >= 0.5 with confidence 0", "the confidence must be more than 0 and less than 1, got 0"),
    ],
)
def test_gates_that_can_never_be_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Gate.parse(text)
    assert str(caught.value) == message


TASKS = (
    "[grounded_answers, {use: mmlu, path: m.jsonl}, {use: arc, path: a.jsonl}, {kind: text, name: wiki, path: w.txt}]"
)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("tuned.f1 >= 0.5", "unknown metric f1; expected one of token_f1, citation_accuracy"),
        ("tuned.f1 >= 0.5", "; did you mean token_f1?"),
        ("tuned.accuracy >= 0.5", "several tasks have accuracy; name one of them, as tuned.mmlu.accuracy or"),
        (
            "tuned.mmul.accuracy >= 0.5",
            "there is no task mmul; the tasks are grounded_answers, mmlu, arc, wiki; did you",
        ),
        ("tuned.mmlu.accurcy >= 0.5", "unknown metric accurcy; expected one of accuracy; did you mean accuracy?"),
        ("tune.mmlu.accuracy >= 0.5", "there is no model tune; asked are base, tuned; did you mean tuned?"),
        ("tuned.token_f1 not worse than bas", "there is no model bas; asked are base, tuned; did you mean base?"),
        ("tuned.token_f1 >= 50", "token_f1 is a share from 0 to 1: the bound must be from 0 to 1, got 50"),
        ("tuned.token_f1 >= -0.5", "token_f1 is a share from 0 to 1: the bound must be from 0 to 1, got -0.5"),
        (
            "tuned.token_f1 >= base.token_f1 + 5",
            "token_f1 is a share from 0 to 1: the margin must be from -1 to 1, got 5",
        ),
        ("tuned.judge_win_rate >= 0.5", "unknown metric judge_win_rate"),
    ],
)
def test_gates_on_what_is_not_measured(broken: Callable[..., list[str]], gate: str, message: str) -> None:
    """The error stands at the gate that is wrong, behind one that is right."""
    content = (
        "name: x\nmodel: {base: m}\ndata: {sources: [{path: a.jsonl}]}\ntrain: {}\nevaluate:\n"
        f"  tasks: {TASKS}\n  gates:\n    - tuned.wiki.perplexity <= 20\n    - {gate}\n"
    )
    (found,) = broken(content)
    assert found.startswith("x.yaml:9: evaluate.gates.1: ") and message in found

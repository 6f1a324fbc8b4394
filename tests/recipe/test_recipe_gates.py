"""The grammar of gates."""

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
    assert (gate.metric, gate.reference, gate.margin, gate.confidence) == ("token_f1", reference, margin, confidence)
    assert gate.text == str(gate) == text
    assert Gate.parse(gate.text) == gate


@pytest.mark.parametrize("metric", ["token_f1", "citation_accuracy", "abstention_accuracy"])
def test_metrics(metric: str) -> None:
    assert Gate.parse(f"tuned.{metric} >= base.{metric}").metric == metric


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tuned.token_f1",
        "tuned.token_f1 > 0.5",
        "tuned.token_f1 >= ",
        "base.token_f1 >= 0.5",
        "tuned.token_f1 >= tuned.token_f1",
        "tuned.token_f1 >= base.token_f1 +",
        "tuned.token_f1 >= base.token_f1 * 2",
        "tuned.token_f1 >= 0.5 + 0.1",
        "tuned.token_f1 >= 0.5 with confidence",
        "tuned.token_f1 >= 0.5with confidence 0.9",
        "tuned.token_f1 >= 0.5 with confidence 0.9 or so",
        "tuned.token_f1 >= 0.5, tuned.token_f1 >= 0.6",
        "tuned.token_f1 >= \u0660",
    ],
)
def test_what_is_no_gate_is_shown_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a gate; write one such as \"tuned\.token_f1 >= base\.token_f1 \+ 0\.05"):
        Gate.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tuned.f1 >= 0.5",
            "unknown metric f1; expected one of token_f1, citation_accuracy, abstention_accuracy; "
            "did you mean token_f1?",
        ),
        (
            "tuned.token_f1 >= base.citation_accuracy",
            "compares token_f1 with citation_accuracy; both sides must name the same metric",
        ),
        ("tuned.token_f1 >= 50", "token_f1 is a share from 0 to 1: the bound must be from 0 to 1, got 50"),
        ("tuned.token_f1 >= -0.5", "token_f1 is a share from 0 to 1: the bound must be from 0 to 1, got -0.5"),
        (
            "tuned.token_f1 >= base.token_f1 + 5",
            "token_f1 is a share from 0 to 1: the margin must be from -1 to 1, got 5",
        ),
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

"""Instructions that code checks: by hand, and against the checks that lm-evaluation-harness carries."""

from __future__ import annotations

import random
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.metrics.constraints import CHECKS, followed
from hfkit.evaluation.rows import Failed, Generation, GenerationRow


def asks(*instructions: tuple[str, dict[str, object]], place: int = 0) -> GenerationRow:
    facts = {"instruction_id_list": [id for id, _ in instructions], "kwargs": [given for _, given in instructions]}
    return GenerationRow(id=f"r{place}", group=f"r{place}", messages=(), references=(), facts=facts)  # type: ignore[arg-type]


def holds(reply: str, id: str, **given: object) -> bool:
    found = followed(reply, asks((id, given)))
    assert found is not None
    return found[0]


@pytest.mark.parametrize(
    ("id", "given", "follows", "breaks"),
    [
        ("keywords:existence", {"keywords": ["cat", "dog"]}, "A Dog, a cat.", "A dog."),
        ("keywords:existence", {"keywords": ["a.b"]}, "it is a.b", "it is axb"),
        ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, "cat Cat", "cat"),
        ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "less than"}, "cat", "cat cat"),
        ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "catalogue", "A Cat."),
        ("keywords:letter_frequency", {"letter": "X", "let_frequency": 2, "let_relation": "at least"}, "xX", "x"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "three words now"),
        ("length_constraints:number_words", {"num_words": 3, "relation": None}, "three words now", "two words"),
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "So. Yes!", "Pi: 3.14"),
        ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "そう。はい。", "そう"),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "“So.” No", "A. B. C"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo", "one\n***\n\n***\ntwo"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
            'one\n\n"then, two',
            "then\n\none",
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name] at place"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Yes.\np. s. no", "Yes. PS no"),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Yes.\nP.P.S no", "P.S. no"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b", "* a\n** b **"),
        ("detectable_format:constrained_response", {}, "Well: My answer is maybe.", "maybe"),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "so *this* is", "so ** is"),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "Section", "num_sections": 2},
            "Section 1\na\nSection 2\nb",
            "Section 1 and section 2",
        ),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
        ("detectable_format:title", {}, "<<of cats>>\nThey are.", "<< >> of cats"),
        ("combination:two_responses", {}, "one\n******\ntwo", "one ****** one"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
        ("startend:end_checker", {"end_phrase": "That is all."}, 'So. "That is all."', "That is all. So."),
        ("startend:quotation", {}, ' "so" ', '"so'),
        (
            "change_case:capital_word_frequency",
            {"capital_frequency": 2, "capital_relation": "at least"},
            "A WELL-KNOWN cat",
            "A cat",
        ),
        ("change_case:english_capital", {}, "ALL OF IT: 1!", "ALL of it"),
        ("change_case:english_lowercase", {}, "all of it: 1!", "All of it"),
        ("punctuation:no_comma", {}, "one and two", "one, two"),
    ],
)
def test_an_instruction(id: str, given: dict[str, object], follows: str, breaks: str) -> None:
    assert holds(follows, id, **given)
    assert not holds(breaks, id, **given)


def test_every_instruction_was_looked_at_above() -> None:
    marks = test_an_instruction.pytestmark  # type: ignore[attr-defined]
    assert {case[0] for case in marks[0].args[1]} == set(CHECKS)


def test_a_row_follows_all_or_not_and_each_counts_by_itself() -> None:
    rows = [
        asks(("punctuation:no_comma", {}), ("change_case:english_lowercase", {})),
        asks(("punctuation:no_comma", {}), place=1),
        asks(("language:response_language", {"language": "de"}), ("punctuation:no_comma", {}), place=2),
        asks(place=3),
    ]
    answers = [Generation(text=text, stopped=True) for text in ("No comma", "none", "keines", "none")]
    whole, each = metric_named("constraints"), metric_named("constraints_each")
    assert whole.is_binary and whole.rows(rows, answers) == [(0.0, 1.0), (1.0, 1.0), None, None]
    assert each.rows(rows, answers) == [(1.0, 2.0), (1.0, 1.0), None, None]
    assert each.value(np.array([2.0, 3.0])) == pytest.approx(2 / 3)
    for empty in (Failed(reason="timed out"), Generation(text=" \n", stopped=True)):
        assert whole.rows(rows[:1], [empty]) == [(0.0, 1.0)]
        assert each.rows(rows[:1], [empty]) == [(0.0, 2.0)]


@pytest.mark.parametrize(
    ("id", "given", "said"),
    [
        (
            "length_constraints:number_words",
            {"relation": "at least"},
            "number_words: needs a whole number as num_words",
        ),
        ("length_constraints:number_words", {"num_words": 2, "relation": "about"}, "less than or at least, is 'about'"),
        ("keywords:existence", {"keywords": "cat"}, "keywords:existence: needs a list of texts as keywords"),
        ("startend:end_checker", {}, "needs a text as end_phrase, has None"),
    ],
)
def test_an_argument_that_is_missing_is_named(id: str, given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        holds("so", id, **given)
    with pytest.raises(ValueError, match="lists of the same length"):
        followed(
            "so", GenerationRow(id="r", group="r", messages=(), references=(), facts={"instruction_id_list": [id]})
        )


# Against the harness. It counts sentences, and words in capitals, with English tokenizers that are fetched; those two,
# and the detected language, are left out.
PIECES = [
    *(
        "cat",
        "Cat",
        "CAT",
        "dog",
        "a",
        "the",
        "so,",
        "yes.",
        "No!",
        "*",
        "**",
        "***",
        "******",
        "- x",
        "* y",
        "\n",
        "\n\n",
    ),
    *("[name]", "<<so>>", "P.S. ", "p. p. s", "Section 1", "Section 2", "SECTION", '"', "{}", '{"a": 1}', "```", "x-y"),
    *("My answer is yes.", "That is all.", "Say it.", "*so*", "**so**"),
]
GIVEN: dict[str, list[dict[str, object]]] = {
    "keywords:existence": [{"keywords": ["cat", "dog"]}],
    "keywords:frequency": [
        {"keyword": "cat", "frequency": n, "relation": r} for n in (1, 2) for r in ("less than", "at least")
    ],
    "keywords:forbidden_words": [{"forbidden_words": ["cat"]}],
    "keywords:letter_frequency": [
        {"letter": "a", "let_frequency": 4, "let_relation": r} for r in ("less than", "at least")
    ],
    "length_constraints:number_words": [{"num_words": 8, "relation": r} for r in ("less than", "at least")],
    "length_constraints:number_paragraphs": [{"num_paragraphs": n} for n in (1, 2, 3)],
    "length_constraints:nth_paragraph_first_word": [
        {"num_paragraphs": 2, "nth_paragraph": n, "first_word": "cat"} for n in (1, 2)
    ],
    "detectable_content:number_placeholders": [{"num_placeholders": n} for n in (1, 2)],
    "detectable_content:postscript": [{"postscript_marker": mark} for mark in ("P.S.", "P.P.S")],
    "detectable_format:number_bullet_lists": [{"num_bullets": n} for n in (1, 2)],
    "detectable_format:constrained_response": [{}],
    "detectable_format:number_highlighted_sections": [{"num_highlights": n} for n in (1, 2, 3)],
    "detectable_format:multiple_sections": [{"section_spliter": "Section", "num_sections": n} for n in (1, 2)],
    "detectable_format:json_format": [{}],
    "detectable_format:title": [{}],
    "combination:two_responses": [{}],
    "combination:repeat_prompt": [{"prompt_to_repeat": "Say it."}],
    "startend:end_checker": [{"end_phrase": "That is all."}],
    "startend:quotation": [{}],
    "punctuation:no_comma": [{}],
}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        pytest.skip("lm-evaluation-harness is not installed")
    # Its checks alone, without the seconds that the rest of it takes to import.
    for name in ("lm_eval", "lm_eval.tasks", "lm_eval.tasks.ifeval"):
        package = ModuleType(name)
        package.__path__ = [str(Path(found.origin).parent.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, name, package)
    # What it needs to name languages, which nothing here asks for; and no tokenizer is fetched.
    for name in ("langdetect", "immutabledict"):
        stand_in = ModuleType(name)
        stand_in.immutabledict = dict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr("nltk.download", lambda *_, **__: True)
    for name in ("instructions_util", "instructions", "instructions_registry"):
        whole = f"lm_eval.tasks.ifeval.{name}"
        monkeypatch.setitem(sys.modules, whole, import_module(whole))
    return sys.modules["lm_eval.tasks.ifeval.instructions_registry"]


def test_instructions_are_checked_as_the_harness_checks_them_on_2000_random_replies(harness: ModuleType) -> None:
    choose = random.Random(19)
    seen: dict[str, set[bool]] = {id: set() for id in GIVEN}
    for _ in range(2000):
        id = choose.choice(list(GIVEN))
        given = choose.choice(GIVEN[id])
        pieces = choose.choices(PIECES, k=choose.randint(1, 8))
        if id.startswith(("combination", "startend")) and choose.random() < 0.5:
            pieces = choose.choice(
                [['"', *pieces, '"'], ["Say it.", *pieces], [*pieces, "That is all."], ["a", "******", "b"]]
            )
        if id.endswith("first_word") and choose.random() < 0.5:
            pieces = ["'cat, so", "\n\n", choose.choice(["Cat", "dog"])]
        reply = choose.choice([" ", "\n", ""]).join(pieces)
        reference = harness.INSTRUCTION_DICT[id](id)
        reference.build_description(**given)
        expected = bool(reply.strip()) and bool(reference.check_following(reply))
        assert holds(reply, id, **given) == expected, (id, given, reply)
        seen[id].add(expected)
    assert {id: found for id, found in seen.items() if len(found) < 2} == {}

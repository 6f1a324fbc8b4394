"""Metrics of replies against references: each against its reference implementation on a thousand random cases."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.metrics.numeric import last_number
from hfkit.evaluation.rows import Failed, Generation, GenerationRow

WORDS = [
    *("the", "The", "a", "an", "cat", "Cat", "cat's", "cats", "sat", "on", "mat", "mat.", "3.5", "1,000", "--", "[2]"),
    *("naïve", "Straße", "日本", "語", "U.S.", '"dog"', "runs", "running", "runner", "quickly", "&amp;", "(so)", "\n"),
]


def row(*references: str, place: int = 0, **facts: object) -> GenerationRow:
    return GenerationRow(
        id=f"r{place}",
        group=f"g{place}",
        messages=(),
        references=references,
        facts=dict(facts),  # type: ignore[arg-type]
    )


def says(text: str) -> Generation:
    return Generation(text=text, stopped=True)


def of_one(metric: Metric, reply: str, asked: GenerationRow) -> float | None:
    (numbers,) = metric.rows([asked], [says(reply)])
    return None if numbers is None else float(metric.value(np.asarray(numbers)))


def of_all(metric: Metric, replies: Sequence[str], rows: Sequence[GenerationRow]) -> float:
    numbers = metric.rows(rows, [says(reply) for reply in replies])
    return float(metric.value(np.asarray(numbers, np.float64).sum(axis=0)))


def text(choose: random.Random, most: int = 14) -> str:
    return " ".join(choose.choices(WORDS, k=choose.randrange(most)))


def near(choose: random.Random, other: str) -> str:
    """A text that shares pieces with `other`, as replies do with references."""
    words = [word for word in other.split(" ") if choose.random() > 0.25]
    words[choose.randrange(len(words) + 1) :] += choose.choices(WORDS, k=choose.randrange(3))
    return " ".join(words)


# SQuAD


def squad_normalised(answer: str) -> str:
    """The steps of SQuAD's evaluation script, in its order: lower case, punctuation, articles, white space."""
    lowered = answer.lower()
    kept = "".join(character for character in lowered if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_f1(prediction: str, truth: str) -> float:
    said, meant = squad_normalised(prediction).split(), squad_normalised(truth).split()
    if not said or not meant:  # as the script of SQuAD 2.0 has it
        return float(said == meant)
    same = sum((Counter(said) & Counter(meant)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(meant)
    return 2 * precision * recall / (precision + recall)


def test_exact_match_and_f1_are_squads_on_2000_random_cases() -> None:
    choose = random.Random(3)
    exact, f1, found = metric_named("exact_match"), metric_named("token_f1"), set()
    for _ in range(2000):
        references = [text(choose, 6) for _ in range(choose.randint(1, 3))]
        reply = choose.choice([near(choose, references[0]), references[-1].upper() + ".", text(choose, 6)])
        expected = max(float(squad_normalised(reply) == squad_normalised(one)) for one in references)
        assert of_one(exact, reply, row(*references)) == expected, (reply, references)
        best = max(squad_f1(reply, one) for one in references)
        assert of_one(f1, reply, row(*references)) == pytest.approx(best, abs=1e-12), (reply, references)
        found |= {expected, round(best, 2)}
    assert {0.0, 1.0} < found and len(found) > 15


@pytest.mark.parametrize(
    ("reply", "references", "exact", "f1"),
    [
        # The example of Hugging Face's `squad` metric, and cases on the border of the normalisation.
        ("1976", ["1976"], 1.0, 1.0),
        ("the Denver Broncos!", ["Denver Broncos", "Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos", "Broncos"], 0.0, 2 / 3),
        ("", [""], 1.0, 1.0),
        ("the", [""], 1.0, 1.0),
        ("", ["cat"], 0.0, 0.0),
    ],
)
def test_known_answers(reply: str, references: list[str], exact: float, f1: float) -> None:
    assert of_one(metric_named("exact_match"), reply, row(*references)) == exact
    assert of_one(metric_named("token_f1"), reply, row(*references)) == pytest.approx(f1)


def test_grounded_rows_are_compared_without_their_citations_and_unanswerable_ones_not_at_all() -> None:
    f1, exact = metric_named("token_f1"), metric_named("exact_match")
    assert of_one(f1, "two cats [3]", row("two cats [1]", gold=1)) == 1
    assert of_one(exact, "two cats [3]", row("two cats [1]", gold=1)) == 1
    assert of_one(f1, "two cats [3]", row("two cats [1]")) == pytest.approx(2 / 3)
    assert of_one(f1, "The documents do not say.", row("The documents do not say.", gold=None)) is None


# ROUGE


@pytest.mark.parametrize("stemmer", [False, True])
def test_rouge_is_googles_on_1000_random_cases(stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    names = ("rouge1", "rouge2", "rougeL")
    scorer, choose = RougeScorer(names, use_stemmer=stemmer), random.Random(5)
    metrics = {name: metric_named(name, stemmer=stemmer) for name in names}
    for _ in range(500):
        references = [text(choose) for _ in range(choose.randint(1, 3))]
        reply = choose.choice([near(choose, references[0]), text(choose)])
        for name, metric in metrics.items():
            expected = max(scorer.score(one, reply)[name].fmeasure for one in references)
            assert of_one(metric, reply, row(*references)) == pytest.approx(expected, abs=1e-12)


def test_rouge_of_a_published_example() -> None:
    """From the documentation of rouge-score, as Hugging Face's `rouge` metric gives it too."""
    target, reply = "The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log."
    assert of_one(metric_named("rouge1"), reply, row(target)) == pytest.approx(12 / 17)
    assert of_one(metric_named("rougeL"), reply, row(target)) == pytest.approx(10 / 17)


# BLEU and chrF


def corpus(choose: random.Random) -> tuple[list[str], list[list[str]]]:
    """Replies and references, of one corpus as many a row."""
    kind, many = choose.random(), choose.randint(1, 3)
    references = [[text(choose) for _ in range(many)] for _ in range(choose.randint(1, 8))]
    if kind < 0.15:  # no word in common with anything
        return ["unheard" * choose.randint(0, 1) for _ in references], references
    if kind < 0.3:  # too short for four words
        return [choose.choice([*WORDS, ""]) for _ in references], references
    return [near(choose, choose.choice(meant)) for meant in references], references


@pytest.mark.parametrize(
    ("name", "settings", "reference"),
    [
        ("bleu", {}, BLEU(force=True)),
        ("bleu", {"tokenizer": "char", "lowercase": True}, BLEU(tokenize="char", lowercase=True, force=True)),
        ("chrf", {}, CHRF()),
        ("chrf", {"word_order": 2}, CHRF(word_order=2)),
    ],
    ids=["bleu", "bleu-char", "chrf", "chrf++"],
)
def test_bleu_and_chrf_are_sacrebleus_on_1000_random_corpora(
    name: str, settings: dict[str, object], reference: BLEU | CHRF
) -> None:
    choose, metric, found = random.Random(11), metric_named(name, **settings), set()  # type: ignore[arg-type]
    for _ in range(1000):
        replies, references = corpus(choose)
        expected = reference.corpus_score(replies, list(zip(*references, strict=True))).score
        rows = [row(*meant, place=place) for place, meant in enumerate(references)]
        assert of_all(metric, replies, rows) == pytest.approx(expected, abs=1e-9), (replies, references)
        found.add(round(expected))
    assert 0 in found and len(found) > 40


def test_bleu_of_a_published_example() -> None:
    """sacreBLEU's own: its documentation gives 48.53 for these three lines with two references each."""
    replies = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    rows = [row(*both, place=place) for place, both in enumerate(zip(first, second, strict=True))]
    assert round(of_all(metric_named("bleu"), replies, rows), 2) == 48.53


# Numbers


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("the answer is 42", "42"),
        ("#### 1,234", "1234"),
        ("She pays $1,234.50.", "1234.50"),
        ("-$7", "-7"),
        ("$-7", "-7"),
        ("minus -7.", "-7"),
        ("5-3", "3"),
        ("so 12 * 3 = 36, done", "36"),
        ("it costs .5", "0.5"),
        ("half: 50%", "50"),
        ("1,2 and 3,4", "4"),
        ("version 1.2.3", "1.2"),
        ("4. Then", "4"),
        ("١٢", "12"),
        ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
    ],
)
def test_the_last_number(said: str, number: str) -> None:
    from decimal import Decimal

    assert last_number(said) == Decimal(number)


@pytest.mark.parametrize("said", ["", "none", "-", "$", ".", "...", "a.b", "--,--"])
def test_no_number(said: str) -> None:
    assert last_number(said) is None


def gsm8k_flexible(text: str) -> str | None:
    """What lm-evaluation-harness takes from a reply to GSM8K ("flexible-extract"), and what it ignores in it."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    if not found:
        return None
    last = next(group for group in found[-1] if group)
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", last))


def test_numbers_are_read_as_the_harness_reads_them_on_1000_random_replies() -> None:
    choose, metric, right = random.Random(13), metric_named("numeric"), 0
    for _ in range(1000):
        answer = choose.choice([choose.randrange(100), choose.randrange(10**7), -choose.randrange(500)])
        wrong = answer + choose.choice([0, 0, 1, 10])
        shown = choose.choice([f"{wrong}", f"{wrong:,}", f"${wrong:,}", f"{wrong}.", f"{wrong:,}, I think"])
        reply = f"First {choose.randrange(50)}, then {choose.randrange(9)} times. The answer is {shown}"
        reference = f"It is so.\n#### {answer:,}"
        expected = gsm8k_flexible(reply) == str(answer)
        assert of_one(metric, reply, row(reference)) == float(expected), reply
        right += expected
    assert 300 < right < 700


def test_numbers_within_a_tolerance_and_references_without_one() -> None:
    assert of_one(metric_named("numeric"), "2.50", row("2.5")) == 1
    assert of_one(metric_named("numeric"), "2.51", row("2.5")) == 0
    assert of_one(metric_named("numeric", tolerance=0.01), "2.51", row("2.5")) == 1
    assert of_one(metric_named("numeric"), "no idea", row("2.5")) == 0
    assert of_one(metric_named("numeric"), "2", row("two")) is None
    assert of_one(metric_named("numeric"), "2", row("two", "2")) == 1


# Patterns and JSON


def test_a_pattern() -> None:
    found = metric_named("regex", pattern=r"\bcats?\b")
    assert [of_one(found, reply, row()) for reply in ("two cats", "catalogue", "")] == [1, 0, 0]
    answer = metric_named("regex", pattern=r"[Aa]nswer is (\w+)")
    assert of_one(answer, "The answer is B. No, the answer is c.", row("C")) == 1
    assert of_one(answer, "The answer is B.", row("C")) == 0
    assert of_one(answer, "C", row("C")) == 0
    assert of_one(answer, "The answer is B.", row()) == 1
    own = metric_named("regex")
    assert of_one(own, "two cats", row(pattern="cats$")) == 1
    assert of_one(own, "two cats", row()) is None
    with pytest.raises(ValueError, match="not a regular expression"):
        metric_named("regex", pattern="(")


@pytest.mark.parametrize(
    ("reply", "valid"),
    [
        ('{"a": [1, 2.5e3, null, true, "x"]}', 1),
        (" 3 \n", 1),
        ('"text"', 1),
        ("", 0),
        ("{'a': 1}", 0),
        ('{"a": 1,}', 0),
        ('{"a": NaN}', 0),
        ("[Infinity]", 0),
        ('```json\n{"a": 1}\n```', 0),
        ('{"a": 1} and so on', 0),
        ("[" * 100_000, 0),
        ("1" * 10_000, 0),
    ],
)
def test_valid_json(reply: str, valid: int) -> None:
    assert of_one(metric_named("json_valid"), reply, row()) == valid


SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}, "of": {"$ref": "#/$defs/name"}},
    "required": ["age"],
    "additionalProperties": False,
    "$defs": {"name": {"enum": ["cat", "dog"]}},
}


def test_a_schema_is_held_as_jsonschema_holds_it_on_1000_random_replies() -> None:
    import json

    from jsonschema import Draft202012Validator

    choose, metric, allowed = random.Random(17), metric_named("json_schema", schema=SCHEMA), 0  # type: ignore[arg-type]
    for _ in range(1000):
        value = {
            key: choose.choice([3, -1, 2.5, "cat", "dog", "cow", None, [1]])
            for key in ("age", "of", "more")
            if choose.random() < (0.9, 0.4, 0.1)[("age", "of", "more").index(key)]
        }
        expected = Draft202012Validator(SCHEMA).is_valid(value)
        assert of_one(metric, json.dumps(value), row()) == float(expected), value
        allowed += expected
    assert 50 < allowed < 500
    own = metric_named("json_schema")
    assert of_one(own, '{"age": 3}', row(schema=SCHEMA)) == 1
    assert of_one(own, "[]", row(schema=SCHEMA)) == 0
    assert of_one(own, "[]", row()) is None


def test_a_schema_that_is_none_is_refused_and_nothing_is_fetched_for_one() -> None:
    with pytest.raises(ValueError, match="not a JSON Schema"):
        metric_named("json_schema", schema={"type": "objekt"})
    elsewhere = metric_named("json_schema", schema={"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(ValueError, match="does not stand in it"):
        of_one(elsewhere, "{}", row())


@pytest.mark.parametrize("reply", ["1e400", "-1e400", "1" * 400, "[1e400]"])
def test_a_number_that_the_schema_cannot_be_computed_with_makes_the_reply_wrong(reply: str) -> None:
    schema = {"type": ["number", "array"], "multipleOf": 0.1, "items": {"multipleOf": 0.1}}
    assert of_one(metric_named("json_schema"), reply, row(schema=schema)) == 0


# All of them


@pytest.mark.parametrize(
    "name", ["exact_match", "token_f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "numeric", "json_valid"]
)
def test_no_answer_is_worst_and_no_reference_is_not_scored(name: str) -> None:
    metric = metric_named(name)
    rows = [row("1"), row("1", place=1), row(place=2)]
    numbers = metric.rows(rows, [says("1"), Failed(reason="timed out"), says("1")])
    assert numbers[0] is not None and numbers[1] is not None
    assert metric.value(np.asarray(numbers[1])) == 0 <= metric.value(np.asarray(numbers[0]))
    assert numbers[2] is None or name == "json_valid"

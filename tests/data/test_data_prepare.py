"""The data stage: what training sees holds nothing of what is tested, and the same recipe gives the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.errors import RequestError
from rag.answer import ABSTENTION, without_citations

if TYPE_CHECKING:
    from hfkit.data.conversation import Conversation
    from tests.conftest import Cli, RecipeWriter
    from tests.data.conftest import PreparedData

Prepare = Callable[..., "PreparedData"]

MARK = re.compile(r"(?m)^\[\d+\] (.*)$")


def plain(text: str) -> str:
    """Lower case, letters and digits, single spaces, and a space at both ends: for finding whole words in texts."""
    letters = "".join(character if character.isalnum() else " " for character in text.lower())
    return f" {' '.join(letters.split())} "


def texts_of(rows: Sequence[Conversation]) -> list[str]:
    return [plain(turn.content) for row in rows for turn in row.messages]


def passages_of(row: Conversation) -> list[str]:
    """The passages that a synthesised row shows, without their headings, as words alone."""
    body = row.messages[1].content.rsplit("\n\nQuestion: ", 1)[0]
    marks = list(MARK.finditer(body))
    ends = [mark.start() for mark in marks[1:]] + [len(body)] * bool(marks)
    return [plain(body[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]


def assert_nothing_leaks(data: PreparedData, chunks_by_document: dict[str, list[str]]) -> None:
    tested = {row.document for row in data.test}
    assert tested and data.train
    assert tested.isdisjoint(row.document for row in data.train)
    shown = "\n".join(texts_of(data.train))
    for row in data.test:
        if row.grounding is not None:
            assert plain(row.grounding.question) not in shown, row.id
        answer = without_citations(row.messages[-1].content)
        if answer != ABSTENTION:
            assert plain(answer) not in shown, row.id
    # A passage may be shown if a document that is not tested holds it too.
    allowed = {plain(text) for id, texts in chunks_by_document.items() if id not in tested for text in texts}
    for row in data.train:
        if row.grounding is not None:
            assert set(passages_of(row)) <= allowed, row.id


def chunks_of(data: PreparedData) -> dict[str, list[str]]:
    from rag.index import Index

    found: dict[str, list[str]] = {}
    with Index.open(data.folder.parent / "index") as index:
        for chunk in index.chunks():
            found.setdefault(chunk.document_id, []).append(chunk.text)
    return found


def write_like_documents(folder: Path) -> None:
    """Documents that share headings, sentences and whole sections, beside what each has for itself."""
    shared = "Every machine in this hall is checked by two people before noon."
    for number in range(12):
        sections = [
            f"# Machine {number}\n\nMachine number {number} stands in hall {number % 3} and paints {number + 3} doors.",
            f"## Upkeep\n\n{shared}",
            f"## Speed of machine {number}\n\nAt full speed it paints {number * 7 + 1} doors in one hour of work.",
            f"## Colour\n\nThe colour of its paint is number {number % 4} in the book of paints.",
            f"## Notes {number}\n\nA note of the year {1900 + number} says that it was slow. {shared}",
        ]
        (folder / f"machine{number:02}.md").write_text("\n\n".join(sections), encoding="utf-8")


def synthesize(**settings: object) -> dict[str, object]:
    return {"synthesize": {"questions": 5, "passages": 3, **settings}}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "sources",
    [
        [synthesize()],
        [synthesize(unanswerable=0.0, passages=8)],
        [synthesize(documents=["docs/machine*"]), synthesize(documents=["docs/*"], rows=20)],
        [synthesize(documents=["docs/machine0*"]), synthesize(documents=["docs/machine*"]), synthesize()],
    ],
    ids=["one source", "many passages", "two sources over the same documents", "three sources"],
)
def test_training_shows_nothing_that_is_tested(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare, sources: list[object], seed: int
) -> None:
    write_like_documents(documents)
    data = prepare_data(tiny_recipe(seed=seed, data={"sources": sources}))
    assert_nothing_leaks(data, chunks_of(data))
    assert len(data.train) > len(data.test) > 3


def test_two_sources_share_the_questions_of_a_document(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare
) -> None:
    """What the first source did not take is there for the second."""
    write_like_documents(documents)
    data = prepare_data(tiny_recipe(data={"sources": [synthesize(rows=10), synthesize(rows=10)]}))
    assert_nothing_leaks(data, chunks_of(data))
    assert len(data.train) + len(data.test) > 10


def test_a_file_that_quotes_a_tested_document_leaks_nothing(
    tiny_recipe: RecipeWriter, workplace: Path, documents: Path, prepare_data: Prepare
) -> None:
    """Hand-written rows quote every document; whatever they show cannot be tested."""
    write_like_documents(documents)
    quotes = [
        line for path in sorted(documents.iterdir()) for line in path.read_text().splitlines() if line[:1].isupper()
    ]
    rows = [[("user", f"Tell me fact {n}."), ("assistant", quote.upper())] for n, quote in enumerate(quotes[::2])]
    write_rows(workplace / "rows.jsonl", rows)
    data = prepare_data(tiny_recipe(data={"sources": [{"path": "rows.jsonl"}, synthesize()]}))
    assert_nothing_leaks(data, chunks_of(data))
    (dropped,) = data.result.dropped
    assert "stands in training" in dropped.reason and dropped.rows > 0


def write_rows(path: Path, rows: Sequence[Sequence[tuple[str, str]]]) -> None:
    lines = [json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) for turns in rows]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def from_rows(tiny_recipe: RecipeWriter, workplace: Path, prepare_data: Prepare) -> Prepare:
    """Prepare a JSONL file of these rows alone."""

    def prepare(rows: Sequence[Sequence[tuple[str, str]]], **data: object) -> PreparedData:
        write_rows(workplace / "rows.jsonl", rows)
        sections = {"data": {"sources": [{"path": "rows.jsonl"}], **data}}
        return prepare_data(tiny_recipe(rag=None, evaluate=None, **sections))

    return prepare


def test_a_file_is_split_and_nothing_is_lost(from_rows: Prepare) -> None:
    rows = [[("user", f"What is word {n}?"), ("assistant", f"It is {chr(97 + n) * 5}.")] for n in range(20)]
    data = from_rows(rows, splits={"test": 0.25})
    assert (len(data.train), len(data.test)) == (15, 5)
    assert sorted(row.messages[1].content for row in (*data.train, *data.test)) == sorted(r[1][1] for r in rows)
    assert data.result.dropped == ()
    for summary, side, sequences in (
        (data.result.train, data.train, data.train_sequences),
        (data.result.test, data.test, data.test_sequences),
    ):
        assert summary.rows == summary.documents == summary.sequences == len(side) == len(sequences)
        assert [one.row for one in sequences] == [row.id for row in side]
        assert summary.tokens == sum(len(one.input_ids) for one in sequences)
        assert summary.trained_tokens == sum(sum(one.is_trained) for one in sequences)
        assert summary.longest == max(len(one.input_ids) for one in sequences)


def test_the_same_row_on_both_sides_is_not_tested(from_rows: Prepare) -> None:
    same = [("user", "What is the height of the tower?"), ("assistant", "It is ninety metres high.")]
    rows = [same] * 12 + [[("user", f"Say {w * 6}"), ("assistant", f"I say {w * 6} now")] for w in "abcdefgh"]
    data = from_rows(rows, splits={"test": 0.5})
    assert same[1][1] not in {row.messages[1].content for row in data.test}
    assert data.test
    assert sum(dropped.rows for dropped in data.result.dropped) == 20 - len(data.train) - len(data.test) > 0


def test_a_question_that_training_shows_is_not_tested(from_rows: Prepare) -> None:
    """Another wording of the answer makes it no less known."""
    rows = [
        [("user", f"What is the height of tower {min(n, 12)}?"), ("assistant", f"Answer {w} of this: {w}{n}.")]
        for n, w in enumerate("abcdefghijklmnopqrst")
    ]
    data = from_rows(rows, splits={"test": 0.3})
    trained = {row.messages[0].content for row in data.train}
    assert trained.isdisjoint(row.messages[0].content for row in data.test)


def test_labels_that_many_rows_share_are_still_tested(from_rows: Prepare) -> None:
    """Where answers are a few short labels, each of them stands in training; the questions are what is new."""
    labels = ("yes", "no")
    rows = [[("user", f"Is {chr(97 + n) * 4} good?"), ("assistant", labels[n % 2])] for n in range(20)]
    data = from_rows(rows, splits={"test": 0.25})
    assert len(data.test) == 5


def test_rows_that_are_too_long_are_counted_and_named(from_rows: Prepare, workplace: Path) -> None:
    rows = [
        [("user", f"Question {n}?"), ("assistant", f"{chr(97 + n)}" * (300 if n % 5 == 0 else 3))] for n in range(20)
    ]
    data = from_rows(rows, splits={"test": 0.25}, max_length=100)
    (dropped,) = data.result.dropped
    assert dropped.reason == "longer than data.max_length (100 tokens)"
    assert dropped.rows == 4
    named = dict(name.rsplit(": ", 1) for name in dropped.first)
    assert set(named) == {f"rows.jsonl:{n + 1}" for n in (0, 5, 10, 15)}
    assert all(int(length.removesuffix(" tokens")) > 100 for length in named.values())
    assert len(data.train) + len(data.test) == 16
    assert max(len(one.input_ids) for one in (*data.train_sequences, *data.test_sequences)) <= 100
    assert data.result.tokens_too_long > 4 * 100


def test_where_nothing_is_left_the_reason_is_told(from_rows: Prepare) -> None:
    rows = [[("user", f"Question {n}?"), ("assistant", f"{chr(97 + n)}" * 300)] for n in range(6)]
    with pytest.raises(
        RequestError, match=r"no rows are left to train on \(  \d rows: longer than .* such as rows\.jsonl:\d"
    ):
        from_rows(rows, max_length=64)


def test_all_answers_of_a_conversation_are_trained_in_one_sequence(from_rows: Prepare, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    turns = [("user", "{0} one?"), ("assistant", "First {0}."), ("user", "{0} two?"), ("assistant", "Second {0}.")]
    data = from_rows([[(role, text.format(chr(97 + n) * 5)) for role, text in turns] for n in range(8)])
    sequences = [*data.train_sequences, *data.test_sequences]
    assert len(sequences) == 8
    for one in sequences:
        spans = zip(one.spans[::2], one.spans[1::2], strict=True)
        word = chr(96 + int(one.row.rsplit(":", 1)[1])) * 5
        replies = [tokenizer.decode(one.input_ids[start:end]) for start, end in spans]
        assert replies == [f"First {word}.<|im_end|>", f"Second {word}.<|im_end|>"]


def test_a_row_that_the_template_refuses_is_named(
    from_rows: Prepare, workplace: Path, tiny_recipe: RecipeWriter, prepare_data: Prepare
) -> None:
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    (workplace / "template.jinja").write_text(template, encoding="utf-8")
    rows = [[("user", f"Question {n}?"), ("assistant", f"Answer {chr(97 + n) * 5}")] for n in range(9)]
    rows[6].insert(0, ("system", "Be kind."))
    write_rows(workplace / "rows.jsonl", rows)
    recipe = tiny_recipe(
        rag=None,
        evaluate=None,
        model={"chat_template": "template.jinja"},
        data={"sources": [{"path": "rows.jsonl"}]},
    )
    data = prepare_data(recipe)
    (dropped,) = data.result.dropped
    assert dropped.rows == 1
    assert "rows.jsonl:7" in dropped.first[0] and "no system role" in dropped.first[0]
    with pytest.raises(RequestError, match="no system role") as caught:
        prepare_data(recipe, ("data.quality.max_dropped=0",))
    assert "rows.jsonl:7" in str(caught.value)


def test_special_tokens_in_documents_stay_text(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare
) -> None:
    from transformers import AutoTokenizer

    (documents / "tokens.md").write_text(
        "# Tokens\n\nThe stop token of many models is written as <|im_end|> after each turn.\n\n"
        "## Opening\n\nA turn is opened with the mark <|im_start|> and the name of the role.\n",
        encoding="utf-8",
    )
    recipe = tiny_recipe(data={"sources": [synthesize(unanswerable=0.0)]})
    data = prepare_data(recipe)
    assert any("special token" in noted.reason and noted.rows > 0 for noted in data.result.noted)
    import yaml

    tokenizer = AutoTokenizer.from_pretrained(yaml.safe_load(recipe.read_text())["model"]["base"])
    start, stop = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for one in (*data.train_sequences, *data.test_sequences):
        assert (one.input_ids.count(start), one.input_ids.count(stop)) == (3, 3)


def test_documents_without_prose_give_no_questions(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare
) -> None:
    (documents / "code.md").write_text("# Code\n\n```\nx = 1\n```\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"data\.sources: the documents docs/code\.md give no questions"):
        prepare_data(tiny_recipe(data={"sources": [synthesize(documents=["docs/code.md"])]}))


def test_a_split_by_row_tests_documents_that_training_sees(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare
) -> None:
    write_like_documents(documents)
    data = prepare_data(tiny_recipe(data={"sources": [synthesize()], "splits": {"by": "row", "test": 0.3}}))
    assert {row.document for row in data.test} & {row.document for row in data.train}
    shown = "\n".join(texts_of(data.train))
    for row in data.test:
        assert row.grounding is not None and plain(row.grounding.question) not in shown
        if row.grounding.gold is not None:
            assert plain(without_citations(row.messages[-1].content)) not in shown


def test_the_same_recipe_gives_the_same_bytes(
    tiny_recipe: RecipeWriter, documents: Path, prepare_data: Prepare, cold_cli: Cli, workplace: Path
) -> None:
    """In another process too, whose sets and dicts of text lie in another order."""
    write_like_documents(documents)
    write_rows(
        workplace / "rows.jsonl", [[("user", f"Q {n}"), ("assistant", f"A {chr(97 + n) * 9}")] for n in range(9)]
    )
    sources = {"sources": [{"path": "rows.jsonl"}, synthesize(documents=["docs/machine*"]), synthesize()]}
    first = prepare_data(tiny_recipe("a.yaml", name="a", data=sources))
    again = prepare_data(tiny_recipe("b.yaml", name="b", data=sources))
    done = cold_cli("data", tiny_recipe("c.yaml", name="c", data=sources), env={"PYTHONHASHSEED": "3"})
    assert done.code == 0, done.err
    other = prepare_data(tiny_recipe("d.yaml", name="d", seed=8, data=sources))
    files = sorted(path.relative_to(first.folder) for path in first.folder.glob("*/*.parquet"))
    assert len(files) == 4
    for file in files:
        content = (first.folder / file).read_bytes()
        assert (again.folder / file).read_bytes() == content
        assert (workplace / "runs" / "c" / "data" / file).read_bytes() == content
        assert (other.folder / file).read_bytes() != content
    assert first.result.content == again.result.content != other.result.content


@pytest.mark.weights
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("embedder", ["tiny", pytest.param("its own", marks=pytest.mark.slow)])
def test_the_quickstart_tests_nothing_that_it_trained_on(
    embedder: str, workplace: Path, tiny_embedder: Path, prepare_data: Prepare, pytestconfig: pytest.Config
) -> None:
    """The shipped recipe over the shipped handbook and the standard library, with the real reader's tokens. Which
    passages are found is up to the embedder, and nothing may leak whatever they are; its own takes minutes."""
    from hfkit.evaluation.rows import Generation
    from hfkit.evaluation.tasks.grounded_answers import grounded_answers

    for name in ("docs", "recipes"):
        (workplace / name).symlink_to(pytestconfig.rootpath / name)
    other = (f"rag.embedder={tiny_embedder}",) if embedder == "tiny" else ()
    data = prepare_data(Path("recipes/quickstart.yaml"), other)
    assert_nothing_leaks(data, chunks_of(data))
    # A reader that gives the reference answers is right in everything.
    task = grounded_answers(data.test)
    oracle = [Generation(text=row.references[0], stopped=True) for row in task.rows]
    for metric in task.metrics:
        scored = [numbers for numbers in metric.rows(task.rows, oracle) if numbers is not None]
        assert scored and all(numbers[0] == 1.0 for numbers in scored), metric.name
    share = sum(row.facts["gold"] is None for row in task.rows) / len(task.rows)
    assert 0.1 < share < 0.4

"""The data stage over ready-made sources: mixing, groups, times, gates, limits, and what the card says of them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.data.sources import read_source
from hfkit.errors import RequestError, WorkError

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter
    from tests.data.conftest import PreparedData

Prepare = Callable[..., "PreparedData"]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pairs(letter: str, count: int) -> list[dict[str, Any]]:
    """Rows that share no words, so that no gate takes any of them for another."""
    return [{"prompt": f"Ask {letter}{n}x", "completion": f"Say {letter}{n}y."} for n in range(count)]


@pytest.fixture
def prepare(tiny_recipe: RecipeWriter, prepare_data: Prepare) -> Prepare:
    """Prepare these sources without documents."""

    def run(sources: Sequence[Mapping[str, Any]], overrides: tuple[str, ...] = (), **data: object) -> PreparedData:
        recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": list(sources), **data})
        return prepare_data(recipe, overrides)

    return run


def origins(rows: Sequence[Any]) -> Counter[str]:
    return Counter(row.id.split(":")[0] for row in rows)


def test_weights_repeat_and_thin_out_training_rows_alone(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 20))
    write_lines(workplace / "b.jsonl", pairs("b", 20))
    sources = [{"path": "a.jsonl", "weight": 2}, {"path": "b.jsonl", "weight": 0.5}]
    data = prepare(sources, splits={"test": 0.25})
    test = origins(data.test)
    assert sum(test.values()) == 10
    train = origins(data.train)
    assert train["a.jsonl"] == 2 * (20 - test["a.jsonl"])
    assert train["b.jsonl"] == round((20 - test["b.jsonl"]) / 2)
    assert {row.id for row in data.train}.isdisjoint(row.id for row in data.test)
    assert [one.row for one in data.train_sequences] == [row.id for row in data.train]


def test_interleaving_draws_from_all_sources_in_turn(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 40))
    write_lines(workplace / "b.jsonl", pairs("b", 10))
    sources = [{"path": "a.jsonl"}, {"path": "b.jsonl"}]
    data = prepare(sources, splits={"test": 5}, mix={"how": "interleave", "until": "all"})
    train = [row.id for row in data.train]
    assert {"a.jsonl", "b.jsonl"} == {id.split(":")[0] for id in train[:8]}
    assert len(set(train)) == 45, "every row is used"
    assert max(Counter(train).values()) > 1, "the short source starts again"


def test_a_count_of_rows_is_drawn_under_the_seed(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 50))
    first = prepare([{"path": "a.jsonl", "rows": 12}])
    assert len(first.train) + len(first.test) == 12
    again = prepare([{"path": "a.jsonl", "rows": 12}], ("seed=99",))
    assert {row.id for row in again.train} != {row.id for row in first.train}


def test_a_group_is_never_on_both_sides(prepare: Prepare, workplace: Path) -> None:
    rows = [{**row, "user": f"user{n % 7}"} for n, row in enumerate(pairs("a", 42))]
    write_lines(workplace / "a.jsonl", rows)
    data = prepare([{"path": "a.jsonl", "group": "user", "keep": ["user"]}], splits={"test": 0.3})
    train, test = ({row.metadata["user"] for row in side} for side in (data.train, data.test))
    assert train and test and train.isdisjoint(test)
    assert (data.result.train.documents, data.result.test.documents) == (len(train), len(test))


def test_a_group_that_two_sources_bring_to_two_sides_is_not_tested(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "train.jsonl", [{**row, "user": f"u{n % 3}"} for n, row in enumerate(pairs("a", 9))])
    write_lines(workplace / "test.jsonl", [{**row, "user": f"u{n % 6}"} for n, row in enumerate(pairs("b", 12))])
    data = prepare(
        [
            {"path": "train.jsonl", "group": "user", "use": "train"},
            {"path": "test.jsonl", "group": "user", "use": "test"},
        ]
    )
    assert {row.document for row in data.test} == {"u3", "u4", "u5"}
    (dropped,) = data.result.dropped
    assert dropped.rows == 6 and "group stands in training" in dropped.reason


def test_by_time_the_newest_rows_are_tested(prepare: Prepare, workplace: Path) -> None:
    rows = [{**row, "when": f"2026-{1 + n % 12:02}-03T10:00:00Z"} for n, row in enumerate(pairs("a", 24))]
    write_lines(workplace / "a.jsonl", rows)
    source = {"path": "a.jsonl", "keep": ["when"]}
    data = prepare([source], splits={"test": 4, "by": "time", "key": "when"})
    assert len(data.test) == 4
    assert min(row.metadata["when"] for row in data.test) >= max(row.metadata["when"] for row in data.train)


def test_rows_without_a_time_or_a_group_are_named(prepare: Prepare, workplace: Path) -> None:
    rows: list[dict[str, Any]] = [{**row, "when": 1000 + n, "user": n} for n, row in enumerate(pairs("a", 12))]
    del rows[3]["when"]
    rows[5]["when"] = "yesterday"
    rows[7]["user"] = None
    write_lines(workplace / "a.jsonl", rows)
    data = prepare([{"path": "a.jsonl", "group": "user"}], splits={"by": "time", "key": "when"})
    found = {account.reason: account for account in data.result.dropped}
    assert found["no time"].rows == 2 and found["no group"].rows == 1
    assert "a.jsonl:4" in found["no time"].first[0] and "yesterday" in found["no time"].first[1]
    assert "a.jsonl:8" in found["no group"].first[0]


def test_labels_keep_their_shares_and_the_card_counts_them(
    tiny_recipe: RecipeWriter, prepare_data: Prepare, workplace: Path
) -> None:
    with (workplace / "l.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"text {n} of its own kind", "rare" if n % 20 == 0 else "usual"] for n in range(200))
    recipe = tiny_recipe(
        rag=None,
        evaluate=None,
        train=None,
        data={"sources": [{"path": "l.csv"}], "splits": {"test": 0.2, "stratify": "label"}},
    )
    data = prepare_data(recipe)
    assert data.result.test.labels == {"usual": 38, "rare": 2}  # a fifth of 190, and of 10
    assert data.result.train.labels == {"usual": 152, "rare": 8}
    assert data.train_sequences == []
    card = (data.folder / "card.md").read_text(encoding="utf-8")
    assert "| rare | 8 | 5.0% | 2 |" in card and "out of balance" in card


def test_what_cannot_be_trained_on_is_refused(prepare: Prepare, workplace: Path) -> None:
    write_lines(
        workplace / "p.jsonl",
        [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)],
    )
    with pytest.raises(RequestError, match=r"p\.jsonl.* holds preference examples, and train\.method=sft trains on"):
        prepare([{"path": "p.jsonl"}])
    write_lines(workplace / "a.jsonl", pairs("a", 9))
    with pytest.raises(RequestError, match="different tasks cannot be trained together"):
        prepare([{"path": "p.jsonl"}, {"path": "a.jsonl"}])


def test_duplicates_stay_once_and_are_counted(prepare: Prepare, workplace: Path) -> None:
    rows = pairs("a", 12)
    write_lines(workplace / "a.jsonl", [*rows, *rows[:5]])
    data = prepare([{"path": "a.jsonl"}])
    assert len(data.train) + len(data.test) == 12
    (dropped,) = data.result.dropped
    assert dropped.rows == 5 and [name.split(":")[1] for name in dropped.first] == ["13", "14", "15", "16", "17"]
    kept = prepare([{"path": "a.jsonl"}], ("data.quality.duplicates=keep", "data.quality.contamination=keep"))
    assert len(kept.train) + len(kept.test) == 17


def test_near_duplicates_are_reported_or_dropped(prepare: Prepare, workplace: Path) -> None:
    words = [f"w{n}" for n in range(60)]
    rows = [{"prompt": f"Tell me {n}{n}", "completion": " ".join(f"{word}{n}" for word in words)} for n in range(10)]
    rows.append({**rows[0], "completion": rows[0]["completion"] + " indeed"})
    write_lines(workplace / "a.jsonl", rows)
    reported = prepare([{"path": "a.jsonl"}], quality={"near_duplicates": "report"})
    (noted,) = reported.result.noted
    assert noted.rows == 1 and "a.jsonl:11" in noted.first[0] and "a.jsonl:1" in noted.first[0]
    dropped = prepare([{"path": "a.jsonl"}], quality={"near_duplicates": "drop"})
    assert len(dropped.train) + len(dropped.test) == 10


def test_more_dropped_rows_than_the_recipe_allows_are_an_error(prepare: Prepare, workplace: Path) -> None:
    lines = [json.dumps(row) for row in pairs("a", 20)]
    lines[4] = "{not json"
    (workplace / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert prepare([{"path": "a.jsonl"}]).result.dropped[0].rows == 1
    with pytest.raises(RequestError) as caught:
        prepare([{"path": "a.jsonl"}], quality={"max_dropped": "2%"})
    assert "data.quality.max_dropped: 1 of" in str(caught.value) and "a.jsonl:5" in str(caught.value)
    assert len(prepare([{"path": "a.jsonl"}], quality={"max_dropped": 1}).train) > 0


def test_a_row_that_is_used_often_is_dropped_once(prepare: Prepare, workplace: Path) -> None:
    rows = [*pairs("a", 20), {"prompt": "Too long?", "completion": "z" * 3000}]
    write_lines(workplace / "a.jsonl", rows)
    source = {"path": "a.jsonl", "weight": 5, "use": "train"}
    write_lines(workplace / "b.jsonl", pairs("b", 4))
    data = prepare([source, {"path": "b.jsonl", "use": "test"}], quality={"max_dropped": "10%"}, max_length=200)
    (dropped,) = data.result.dropped
    assert dropped.rows == 1 and len(dropped.first) == 1
    assert data.result.tokens_too_long < 4000
    assert len(data.train) == 100
    (a, b) = data.result.sources
    assert (a.train, a.used) == (21, 105) and (b.train, b.used) == (0, 0)


def test_a_source_that_changes_while_it_is_read_is_not_kept_as_it_was(
    tiny_recipe: RecipeWriter, prepare_data: Prepare, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hfkit.data import prepare as stage

    write_lines(workplace / "a.jsonl", pairs("a", 20))
    recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": [{"path": "a.jsonl"}]})
    real = stage.choose_rows

    def meddling(*arguments: Any) -> Any:
        write_lines(workplace / "a.jsonl", pairs("b", 20))
        return real(*arguments)

    monkeypatch.setattr(stage, "choose_rows", meddling)
    with pytest.raises(WorkError, match="data: the files that it reads changed while it ran"):
        prepare_data(recipe)
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    write_lines(workplace / "a.jsonl", pairs("a", 20))
    assert {row.id.split(":")[0] for row in prepare_data(recipe).train} == {"a.jsonl"}
    assert all("Ask a" in row.messages[0].content for row in prepare_data(recipe).train)


def test_the_same_row_of_two_sources_is_tested_once(prepare: Prepare, workplace: Path) -> None:
    rows = pairs("a", 20)
    write_lines(workplace / "a.jsonl", rows)
    write_lines(workplace / "b.jsonl", rows)
    data = prepare([{"path": "a.jsonl"}, {"path": "b.jsonl", "use": "test"}])
    said = [row.messages[0].content for row in data.test]
    assert len(said) == len(set(said))


def test_what_a_killed_preparation_left_is_no_part_of_the_next(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 20))
    whole = prepare([{"path": "a.jsonl"}])
    partial = whole.folder.parent / ".data.partial"
    whole.folder.rename(partial)
    (partial / "artifact.json").unlink()
    (partial / "sequences" / "train-00007.parquet").write_bytes(b"torn")
    (partial / ".landed" / "0").mkdir(parents=True)
    again = prepare([{"path": "a.jsonl"}])
    assert again.result.content == whole.result.content
    assert [row.id for row in again.train] == [row.id for row in whole.train]
    assert not (again.folder / ".landed").exists()


def test_many_rows_are_rendered_on_workers_to_the_same_bytes(
    prepare: Prepare, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 2_000))
    alone = prepare([{"path": "a.jsonl"}])
    # Batches of few rows, so that there are many.
    read = partial(read_source, batch_rows=150)
    monkeypatch.setattr("hfkit.data.landing.read_source", read)
    monkeypatch.setattr("hfkit.data.rendering_pool._ROWS_WORTH_WORKERS", 1)
    monkeypatch.setattr("hfkit.data.rendering_pool.cores", lambda: 2)
    monkeypatch.setattr("hfkit.data.landing.cores", lambda: 2)
    (alone.folder / "artifact.json").unlink()
    shared = prepare([{"path": "a.jsonl"}])
    assert shared.result == alone.result


def test_the_preview_of_packed_rows_names_them_all(cli: Cli, tiny_recipe: RecipeWriter, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", pairs("a", 30))
    recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": [{"path": "a.jsonl"}]}, train={"batch_size": 8})
    single = cli("preview", recipe, "-n", "1000", "--json").document
    packed = cli("preview", recipe, "-n", "1000", "--json", "data.packing=true").document
    rows = [row for one in packed["sequences"] for row in one["source_rows"]]
    assert sorted(rows) == sorted(one["source_rows"][0] for one in single["sequences"])
    assert max(len(one["source_rows"]) for one in packed["sequences"]) > 1
    alone = {one["source_rows"][0]: one for one in single["sequences"]}
    for one in packed["sequences"]:
        for key in ("input_ids", "train", "text"):
            assert one[key] == [value for row in one["source_rows"] for value in alone[row][key]]
        assert len(one["input_ids"]) == len(one["train"]) == len(one["text"])
    assert packed["summary"]["sequences"] == len(packed["sequences"]) < single["summary"]["sequences"]
    shown = cli("preview", recipe, "-n", "1", "data.packing=true").out
    rows = packed["sequences"][0]["source_rows"]
    assert shown.count("a row of its own") == len(rows) - 1
    assert shown.count("⟦") == shown.count("⟧") == len(rows)

"""The command line: verbs, exit codes, the one document of --json, and what a wrong request is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfkit import __version__

if TYPE_CHECKING:
    from tests.conftest import Cli, Done, RecipeWriter

ALL = ["index", "data", "train", "evaluate"]
METRICS = {"token_f1", "citation_accuracy", "abstention_accuracy", "citation_precision", "citation_recall"}


def assert_refused(done: Done, *words: str) -> None:
    """A wrong request: exit code 2, a sentence with these words, no traceback, nothing on standard output."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err and done.out == ""
    said = "\n".join(
        line for line in done.err.splitlines() if not line.endswith((": running", "nothing changed, kept"))
    )
    assert said.startswith(("hfkit: ", "usage: ")) or "\nhfkit: " in said, done.err
    missing = [word for word in words if word not in done.err]
    assert not missing, f"{missing} not in: {done.err}"


def test_help_names_every_verb_and_the_exit_codes(cold_cli: Cli) -> None:
    done = cold_cli("--help")
    assert done.code == 0 and done.err == ""
    for verb in ("run", "check", "preview", "index", "data", "train", "evaluate", "search", "ask", "app", "schema"):
        assert f"\n    {verb} " in done.out
    words = " ".join(done.out.split())
    assert "exit codes: 0 done; 1 the work failed or a gate was not met; 2 the request was wrong" in words


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"hfkit {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "a.yaml", "--nonsense"],
        ["search", "folder"],
        ["preview", "a.yaml", "-n", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_exit_code_2(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.code == 2 and done.out == "" and "usage: hfkit" in done.err


def test_the_document_of_a_run(finished: Path, cli: Cli) -> None:
    shutil.rmtree(finished.parent / "runs")
    # Six test documents, as few as an interval takes.
    split = "data.splits={test: 0.75}"
    done = cli("run", finished, split, "--json")
    assert done.code == 0, done.err
    document = done.document
    assert document["recipe"] == "tiny" and document["run"] == "runs/tiny"
    assert list(document["stages"]) == list(document["timings"]) == list(document["peak_memory_bytes"]) == ALL
    assert all(seconds > 0 for seconds in document["timings"].values())
    assert all(isinstance(size, int) and size > 50_000_000 for size in document["peak_memory_bytes"].values())
    assert all(stage["made_now"] and len(stage["fingerprint"]) == 64 for stage in document["stages"].values())
    task = document["evaluate"]["tasks"]["grounded_answers"]
    assert {entry["metric"] for entry in task["differences"]} == METRICS
    for entry in task["differences"]:
        assert (entry["model"], entry["reference"]) == ("tuned", "base")
        base, tuned = (task["scores"][model][entry["metric"]]["value"] for model in ("base", "tuned"))
        assert entry["difference"] == pytest.approx(tuned - base)
        assert 0 < entry["p_value"] <= entry["p_adjusted"] <= 1
        # Some documents have no answerable question in the test.
        assert entry["interval"] is not None or entry["metric"] != "abstention_accuracy"
        if entry["interval"] is not None:
            low, high = entry["interval"]
            assert low <= entry["difference"] <= high
        assert 0 <= base <= 1 and 0 <= tuned <= 1
    # What was said on the way went to standard error, and a second run says the same of the results.
    assert "train: running" in done.err
    again = cli("run", finished, split, "--json").document
    assert [stage.pop("made_now") for stage in again["stages"].values()] == [False] * 4
    assert [stage.pop("made_now") for stage in document["stages"].values()] == [True] * 4
    assert again == document


def test_the_table_of_a_run(finished: Path, cli: Cli) -> None:
    out = cli("run", finished).out
    assert "run runs/tiny" in out and "peak memory" in out
    for title in ("token F1", "citation accuracy", "base", "tuned", "difference", "interval"):
        assert title in out
    assert "\x1b" not in out, "no colours into a file"


@pytest.mark.parametrize("stage", ALL)
def test_a_verb_of_one_stage_runs_it_and_what_it_needs(finished: Path, cli: Cli, stage: str) -> None:
    done = cli(stage, finished, "--json")
    assert done.code == 0, done.err
    assert list(done.document["stages"]) == ALL[: ALL.index(stage) + 1]
    assert ("evaluate" in done.document) == (stage == "evaluate")


@pytest.mark.parametrize(
    ("verb", "sections", "words"),
    [
        ("index", {"rag": None, "data": {"sources": [{"path": "rows.jsonl"}]}, "evaluate": None}, "no section rag"),
        ("evaluate", {"evaluate": None}, "no section evaluate"),
        ("train", {"train": None, "evaluate": None}, "no section train"),
        ("preview", {"data": None, "train": None, "evaluate": None}, "section data"),
    ],
)
def test_a_verb_without_its_section_says_which(
    tiny_recipe: RecipeWriter, cli: Cli, verb: str, sections: dict[str, Any], words: str
) -> None:
    recipe = tiny_recipe(**sections)
    assert_refused(cli(verb, recipe), words)
    assert not (recipe.parent / "runs").exists()


def test_a_recipe_that_names_no_stage(cli: Cli, workplace: Path) -> None:
    (workplace / "empty.yaml").write_text("name: empty\n", encoding="utf-8")
    assert_refused(cli("run", "empty.yaml"), "names no stage")


MET = "tuned.abstention_accuracy >= base.abstention_accuracy - 1.0 with confidence 0.7"
NOT_MET = "tuned.token_f1 >= 0.99"


def test_a_gate_that_is_met_is_said(finished: Path, cli: Cli) -> None:
    override = f"evaluate.gates=[{MET}]"
    done = cli("run", finished, override)
    assert done.code == 0 and f"gate met: {MET}" in done.out
    document = cli("run", finished, override, "--json").document
    assert [(gate["gate"], gate["holds"]) for gate in document["evaluate"]["gates"]] == [(MET, True)]


def test_a_gate_that_is_not_met_is_exit_code_1_and_a_sentence_every_time(finished: Path, cli: Cli) -> None:
    override = f"evaluate.gates=[{MET}, {NOT_MET}]"
    for made_now in (True, False):
        done = cli("run", finished, override, "--json")
        assert done.code == 1
        assert done.document["stages"]["evaluate"]["made_now"] is made_now
        assert [gate["holds"] for gate in done.document["evaluate"]["gates"]] == [True, False]
        (sentence,) = [line for line in done.err.splitlines() if line.startswith("hfkit: ")]
        assert sentence.startswith(f"hfkit: gate not met: {NOT_MET} (")
    said = cli("run", finished, override)
    assert said.code == 1 and f"gate NOT MET: {NOT_MET}" in said.out and "gate not met" in said.err
    # The gate is about the evaluation, not about the training.
    assert cli("train", finished, override).code == 0


def test_a_missing_recipe(cli: Cli) -> None:
    for verb in ("run", "check", "train", "preview", "app"):
        assert_refused(cli(verb, "nowhere.yaml"), "nowhere.yaml")
    assert_refused(cli("ask", "nowhere.yaml", "What?"), "nowhere.yaml")


@pytest.mark.parametrize("verb", ["run", "check", "preview"])
def test_bad_yaml_names_its_line(cli: Cli, workplace: Path, verb: str) -> None:
    (workplace / "bad.yaml").write_text("name: tiny\nmodel: {base: [unclosed\ntrain: 3\n", encoding="utf-8")
    assert_refused(cli(verb, "bad.yaml", "--json"), "bad.yaml:")


def test_all_mistakes_of_a_recipe_are_told_at_once(cli: Cli, workplace: Path) -> None:
    (workplace / "bad.yaml").write_text(
        "name: tiny\n"
        "model:\n"
        "  base: somebody/model\n"
        "data:\n"
        "  sources: [{path: rows.jsonl}]\n"
        "train:\n"
        "  learning_rte: 0.1\n"
        "  epochs: many\n",
        encoding="utf-8",
    )
    assert_refused(
        cli("run", "bad.yaml", "seed=-1"),
        "bad.yaml:7: train.learning_rte: unknown key; did you mean learning_rate?",
        "bad.yaml:8: train.epochs: expected",
        "seed",
    )


def test_overrides_may_stand_before_and_after_options(finished: Path, cli: Cli) -> None:
    before = cli("train", finished, "train.log_steps=2", "--json")
    after = cli("train", finished, "--json", "train.log_steps=2")
    assert before.code == 0
    assert after.code == 0, after.err
    between = cli("train", "--json", finished, "train.log_steps=2", "--debug", "train.save_steps=3")
    assert between.code == 0, between.err


def test_a_hub_model_that_cannot_be_had_offline(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe(model={"base": "nobody/no-such-model"})
    done = cli("run", recipe, "--json")
    assert_refused(done, "nobody/no-such-model", "local folder", "embedded model")
    # It is known before any stage has run, and no obstacle to those that need no model.
    assert not (recipe.parent / "runs").exists()
    assert cli("index", recipe).code == 0


def test_a_hub_embedder_that_cannot_be_had_offline(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    assert_refused(cli("index", tiny_recipe(rag={"embedder": "nobody/no-such-embedder"})), "nobody/no-such-embedder")


def test_a_model_of_the_wrong_kind(tiny_recipe: RecipeWriter, cli: Cli, tiny_embedder: Path) -> None:
    done = cli("run", tiny_recipe(model={"base": str(tiny_embedder)}))
    assert_refused(done, str(tiny_embedder))


@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"data": {"sources": [{"path": "missing.jsonl"}]}, "evaluate": None}, "missing.jsonl"),
        ({"model": {"chat_template": "missing.jinja"}}, "missing.jinja"),
        ({"rag": {"documents": ["missing/"]}}, "missing"),
        ({"model": {"base": "./missing"}}, "./missing"),
        ({"model": {"base": "embedded:missing"}}, "embedded:missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_missing_file_is_a_wrong_request(
    tiny_recipe: RecipeWriter, cli: Cli, sections: dict[str, Any], name: str
) -> None:
    assert_refused(cli("run", tiny_recipe(**sections), "--json"), name)


def test_a_row_that_is_no_conversation_names_its_line(tiny_recipe: RecipeWriter, cli: Cli, workplace: Path) -> None:
    good = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (workplace / "rows.jsonl").write_text(f"{good}\n{{broken\n{good}\n", encoding="utf-8")
    recipe = tiny_recipe(data={"sources": [{"path": "rows.jsonl"}]}, evaluate=None, rag=None)
    assert_refused(cli("run", recipe, "data.quality.max_dropped=0"), "rows.jsonl:2")


def test_a_document_that_cannot_be_read_is_said_and_left_out(
    tiny_recipe: RecipeWriter, cli: Cli, documents: Path
) -> None:
    (documents / "latin.md").write_bytes("# Café\n\nUn café au lait.\n".encode("latin-1"))
    (documents / "empty.md").write_bytes(b"")
    (documents / "dangling.md").symlink_to(documents / "nowhere.md")
    done = cli("index", tiny_recipe(), "--json")
    assert done.code == 0, done.err
    skipped = {Path(s["source"]).name: s["reason"] for s in done.document["stages"]["index"]["result"]["skipped"]}
    assert set(skipped) == {"latin.md", "empty.md", "dangling.md"}
    assert "UTF-8" in skipped["latin.md"]
    assert "not indexed: docs/latin.md: not UTF-8" in done.err
    assert done.document["stages"]["index"]["result"]["added"] == 8


def test_a_document_of_no_known_kind_named_outright_is_a_wrong_request(
    tiny_recipe: RecipeWriter, cli: Cli, documents: Path
) -> None:
    (documents / "picture.png").write_bytes(b"\x89PNG")
    assert_refused(cli("index", tiny_recipe(rag={"documents": ["docs/picture.png"]})), "docs/picture.png", ".md")


def test_documents_of_which_none_can_be_read_are_a_wrong_request(
    tiny_recipe: RecipeWriter, cli: Cli, documents: Path
) -> None:
    (documents / "latin.md").write_bytes("# Café\n\nUn café au lait.\n".encode("latin-1"))
    recipe = tiny_recipe(rag={"documents": ["docs/latin.md"]}, data=None, train=None, evaluate=None)
    done = cli("run", recipe)
    assert done.code == 2, "an index of nothing is no index: " + done.err


def test_debug_shows_the_traceback_that_is_hidden_otherwise(tiny_recipe: RecipeWriter, cold_cli: Cli) -> None:
    recipe = tiny_recipe(rag={"documents": ["missing/"]})
    hidden, shown = cold_cli("index", recipe), cold_cli("index", recipe, "--debug")
    assert_refused(hidden, "missing")
    assert shown.code != 0 and "Traceback (most recent call last)" in shown.err and "RequestError" in shown.err


def test_a_failure_prints_no_half_document(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    done = cli("run", tiny_recipe(train={"batch_size": 4, "micro_batch_size": 3}), "--json")
    assert_refused(done, "train.micro_batch_size")


@pytest.mark.parametrize("log_steps", [1, 1000], ids=["logged each step", "never logged"])
def test_a_loss_that_is_no_number_fails_however_seldom_it_is_logged(
    tiny_recipe: RecipeWriter, cli: Cli, log_steps: int
) -> None:
    recipe = tiny_recipe(train={"learning_rate": 1e30, "max_grad_norm": 1e30, "log_steps": log_steps})
    done = cli("train", recipe, "--json")
    assert done.code == 1 and done.out == ""
    assert "train.learning_rate" in done.err and "Traceback" not in done.err
    assert not (recipe.parent / "runs" / "tiny" / "train").exists()


def test_the_schema_is_json_and_describes_the_recipe(cold_cli: Cli, tiny_recipe: RecipeWriter) -> None:
    done = cold_cli("schema")
    assert done.code == 0 and done.err == ""
    schema = done.document
    assert schema["type"] == "object" and "$schema" in schema
    assert set(yaml.safe_load(tiny_recipe().read_text(encoding="utf-8"))) <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def hfkit(folder: Path, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hfkit", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, text=True, **options)


def test_a_reader_who_has_seen_enough_is_no_failure(workplace: Path) -> None:
    """`hfkit schema | head -1`."""
    process = hfkit(workplace, "schema", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = subprocess.run(["head", "-1"], stdin=process.stdout, capture_output=True, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert head.stdout == "{\n"
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


def test_a_reader_who_left_before_anything_was_written_is_no_failure(workplace: Path) -> None:
    process = hfkit(workplace, "schema", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


@pytest.mark.parametrize("json_flag", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize(("gate", "code"), [(MET, 0), (NOT_MET, 1)], ids=["met", "not met"])
def test_whether_a_gate_is_met_does_not_depend_on_who_reads(
    finished: Path, cli: Cli, gate: str, code: int, json_flag: list[str]
) -> None:
    """`hfkit run … | head -1` turns neither a gate that failed into a success nor a success into a failure."""
    override = f"evaluate.gates=[{gate}]"
    assert cli("run", finished, override).code == code
    process = hfkit(
        finished.parent, "run", finished, override, *json_flag, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == code, err
    assert "Traceback" not in err and "BrokenPipe" not in err
    process.stderr.close()


def test_work_that_was_not_done_is_no_success_where_nobody_reads_the_progress(
    tiny_recipe: RecipeWriter, cold_cli: Cli, workplace: Path
) -> None:
    """`hfkit index … 2>&1 | head -1`: either the work goes on unheard, or the exit code says that it did not."""
    recipe = tiny_recipe()
    process = hfkit(workplace, "index", recipe, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    code = process.wait()
    assert (code == 0) == (workplace / "runs" / "tiny" / "index" / "artifact.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_one_message(workplace: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = hfkit(workplace, "schema", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 1
    assert len(err.splitlines()) == 1 and err.startswith("hfkit: "), err


def test_preview_shows_the_tokens_and_which_are_trained(finished: Path, cli: Cli) -> None:
    done = cli("preview", finished, "--json", "-n", "3")
    assert done.code == 0, done.err
    document = done.document
    assert set(document) == {"summary", "sequences"} and len(document["sequences"]) == 3
    trained = 0
    for sequence in document["sequences"]:
        assert len(sequence["input_ids"]) == len(sequence["train"]) == len(sequence["text"])
        assert sequence["source_rows"] and all(isinstance(row, str) for row in sequence["source_rows"])
        reply = "".join(
            text for text, is_trained in zip(sequence["text"], sequence["train"], strict=True) if is_trained
        )
        assert reply.endswith("<|im_end|>") and "<|im_start|>" not in reply
        trained += sum(sequence["train"])
    assert 0 < trained <= document["summary"]["trained_tokens"] < document["summary"]["tokens"]
    said = cli("preview", finished, "-n", "1")
    assert said.code == 0 and said.out.count("⟦") == 1 and "<|im_end|>⟧" in said.out


def test_a_preview_of_less_than_nothing_is_a_wrong_request(finished: Path, cli: Cli) -> None:
    assert cli("preview", finished, "-n", "-1").code == 2


def test_search_ranks_passages(finished: Path, cli: Cli) -> None:
    index = finished.parent / "runs" / "tiny" / "index"
    done = cli("search", index, "steam engine piston", "--json", "--mode", "lexical", "-k", "2")
    assert done.code == 0 and done.err == "", done.err
    first, *rest = done.document["hits"]
    assert first["document"] == "docs/engines.md" and first["rank"] == 1 and len(rest) <= 1
    assert first["heading_path"] == ["Engines"] and "piston" in first["text"]
    start, end = first["span"]
    source = (finished.parent / "docs" / "engines.md").read_text(encoding="utf-8")
    assert source[start:end] == first["text"]
    said = cli("search", index, "steam engine piston")
    assert said.code == 0 and said.out.count("score ") == 5


def test_search_filters_caps_and_widens(finished: Path, cli: Cli) -> None:
    index = finished.parent / "runs" / "tiny" / "index"
    options = ("--filter", "{source: {glob: '*engines*'}}", "--neighbours", "1", "--per-document", "1", "-k", "9")
    done = cli("search", index, "steam engine piston", "--json", *options)
    (hit,) = done.document["hits"]
    assert hit["source"] == hit["document"] == "docs/engines.md" and hit["metadata"] == {} and hit["page"] is None
    start, end = hit["span"]
    source = (finished.parent / "docs" / "engines.md").read_text(encoding="utf-8")
    assert source[start:end] == hit["text"] and len(hit["text"]) > hit["chunk"]["span"][1] - hit["chunk"]["span"][0]
    assert "\x1b" not in cli("search", index, "steam engine piston").out, "no colours but on a terminal"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--filter", "{year: {gtee: 3}}"), "unknown operator 'gtee'; did you mean gte?"),
        (("--filter", "year"), "--filter: expected names with conditions"),
        (("--filter", "{"), "--filter: '{' is no YAML"),
        (("--filter", "autor: Ada"), "no document has 'autor'"),
        (("--per-document", "0"), "per_document is 0"),
        (("--rerank", "nowhere"), "the reranker nowhere cannot be loaded"),
    ],
    ids=str,
)
def test_a_wrong_search_is_a_wrong_request(finished: Path, cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    assert_refused(cli("search", finished.parent / "runs" / "tiny" / "index", "pistons", *arguments), said)


@pytest.mark.parametrize("arguments", [["nowhere", "question"], ["docs", "question"]], ids=" ".join)
def test_a_search_where_there_is_no_index_is_a_wrong_request(finished: Path, cli: Cli, arguments: list[str]) -> None:
    assert_refused(cli("search", *arguments), arguments[0], "no index")


@pytest.mark.parametrize("k", ["0", "-3"])
def test_a_search_for_no_passages_is_a_wrong_request(finished: Path, cli: Cli, k: str) -> None:
    assert_refused(cli("search", "runs/tiny/index", "question", f"-k={k}"))


def test_ask_answers_from_the_documents(finished: Path, cli: Cli) -> None:
    done = cli("ask", finished, "What turns heat into motion?", "--json")
    assert done.code == 0 and done.err == "", done.err
    document = done.document
    assert document["question"] == "What turns heat into motion?" and isinstance(document["answer"], str)
    assert len(document["hits"]) == 3 and "tuned by tiny" in document["reader"]
    assert set(document["citations"]) <= {1, 2, 3}
    assert cli("ask", finished, "What turns heat into motion?").code == 0


def test_ask_before_the_run_says_what_is_missing(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    done = cli("ask", tiny_recipe(), "What?")
    assert done.code == 1 and "index stage has not finished" in done.err and "Traceback" not in done.err


def test_another_working_directory_is_another_place_for_runs(finished: Path, cli: Cli) -> None:
    elsewhere = finished.parent / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "hfkit", "check", str(finished)], cwd=elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 2 and "docs" in done.stdout
    assert list(elsewhere.iterdir()) == []

"""What must not be imported: a verb that answers at once may not wait for libraries that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "gradio",
    "faiss",
    "sentence_transformers",
    "pandas",
    "peft",
    "accelerate",
    "evaluate",
    "langchain",
    "bitsandbytes",
)

SCRIPT = """
import json, sys
from hfkit.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as exit:
    code = exit.code
heavy = set(json.loads(sys.argv[1]))
print(json.dumps({"code": code, "heavy": sorted(heavy & set(sys.modules))}), file=sys.stderr)
"""


def imported_by(folder: Path, *arguments: object, among: Sequence[str] = HEAVY) -> tuple[int, list[str]]:
    """The exit code of `hfkit …` and which packages `among` these a fresh process has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(among), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stderr.splitlines()[-1])
    return report["code"], report["heavy"]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["check", "--help"]])
def test_help_waits_for_nothing(tmp_path: Path, arguments: list[str]) -> None:
    assert imported_by(tmp_path, *arguments, among=[*HEAVY, "numpy", "pydantic", "yaml", "rich", "rag"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["schema"], 0),
        (["run", "missing.yaml"], 2),
        (["app", "missing.yaml"], 2),
        (["nonsense"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_answers_without_a_recipe_import_nothing_heavy(tmp_path: Path, arguments: list[str], code: int) -> None:
    assert imported_by(tmp_path, *arguments) == (code, [])


def test_check_imports_nothing_heavy_to_find_what_is_amiss(finished: Path) -> None:
    """A tokenizer is loaded for the probes alone, once nothing else is wrong."""
    assert imported_by(finished.parent, "check", finished, "train.micro_batch_size=3") == (2, [])
    assert imported_by(finished.parent, "check", finished, "--json", "train.micro_batch_size=3") == (2, [])


def test_a_finished_run_that_has_nothing_to_do_imports_nothing_heavy(finished: Path) -> None:
    assert imported_by(finished.parent, "run", finished) == (0, [])
    assert imported_by(finished.parent, "run", finished, "--json") == (0, [])


def test_a_wrong_recipe_is_found_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: wrong\nmodel: {bass: x}\n", encoding="utf-8")
    assert imported_by(tmp_path, "run", "wrong.yaml") == (2, [])


def test_the_packages_themselves_import_nothing_heavy(tmp_path: Path) -> None:
    modules = (
        "import hfkit.pipeline, hfkit.summary, hfkit.preflight, hfkit.manifest, hfkit.models.embedded, hfkit.run\n"
    )
    script = f"{modules}import sys, json\nprint(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []

"""What is published has no path of the machine that it was made on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.hub.facts import gather_facts
from hfkit.hub.portable import portable_text
from hfkit.recipe import load_recipe

if TYPE_CHECKING:
    from tests.hub.conftest import Published


def test_a_real_evaluation_is_published_without_the_paths_in_it(run_to_publish: Published, tiny_model: Path) -> None:
    run = run_to_publish
    run.rewrite(
        evaluate={"models": ["base", "tuned", {"name": "theirs", "load": str(tiny_model)}], "max_new_tokens": 2},
        hub={"dataset": "ada/rows"},
    )
    done = run()
    assert done.returncode == 0, done.stderr
    assert "evaluate: running" in done.stderr
    report = (run.run_folder / "evaluate" / "report.json").read_text(encoding="utf-8")
    temporary = str(tiny_model.parent.parent)
    assert temporary in report and run.folder.is_relative_to(temporary)
    for repository in run.hub.repositories.values():
        for path, blob in repository.head().files.items():
            assert temporary.encode() not in blob.content, path
    files = run.hub.repositories["model", "ada/reader"].head().files
    for path in ("README.md", "evaluation/report.json", "evaluation/report.html", "manifest.json"):
        assert b"ada/tiny-model as the train stage left it" in files[path].content, path


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("{base} as the train stage left it", "ada/tiny_model as the train stage left it"),
        ("{base}/config.json, {base}-2", "ada/tiny_model/config.json, {base}-2"),
        ("{cwd}/runs/tiny/train and {cwd}", "runs/tiny/train and {cwd}"),
        ("https://ada.org{base}", "https://ada.org{base}"),
        ("{home}/models and {home}stead", "~/models and {home}stead"),
        ("say /no_think", "say /no_think"),
        ('{{"base": "{base}"}}', '{{"base": "ada/tiny_model"}}'),
    ],
)
def test_paths_become_the_names_that_others_know(
    run_to_publish: Published, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, text: str, published: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    recipe = load_recipe(run_to_publish.recipe, ["hub.base_model=ada/tiny_model"])
    facts = gather_facts(recipe, {name: Path("runs") / "tiny" / name for name in ("data", "train", "evaluate")})
    here = {"base": str(tiny_model), "cwd": str(run_to_publish.folder), "home": "/home/ada"}
    assert portable_text(facts)(text.format(**here)) == published.format(**here)

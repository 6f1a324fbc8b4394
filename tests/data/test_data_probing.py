"""What check and preview say of the data on models with and without a chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.data.probing import probe
from hfkit.recipe import load_recipe

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

TEMPLATE = "data.rendering"


@pytest.fixture
def bare_model(tiny_model: Path, workplace: Path) -> Path:
    """The tiny model without a chat template, as most base models are."""
    folder = workplace / "bare-model"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    return folder


def text_file(workplace: Path) -> dict[str, Any]:
    lines = [json.dumps({"text": f"A text of its own, number {n}."}) for n in range(30)]
    (workplace / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {"path": "texts.jsonl"}


def test_plain_text_needs_no_chat_template(
    cli: Cli, tiny_recipe: RecipeWriter, bare_model: Path, workplace: Path
) -> None:
    recipe = tiny_recipe(
        rag=None, evaluate=None, model={"base": str(bare_model)}, data={"sources": [text_file(workplace)]}
    )
    checked = cli("check", recipe, "--json")
    assert checked.code == 0, checked.out
    found = {finding["key"]: finding for finding in checked.document["findings"]}
    assert TEMPLATE not in found and "30 can be used" in found["data.sources.0.rows"]["text"]
    assert checked.document["memory"] is not None
    shown = cli("preview", recipe, "-n", "1", "--json")
    assert shown.code == 0, shown.err
    assert all(shown.document["sequences"][0]["train"][1:])


@pytest.mark.parametrize(
    ("source", "severity"),
    [
        ({"path": "chats.jsonl"}, "error"),
        ({"synthesize": {}}, "error"),
        ({"callable": "not.there:rows"}, "note"),
        ({"callable": "not.there:rows", "format": "messages"}, "error"),
        ({"callable": "not.there:rows", "format": "text"}, None),
        ({"path": "labelled.jsonl"}, None),
    ],
    ids=str,
)
def test_the_template_is_asked_for_where_conversations_are(
    tiny_recipe: RecipeWriter, bare_model: Path, workplace: Path, source: dict[str, Any], severity: str | None
) -> None:
    (workplace / "chats.jsonl").write_text('{"prompt": "What?", "completion": "That."}\n', encoding="utf-8")
    (workplace / "labelled.jsonl").write_text('{"text": "a", "label": "b"}\n', encoding="utf-8")
    sections: dict[str, Any] = {"evaluate": None, "train": None, "model": {"base": str(bare_model)}}
    recipe = tiny_recipe(**sections, allow_code=True, data={"sources": [text_file(workplace), source]})
    findings = probe(load_recipe(recipe))
    assert [one.severity for one in findings if one.key == TEMPLATE] == [severity] * (severity is not None)
    assert all("has no chat template" in one.text for one in findings if one.key == TEMPLATE)
    # Once is enough: nothing else fails, and the texts are looked at all the same.
    assert [one.key for one in findings if one.key != TEMPLATE] == ["data.sources.0.rows", "data.splits.test"]
    assert not any(one.severity == "error" for one in findings if one.key != TEMPLATE)


OTHER = {"name": "other", "load": "elsewhere"}


@pytest.mark.parametrize(
    ("section", "models", "found"),
    [
        ({"kind": "generation", "prompt": "{{ q }}", "references": "a"}, None, True),
        ({"kind": "generation", "prompt": "{{ q }}", "references": "a"}, [OTHER], False),
        ({"kind": "text", "text": "a"}, None, False),
    ],
)
def test_an_evaluation_alone_has_its_chat_template_tried(
    tiny_recipe: RecipeWriter, workplace: Path, section: dict[str, Any], models: Any, found: bool
) -> None:
    (workplace / "broken.jinja").write_text("{{ raise_exception('for nobody') }}", encoding="utf-8")
    task = {"name": "mine", "path": "rows.jsonl", **section}
    sections: dict[str, Any] = {"data": None, "rag": None, "train": None, "model": {"chat_template": "broken.jinja"}}
    recipe = load_recipe(tiny_recipe(**sections, evaluate={"tasks": [task], "models": models, "gates": []}))
    findings = probe(recipe)
    assert [(one.key, one.severity) for one in findings] == [("evaluate.rendering", "error")] * found
    assert all("for nobody" in one.text for one in findings)

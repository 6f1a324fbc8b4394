"""The keys of `model`: what a chat template can be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfkit.errors import RequestError
from hfkit.recipe import load_recipe


def recipe(folder: Path, arguments: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(f"name: x\nmodel:\n  base: a\n  template_arguments: {arguments}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"])
def test_arguments_that_rendering_sets_itself_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=rf"model\.template_arguments: {name} is given to the template"):
        load_recipe(recipe(tmp_path, f"{{{name}: x}}"))


def test_a_date_that_is_none_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"model\.template_arguments: strftime_now: expected a date"):
        load_recipe(recipe(tmp_path, "{strftime_now: notadate}"))


@pytest.mark.parametrize("arguments", ["{enable_thinking: false}", '{strftime_now: "2025-12-31"}'])
def test_other_arguments_are_taken(tmp_path: Path, arguments: str) -> None:
    load_recipe(recipe(tmp_path, arguments))

"""What the tests of the recipe share: an empty working directory, and the lines that a broken recipe gets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hfkit.recipe import RecipeError, load_recipe

Broken = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory, so that messages hold the paths that a user would type."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broken(folder: Path) -> Broken:
    """Write `x.yaml`, load it with overrides, and give the lines of the error."""

    def lines(content: str | bytes, *overrides: str) -> list[str]:
        (folder / "x.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(RecipeError) as caught:
            load_recipe(Path("x.yaml"), overrides)
        assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
        return str(caught.value).splitlines()

    return lines

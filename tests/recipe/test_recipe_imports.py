"""Reading a recipe costs no heavy import."""

import subprocess
import sys

import hfkit.recipe

HEAVY = ("torch", "transformers", "datasets", "gradio", "faiss", "sentence_transformers", "rich", "numpy", "accelerate")

SCRIPT = f"""
import sys
from pathlib import Path
import hfkit.recipe
Path("x.yaml").write_text("name: x")
hfkit.recipe.dump_recipe(hfkit.recipe.load_recipe(Path("x.yaml"), ["seed=3"]))
hfkit.recipe.recipe_json_schema()
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""


def test_nothing_heavy_is_imported(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=str(tmp_path),
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_all_that_is_exported_is_there() -> None:
    assert all(name in vars(hfkit.recipe) for name in hfkit.recipe.__all__)
    assert sorted(hfkit.recipe.__all__) == hfkit.recipe.__all__

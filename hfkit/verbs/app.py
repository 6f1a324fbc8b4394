"""`hfkit app`: serves the app that is installed under the entry point `hfkit.apps`."""

from __future__ import annotations

import argparse
from importlib.metadata import entry_points

from hfkit.errors import WorkError
from hfkit.recipe import load_recipe


def run(arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    found = entry_points(group="hfkit.apps", name="chat")
    if not found:
        raise WorkError("the chat app is not installed; install hfkit again with `pip install -e .`")
    (entry,) = found
    serve = entry.load()
    serve(recipe)
    return 0

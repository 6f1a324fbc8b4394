"""`hfkit schema`: the JSON Schema of recipes."""

from __future__ import annotations

import argparse
import json

from hfkit.output import emit
from hfkit.recipe import recipe_json_schema


def run(arguments: argparse.Namespace) -> int:
    emit(json.dumps(recipe_json_schema(), indent=2))
    return 0

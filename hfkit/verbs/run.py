"""`hfkit run`, and `index`, `data`, `train` and `evaluate`, which are a run of one stage and what it needs."""

from __future__ import annotations

import argparse
import json

from hfkit.errors import RequestError
from hfkit.launched import launched_processes
from hfkit.output import emit, say
from hfkit.pipeline import run_stages
from hfkit.preflight import require_ready
from hfkit.progress import Progress
from hfkit.ranks import follow
from hfkit.recipe import Recipe, load_recipe
from hfkit.run import Run
from hfkit.stage import StageName
from hfkit.stages import STAGES, wanted_stages
from hfkit.summary import failed_gates, print_summary, run_document


def run(arguments: argparse.Namespace) -> int:
    processes = launched_processes()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    wanted = wanted_by(arguments.verb, recipe)
    if not processes.is_main:
        follow(recipe, wanted, processes)
        return 0
    require_ready(recipe, wanted)
    outcomes = run_stages(recipe, wanted, Progress(), processes)
    if arguments.json:
        emit(json.dumps(run_document(Run(recipe), outcomes), indent=2))
    else:
        print_summary(Run(recipe), outcomes)
    failed = failed_gates(outcomes)
    for gate in failed:
        found = (
            gate.why or "too few test documents to say" if gate.at_least is None else f"at least {gate.at_least:+.3f}"
        )
        say(f"hfkit: gate not met: {gate.gate} ({found}, needed {gate.needed:+.3f})")
    return 1 if failed else 0


def wanted_by(verb: str, recipe: Recipe) -> tuple[StageName, ...]:
    """The stages that `verb` asks for. Raises RequestError where the recipe names none of them."""
    possible = wanted_stages(recipe)
    if verb == "run":
        if not possible:
            raise RequestError(f"{recipe.name}: the recipe names no stage; give it rag, data, train or evaluate")
        return possible
    for name in STAGES:
        if name == verb and name in possible:
            return (name,)
    section = {"index": "rag", "publish": "hub"}.get(verb, verb)
    raise RequestError(f"{recipe.name}: the recipe has no section {section}, so there is nothing to {verb}")

"""`hfkit publish`: a run to the Hub; with --dry-run only what would be sent."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from hfkit.errors import RequestError, WorkError
from hfkit.hub.facts import RunFacts, gather_facts
from hfkit.hub.files import PlannedRepository
from hfkit.hub.plan import plan
from hfkit.hub.publish import gates_refusal, secrets_refusal
from hfkit.hub.pushing import in_bytes
from hfkit.hub.secrets import secrets_in
from hfkit.output import emit, say
from hfkit.pipeline import Compared, compare_with_finished
from hfkit.recipe import Recipe, load_recipe
from hfkit.run import Run
from hfkit.stage import StageName
from hfkit.stages import STAGES
from hfkit.verbs import run as run_verb


def run(arguments: argparse.Namespace) -> int:
    if not arguments.dry_run:
        return run_verb.run(arguments)
    from huggingface_hub import get_token

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.hub is None:
        raise RequestError(f"{recipe.name}: the recipe has no section hub, so there is nothing to publish")
    facts = _finished(recipe)
    # Beside the run, so that merged weights find room where the run's own are.
    with tempfile.TemporaryDirectory(prefix=".publish.dry-run-", dir=Run(recipe).folder) as folder:
        planned = plan(facts, Path(folder))
        # There need not be a token; one that is there must not be sent either.
        refusals = [gates_refusal(facts), secrets_refusal(facts, secrets_in(planned, get_token()))]
        refused = [refusal for refusal in refusals if refusal is not None]
        if arguments.json:
            emit(json.dumps(_document(facts, planned, refused), indent=2))
        else:
            emit(_readable(facts, planned, refused))
    return 1 if refused else 0


def _finished(recipe: Recipe) -> RunFacts:
    """The run as it is, which must be that of this recipe; nothing is made for a dry run."""
    run = Run(recipe)
    needed = STAGES["publish"].needs(recipe)
    compared = compare_with_finished(recipe, needed)
    if compared.changed:
        raise WorkError(
            f"{run.folder}: not what this recipe makes now: {_in_words(recipe, compared)}. Publishing would make it "
            "again first; run `hfkit run` with this recipe, then look what would be sent"
        )
    if compared.unknown:
        say(
            f"{run.folder}: whether {' and '.join(compared.unknown)} would be made again first is not known, because "
            "the Hub could not be asked for what the recipe names there"
        )
    return gather_facts(recipe, {name: run.finished(name) for name in needed})


def _in_words(recipe: Recipe, compared: Compared) -> str:
    return "; ".join(f"{name} ({_why(name, recipe, compared)})" for name in compared.changed)


def _why(stage: StageName, recipe: Recipe, compared: Compared) -> str:
    before = [f"the stage {need} before it" for need in STAGES[stage].needs(recipe) if need in compared.changed]
    reasons = [*compared.changed[stage], *before]
    if not reasons:
        return "made from other inputs, or by another version of hfkit"
    return f"{', '.join(reasons)} changed"


def _document(facts: RunFacts, planned: tuple[PlannedRepository, ...], refused: list[str]) -> dict[str, object]:
    return {
        "recipe": facts.recipe.name,
        "private": facts.hub.private,
        "branch": facts.hub.branch,
        "tag": facts.hub.tag,
        "refused": refused,
        "repositories": [
            {
                "kind": repository.kind,
                "id": repository.id,
                "bytes": repository.bytes,
                "files": [{"path": file.path, "bytes": file.bytes} for file in repository.files],
                "card": repository.card,
            }
            for repository in planned
        ],
    }


def _readable(facts: RunFacts, planned: tuple[PlannedRepository, ...], refused: list[str]) -> str:
    lines: list[str] = []
    for repository in planned:
        visible = "private" if facts.hub.private else "public"
        amount = f"{len(repository.files)} files, {in_bytes(repository.bytes)}"
        lines.append(f"{repository.kind} {repository.id} ({visible}): {amount}")
        lines += [f"  {in_bytes(file.bytes):>10}  {file.path}" for file in repository.files]
        lines.append("")
    for repository in planned:
        lines += [f"---------- the card of {repository.kind} {repository.id} ----------", "", repository.card]
    lines += [f"would be refused: {refusal}" for refusal in refused]
    return "\n".join([*lines, "nothing was sent"])

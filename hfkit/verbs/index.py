"""`hfkit index`: index a recipe's documents; with --verify or --repair see whether an index is whole, or make it so."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from hfkit.errors import RequestError
from hfkit.output import emit
from hfkit.recipe import load_recipe
from hfkit.run import Run
from hfkit.verbs import run as run_verb
from rag.repair import Repair, repair_index
from rag.verification import Finding, Verification, verify_index

# Enough to see what is wrong; --json has them all.
_SHOWN = 20


def run(arguments: argparse.Namespace) -> int:
    if not (arguments.verify or arguments.repair):
        if arguments.recipe.is_dir():
            raise RequestError(
                f"{arguments.recipe} is a folder; name a recipe to index its documents, or add --verify or --repair"
            )
        return run_verb.run(arguments)
    folder = _index_folder(arguments)
    repair = repair_index(folder) if arguments.repair else None
    verification = verify_index(folder)
    if arguments.json:
        emit(json.dumps(_document(folder, verification, repair), indent=2))
    else:
        emit(_readable(folder, verification, repair, f"hfkit index {arguments.recipe}"))
    return 0 if verification.ok and not (repair and repair.dropped) else 1


def _index_folder(arguments: argparse.Namespace) -> Path:
    """An index folder as it is, or that of a recipe's run."""
    if arguments.recipe.is_dir():
        if arguments.overrides:
            raise RequestError(f"{arguments.recipe} is an index folder, which takes no key=value")
        return Path(arguments.recipe)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if recipe.rag is None:
        raise RequestError(f"{recipe.name}: the recipe has no section rag, so it has no index")
    return Run(recipe).finished("index")


def _document(folder: Path, verification: Verification, repair: Repair | None) -> dict[str, object]:
    """`ok` is how it stands now; `repair` is what was found before and done, null without --repair."""
    return {
        "index": str(folder),
        "ok": verification.ok,
        "generation": verification.generation,
        "documents": verification.documents,
        "chunks": verification.chunks,
        "vectors": verification.vectors,
        "findings": [asdict(finding) for finding in verification.findings],
        "notes": list(verification.notes),
        "repair": None if repair is None else asdict(repair),
    }


def _readable(folder: Path, verification: Verification, repair: Repair | None, again: str) -> str:
    lines = []
    if repair is not None:
        lines += _listed(repair.found) if repair.found else [f"{folder}: nothing to repair"]
        lines += [f"rebuilt: {', '.join(repair.rebuilt)}"] if repair.rebuilt else []
        lines += [f"no longer in the index: {id}" for id in repair.dropped[:_SHOWN]]
        if repair.dropped:
            lines.append(f"{len(repair.dropped)} documents have to be indexed again: run the recipe's index stage")
    else:
        lines += _listed(verification.findings)
    lines += [f"note: {note}" for note in verification.notes]
    held = f"{verification.documents} documents, {verification.chunks} chunks, generation {verification.generation}"
    if verification.ok:
        lines.append(f"{folder}: whole; {held}; vectors: {verification.vectors}")
    else:
        lines.append(f"{folder}: damaged; mend it with `{again} --repair`")
    return "\n".join(lines)


def _listed(findings: tuple[Finding, ...]) -> list[str]:
    lines = [f"{finding.part}: {finding.what}" for finding in findings[:_SHOWN]]
    more = len(findings) - _SHOWN
    return [*lines, f"and {more} more (--json lists all)"] if more > 0 else lines

"""`hfkit check`: preflight in seconds."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from hfkit.output import emit
from hfkit.preflight import Finding, check
from hfkit.recipe import load_recipe
from hfkit.run import Run

_MARKS = {"ok": "ok   ", "note": "note ", "error": "ERROR"}


def run(arguments: argparse.Namespace) -> int:
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    findings = check(recipe)
    # What the tokenizer would do with the data is worth asking only where there is a tokenizer, and nothing else amiss.
    if not any(finding.severity == "error" for finding in findings) and _has_model(findings):
        from hfkit.data.probing import probe

        findings += probe(recipe)
    memory = None
    if not any(finding.severity == "error" for finding in findings):
        from hfkit.memory.checking import check_sharing, devices_of, report_memory

        devices = devices_of(arguments.gpus, arguments.gpu_memory, arguments.sharding)
        unshared = check_sharing(recipe, devices)
        if unshared is None:
            memory = report_memory(recipe, Run(recipe).finished("data"), devices)
        else:
            findings.append(unshared)
    errors = [finding for finding in findings if finding.severity == "error"]
    if arguments.json:
        document = {
            "recipe": recipe.name,
            "ok": not errors,
            "findings": [asdict(finding) for finding in findings],
            "memory": None if memory is None else memory.document(),
        }
        emit(json.dumps(document, indent=2))
    else:
        for finding in findings:
            emit(f"{_MARKS[finding.severity]} {finding.key}: {finding.text}")
        if memory is not None:
            first, *rest = memory.lines()
            emit(f"{_MARKS['ok' if memory.fits else 'note']} memory: {first}")
            for line in rest:
                emit(f"        {line}")
        emit(f"{arguments.recipe}: {_verdict(len(errors))}")
    return 2 if errors else 0


def _verdict(errors: int) -> str:
    return "ready to run" if not errors else f"{errors} error{'s' if errors > 1 else ''}"


def _has_model(findings: list[Finding]) -> bool:
    return any(finding.key == "model.base" and finding.severity == "ok" for finding in findings)

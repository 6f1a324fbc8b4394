"""`hfkit export`: what a run made, for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hfkit.errors import RequestError
from hfkit.export.export import export
from hfkit.export.result import ExportResult
from hfkit.models.drift import Drift
from hfkit.output import emit
from hfkit.processes import current_processes
from hfkit.recipe import load_recipe


def run(arguments: argparse.Namespace) -> int:
    if current_processes().are_many:
        raise RequestError("export: start it as one process, without a launcher")
    if arguments.type is not None and arguments.format != "gguf":
        raise RequestError(f"--type {arguments.type} is a type of GGUF files; add --format gguf")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    folder, result = export(recipe, arguments.format, arguments.type or "f16", arguments.to)
    if arguments.json:
        emit(json.dumps({"folder": folder.as_posix(), **result.model_dump(mode="json")}, indent=2))
    else:
        emit(_readable(folder, result))
    return 0


def _readable(folder: Path, result: ExportResult) -> str:
    lines = [f"{folder.as_posix()}/: {result.source} as {result.format}, {result.type}"]
    lines += [f"  {file.bytes / 1e6:10.2f} MB  {file.path}" for file in result.files]
    if result.merge_drift is not None:
        lines.append(f"merged into the base: {_in_words(result.merge_drift)} from the adapter as it was trained")
    if result.gguf is not None:
        lines.append(f"read again through Transformers: {_in_words(result.gguf.drift)} from the merged model")
    if result.onnx is not None:
        lines.append(
            f"run by ONNX Runtime on {result.onnx.texts} texts: smallest cosine {result.onnx.smallest_cosine:.6f}"
        )
    return "\n".join([*lines, *(f"note: {remark}" for remark in result.remarks)])


def _in_words(drift: Drift) -> str:
    return (
        f"over {drift.positions} positions the same next token at {drift.same_top_token:.1%}, divergence "
        f"{drift.mean_divergence:.2g} nats, logits off by at most {drift.largest_logit_difference:.2g}"
    )

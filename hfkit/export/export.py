"""Exports what a recipe's run made, in one of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.artifact import write_whole
from hfkit.errors import RequestError
from hfkit.export.result import EXPORT, ExportFormat, ExportResult, GgufType, exported_files
from hfkit.export.staging import Staging, earlier_export, require_free, staged
from hfkit.recipe import Recipe
from hfkit.run import Run

if TYPE_CHECKING:
    from hfkit.export.merged import TrainedModel

_FOLDER = "export"


def export(recipe: Recipe, format: ExportFormat, type: GgufType, target: Path | None) -> tuple[Path, ExportResult]:
    """Write the export to `target`, or to `export/` in the run's folder, and say where and what it is.

    `type` is that of a GGUF file's weights.

    Raises:
        RequestError: the recipe names nothing to export, its run is at work, or there is something else at `target`.
        WorkError: the train stage has not finished, or what was written is not what was trained.
    """
    run = Run(recipe)
    where = target or run.folder / _FOLDER / (f"gguf-{type}" if format == "gguf" else format)
    require_free(where)
    earlier = earlier_export(where)
    if earlier is not None and (earlier.format != format or (format == "gguf" and earlier.type != type)):
        raise RequestError(
            f"{where}: holds an export as {earlier.format}, {earlier.type}; name another folder with --to"
        )
    if format != "onnx" and not run.folder.exists():
        _trained(run)  # which says what is missing, before the lock makes the folder
    with run.locked(), staged(where) as staging:
        result = _exported(run, format, type, staging)
        result = result.model_copy(update={"files": exported_files(staging.folder)})
        write_whole(staging.folder / EXPORT, result.model_dump_json(indent=2) + "\n")
    return where, result


def _exported(run: Run, format: ExportFormat, type: GgufType, staging: Staging) -> ExportResult:
    from hfkit.export.merged import merged_model

    recipe = run.recipe
    if format == "onnx":
        from hfkit.export.onnx_graph import export_onnx

        if recipe.rag is None:
            raise RequestError(f"{recipe.name}: --format onnx exports rag.embedder, and the recipe has no section rag")
        return export_onnx(recipe.rag.embedder, recipe.rag.revision, staging)
    trained = _trained(run)
    if format == "gguf":
        from hfkit.export.gguf_export import export_gguf

        return export_gguf(trained, type, staging)
    merged = merged_model(trained, staging.folder)
    return ExportResult(
        format="safetensors",
        source=recipe.name,
        source_fingerprint=trained.fingerprint,
        type=merged.dtype,
        merge_drift=merged.drift,
    )


def _trained(run: Run) -> TrainedModel:
    from hfkit.export.merged import TrainedModel

    recipe = run.recipe
    if recipe.train is None or recipe.model is None:
        raise RequestError(
            f"{recipe.name}: the recipe has no section train, so there is no model to export "
            "(--format onnx exports rag.embedder)"
        )
    return TrainedModel(recipe.name, recipe.model, run.finished("train"), run.artifact("train").fingerprint)

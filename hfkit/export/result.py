"""What an export came to: printed, and kept as export.json in its folder. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from hfkit.models.drift import Drift

ExportFormat = Literal["safetensors", "gguf", "onnx"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

GgufType = Literal["f16", "q8_0", "q4_0"]
GGUF_TYPES: tuple[GgufType, ...] = get_args(GgufType)

EXPORT = "export.json"


class ExportedFile(BaseModel):
    """`path` is relative to the export's folder."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int


class GgufCheck(BaseModel):
    """What a GGUF file is after Transformers has read it again, against the weights that it was written from.

    Attributes:
        drift: of what it answers.
        largest_weight_error: over all tensors, the length of the difference divided by the length of the original.
        same_tokens: whether its tokenizer gives the same tokens for a text; None where Transformers does not know how
            this kind of tokenizer splits text.
    """

    model_config = ConfigDict(frozen=True)

    drift: Drift
    largest_weight_error: float
    same_tokens: bool | None


class OnnxCheck(BaseModel):
    """ONNX Runtime against the embedder itself: the smallest cosine of two vectors of one text, over `texts` texts."""

    model_config = ConfigDict(frozen=True)

    texts: int
    smallest_cosine: float


class ExportResult(BaseModel):
    """What was written.

    Attributes:
        source: what was exported: the run's name, or the embedder.
        source_fingerprint: of the train stage's artifact, or the embedder's revision.
        type: of a GGUF file's weights, or the number format of the merged ones.
        merge_drift: of the merged model from the adapter on the base as it was trained; None where nothing was merged.
        remarks: what whoever uses the files should know; full sentences.
    """

    model_config = ConfigDict(frozen=True)

    format: ExportFormat
    source: str
    source_fingerprint: str
    type: str
    files: tuple[ExportedFile, ...] = ()
    merge_drift: Drift | None = None
    gguf: GgufCheck | None = None
    onnx: OnnxCheck | None = None
    remarks: tuple[str, ...] = ()


def exported_files(folder: Path) -> tuple[ExportedFile, ...]:
    """Every file in `folder`, in the order of their paths."""
    return tuple(
        ExportedFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )

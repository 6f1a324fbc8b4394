"""An embedder as one ONNX graph: tokens in, sentence vectors out, pooling and normalisation included."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hfkit.errors import RequestError, WorkError
from hfkit.export.result import ExportResult, OnnxCheck
from hfkit.export.staging import Staging
from hfkit.models.drift import PROMPTS
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.models.loading import locate
from hfkit.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession
    from sentence_transformers import SentenceTransformer

GRAPH = "model.onnx"
VECTORS = "sentence_embedding"

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_SMALLEST_COSINE = 0.9999
# Of different lengths, so that padding is part of what is compared.
_TEXTS = (*PROMPTS, "Glass.", " ".join(PROMPTS), " ".join(PROMPTS * 8))


def export_onnx(reference: str, revision: str | None, staging: Staging) -> ExportResult:
    """Write `model.onnx` with the embedder's tokenizer and settings beside it.

    The graph takes what the tokenizer gives (int64 [texts, tokens]) and gives `sentence_embedding`, float32 [texts,
    dimension]. Texts are to be cut at the embedder's own limit and begun with its prompts, as its settings say.

    Raises:
        RequestError: the packages of the extra `onnx` are not installed; the embedder is of a kind that has no graph.
        RagRequestError: the embedder cannot be had.
        WorkError: ONNX Runtime does not give the embedder's vectors.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise RequestError(f"--format onnx needs the packages {', '.join(missing)}; `pip install 'hfkit[onnx]'`")
    from rag.embedder import SentenceTransformerEmbedder

    where = locate(reference, revision)
    identity = embedded_model(reference).revision if reference.startswith(PREFIX) else None
    embedder = SentenceTransformerEmbedder.load(where.path_or_id, reference, where.revision, "fp32", identity=identity)
    model = embedder.model.cpu().eval()
    if model.transformers_model is None:
        raise RequestError(
            f"{reference} looks its vectors up in a table; what is exported to ONNX is an embedder over a Transformers "
            "model"
        )
    staging.folder.mkdir()
    with quiet_libraries():
        _write_graph(model, staging.folder / GRAPH)
        model.save(str(staging.room / "whole"), create_model_card=False)
    # Its own weights are in the graph.
    shutil.copytree(
        staging.room / "whole", staging.folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
    )
    check = _check(model, staging.folder / GRAPH)
    # Written so that what is not a number fails as well.
    if not check.smallest_cosine >= _SMALLEST_COSINE:
        raise WorkError(
            f"{reference}: ONNX Runtime gives other vectors than the embedder (smallest cosine "
            f"{check.smallest_cosine:.6f}, needed {_SMALLEST_COSINE}); nothing was exported. Please report it"
        )
    return ExportResult(
        format="onnx", source=reference, source_fingerprint=embedder.revision, type="float32", onnx=check
    )


def _write_graph(model: SentenceTransformer, path: Path) -> None:
    """The graph's inputs have the names of the tokenizer's outputs."""
    import torch

    example = _tokens(model, ["One text.", "Another text, which is longer than that."])
    names = tuple(example)

    class Vectors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.model(dict(zip(names, tokens, strict=True)))[VECTORS]
            return vectors

    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # The exporter reports its progress on both.
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            Vectors().eval(),
            tuple(example.values()),
            input_names=names,
            output_names=[VECTORS],
            dynamic_shapes=(tuple(sizes for _ in names),),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)


def _tokens(model: SentenceTransformer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the model is given of these texts, by name: [texts, tokens]."""
    import torch

    made = model.preprocess(list(texts))
    return {name: made[name] for name in sorted(made) if isinstance(made[name], torch.Tensor)}


def _check(model: SentenceTransformer, path: Path) -> OnnxCheck:
    """Text by text, and all of them together with padding."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [[text] for text in _TEXTS] + [list(_TEXTS)]
    cosines = [_cosines(model, session, texts).min() for texts in batches]
    return OnnxCheck(texts=len(_TEXTS), smallest_cosine=float(np.min(cosines)))


def _cosines(model: SentenceTransformer, session: InferenceSession, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    import torch

    tokens = _tokens(model, texts)
    with torch.inference_mode():
        wanted = model(dict(tokens))[VECTORS].double().numpy()
    # The exporter leaves out what the model does not read.
    (given,) = session.run([VECTORS], {node.name: tokens[node.name].numpy() for node in session.get_inputs()})
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    cosines: npt.NDArray[np.float64] = (wanted * given).sum(axis=1) / lengths
    return cosines

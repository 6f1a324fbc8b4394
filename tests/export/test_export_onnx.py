"""ONNX: the graph alone, with the tokenizer beside it, gives the embedder's vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hfkit.errors import RequestError, WorkError
from hfkit.export import onnx_graph
from hfkit.export.onnx_graph import export_onnx
from hfkit.export.staging import staged

TEXTS = ["Glass is sand.", "A colony of bees has one queen and many thousand workers.", "x"]


def test_the_graph_gives_the_embedders_vectors(tiny_embedder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from tokenizers import Tokenizer

    from rag.embedder import SentenceTransformerEmbedder

    with staged(tmp_path / "out") as staging:
        result = export_onnx(str(tiny_embedder), None, staging)
    assert result.onnx is not None and result.onnx.smallest_cosine >= 0.9999 and result.onnx.texts >= 5
    embedder = SentenceTransformerEmbedder.load(tiny_embedder, precision="fp32")
    assert result.source_fingerprint == embedder.revision
    # As somebody without hfkit, sentence-transformers or PyTorch would use it.
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(TEXTS)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    given = {
        node.name: np.array([getattr(encoding, columns[node.name]) for encoding in encodings])
        for node in session.get_inputs()
    }
    (vectors,) = session.run(["sentence_embedding"], given)
    assert vectors.shape == (3, 32)
    np.testing.assert_allclose(vectors, embedder.encode_passages(TEXTS), atol=1e-5)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"model.onnx", "tokenizer.json", "modules.json", "1_Pooling/config.json"} <= files
    assert not [name for name in files if name.endswith((".safetensors", ".bin", ".md", ".pkl"))]
    modules = json.loads((tmp_path / "out" / "modules.json").read_text(encoding="utf-8"))
    assert len(modules) == 3


def test_other_vectors_are_never_exported(tiny_embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = onnx_graph._write_graph

    def of_another(model: Any, path: Path) -> None:
        import torch

        weight = model.transformers_model.embeddings.word_embeddings.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight += 0.5 * torch.randn_like(weight)
            plain(model, path)
            weight.copy_(kept)

    monkeypatch.setattr(onnx_graph, "_write_graph", of_another)
    with pytest.raises(WorkError, match="gives other vectors than the embedder"), staged(tmp_path / "out") as staging:
        export_onnx(str(tiny_embedder), None, staging)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_and_embedders_without_a_graph_are_said(
    tiny_embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    table = StaticEmbedding(Tokenizer.from_file(str(tiny_embedder / "tokenizer.json")), embedding_dim=8)
    SentenceTransformer(modules=[table], device="cpu").save(str(tmp_path / "static"))
    with pytest.raises(RequestError, match="looks its vectors up in a table"), staged(tmp_path / "out") as staging:
        export_onnx(str(tmp_path / "static"), None, staging)
    monkeypatch.setattr(onnx_graph, "_PACKAGES", ("onnx", "no_such_package"))
    message = r"needs the packages no_such_package; `pip install"
    with pytest.raises(RequestError, match=message), staged(tmp_path / "out") as staging:
        export_onnx(str(tiny_embedder), None, staging)
    assert not (tmp_path / "out").exists()

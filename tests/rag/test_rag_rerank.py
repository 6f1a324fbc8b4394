"""A sentence-transformers CrossEncoder as a reranker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag.chunking import ChunkSettings
from rag.errors import RagRequestError
from rag.index import Index
from rag.rerank import CrossEncoderReranker
from rag.search import SearchSettings
from tests.rag.hash_embedder import HashEmbedder, make_corpus


def cross_encoder(embedder_folder: Path, folder: Path, labels: int) -> Path:
    """A random BERT of 2 layers that reads pairs, with the tiny embedder's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(embedder_folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder_of_reranker(tiny_embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross_encoder(tiny_embedder, tmp_path_factory.mktemp("reranker") / "tiny-reranker", 1)


def test_one_number_a_passage_whatever_comes_together(folder_of_reranker: Path) -> None:
    reranker = CrossEncoderReranker.load(folder_of_reranker)
    passages = ["cats eat fish", "", "x" * 5000, "dogs bark " * 500, "cats eat fish"]
    scores = reranker.scores("what do cats eat?", passages)
    assert len(scores) == 5 and scores[0] == pytest.approx(scores[4]) and len({round(s, 5) for s in scores}) > 2
    assert scores == pytest.approx([reranker.scores("what do cats eat?", [one])[0] for one in passages], abs=1e-4)
    assert reranker.scores("nothing", []) == []
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: reranker.scores("what do cats eat?", passages), range(8)):
            assert found == pytest.approx(scores, abs=1e-5)


def test_hits_go_by_its_scores(folder_of_reranker: Path, folder: Path, embedder: HashEmbedder) -> None:
    reranker = CrossEncoderReranker.load(folder_of_reranker)
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus({f"{word}.md": f"# {word}\nAll about {word} of the sea." for word in "abcdefgh"}))
        hits = index.search("about the sea", SearchSettings(top_k=8, reranker=reranker))
        expected = reranker.scores("about the sea", [hit.chunk.embedded_text for hit in hits])
        assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-4)
        assert expected == sorted(expected, reverse=True) and len(hits) == 8


def test_what_is_no_reranker(tiny_embedder: Path, tmp_path: Path) -> None:
    with pytest.raises(RagRequestError, match=r"the reranker .*nowhere cannot be loaded"):
        CrossEncoderReranker.load(tmp_path / "nowhere")
    several = cross_encoder(tiny_embedder, tmp_path / "three", 3)
    with pytest.raises(RagRequestError, match="gives 3 numbers for a pair"):
        CrossEncoderReranker.load(several)


def test_weights_come_from_safetensors_alone(folder_of_reranker: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    pickled = shutil.copytree(folder_of_reranker, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(RagRequestError, match="safetensors"):
        CrossEncoderReranker.load(pickled)

"""The sentence-transformers embedder, on a tiny random model that the test makes itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rag.embedder
from rag.chunking import ChunkSettings
from rag.embedder import SentenceTransformerEmbedder, _hub_revision, choose_precision
from rag.errors import RagRequestError
from rag.index import Index
from rag.search import SearchSettings
from tests.rag.hash_embedder import make_corpus

WORDS = ["the", "a", "cat", "dog", "ship", "tree", "eats", "sees", "sails", "query", "passage", "hello", "world"]


def make_model(folder: Path, prompts: dict[str, str]) -> Path:
    """A BERT of two layers with random weights and a WordPiece vocabulary of a few words and all letters."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    base = folder / "base"
    BertModel(config).save_pretrained(base)
    fast.save_pretrained(base)
    transformer = Transformer(str(base), max_seq_length=48)
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")], prompts=prompts, device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("plain"), {})


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("prompted"), {"query": "query: ", "document": "passage: "})


def test_vectors_are_unit_float32_rows_in_the_order_given(model: Path) -> None:
    embedder = SentenceTransformerEmbedder.load(model, precision="fp32")
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == (str(model), 32, 48)
    texts = [" ".join(WORDS[: number % 9 + 1]) for number in range(70)]
    seen: list[tuple[int, int]] = []
    rows = embedder.encode_passages(texts, lambda done, total: seen.append((done, total)))
    assert rows.dtype == np.float32
    assert rows.shape == (70, 32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert seen[-1] == (70, 70)
    for number in (0, 5, 69):
        assert np.allclose(rows[number], embedder.encode_passages([texts[number]])[0], atol=1e-5)
        assert np.allclose(rows[number], embedder.encode_queries([texts[number]])[0], atol=1e-5)
    assert embedder.encode_passages([]).shape == embedder.encode_queries([]).shape == (0, 32)


def test_tokens_are_counted_with_the_special_ones_and_nothing_is_cut(model: Path) -> None:
    embedder = SentenceTransformerEmbedder.load(model, precision="fp32")
    assert embedder.count_tokens(["", "hello world", "hello " * 500, "cats"]) == [2, 4, 502, 4]
    assert embedder.count_tokens([]) == []
    assert embedder.encode_passages(["hello " * 46]).shape == (1, 32)
    with pytest.raises(RagRequestError, match=r"a passage has 49 tokens; .* reads at most 48"):
        embedder.encode_passages(["hello", "hello " * 47])
    assert embedder.encode_queries(["hello " * 47]).shape == (1, 32)


def test_the_models_own_prompts_are_used(prompted: Path) -> None:
    embedder = SentenceTransformerEmbedder.load(prompted, precision="fp32")
    plain = SentenceTransformerEmbedder.load(prompted, precision="fp32")
    plain.query_prompt = plain.passage_prompt = ""
    assert (embedder.query_prompt, embedder.passage_prompt) == ("query: ", "passage: ")
    assert embedder.count_tokens(["cat"]) == [5]
    assert np.allclose(embedder.encode_passages(["cat"]), plain.encode_passages(["passage: cat"]), atol=1e-6)
    assert np.allclose(embedder.encode_queries(["cat"]), plain.encode_queries(["query: cat"]), atol=1e-6)
    assert not np.allclose(embedder.encode_queries(["cat"]), embedder.encode_passages(["cat"]), atol=1e-3)


def test_bfloat16_gives_float32_unit_rows_too(model: Path) -> None:
    embedder = SentenceTransformerEmbedder.load(model, precision="bf16")
    rows = embedder.encode_passages(WORDS)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    exact = SentenceTransformerEmbedder.load(model, precision="fp32").encode_passages(WORDS)
    assert float((rows * exact).sum(axis=1).min()) > 0.99
    assert embedder.precision_reason == "bfloat16: asked for"


@pytest.mark.parametrize(
    ("cpuinfo", "bfloat16", "reason"),
    [
        ("processor : 0\nflags\t\t: fpu avx512_bf16 sse\n", True, "bfloat16: this CPU has AVX512-BF16"),
        ("flags : avx512_bf16 amx_bf16\n", True, "bfloat16: this CPU has AMX-BF16"),
        ("flags : fpu avx2 avx512_bf16x\n", False, "float32: this CPU does not compute in bfloat16"),
        ("Features : asimd bf16\n", False, "float32: this CPU does not compute in bfloat16"),
        (None, False, "float32: this CPU does not compute in bfloat16"),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_computes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, bfloat16: bool, reason: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(rag.embedder, "_CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert choose_precision("auto") == (bfloat16, reason)
    assert choose_precision("bf16") == (True, "bfloat16: asked for")
    assert choose_precision("fp32") == (False, "float32: asked for")


@pytest.mark.parametrize(("supported", "word"), [(True, "bfloat16"), (False, "float32")])
def test_auto_asks_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, supported: bool, word: str) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert choose_precision("auto")[0] is supported
    assert choose_precision("auto")[1].startswith(f"{word}: this GPU")


def test_the_revision_of_a_folder_is_its_content(model: Path, prompted: Path, tmp_path: Path) -> None:
    first = SentenceTransformerEmbedder.load(model)
    assert first.revision == SentenceTransformerEmbedder.load(model, "other name", "a branch").revision
    assert first.revision.startswith("sha256:")
    assert first.revision != SentenceTransformerEmbedder.load(prompted).revision
    named = SentenceTransformerEmbedder.load(model, "mini", identity="abc")
    assert (named.name, named.revision) == ("mini", "abc")


def test_the_revision_of_a_hub_model_is_the_commit_that_was_loaded(model: Path) -> None:
    loaded = SentenceTransformerEmbedder.load(model)._model
    assert _hub_revision(loaded, "a/b", "v2") == "v2", "where neither the model nor the cache says it"
    assert _hub_revision(loaded, "a/b", None) == "main"
    assert loaded.transformers_model is not None
    loaded.transformers_model.config._commit_hash = "0123abcd"
    assert _hub_revision(loaded, "a/b", "v2") == "0123abcd", "a branch stands at another commit tomorrow"


def make_static_model(folder: Path) -> Path:
    """Random vectors for a few words, with a tokenizer whose file asks for truncation and adds special tokens."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokens = {token: number for number, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)
    rows = np.random.default_rng(0).standard_normal((len(tokens), 16)).astype(np.float32)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, rows)], device="cpu").save(str(folder))
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 8
    return folder


def test_a_static_embedder_cuts_nothing_though_its_tokenizer_would(tmp_path: Path) -> None:
    embedder = SentenceTransformerEmbedder.load(make_static_model(tmp_path / "static"), precision="fp32")
    long = " ".join(["cat"] * 20 + ["dog"] * 20)
    assert embedder.count_tokens([long, "cat", ""]) == [40, 1, 0], "as the model reads it: without special tokens"
    cat, dog, both = embedder.encode_passages(["cat", "dog", long])
    assert float(both @ dog) > float(cat @ dog) + 0.1, "the second half is read, too"
    assert float(both @ dog) == pytest.approx(float(embedder.encode_queries([long])[0] @ dog), abs=1e-5)


def test_the_revision_of_a_static_hub_model_is_the_commit_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--static"
    make_static_model(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    for branch in ("main", "v2"):
        (cached / "refs" / branch).write_text(commit)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    for asked in (None, "v2", commit):
        assert SentenceTransformerEmbedder.load("someone/static", revision=asked).revision == commit


def test_batches_hold_so_many_tokens_and_give_the_same(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = SentenceTransformerEmbedder.load(model, precision="fp32")
    texts = [" ".join(WORDS[: number % 9 + 1]) for number in range(40)] + ["hello " * 46]
    whole = embedder.encode_passages(texts)
    monkeypatch.setattr(rag.embedder, "_BATCH_TOKENS", 40)
    seen: list[int] = []
    assert np.allclose(embedder.encode_passages(texts, lambda done, total: seen.append(done)), whole, atol=1e-5)
    assert seen[:2] == [1, 4], "the longest first, by itself; then three of eleven tokens, eleven or fewer each"
    assert seen[-1] == 41


def test_fused_layers_give_what_the_layers_give(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from rag import fused_linear
    from rag.fused_linear import FusedLinear

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("layers are fused on processors alone")
    texts = [" ".join(WORDS[: number % 13 + 1]) for number in range(30)]
    fused = SentenceTransformerEmbedder.load(model, precision="bf16")
    count = sum(isinstance(layer, FusedLinear) for layer in fused._model.modules())
    if not count:
        pytest.skip("this PyTorch has no such operator")
    assert count == 2 * 6 + 1, "two blocks of six linear layers, and the pooler"
    assert (
        not any(isinstance(layer, FusedLinear) for layer in SentenceTransformerEmbedder.load(model)._model.modules())
        or (choose_precision("auto")[0])
    )
    monkeypatch.setattr(FusedLinear, "forward", lambda layer, rows: torch.zeros(len(rows), len(layer.weight)))
    plain = SentenceTransformerEmbedder.load(model, precision="bf16")
    assert not any(isinstance(layer, FusedLinear) for layer in plain._model.modules()), "a wrong operator is not used"
    monkeypatch.undo()
    assert not fused_linear.fuse_linear_layers(torch.nn.Identity())
    cosines = (fused.encode_passages(texts) * plain.encode_passages(texts)).sum(axis=1)
    assert float(cosines.min()) > 0.995


def test_what_cannot_be_loaded_is_a_wrong_request(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    for file in model.rglob("*"):
        if file.is_file():
            copy = tmp_path / "torn" / file.relative_to(model)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    for place in (tmp_path / "empty", tmp_path / "torn", tmp_path / "not there"):
        with pytest.raises(RagRequestError, match=r"the embedder tiny cannot be loaded from .*safetensors"):
            SentenceTransformerEmbedder.load(place, "tiny")
    with pytest.raises(RagRequestError, match="precision is 'int4'"):
        SentenceTransformerEmbedder.load(model, precision="int4")  # type: ignore[arg-type]


def test_weights_that_are_pickled_are_refused(model: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for file in model.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            copy = tmp_path / file.relative_to(model)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(RagRequestError, match=r"cannot be loaded.*\.safetensors"):
        SentenceTransformerEmbedder.load(tmp_path)


def test_an_index_from_end_to_end(model: Path, tmp_path: Path) -> None:
    assert json.loads((model / "config_sentence_transformers.json").read_text())
    embedder = SentenceTransformerEmbedder.load(model, precision="fp32")
    texts = {"cat.md": "# Cat\nThe cat sees a tree.\n" * 9, "ship.md": "# Ship\n" + "The ship sails. " * 40}
    with Index.create_or_open(tmp_path / "index", embedder, ChunkSettings(40, 8)) as index:
        report = index.sync(make_corpus(texts))
        assert all(chunk.tokens <= 40 for chunk in index.chunks())
        assert report.embedded <= report.chunks
        for mode in ("dense", "lexical", "hybrid"):
            hits = index.search("the ship sails", SearchSettings(mode, 2))
            assert hits[0].chunk.document_id == "ship.md"
        index.verify()

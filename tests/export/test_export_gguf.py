"""GGUF: what Transformers reads again is the model that was trained, to the rounding of the type."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType

from hfkit.errors import RequestError, WorkError
from hfkit.export import gguf_export, llama_weights
from hfkit.export.gguf_export import export_gguf
from hfkit.export.merged import TrainedModel
from hfkit.export.result import EXPORT, ExportResult, GgufType, exported_files
from hfkit.export.staging import staged
from hfkit.models.tuned import load_tuned

if TYPE_CHECKING:
    from tests.export.conftest import BaseMaker, Trainer

PROMPT = "What does a pendulum clock count in 1987?"


def written(trained: TrainedModel, kind: GgufType, target: Path) -> ExportResult:
    with staged(target) as staging:
        result = export_gguf(trained, kind, staging)
        whole = result.model_copy(update={"files": exported_files(staging.folder)})
        (staging.folder / EXPORT).write_text(whole.model_dump_json(), encoding="utf-8")
    return result


def generated(model: Any, ids: list[int]) -> list[int]:
    prompt = torch.tensor([ids])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24)
    return [int(token) for token in out[0, len(ids) :]]


def reread(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.mark.parametrize("tied", [True, False])
def test_f16_gives_the_same_tokens_as_what_was_trained(
    base: BaseMaker, train: Trainer, tmp_path: Path, tied: bool
) -> None:
    trained = train(base(tie_word_embeddings=tied))
    result = written(trained, "f16", tmp_path / "out")
    path = tmp_path / "out" / "harbour-f16.gguf"
    model, tokenizer = reread(path)
    ids = list(tokenizer(PROMPT)["input_ids"])
    tuned = load_tuned(trained.settings, trained.folder)[0]
    assert generated(model, ids) == generated(tuned, ids)
    assert result.gguf is not None and result.gguf.same_tokens is True
    assert 0 < result.gguf.largest_weight_error < 1e-3
    assert result.gguf.drift.largest_logit_difference < 0.1 and result.gguf.drift.mean_divergence < 1e-4
    assert result.merge_drift is not None and result.merge_drift.mean_divergence < 1e-6
    assert model.config.tie_word_embeddings is tied and model.config.rope_parameters["rope_theta"] == 50000.0
    # Nothing but the file and what describes it, and nothing beside the folder.
    assert sorted(path.name for path in path.parent.iterdir()) == ["Modelfile", EXPORT, "harbour-f16.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "trained"]


def test_fewer_bits_drift_further_and_say_how_far(base: BaseMaker, train: Trainer, tmp_path: Path) -> None:
    trained = train(base(tie_word_embeddings=False))
    checks = {kind: written(trained, kind, tmp_path / kind).gguf for kind in ("f16", "q8_0", "q4_0")}
    errors = [check.largest_weight_error for check in checks.values() if check is not None]
    assert errors[0] < 1e-3 < errors[1] < 0.02 < errors[2] < 0.2
    drifts = [check.drift.mean_divergence for check in checks.values() if check is not None]
    assert drifts[0] < drifts[1] < drifts[2]
    sizes = [next((tmp_path / kind).glob("*.gguf")).stat().st_size for kind in checks]
    assert sizes[0] > sizes[1] > sizes[2]


def test_each_tensor_has_the_type_that_suits_it(base: BaseMaker, train: Trainer, tmp_path: Path) -> None:
    def types(kind: GgufType, **settings: Any) -> dict[str, str]:
        name = f"{kind}-{len(list(tmp_path.iterdir()))}"
        written(train(base(f"base-{name}", **settings), f"trained-{name}"), kind, tmp_path / name)
        reader = GGUFReader(tmp_path / name / f"harbour-{kind}.gguf")
        return {str(tensor.name): GGMLQuantizationType(tensor.tensor_type).name for tensor in reader.tensors}

    tied = types("q4_0", tie_word_embeddings=True)
    assert tied["token_embd.weight"] == "Q8_0" and "output.weight" not in tied
    untied = types("q4_0", tie_word_embeddings=False)
    assert (untied["token_embd.weight"], untied["output.weight"]) == ("Q4_0", "Q8_0")
    assert untied["blk.0.attn_q.weight"] == "Q4_0" and untied["blk.1.ffn_norm.weight"] == "F32"
    # 80 is no multiple of a block of 32.
    odd = types("q8_0", intermediate_size=80)
    assert (odd["blk.0.ffn_down.weight"], odd["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_the_file_says_what_the_model_and_its_tokenizer_are(base: BaseMaker, train: Trainer, tmp_path: Path) -> None:
    trained = train(base(head_dim=32))
    written(trained, "q8_0", tmp_path / "out")
    fields = GGUFReader(tmp_path / "out" / "harbour-q8_0.gguf").fields
    said = {name: field.contents() for name, field in fields.items()}
    assert (said["general.architecture"], said["general.name"], said["general.file_type"]) == ("llama", "harbour", 7)
    assert (said["llama.attention.head_count"], said["llama.attention.head_count_kv"]) == (4, 2)
    assert said["llama.rope.dimension_count"] == said["llama.attention.key_length"] == 32
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == said["llama.vocab_size"] == 608
    assert tokens[said["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert tokens[said["tokenizer.ggml.padding_token_id"]] == "<|endoftext|>"
    assert kinds[tokens.index("<|im_start|>")] == TokenType.CONTROL
    # The model has more rows than the tokenizer has tokens.
    assert (tokens[607], kinds[607]) == ("[PAD607]", TokenType.UNUSED)
    assert said["tokenizer.ggml.add_bos_token"] is False
    template = (trained.folder / "adapter" / "chat_template.jinja").read_text(encoding="utf-8")
    assert said["tokenizer.chat_template"] == template


def test_the_trained_template_and_stop_tokens_go_into_both_files(
    base: BaseMaker, train: Trainer, tmp_path: Path
) -> None:
    template = tmp_path / "turns.jinja"
    template.write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}",
        encoding="utf-8",
    )
    trained = train(base(), chat_template=str(template))
    written(trained, "f16", tmp_path / "out")
    fields = GGUFReader(tmp_path / "out" / "harbour-f16.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == template.read_text(encoding="utf-8")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[fields["tokenizer.ggml.eos_token_id"].contents()] == "<|im_end|>"
    assert tokens[fields["tokenizer.ggml.eot_token_id"].contents()] == "<|endoftext|>"
    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./harbour-f16.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n' in text
    assert '{{ "[user] " }}{{ .Content }}{{ "<|endoftext|>" }}' in text


def test_a_run_that_trained_all_weights_is_exported_as_it_is(base: BaseMaker, train: Trainer, tmp_path: Path) -> None:
    trained = train(base(), adapter=None)
    result = written(trained, "f16", tmp_path / "out")
    assert result.merge_drift is None
    model, tokenizer = reread(tmp_path / "out" / "harbour-f16.gguf")
    ids = list(tokenizer(PROMPT)["input_ids"])
    assert generated(model, ids) == generated(load_tuned(trained.settings, trained.folder)[0], ids)


def test_an_adapter_trained_on_quantised_weights_goes_into_the_unquantised_base(
    base: BaseMaker, train: Trainer, tmp_path: Path
) -> None:
    trained = train(base(), quantization="nf4")
    result = written(trained, "f16", tmp_path / "out")
    # The rounding of four bits is in the drift of the merge, and not in the file.
    assert result.merge_drift is not None and result.gguf is not None
    assert result.merge_drift.mean_divergence > 1e-3 > 1e-4 > result.gguf.drift.mean_divergence
    model, tokenizer = reread(tmp_path / "out" / "harbour-f16.gguf")
    ids = list(tokenizer(PROMPT)["input_ids"])
    unquantised = trained.settings.model_copy(update={"quantization": None})
    assert generated(model, ids) == generated(load_tuned(unquantised, trained.folder)[0], ids)


@pytest.mark.parametrize("fault", ["rows", "zeros", "tokens"])
def test_a_file_that_is_not_the_model_is_never_left(
    base: BaseMaker, train: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    trained = train(base())
    if fault == "rows":
        monkeypatch.setattr(llama_weights, "_paired", lambda weights, heads: weights)
    elif fault == "zeros":
        monkeypatch.setattr(llama_weights.LlamaTensors, "read", lambda self, name: np.zeros(self.size(name), "float32"))
    else:
        plain = gguf_export.read_vocabulary

        def astray(*arguments: Any) -> Any:
            from dataclasses import replace

            found = plain(*arguments)
            return replace(found, merges=found.merges[:20])

        monkeypatch.setattr(gguf_export, "read_vocabulary", astray)
    with pytest.raises(WorkError, match="is not the model that was written"):
        written(trained, "q4_0", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "trained"]


def test_a_full_disk_leaves_nothing_half_and_what_was_there_before(
    base: BaseMaker, train: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(base())
    written(trained, "q8_0", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    plain = gguf_export.merged_model
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def then_no_more_room(*arguments: Any) -> Any:
        merged = plain(*arguments)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return merged

    monkeypatch.setattr(gguf_export, "merged_model", then_no_more_room)
    try:
        with pytest.raises(OSError) as failure:
            written(trained, "f16", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    # What NumPy raises has no number; `hfkit.failures` tells a full disk by it.
    assert failure.value.errno is not None
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out", "trained"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attention_bias": True}, "biases in its attention"),
        ({"mlp_bias": True}, "biases in its MLP"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "scaled by the rule linear"),
    ],
)
def test_parts_that_are_not_exported_are_named(
    base: BaseMaker, train: Trainer, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    trained = train(base(**settings), adapter=None)
    with pytest.raises(RequestError, match=rf"{said}.*architecture llama \(SmolLM2"):
        written(trained, "f16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_refused_with_those_there_are(base: BaseMaker, train: Trainer, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = base()
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=608, num_key_value_heads=2, **size)).save_pretrained(folder)
    with pytest.raises(RequestError, match=r"is qwen2; GGUF files are written for the architecture llama \(SmolLM2"):
        written(train(folder, adapter=None), "f16", tmp_path / "out")


def _digits(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers as pre

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])


def _prefix(tokenizer: Any) -> None:
    from tokenizers import pre_tokenizers as pre

    tokenizer.backend_tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=True)


def _lower(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize(("change", "found"), [(_digits, "smollm"), (_prefix, None), (_lower, None)])
def test_how_text_is_split_is_read_off_the_tokenizer(
    tiny_model: Path, change: Callable[[Any], None], found: str | None
) -> None:
    from transformers import AutoTokenizer

    from hfkit.export.vocabulary import read_vocabulary

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert read_vocabulary(tokenizer, [2], 700).splitting == "gpt-2"
    change(tokenizer)
    if found is None:
        with pytest.raises(RequestError, match="byte-level BPE that splits text as GPT-2, SmolLM"):
            read_vocabulary(tokenizer, [2], 700)
    else:
        assert read_vocabulary(tokenizer, [2], 700).splitting == found


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    from hfkit.export.vocabulary import read_vocabulary

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(RequestError, match="tokens and the model 40; they do not fit"):
        read_vocabulary(tokenizer, [2], 40)

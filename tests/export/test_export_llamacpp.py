"""llama.cpp reads what was exported: the same tokens of a text, and logits as close as the type allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from hfkit.export.gguf_check import TEXT
from hfkit.export.gguf_export import export_gguf
from hfkit.export.result import GgufType
from hfkit.export.staging import staged
from hfkit.models.tuned import load_tuned

if TYPE_CHECKING:
    from tests.export.conftest import BaseMaker, Trainer

pytestmark = pytest.mark.llamacpp


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 0.02), ("q8_0", 0.1)])
@pytest.mark.parametrize("digits", [False, True])
def test_llama_cpp_gives_the_same_tokens_and_logits(
    base: BaseMaker, train: Trainer, tmp_path: Path, kind: GgufType, tolerance: float, digits: bool
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    from tokenizers import pre_tokenizers as pre
    from transformers import AutoTokenizer

    folder = base(tie_word_embeddings=digits)
    if digits:
        changed = AutoTokenizer.from_pretrained(folder)
        steps = [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
        changed.backend_tokenizer.pre_tokenizer = pre.Sequence(steps)
        changed.save_pretrained(folder)
    trained = train(folder)
    with staged(tmp_path / "out") as staging:
        export_gguf(trained, kind, staging)
    path = tmp_path / "out" / f"harbour-{kind}.gguf"
    read: Any = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "<|im_start|>user\nWhat is 1987?<|im_end|>\n<|im_start|>assistant\n"):
        ids = list(tokenizer(text)["input_ids"])
        assert read.tokenize(text.encode("utf-8"), add_bos=False, special=True) == ids
    read.eval(ids)
    given = np.array(read.scores[: len(ids)])
    model = load_tuned(trained.settings, trained.folder)[0]
    with torch.inference_mode():
        wanted = model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    centred = [logits - logits.mean(-1, keepdims=True) for logits in (given, wanted)]
    assert np.linalg.norm(centred[0] - centred[1]) < tolerance * np.linalg.norm(centred[1])
    assert read.detokenize([read.token_eos()], special=True) == b"<|im_end|>"

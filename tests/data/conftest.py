"""What the tests of the training data share: small tokenizers with any chat template, and prepared datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hfkit.data.card import DataResult
    from hfkit.data.prepared import PreparedSequence
    from hfkit.recipe import Recipe

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]


@pytest.fixture(scope="session")
def make_tokenizer() -> TokenizerMaker:
    """`make_tokenizer(template, ["<s>", "</s>"], stop="</s>", start="<s>")`: bytes for tokens, and the special ones.

    As with most published tokenizers, the special tokens beside start, stop and padding are marked as special in the
    vocabulary and listed nowhere else, and the tokenizer by itself would put `start` before every text.
    """

    @cache
    def backend(special: tuple[str, ...], start: str | None) -> Tokenizer:
        vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        if start is not None:
            made.post_processor = processors.TemplateProcessing(
                single=f"{start} $A", special_tokens=[(start, special.index(start))]
            )
        return made

    def make(
        template: str | None, special: list[str], stop: str | None, start: str | None = None
    ) -> PreTrainedTokenizerFast:
        from transformers import PreTrainedTokenizerFast

        named = {"eos_token": stop, "bos_token": start, "pad_token": special[0]}
        made = PreTrainedTokenizerFast(
            tokenizer_object=backend(tuple(special), start),
            **{name: token for name, token in named.items() if token is not None},
        )
        made.chat_template = template
        return made

    return make


@dataclass(frozen=True)
class PreparedData:
    """What the data stage left, read back."""

    folder: Path
    result: DataResult
    train: list[Any]
    test: list[Any]
    train_sequences: list[PreparedSequence]
    test_sequences: list[PreparedSequence]


@pytest.fixture
def prepare_data(workplace: Path) -> Callable[[Path], PreparedData]:
    """Run the stages up to `data` of a recipe's file, in this process."""

    def run(path: Path, overrides: tuple[str, ...] = ()) -> PreparedData:
        from hfkit.data.card import DataResult
        from hfkit.data.prepared import read_examples, read_sequences
        from hfkit.pipeline import run_stages
        from hfkit.progress import Progress
        from hfkit.recipe import load_recipe
        from hfkit.run import Run

        recipe: Recipe = load_recipe(path, overrides)
        outcomes = run_stages(recipe, ("data",), Progress(quiet=True))
        folder = Run(recipe).finished("data").resolve()
        result: Mapping[str, Any] = outcomes["data"].artifact.result
        return PreparedData(
            folder,
            DataResult.model_validate(result),
            list(read_examples(folder, "train")),
            list(read_examples(folder, "test")),
            list(read_sequences(folder, "train")),
            list(read_sequences(folder, "test")),
        )

    return run

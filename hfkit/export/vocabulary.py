"""A byte-level BPE tokenizer as GGUF has it: tokens, their kinds, merges, special ids, and how text is split first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfkit.errors import RequestError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

# llama.cpp knows by name how text is split into words before tokens are made of them; a file cannot state the rule.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# Transformers reads a file with any other of them as one of "gpt-2".
READ_BY_TRANSFORMERS = ("gpt-2", "llama-bpe", "qwen2")

_SUPPORTED = "byte-level BPE that splits text as GPT-2, SmolLM, Llama 3 or Qwen 2 do is exported to GGUF"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What of a tokenizer a GGUF file holds.

    Attributes:
        splitting: llama.cpp's name of the way text is split (tokenizer.ggml.pre).
        kinds: of each token, as gguf.TokenType numbers them.
        stops: the tokens that end a reply, the first of them as the end of sequence.
        adds_start, adds_end: whether the tokenizer itself puts these around plain text.
    """

    splitting: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    start: int | None
    stops: tuple[int, ...]
    unknown: int | None
    padding: int | None
    adds_start: bool
    adds_end: bool
    chat_template: str | None

    def describe(self, writer: GGUFWriter) -> None:
        """Write it as the file's metadata."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.splitting)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        writer.add_token_merges(self.merges)
        if self.start is not None:
            writer.add_bos_token_id(self.start)
        for number, add in zip(self.stops, (writer.add_eos_token_id, writer.add_eot_token_id), strict=False):
            add(number)
        if self.unknown is not None:
            writer.add_unk_token_id(self.unknown)
        if self.padding is not None:
            writer.add_pad_token_id(self.padding)
        writer.add_add_bos_token(self.adds_start)
        writer.add_add_eos_token(self.adds_end)
        if self.chat_template is not None:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], size: int) -> Vocabulary:
    """Of a tokenizer whose model has `size` tokens; those that only the model has are marked as unused.

    Raises:
        RequestError: the tokenizer is of a kind that is not exported, or has more tokens than the model.
    """
    from gguf import TokenType
    from tokenizers import Tokenizer

    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if not isinstance(backend, Tokenizer):
        raise RequestError(f"this model's tokenizer is not one of the library tokenizers; {_SUPPORTED}")
    written: dict[str, Any] = json.loads(backend.to_str())
    splitting = _splitting(written)
    by_number = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_number) >= size:
        raise RequestError(f"the tokenizer has {max(by_number) + 1} tokens and the model {size}; they do not fit")
    kinds = [TokenType.NORMAL if number in by_number else TokenType.UNUSED for number in range(size)]
    for number, added in tokenizer.added_tokens_decoder.items():
        kinds[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    plain = list(tokenizer("a")["input_ids"])
    end = tokenizer.eos_token_id
    return Vocabulary(
        splitting=splitting,
        tokens=tuple(by_number.get(number, f"[PAD{number}]") for number in range(size)),
        kinds=tuple(int(kind) for kind in kinds),
        merges=tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in written["model"]["merges"]),
        start=tokenizer.bos_token_id,
        stops=tuple(stops),
        unknown=tokenizer.unk_token_id,
        padding=tokenizer.pad_token_id,
        adds_start=tokenizer.bos_token_id is not None and plain[:1] == [tokenizer.bos_token_id],
        adds_end=end is not None and plain[-1:] == [end],
        chat_template=tokenizer.chat_template,
    )


def _splitting(written: dict[str, Any]) -> str:
    """llama.cpp's name for what a tokenizer.json does before BPE."""
    model = written["model"]
    if model["type"] != "BPE" or model.get("byte_fallback") or written["normalizer"] is not None:
        raise RequestError(f"this model's tokenizer is of another kind; {_SUPPORTED}. Export safetensors instead")
    before: dict[str, Any] = written["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = before.get("pretokenizers", [before])
    known = {
        ("bytes of words",): "gpt-2",
        ("digits", "bytes of words"): "smollm",
        (_LLAMA3, "bytes"): "llama-bpe",
        (_QWEN2, "bytes"): "qwen2",
    }
    name = known.get(tuple(_step(step) for step in steps))
    # llama.cpp takes words that are tokens as they are for this one name.
    if name is None or bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        raise RequestError(
            f"this model's tokenizer splits text in another way; {_SUPPORTED}. Export safetensors instead"
        )
    return name


def _step(step: dict[str, Any]) -> str:
    """A word, or a regular expression, that says all that matters of one step."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "bytes of words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step["individual_digits"]:
        return "digits"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return str(step["pattern"].get("Regex"))
    return f"another: {kind}"

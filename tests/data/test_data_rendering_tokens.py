"""Stretches tokenised once give the tokens of whole texts, and masks are exact with tokenizers of every make."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hfkit.data.conversation import Conversation
from hfkit.data.ledger import RowFault
from hfkit.data.rendering import Renderer
from hfkit.data.tokenising import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]")
MARKUP = ("<think>", "</think>")
CORPUS = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8").splitlines()

TEMPLATES = {
    "a space before the reply": "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "ChatML": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "instructions": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}</s>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    "words alone": "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
}


def bytes_of_words() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def pieces_with_a_first_space() -> Tokenizer:
    """As newer conversions of SentencePiece: a space before the first word of a text alone."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _trained_pieces(made)


def pieces_with_spaces_prepended() -> Tokenizer:
    """As Llama 2's conversion: a space before every stretch between special tokens."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _trained_pieces(made)


def unigrams() -> Tokenizer:
    """As T5 and Gemma's kin."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    letters = sorted({letter for line in CORPUS for letter in line} | set("éΩ🙂▁\n\r\t"))
    trainer = trainers.UnigramTrainer(
        vocab_size=700, initial_alphabet=letters, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def _trained_pieces(made: Tokenizer) -> Tokenizer:
    octets = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1100, special_tokens=["<unk>", *octets], show_progress=False)
    # As SentencePiece trains: no piece reaches over a space.
    own, made.pre_tokenizer = made.pre_tokenizer, pre_tokenizers.Metaspace(prepend_scheme="never")
    made.train_from_iterator(CORPUS, trainer)
    made.pre_tokenizer = own
    return made


MAKES: dict[str, Callable[[], Tokenizer]] = {
    "bytes of words": bytes_of_words,
    "pieces with a first space": pieces_with_a_first_space,
    "pieces with spaces prepended": pieces_with_spaces_prepended,
    "unigrams": unigrams,
    "special tokens that swallow spaces": bytes_of_words,
    "special tokens matched after normalisation": bytes_of_words,
}


@cache
def tokenizer_of(make: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    made = MAKES[make]()
    swallow = make == "special tokens that swallow spaces"
    late = make == "special tokens matched after normalisation"
    made.add_special_tokens(
        [AddedToken(t, special=True, normalized=late and t == "[INST]", rstrip=swallow) for t in SPECIAL]
    )
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    start = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")


PIECES = (
    st.sampled_from([*SPECIAL, *MARKUP, " ", "  ", "\n", "\n\n", "\r\n", "\t", "word", "model", "the recipe", "x", "▁"])
    | st.sampled_from(["é", "e\u0301", "🙂", "Ω", "<", "|>", "[INST", "12345", "don't"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
TEXTS = st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=6)
WORDS = st.lists(PIECES, min_size=1, max_size=6).map("".join)
many = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("make", MAKES)
@many
@given(texts=TEXTS)
def test_stretches_tokenised_once_give_the_tokens_of_the_whole(make: str, texts: list[str]) -> None:
    tokenizer = tokenizer_of(make)
    expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert Tokens(tokenizer).encode_many(texts) == expected
    assert Tokens(tokenizer, whole=True).encode_many(texts) == expected


def test_the_fast_way_is_taken_where_it_holds_and_nowhere_else() -> None:
    splits = {make: Tokens(tokenizer_of(make)).splits for make in MAKES}
    assert splits == {make: make != "special tokens that swallow spaces" for make in MAKES}


def test_what_other_calls_leave_behind_changes_nothing() -> None:
    tokenizer = tokenizer_of("bytes of words")
    expected = tokenizer("<s>word and word", add_special_tokens=False)["input_ids"]
    tokens = Tokens(tokenizer)
    tokenizer(["<s>word", "a longer text"], padding="max_length", truncation=True, max_length=4)
    tokenizer.backend_tokenizer.encode_special_tokens = True
    assert tokens.encode("<s>word and word") == expected


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(contents=st.lists(WORDS, min_size=4, max_size=4))
def test_the_tokens_before_a_reply_are_those_that_inference_feeds(
    make: str, template: str, contents: list[str]
) -> None:
    tokenizer = tokenizer_of(make)
    tokenizer.chat_template = TEMPLATES[template]
    renderer = Renderer(tokenizer)
    roles = ["user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    row = Conversation.model_validate({"id": "a", "document": "a", "messages": messages})
    try:
        sequences = renderer.training_sequences(row)
    except RowFault:
        return
    turns = [(sequence.input_ids, span) for sequence in sequences for span in sequence.spans]
    for position, (ids, (start, end)) in zip((1, 3), turns, strict=True):
        prompt = renderer.prompt_ids(row.messages[:position])
        assert list(ids[:start]) == prompt
        assert ids[end - 1] in renderer.stop_ids
        assert not set(ids[start : end - 1]) & set(renderer.stop_ids)
        # Whoever decodes what a model has said sees the text that the template writes.
        broken = [_broken(message) for message in messages[: position + 1]]
        whole = tokenizer.apply_chat_template(broken, tokenize=False)
        seen = tokenizer.decode(ids[:end], skip_special_tokens=False)
        again = tokenizer.decode(tokenizer(whole, add_special_tokens=False)["input_ids"], skip_special_tokens=False)
        assert again.startswith(seen)


def _broken(message: dict[str, str]) -> dict[str, str]:
    content = message["content"]
    for token in SPECIAL:
        content = content.replace(token, token[0] + "\u200b" + token[1:])
    return {**message, "content": content}


@pytest.mark.parametrize("make", MAKES)
def test_ordinary_rows_are_rendered_by_every_make_of_tokenizer(make: str) -> None:
    tokenizer = tokenizer_of(make)
    for template in TEMPLATES.values():
        tokenizer.chat_template = template
        messages = [{"role": "user", "content": "What is a recipe?"}, {"role": "assistant", "content": "A file."}]
        row = Conversation.model_validate({"id": "a", "document": "a", "messages": messages * 2})
        renderer = Renderer(tokenizer)
        sequences = renderer.training_sequences(row)
        turns = [(list(sequence.input_ids), span) for sequence in sequences for span in sequence.spans]
        for position, (ids, (start, end)) in zip((1, 3), turns, strict=True):
            assert ids[:start] == renderer.prompt_ids(row.messages[:position])
            assert tokenizer.decode(ids[start:end]).endswith("A file." + tokenizer.decode(ids[end - 1 : end]))

"""The reader: the text of a batch in pieces, one answer at a time, and nothing goes on after the caller has left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.evaluation.generation import generate
from hfkit.models.loading import load_model, load_tokenizer
from hfkit.models.reader import TransformersReader
from hfkit.recipe import ModelSection
from rag.answer import Message

ASKED: list[list[Message]] = [
    [{"role": "user", "content": content}] for content in ("Hi", "What is a harp?", "Tell me " * 20, "ü?", "[1] a")
]


class Spoken:
    """Stands in for a model: `generate` says tokens one by one, and keeps count."""

    device = torch.device("cpu")
    config = LlamaConfig(max_position_embeddings=2048)

    def __init__(self, tokens: list[int], pause: float = 0.0, fail_at: int | None = None) -> None:
        self.tokens, self.pause, self.fail_at = tokens, pause, fail_at
        self.said = self.speaking = self.most_speaking = 0

    def generate(self, input_ids: torch.Tensor, streamer: Any, stopping_criteria: Any, **settings: Any) -> None:
        self.speaking += 1
        self.most_speaking = max(self.most_speaking, self.speaking)
        try:
            streamer.put(input_ids)
            for number, token in enumerate(self.tokens):
                if number == self.fail_at:
                    raise FloatingPointError("the matrix is on fire")
                time.sleep(self.pause)
                streamer.put(torch.tensor([token]))
                self.said += 1
                if bool(stopping_criteria(input_ids, None).any()):
                    break
        finally:
            self.speaking -= 1
        streamer.end()


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer(load_tokenizer(ModelSection(base=str(tiny_model))))


@pytest.fixture
def speaker(renderer: Renderer) -> Callable[..., tuple[TransformersReader, Spoken]]:
    def make(text: str, **settings: Any) -> tuple[TransformersReader, Spoken]:
        model = Spoken(renderer.tokenizer(text)["input_ids"], **settings)
        return TransformersReader(model, renderer, 100), model  # type: ignore[arg-type]

    return make


def within(seconds: float, work: Callable[[], object]) -> object:
    """What `work` returns, or the error it raises; fails where it does neither in time."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, f"nothing came back within {seconds:g} s"
    return results[0]


def test_the_pieces_are_the_text_of_a_batch(tiny_model: Path, renderer: Renderer) -> None:
    settings = ModelSection(base=str(tiny_model), precision="fp32")
    reader = TransformersReader.load(settings, None, 24)
    pieces = [list(reader.stream(messages)) for messages in ASKED]
    assert sum(map(len, pieces)) > len(ASKED), "it comes in pieces"
    model, _ = load_model(settings)
    batch = generate(model, renderer, ASKED, max_new_tokens=24, batch_size=5, update=lambda done, total: None)
    assert ["".join(said).strip() for said in pieces] == [answer.text for answer in batch]
    assert len({answer.text for answer in batch}) > 1


def test_the_trained_model_speaks_where_there_is_one(tiny_model: Path, tmp_path: Path) -> None:
    from hfkit.models.tuned import save_tuned, with_new_adapter
    from hfkit.recipe import AdapterSection

    settings = ModelSection(base=str(tiny_model), precision="fp32")
    model, _ = load_model(settings)
    model = with_new_adapter(model, AdapterSection())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3
    save_tuned(model, tmp_path)
    base, tuned = (TransformersReader.load(settings, trained, 12) for trained in (None, tmp_path))
    assert "".join(base.stream(ASKED[0])) != "".join(tuned.stream(ASKED[0]))


def test_special_tokens_and_the_prompt_are_not_said(speaker: Callable[..., tuple[TransformersReader, Spoken]]) -> None:
    reader, _ = speaker("one <|im_start|>two three<|im_end|>")
    assert "".join(reader.stream(ASKED[0])) == "one two three"


def test_closing_the_stream_stops_the_model(speaker: Callable[..., tuple[TransformersReader, Spoken]]) -> None:
    reader, model = speaker("word " * 1500, pause=0.001)
    stream = reader.stream(ASKED[0])
    next(stream)
    before = threading.active_count()
    stream.close()
    said = model.said
    assert said < len(model.tokens) / 2
    assert model.speaking == 0
    assert threading.active_count() == before - 1
    time.sleep(0.02)
    assert model.said == said
    # The next caller is served.
    model.tokens = model.tokens[:7]
    assert within(60, lambda: "".join(reader.stream(ASKED[0]))) != ""


def test_closing_the_stream_stops_a_real_model(tiny_model: Path) -> None:
    reader = TransformersReader.load(ModelSection(base=str(tiny_model), precision="fp32"), None, 1500)
    passes = []
    reader.model.register_forward_hook(lambda *call: passes.append(1))
    stream = reader.stream(ASKED[0])
    next(stream)
    stream.close()
    made = len(passes)
    assert made < 1000
    time.sleep(0.05)
    assert len(passes) == made


def test_a_stream_that_is_dropped_is_closed(speaker: Callable[..., tuple[TransformersReader, Spoken]]) -> None:
    reader, model = speaker("word " * 1500, pause=0.001)
    for _piece in reader.stream(ASKED[0]):
        break
    assert within(60, lambda: model.speaking) == 0
    assert isinstance(within(60, lambda: next(reader.stream(ASKED[0]))), str)


@pytest.mark.parametrize("fail_at", [0, 3])
def test_what_the_model_dies_of_reaches_the_caller(
    speaker: Callable[..., tuple[TransformersReader, Spoken]], fail_at: int
) -> None:
    reader, model = speaker("one two three four five six", fail_at=fail_at)
    error = within(60, lambda: list(reader.stream(ASKED[0])))
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, FloatingPointError)
    model.fail_at = None
    assert within(60, lambda: "".join(reader.stream(ASKED[0]))) == "one two three four five six"


def test_a_prompt_that_cannot_be_rendered_reaches_the_caller(tiny_model: Path, tmp_path: Path) -> None:
    """Before the model says anything; the caller must not wait for ever."""
    template = tmp_path / "own.jinja"
    template.write_text("{{ raise_exception('not this one') }}", encoding="utf-8")
    settings = ModelSection(base=str(tiny_model), precision="fp32", chat_template=template)
    reader = TransformersReader.load(settings, None, 8)
    error = within(10, lambda: list(reader.stream(ASKED[0])))
    assert isinstance(error, RequestError | RuntimeError)
    assert "not this one" in f"{error} {error.__cause__}"


def test_two_callers_are_served_one_after_the_other(
    speaker: Callable[..., tuple[TransformersReader, Spoken]],
) -> None:
    reader, model = speaker("alpha beta gamma delta", pause=0.002)
    ready = threading.Barrier(4)
    texts: list[str] = []

    def ask() -> None:
        ready.wait()
        texts.append("".join(reader.stream(ASKED[0])))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == ["alpha beta gamma delta"] * 4
    assert model.most_speaking == 1
    assert model.said == 4 * len(model.tokens)


def test_a_prompt_that_does_not_fit_is_refused_and_not_answered(tiny_model: Path) -> None:
    reader = TransformersReader.load(ModelSection(base=str(tiny_model), precision="fp32"), None, max_new_tokens=8)
    with pytest.raises(RequestError, match="more than the 2048 the model can take"):
        list(reader.stream([{"role": "user", "content": "bee " * 3000}]))

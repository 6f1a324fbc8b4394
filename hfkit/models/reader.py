"""A causal model as the reader of grounded answers: messages in, text out as it is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.models.loading import load_model, load_renderer
from hfkit.models.tuned import load_tuned
from hfkit.recipe import ModelSection
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers._typing import GenerativePreTrainedModel


class TransformersReader:
    """Speaks for one model. One answer at a time: a second caller waits until the first has been answered."""

    def __init__(self, model: PreTrainedModel, renderer: Renderer, max_new_tokens: int) -> None:
        self.model = model
        self.renderer = renderer
        self.max_new_tokens = max_new_tokens
        self._turn = threading.Lock()

    @classmethod
    def load(cls, settings: ModelSection, trained: Path | None, max_new_tokens: int) -> TransformersReader:
        """The tuned model that a train stage left in the folder `trained`, or the base model where there is none."""
        model, _ = load_model(settings) if trained is None else load_tuned(settings, trained)
        return cls(model, load_renderer(settings), max_new_tokens)

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """The greedy answer in pieces. Closing the iterator stops the model.

        Raises:
            RequestError: the prompt does not fit the model's context.
            RuntimeError: whatever the model's thread died of, as its cause.
        """
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        gone = threading.Event()

        class WhenNobodyListens(StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
                return torch.full((input_ids.shape[0],), gone.is_set(), device=input_ids.device)

        tokenizer = self.renderer.tokenizer
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[Exception] = []

        def speak() -> None:
            try:
                with torch.inference_mode():
                    cast("GenerativePreTrainedModel", self.model).generate(
                        input_ids=ids,
                        attention_mask=torch.ones_like(ids),
                        do_sample=False,
                        max_new_tokens=self.max_new_tokens,
                        eos_token_id=list(self.renderer.stop_ids),
                        pad_token_id=tokenizer.pad_token_id,
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([WhenNobodyListens()]),
                    )
            # Anything that a model's code raises must reach the caller, who waits on the streamer in another thread.
            except Exception as error:
                failure.append(error)
                streamer.end()

        # Here, where what it raises reaches the caller.
        ids = torch.tensor([self.renderer.prompt_ids(messages)], device=self.model.device)
        # Not every architecture has such a limit.
        limit = self.model.config.to_dict().get("max_position_embeddings")
        if limit is not None and ids.shape[1] + self.max_new_tokens > limit:
            raise RequestError(
                f"the question and its passages have {ids.shape[1]} tokens; with {self.max_new_tokens} for the answer "
                f"that is more than the {limit} the model can take. Ask less, or lower rag.search.top_k or "
                "app.max_new_tokens"
            )
        with self._turn:
            thread = threading.Thread(target=speak, daemon=True)
            thread.start()
            try:
                yield from streamer
            finally:
                gone.set()
                thread.join()
        if failure:
            raise RuntimeError("the model failed while it answered") from failure[0]

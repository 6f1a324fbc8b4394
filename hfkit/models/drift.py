"""How far one form of a model is from another: the next token that each expects, over a few fixed prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PROMPTS = (
    "The library opens at nine in the morning and closes",
    "Question: What does a pendulum clock count?\nAnswer: It counts",
    "Write one sentence that says what a contract is.",
    "def greatest(numbers):\n    best = numbers[0]\n    for number in numbers:\n",
)


class Drift(BaseModel):
    """The second form of a model against the first, over all positions of a few prompts.

    Attributes:
        positions: how many next tokens were compared.
        largest_logit_difference: the largest difference of two logits, each set centred (only differences within a set
            bear on the probabilities).
        mean_divergence: the mean Kullback-Leibler divergence of the second form's next token from the first's, in nats.
        same_top_token: share of positions at which both would write the same token.
    """

    model_config = ConfigDict(frozen=True)

    positions: int
    largest_logit_difference: float
    mean_divergence: float
    same_top_token: float


def drift_between(before: torch.Tensor, after: torch.Tensor) -> Drift:
    """Both as `log_probabilities` gives them, of the same prompts."""
    import torch

    centred = [logits - logits.mean(-1, keepdim=True) for logits in (before, after)]
    return Drift(
        positions=len(before),
        largest_logit_difference=float((centred[0] - centred[1]).abs().max()),
        mean_divergence=float(torch.nn.functional.kl_div(after, before, reduction="batchmean", log_target=True)),
        same_top_token=float((before.argmax(-1) == after.argmax(-1)).float().mean()),
    )


def log_probabilities(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of the next token at each position of each prompt: float64 [positions, vocabulary]."""
    import torch

    model.eval()
    with torch.inference_mode():
        logits = [model(input_ids=torch.tensor([ids], device=model.device)).logits[0].double().cpu() for ids in prompts]
    return torch.cat(logits).log_softmax(-1)

"""The loss of trained tokens, with no more logits in memory at once than a chunk of them.

A vocabulary of 128,000 makes the logits of 4,096 positions 2 GiB in float32, and the plain cross-entropy holds several
copies. Here the gradient is computed together with the loss, chunk by chunk, inside the model's output layer: what is
left of a chunk is its gradient in the hidden states. That is how Liger's fused loss works (Hsu et al. 2024,
arXiv:2410.10989); this one is plain PyTorch, for any device.

The output layer is made to give the loss in place of logits by hooks on it, PyTorch's public interface for that. The
model's own forward stays as it is, and so does whatever wraps it: DDP, FSDP and ZeRO gather and release the layer's
weights around it as ever.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from hfkit.quiet import quiet_libraries
from hfkit.training.collation import IGNORED, CollateTrainedPositions

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

# Logits that exist at once: 128 MiB in float32. Larger chunks are no faster.
_CHUNK_NUMBERS = 1 << 25

Way = Literal["in the output layer", "at trained positions", "at all positions"]


class TrainedTokenLoss:
    """How the loss of `model` is computed: the first way of these that works.

    in the output layer: logits exist for a chunk of trained tokens at a time.
    at trained positions: the model gives logits at `logits_to_keep`, and does something to them after its output layer
        (caps or scales them), or the layer is no plain one.
    at all positions: the model cannot choose, and the others are thrown away.

    Used as the Trainer's `compute_loss_func`, within `of(batch)`:

        with loss.of(batch) as inputs:
            outputs = model(**inputs)
        loss(outputs, batch["labels"], tokens).backward()
    """

    def __init__(self, model: PreTrainedModel, *, compiled: bool = False) -> None:
        self._labels: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None
        self.way: Way = "at trained positions"
        self.reason = "torch.compile takes the model as it is" if compiled else ""
        name = type(_causal_model(model)).__name__
        self._names = _inputs_of(model)
        if not takes_positions(model):
            self.way = "at all positions"
            self.reason = f"{name}.forward takes no logits_to_keep"
            return
        head = model.get_output_embeddings()
        if compiled:
            return
        if type(head) is not nn.Linear:
            self.reason = f"the output layer is a {type(head).__name__}"
            return
        hooks = (head.register_forward_pre_hook(self._take_hidden), head.register_forward_hook(self._give_loss))
        self.way = "in the output layer"
        if not self._agrees(model):
            for hook in hooks:
                hook.remove()
            self.way = "at trained positions"
            self.reason = f"{name} does something to logits after its output layer"

    @property
    def in_words(self) -> str:
        """The way, and why it is not the first."""
        return f"{self.way}, since {self.reason}" if self.reason else self.way

    @contextmanager
    def of(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Gives what the model is to be called with for a batch of CollateTrainedPositions."""
        inputs = dict(batch)
        if self.way == "at all positions":
            self._kept = inputs["logits_to_keep"]
            inputs = _taken(self._names, inputs)
        if self.way == "in the output layer":
            self._labels = batch["labels"]
        try:
            yield inputs
        finally:
            self._labels = self._hidden = self._kept = None

    def __call__(
        self,
        outputs: CausalLMOutputWithPast,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The sum over the trained tokens, divided by `num_items_in_batch` or else by how many they are: float32 []."""
        assert outputs.logits is not None
        if self.way == "in the output layer":
            total = outputs.logits.sum()
        else:
            logits = outputs.logits if self._kept is None else outputs.logits[:, self._kept]
            total = summed_cross_entropy(logits, labels)
        trained = labels.ne(IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        # A step whose rows train nothing has the loss 0 and not 0 / 0.
        return total / trained.clamp(min=1)

    def _take_hidden(self, head: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
        if self._labels is None:
            return None
        (self._hidden,) = inputs
        return (self._hidden[:, :0],)

    def _give_loss(self, head: nn.Module, inputs: tuple[torch.Tensor], logits: torch.Tensor) -> torch.Tensor | None:
        if self._labels is None or self._hidden is None:
            return None
        assert isinstance(head, nn.Linear)
        hidden, self._hidden = self._hidden, None
        return summed_head_loss(hidden, head, self._labels).reshape(1, 1, 1)

    def _agrees(self, model: PreTrainedModel) -> bool:
        """Whether both ways give one loss for a few made-up tokens; draws no random numbers, keeps the mode."""
        vocabulary = model.config.get_text_config().vocab_size
        ids = [number * 7919 % vocabulary for number in range(1, 12)]
        batch = CollateTrainedPositions(pad_id=0, layout="padded")([[{"input_ids": ids, "spans": [0, len(ids)]}]])
        del batch["shift_labels"]
        batch = {n: v.to(model.device) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
        labels = batch["labels"]
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), quiet_libraries():
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                plain = summed_cross_entropy(model(**inputs).logits, labels)
                with self.of(batch) as given:
                    found = model(**{name: value for name, value in given.items() if name != "labels"}).logits.sum()
        finally:
            model.train(training)
        # Half a percent is what bfloat16 may be off by in a chunk's sum; a cap or a scale is off by far more.
        return bool((plain - found).abs() <= 5e-3 * plain.abs())


def takes_positions(model: PreTrainedModel) -> bool:
    """Whether the model can be asked for logits at chosen positions."""
    return "logits_to_keep" in inspect.signature(_causal_model(model).forward).parameters


def kept_logits(model: PreTrainedModel, inputs: dict[str, Any]) -> torch.Tensor:
    """Logits [B, K, vocabulary] at the positions in `logits_to_keep`, whether or not the model can choose them."""
    if takes_positions(model):
        logits: torch.Tensor = model(**inputs).logits
        return logits
    all_logits: torch.Tensor = model(**_taken(_inputs_of(model), inputs)).logits
    return all_logits[:, inputs["logits_to_keep"]]


def _inputs_of(model: PreTrainedModel) -> frozenset[str] | None:
    """The names of what the model can be called with; None where it takes any."""
    parameters = inspect.signature(_causal_model(model).forward).parameters.values()
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return None if any_name else frozenset(parameter.name for parameter in parameters)


def _taken(names: frozenset[str] | None, inputs: dict[str, Any]) -> dict[str, Any]:
    """Of a batch what a model takes that cannot choose its positions; labels are for the loss."""
    return {
        name: value
        for name, value in inputs.items()
        if name != "logits_to_keep" and (names is None or name in names or name == "labels")
    }


def _causal_model(model: PreTrainedModel) -> nn.Module:
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def trained_token_loss(
    outputs: CausalLMOutputWithPast, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy of float32 logits [B, K, vocabulary] against labels [B, K], over `num_items_in_batch` tokens."""
    assert outputs.logits is not None
    total = summed_cross_entropy(outputs.logits, labels)
    trained = labels.ne(IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    # A step whose rows train nothing has the loss 0 and not 0 / 0.
    return total / trained.clamp(min=1)


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of the losses of all labels but IGNORED: float32 []. Keeps one number for each logit, in their format.

    Args:
        logits: [B, K, vocabulary], of any format; they are taken to float32.
        labels: int64 [B, K].
    """
    summed: torch.Tensor = _CrossEntropy.apply(logits.flatten(0, 1), labels.flatten())  # type: ignore[no-untyped-call]
    return summed


def summed_head_loss(hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor) -> torch.Tensor:
    """`summed_cross_entropy(head(hidden), labels)` without the logits of more than a chunk.

    Args:
        hidden: [B, K, width].
        labels: int64 [B, K].
    """
    trained = labels.flatten().ne(IGNORED).nonzero().flatten()
    rows, wanted = hidden.flatten(0, 1)[trained], labels.flatten()[trained]
    weight: torch.Tensor = head.weight
    bias: torch.Tensor | None = head.bias
    if not torch.is_grad_enabled():
        # A Function is told what needs gradients, and not whether anybody wants them.
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    summed: torch.Tensor = _HeadLoss.apply(rows, weight, bias, wanted)  # type: ignore[no-untyped-call]
    return summed


def _loss_and_gradient(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of float32 logits [N, vocabulary], whose memory becomes the gradient's."""
    rows = torch.arange(len(labels), device=logits.device)
    wanted = labels.clamp(min=0)
    used = labels.ne(IGNORED)
    normaliser = logits.logsumexp(-1)
    losses = normaliser - logits[rows, wanted]
    gradient = logits.sub_(normaliser[:, None]).exp_()
    gradient[rows, wanted] -= 1
    return losses[used].sum(), gradient.mul_(used[:, None])


def _chunk_rows(vocabulary: int) -> int:
    return max(1, _CHUNK_NUMBERS // vocabulary)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        size = _chunk_rows(logits.shape[-1])
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            loss, change = _loss_and_gradient(logits[chunk].to(torch.float32, copy=True), labels[chunk])
            total += loss
            if gradient is not None:
                gradient[chunk] = change.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None


class _HeadLoss(torch.autograd.Function):
    """Of hidden states [N, width], weights [vocabulary, width], a bias [vocabulary] or None, and labels [N]."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        # In float32 until they are scaled: the loss may be divided by many tokens, or scaled up for float16.
        to_hidden = torch.empty_like(hidden, dtype=torch.float32) if needs_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        to_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if needs_bias else None
        size = _chunk_rows(len(weight))
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            # Autocast, where it is on, takes this to the format in which the layer itself would compute.
            logits = nn.functional.linear(hidden[chunk], weight, bias)
            loss, change = _loss_and_gradient(logits.float(), labels[chunk])
            total += loss
            change = change.to(logits.dtype)
            if to_hidden is not None:
                to_hidden[chunk] = (change @ weight.to(logits.dtype)).float()
            if to_weight is not None:
                to_weight += change.T @ hidden[chunk].to(logits.dtype)
            if to_bias is not None:
                to_bias += change.float().sum(0)
        ctx.formats = (hidden.dtype, weight.dtype, weight.dtype)
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            None if one is None else (one * upstream[0]).to(form)
            for one, form in zip(ctx.saved_tensors, ctx.formats, strict=True)
        ]
        return *scaled, None

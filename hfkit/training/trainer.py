"""The one training core: transformers.Trainer with the loss on trained positions, and validation of our own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from hfkit.training.collation import TrainingRow, is_empty
from hfkit.training.loss import TrainedTokenLoss
from hfkit.training.optimizer import lora_plus
from hfkit.training.packing import Pack
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel

    from hfkit.training.validation import Validation


class PackedRows(Dataset[list[TrainingRow]]):
    """The prepared rows, by packs: the item of a pack is the list of its rows."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pack: Pack) -> list[TrainingRow]:
        columns = self.rows[list(pack)]
        return [
            {"input_ids": ids, "spans": spans}
            for ids, spans in zip(columns["input_ids"], columns["spans"], strict=True)
        ]


class TrainedPositionsTrainer(Trainer):
    """A Trainer for the micro-batches of PlannedSteps and the batches of CollateTrainedPositions.

    Logits exist at the positions in `logits_to_keep` only, which is the model's own argument. The loss is the sum over
    the trained tokens divided by how many the whole optimiser step has, on all ranks and micro-batches together, so it
    does not depend on how a step is split up.
    """

    def __init__(
        self,
        *,
        plan: PlannedSteps,
        token_loss: TrainedTokenLoss,
        lora_plus_ratio: float | None = None,
        validation: Validation | None,
        **kwargs: Any,
    ) -> None:
        self.plan = plan
        self.token_loss = token_loss
        self.lora_plus_ratio = lora_plus_ratio
        self.validation = validation
        super().__init__(compute_loss_func=token_loss, **kwargs)

    def get_train_dataloader(self) -> DataLoader[list[TrainingRow]]:
        assert isinstance(self.train_dataset, PackedRows)
        loader: DataLoader[list[TrainingRow]] = DataLoader(
            self.train_dataset,
            batch_sampler=self.plan,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # The plan has divided its steps over the ranks; Accelerate would do so once more.
        prepared: DataLoader[list[TrainingRow]] = prepare_data_loader(
            loader, device=self.args.device, num_processes=1, process_index=0, put_on_device=True
        )
        return prepared

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.lora_plus_ratio is not None:
            tuned = cast("PreTrainedModel", self.model)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            self.optimizer = lora_plus(tuned, kind, self.lora_plus_ratio, self.args.weight_decay, settings)
        made: torch.optim.Optimizer = super().create_optimizer(model)
        return made

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        if is_empty(inputs):
            return torch.zeros((), device=self.args.device)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        passed = {name: value for name, value in inputs.items() if name != "shift_labels"}
        with self.token_loss.of(passed) as taken:
            loss: torch.Tensor | tuple[torch.Tensor, Any] = super().compute_loss(
                model, taken, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        return loss

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Validates, where a callback asked for it; the validation's `found` is the same on every rank."""
        assert self.validation is not None
        self.validation.found = same_on_every_rank(self.validation.measure(self))
        metrics = dict(self.validation.found.metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @contextmanager
    def number_format(self) -> Iterator[None]:
        """Within: the model computes in the number format of training, whichever of its methods is called.

        Accelerate casts in the forward pass of the outermost module, from the first step on. Before that, and where
        Transformers generates with what stands inside an adapter, nothing would. DeepSpeed casts the weights
        themselves, which it takes over at the first step; until then PyTorch has to cast what is computed.
        """
        half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None
        untaken = half is not None and self.is_deepspeed_enabled and self.model_wrapped is self.model
        cast = torch.autocast(self.args.device.type, dtype=half) if untaken else nullcontext()
        with self.accelerator.autocast(), self.compute_loss_context_manager(), cast:
            yield

    def summed_loss(self, batch: dict[str, Any]) -> float:
        """The sum of the losses of a batch's trained tokens, in the number format of training, without gradients."""
        with torch.no_grad(), self.number_format():
            one = torch.ones((), device=self.args.device)
            loss = self.compute_loss(self.model_wrapped, self._prepare_inputs(batch), num_items_in_batch=one)
        assert isinstance(loss, torch.Tensor)
        # The Trainer multiplies by the number of ranks, over which it would take the mean.
        return float(loss) / int(self.accelerator.num_processes)


def same_on_every_rank(value: Any) -> Any:
    """The main process's `value`: ranks that decided for themselves could part ways, and wait for each other for ever.

    Every rank must call it. In one process it gives back what it is given.
    """
    return broadcast_object_list([value])[0]

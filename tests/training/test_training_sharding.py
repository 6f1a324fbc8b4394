"""What FSDP2 and DeepSpeed are told, and what is refused under them; none of it needs a GPU to be decided."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.models.precision import resolve_precision
from hfkit.recipe import TrainSection, load_recipe
from hfkit.training.arguments import training_arguments
from hfkit.training.optimizer import optimizer_name
from hfkit.training.sharding import keep_sums_in_float32
from hfkit.training.trainer import TrainedPositionsTrainer

if TYPE_CHECKING:
    from tests.conftest import RecipeWriter


@pytest.fixture
def fsdp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that Accelerate was asked to start for FSDP."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")


def test_sums_stay_in_float32_under_fsdp2() -> None:
    from accelerate import DistributedType
    from torch.distributed.fsdp import MixedPrecisionPolicy

    def told(kind: DistributedType, policy: MixedPrecisionPolicy | None) -> Any:
        plugin = SimpleNamespace(mixed_precision_policy=policy)
        state = SimpleNamespace(distributed_type=kind, fsdp_plugin=plugin)
        trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(state=state))
        keep_sums_in_float32(trainer)
        return plugin.mixed_precision_policy

    # As Accelerate makes it for bfloat16.
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16, output_dtype=torch.bfloat16)
    kept = told(DistributedType.FSDP, half)
    assert (kept.param_dtype, kept.reduce_dtype, kept.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert told(DistributedType.FSDP, None) is None
    assert told(DistributedType.MULTI_GPU, half) is half


def test_gradients_are_divided_after_each_micro_batch_under_fsdp(
    tiny_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accumulation() -> Any:
        arguments = training_arguments(
            load_recipe(tiny_recipe()), tmp_path, micro_batches=4, steps=2, precision=resolve_precision("fp32")
        )
        return arguments.accelerator_config.gradient_accumulation_kwargs

    assert accumulation() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert accumulation() == {"sync_each_batch": True}


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_an_optimizer_of_bitsandbytes_is_refused_under_fsdp(fsdp: None, optimizer: str) -> None:
    with pytest.raises(RequestError, match=f"{optimizer} does not work on weights that fsdp2 divides"):
        optimizer_name(TrainSection.model_validate({"optimizer": optimizer}))
    assert optimizer_name(TrainSection()) == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("deepspeed", "taken_over", "casts"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_until_deepspeed_takes_the_weights_over_what_is_computed_is_cast(
    deepspeed: bool, taken_over: bool, casts: bool
) -> None:
    from contextlib import nullcontext

    model = torch.nn.Linear(2, 2)
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(bf16=True, fp16=False, device=torch.device("cpu")),
        is_deepspeed_enabled=deepspeed,
        model=model,
        model_wrapped=object() if taken_over else model,
        # As Accelerate's is under DeepSpeed.
        accelerator=SimpleNamespace(autocast=nullcontext),
        compute_loss_context_manager=nullcontext,
    )
    with TrainedPositionsTrainer.number_format(trainer):
        assert torch.is_autocast_enabled("cpu") is casts
    assert not torch.is_autocast_enabled("cpu")

"""What a launcher was asked for against what it did: some start one process, or leave weights whole, without a word."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hfkit.errors import RequestError
from hfkit.processes import Processes, current_processes

if TYPE_CHECKING:
    from transformers import Trainer

# How an MPI launcher tells its processes how many they are.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def launched_processes() -> Processes:
    """The processes of this launch.

    Raises:
        RequestError: there are fewer than the launcher was asked for, or it is one that hfkit cannot work with.
    """
    if "WORLD_SIZE" not in os.environ:
        # Accelerate sets the first with every launch, and the second where several processes are wanted.
        if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
            raise RequestError(
                "accelerate launch was asked for several processes and started one: with --cpu, and with "
                "`distributed_type` MULTI_CPU or NO, it does so without a word. This starts them: "
                "`hfkit train RECIPE --launch cpu --processes 2`, which is "
                "`accelerate launch --config_file accelerate_configs/cpu.yaml --multi_gpu --num_processes 2 "
                "-m hfkit train RECIPE`"
            )
        for name in _MPI_SIZES:
            if os.environ.get(name, "1") != "1":
                raise RequestError(
                    f"{name}={os.environ[name]}: hfkit does not work under mpirun; start it with "
                    "`hfkit train RECIPE --launch NAME --processes N`"
                )
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
        # PyTorch would find GPUs all the same, and only a part of what is computed would go there.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if _asked_for("DEEPSPEED") and find_spec("deepspeed") is None:
        raise RequestError("DeepSpeed was asked for and is not installed; `pip install deepspeed`, or use fsdp2")
    if _asked_for("FSDP"):
        require_gpu_for_fsdp()
    return current_processes()


def require_as_asked(trainer: Trainer, processes: Processes) -> None:
    """Raises RequestError where the Trainer would train otherwise than the launcher was asked for."""
    from accelerate import DistributedType
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from hfkit.models.pissa import PissaModel

    state = trainer.accelerator.state
    if state.num_processes != processes.world_size or state.process_index != processes.rank:
        raise RequestError(
            f"process {processes.rank} of {processes.world_size} was launched, and Accelerate sees process "
            f"{state.process_index} of {state.num_processes}; start hfkit with `accelerate launch` or `torchrun`"
        )
    for asked, kind in (("FSDP", DistributedType.FSDP), ("DEEPSPEED", DistributedType.DEEPSPEED)):
        if _asked_for(asked) and state.distributed_type != kind:
            raise RequestError(
                f"{kind.value} was asked for and Accelerate chose {state.distributed_type.value}, which would leave "
                "all weights on each process; launch it with a file of accelerate_configs/"
            )
    if isinstance(trainer.model, PissaModel) and (_asked_for("FSDP") or is_deepspeed_zero3_enabled()):
        raise RequestError(
            "model.adapter.init: pissa needs all weights on each process, and these are divided over them; use init: "
            "default, or launch with ddp"
        )


def require_gpu_for_fsdp() -> None:
    """Raises RequestError on a machine without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise RequestError(
            "FSDP was asked for and there is no GPU: on a CPU Accelerate would keep all weights on each process (DDP) "
            "without a word. Use `--launch cpu --processes N`, or deepspeed_zero3, which divides them on CPUs too"
        )


def fsdp_was_asked_for() -> bool:
    """Whether the launcher was asked for FSDP."""
    return _asked_for("FSDP")


def weights_are_divided() -> bool:
    """Whether the launcher was asked to divide the weights over its processes: FSDP, or DeepSpeed ZeRO-3.

    Where the stage of ZeRO stands in DeepSpeed's own file and not in Accelerate's, it is taken to be 3.
    """
    return _asked_for("FSDP") or (
        _asked_for("DEEPSPEED") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3") == "3"
    )


def _asked_for(what: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"

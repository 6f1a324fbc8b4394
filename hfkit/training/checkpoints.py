"""Which checkpoint of an interrupted run can be continued from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from hfkit.errors import WorkError

# Hidden, so that what is only needed to continue is no part of the artifact.
CHECKPOINTS = ".checkpoints"

_STATES = ("optimizer.pt", "scheduler.pt")
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_INDEX = ".safetensors.index.json"


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end and that training can go on from.

    The Trainer writes `trainer_state.json` last; after a power cut it may stand beside files whose content never
    reached the disk, or that are not there at all, so those are looked at too: without its own state of the optimiser
    the Trainer would go on with a fresh one and not say so. The checkpoint of the very last step is passed over: the
    Trainer would take one more step after it.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            last = bool(state["global_step"] >= state["max_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not last and _has_state(checkpoint) and _has_weights(checkpoint):
            return checkpoint
    return None


def _has_state(checkpoint: Path) -> bool:
    """Whether optimiser, schedule and random numbers can be gone on with."""
    # The random numbers of each of many processes have a file of their own.
    random_states = list(checkpoint.glob("rng_state*.pth"))
    states = {*checkpoint.glob("*.pt"), *random_states, *(checkpoint / name for name in _STATES)}
    return bool(random_states) and all(zipfile.is_zipfile(state) for state in states)


def _has_weights(checkpoint: Path) -> bool:
    """Whether all weights are there: those of an adapter or of a model, or each shard that the model's index names."""
    indices = list(checkpoint.glob(f"*{_INDEX}"))
    if not indices and not any((checkpoint / name).is_file() for name in _WEIGHTS):
        return False
    weights = set(checkpoint.glob("*.safetensors"))
    for index in indices:
        try:
            weights |= {checkpoint / shard for shard in json.loads(index.read_bytes())["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
    return all(_readable(path) for path in weights)


def _readable(weights: Path) -> bool:
    """Whether the file's header fits its size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which it was written."""
    try:
        return int(checkpoint.name.removeprefix("checkpoint-"))
    except ValueError as error:
        raise WorkError(f"{checkpoint}: not a checkpoint that hfkit wrote; move it away") from error

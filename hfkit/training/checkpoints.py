"""Which checkpoint of an interrupted run can be continued from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from hfkit.errors import WorkError

# Hidden, so that what is only needed to continue is no part of the artifact.
CHECKPOINTS = ".checkpoints"


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end and that training can go on from.

    The Trainer writes `trainer_state.json` last; after a power cut it may stand beside files whose content never
    reached the disk, so those are looked at too. The checkpoint of the very last step is passed over: the Trainer would
    take one more step after it.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            last = bool(state["global_step"] >= state["max_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        states = [path for path in checkpoint.glob("*.pt*") if not zipfile.is_zipfile(path)]
        weights = list(checkpoint.glob("*.safetensors"))
        if not last and not states and weights and all(_readable(path) for path in weights):
            return checkpoint
    return None


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

"""The weights that a run leaves: the result, and those of the checkpoints that are kept beside it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hfkit.models.tuned import save_tuned
from hfkit.training.checkpoints import put_in_place
from hfkit.training.guard import JUDGED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KEPT = "checkpoints"
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class TrainedWeights:
    """Saves a model in training as `load_tuned` reads it: `adapter/` or `model/`, with the tokenizer.

    `stop_ids` are the tokens that end a reply: they go into generation_config.json, so that whoever generates with the
    weights, through whatever library, stops where training stopped.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: Sequence[int]

    def whole(self) -> dict[str, torch.Tensor] | None:
        """What is trained, put together where it is divided over processes; then all of them must call this."""
        from hfkit.training.gathering import whole_state

        return whole_state(self.model)

    def save(self, folder: Path, whole: dict[str, torch.Tensor] | None) -> None:
        from transformers import GenerationConfig

        target = save_tuned(self.model, folder, whole)
        self.tokenizer.save_pretrained(target)
        known = self.model.generation_config
        GenerationConfig(
            bos_token_id=None if known is None else known.bos_token_id,
            eos_token_id=self.stop_ids[0] if len(self.stop_ids) == 1 else list(self.stop_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id,
        ).save_pretrained(target)

    def keep(self, folder: Path, step: int, whole: dict[str, torch.Tensor] | None) -> None:
        """Save them as those of `step` below `folder`; a crash leaves them whole or not there."""
        partial = folder / KEPT / f".{_PREFIX}{step}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self.save(partial, whole)
            put_in_place(partial, kept_weights(folder, step))
        except BaseException:
            # A full disk has no room for halves.
            shutil.rmtree(partial, ignore_errors=True)
            raise


def kept_weights(folder: Path, step: int) -> Path:
    """Where those of `step` lie."""
    return folder / KEPT / f"{_PREFIX}{step}"


def kept_steps(folder: Path) -> list[int]:
    """The steps whose weights are there, ascending."""
    return sorted(int(path.name.removeprefix(_PREFIX)) for path in (folder / KEPT).glob(f"{_PREFIX}*"))


def rotate_kept(folder: Path, keep: int | Literal["all"], best: int | None, guarded_to: int | None = None) -> None:
    """Remove all but the newest `keep`, and the best.

    Args:
        guarded_to: the last step of a run that goes on under the guard: what the guard may send the user back to stays
            as well.
    """
    if keep == "all":
        return
    steps = kept_steps(folder)
    needed = {best, *steps[max(len(steps) - keep, 0) :]}
    if guarded_to is not None and keep > 0:
        # The next judgement may find that the loss left its course at any of the steps that it looks at. What will be
        # the newest from before them, later on, must be there too.
        before = [step for step in steps if step <= guarded_to - JUDGED]
        needed |= {*before[-1:], *steps[len(before) : len(before) + 1]}
    for step in steps:
        if step not in needed:
            shutil.rmtree(kept_weights(folder, step))
    if steps and not kept_steps(folder):
        (folder / KEPT).rmdir()


def set_kept_aside(folder: Path) -> Path | None:
    """Move all that were kept to a folder that says whose they are, and give it; None where none were."""
    if not kept_steps(folder):
        return None
    name, number = f"{KEPT}-of-the-interrupted-run", 1
    aside = folder / name
    while aside.exists():
        number += 1
        aside = folder / f"{name}-{number}"
    (folder / KEPT).rename(aside)
    return aside


def forget_kept_after(folder: Path, step: int) -> None:
    """Remove those of later steps, which a run that goes on from `step` makes again, and what was never finished."""
    for later in (each for each in kept_steps(folder) if each > step):
        shutil.rmtree(kept_weights(folder, later))
    for partial in (folder / KEPT).glob(f".{_PREFIX}*"):
        shutil.rmtree(partial)

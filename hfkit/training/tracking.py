"""Where the numbers of a run go while it trains, beside metrics.jsonl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from hfkit.recipe import Recipe
from hfkit.training.metrics_log import MetricsLine

TRACKIO = "trackio"

# Of the environment, what would send a run's numbers away from its folder.
_LEADS_AWAY = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_WEBHOOK_URL", "TRACKIO_BUCKET_ID", "SPACE_ID")
_SECONDS_TO_END = 60.0


class Tracker(Protocol):
    """Takes a run's numbers as they come. It never stops a run: what goes wrong with it is said and left."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """`numbers` by name, such as `train/loss`; steps do not fall, and may come twice with different names."""
        ...

    def finish(self) -> None:
        """The run is over, well or not. Returns when what was logged is safe."""
        ...


def start_trackers(
    recipe: Recipe, folder: Path, before: Sequence[MetricsLine], say: Callable[[str], None]
) -> list[Tracker]:
    """The recipe's trackers, which know the lines `before` from when the run was interrupted, each once."""
    # trackio is the one that there is; the next gets a branch here.
    trackers: list[Tracker] = [TrackioTracker(recipe, folder / name, say) for name in recipe.track]
    for tracker in trackers:
        for line in before:
            tracker.log(line.step, line.numbers)
    return trackers


class TrackioTracker:
    """trackio in the run's folder, offline: `TRACKIO_DIR=runs/NAME/train/trackio trackio show`.

    It runs in a process of its own. In ours it would take a second to import, print to standard output, start threads,
    and could serve one folder only. That process empties the folder first, so a run that was interrupted is not in it
    twice, and waits for one that is still busy there.

    Args:
        recipe: its name is the project's and the run's; what it holds is the run's configuration.
        folder: of the records.
        say: told of what goes wrong.
    """

    def __init__(self, recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
        self._say = say
        folder.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in _LEADS_AWAY}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hfkit.training.trackio_process", str(folder.absolute())],
            env=environment | {"TRACKIO_DIR": str(folder.absolute()), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._send({"project": recipe.name, "config": recipe.model_dump(mode="json", exclude_none=True)})

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._send({"step": step, "numbers": dict(numbers)})

    def finish(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code != 0:
            self._say(f"  trackio did not keep its record (it ended with {code}); metrics.jsonl has all of it")

    def _send(self, message: Mapping[str, JsonValue]) -> None:
        assert self._process.stdin is not None
        # That it has ended is said once, by finish().
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

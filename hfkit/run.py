"""One execution of a recipe, and its folder `runs/<recipe name>/`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfkit.artifact import MARKER, Artifact, DamagedArtifact, read_artifact, write_whole
from hfkit.errors import RequestError, WorkError
from hfkit.manifest import Manifest
from hfkit.progress import Progress
from hfkit.recipe import Recipe, dump_recipe
from hfkit.stage import STAGE_NAMES, Stage, StageContext, StageName

RUNS = Path("runs")
RECIPE = "recipe.yaml"
MANIFEST = "manifest.json"
_LOCK = ".lock"
_AIM = ".aim"


@dataclass(frozen=True, slots=True)
class Run:
    """A run's folder."""

    recipe: Recipe

    @property
    def folder(self) -> Path:
        return RUNS / self.recipe.name

    def finished(self, stage: StageName) -> Path:
        """Where a stage's whole artifact lies."""
        return self.folder / stage

    def workshop(self, stage: Stage) -> Path:
        """Where a stage builds: its finished folder if it works in place, else a hidden one beside it."""
        return self.finished(stage.name) if stage.in_place else self.folder / f".{stage.name}.partial"

    def open_workshop(self, stage: Stage, fingerprint: str) -> Path:
        """The folder to build in. What a killed stage left is kept if it was on the way to the same artifact."""
        folder = self.workshop(stage)
        if stage.in_place:
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        aim = folder / _AIM
        if folder.exists() and not (aim.exists() and aim.read_text(encoding="utf-8") == fingerprint):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(aim, fingerprint)
        return folder

    def context(self, stage: Stage, progress: Progress) -> StageContext:
        """What `stage` is given in this run."""
        upstream = {name: self.finished(name) for name in stage.needs(self.recipe)}
        return StageContext(self.recipe, self.workshop(stage), upstream, progress)

    def artifact(self, stage: StageName) -> Artifact:
        """What `stage` left. Raises WorkError where it has not finished, DamagedArtifact where it is not whole."""
        try:
            artifact = read_artifact(self.finished(stage))
        except DamagedArtifact as error:
            raise DamagedArtifact(f"{error}; run `hfkit run` with this recipe to make it again") from error
        if artifact is None:
            raise WorkError(
                f"{self.finished(stage)}: the {stage} stage has not finished; run `hfkit run` with this recipe"
            )
        return artifact

    def write_recipe(self) -> None:
        write_whole(self.folder / RECIPE, dump_recipe(self.recipe))

    def write_manifest(self) -> None:
        """Say in `manifest.json` which stages are whole, and leave it alone where it says so already."""
        stages = {}
        for name in STAGE_NAMES:
            try:
                artifact = read_artifact(self.finished(name))
            except DamagedArtifact:
                continue
            if artifact is not None:
                stages[name] = artifact
        manifest = Manifest(recipe=self.recipe.name, stages=stages)
        text = manifest.model_dump_json(indent=2) + "\n"
        path = self.folder / MANIFEST
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_whole(path, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time works in a run's folder. Raises RequestError where another one does."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RequestError(f"{self.folder}: another hfkit process works in this folder; wait for it") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def watched(self, stage: Stage) -> Iterator[None]:
        """While `stage` works. Raises WorkError, in the place of whatever came of it, where somebody deleted or moved a
        folder that it works with."""
        # Files that are there from before the work begins to its end. A folder says less: whoever writes makes it anew.
        marks = [self.folder / _LOCK, *(self.finished(need) / MARKER for need in stage.needs(self.recipe))]
        if not stage.in_place:
            marks.append(self.workshop(stage) / _AIM)
        try:
            yield
        except Exception as error:
            self._require_all(marks, stage.name, error)
            raise
        self._require_all(marks, stage.name, None)

    def _require_all(self, marks: Sequence[Path], stage: StageName, cause: Exception | None) -> None:
        gone = next((mark.parent for mark in marks if not mark.is_file()), None)
        if gone is not None:
            raise WorkError(
                f"{gone}: was deleted or moved while the {stage} stage worked with it; run the same command again, "
                "which makes anew what is gone, and leave the folder where it is until the run ends"
            ) from cause

    @contextmanager
    def logging_to(self, stage: StageName, rank: int = 0) -> Iterator[None]:
        """Everything that hfkit and the libraries log while a stage runs goes to `logs/<stage>.log`; what another
        process than the main one logs, to `logs/<stage>.rank-<rank>.log`."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        name = f"{stage}.log" if rank == 0 else f"{stage}.rank-{rank}.log"
        handler = logging.FileHandler(logs / name, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        before = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(before)
            handler.close()

"""A finished run made by hand, quickly and without training, and a Hub to publish it to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hfkit.artifact import Artifact, record_files, write_artifact
from hfkit.data.prepare import prepare
from hfkit.environment import describe_environment
from hfkit.evaluation.result import Difference, EvaluateResult, GateResult, MetricInfo, Score, TaskResult
from hfkit.pipeline import StageOutcome, _fingerprint
from hfkit.progress import Progress
from hfkit.provenance import input_digests
from hfkit.recipe import load_recipe
from hfkit.stage import StageContext, StageName
from hfkit.stages import STAGES
from tests.hub.hub_server import Account, HubServer
from tests.hub.warm import Warm

TOKEN = "hf_" + "aB3" * 11 + "x"
READ_TOKEN = "hf_" + "cD4" * 11 + "y"
BASE = "ada/tiny-model"
PUBLISHED_STAGES: tuple[StageName, ...] = ("data", "train", "evaluate")


@pytest.fixture
def hub(_hub: HubServer) -> HubServer:
    """An empty Hub on which ada may write with TOKEN, and read with READ_TOKEN."""
    _hub.forget()
    _hub.tokens[TOKEN] = Account("ada", orgs={"harbour": "write", "museum": "read"})
    _hub.tokens[READ_TOKEN] = Account("ada", role="read")
    return _hub


@pytest.fixture(scope="session")
def _hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def _warm(_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    warm = Warm(_environment(_hub, tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("said"))
    yield warm
    warm.close()


def _environment(hub: HubServer, home: Path) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
    }


class Published:
    """The workplace with a finished run, and `hfkit publish` in a process of its own that talks to the Hub."""

    def __init__(self, folder: Path, hub: HubServer, recipe: Path, warm: Warm) -> None:
        self.folder, self.hub, self.recipe, self._warm = folder, hub, recipe, warm

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "tiny"

    def environment(self, **changed: str | None) -> dict[str, str]:
        environment: dict[str, str | None] = {**_environment(self.hub, self.folder / "home"), **changed}
        return {name: value for name, value in environment.items() if value is not None}

    def __call__(
        self, *overrides: str, verb: str = "publish", **environment: str | None
    ) -> subprocess.CompletedProcess[str]:
        return self.hfkit(verb, str(self.recipe), *overrides, **environment)

    def hfkit(self, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
        if {"HF_ENDPOINT", "HF_HUB_OFFLINE"}.isdisjoint(environment):
            return self._warm(list(arguments), self.folder, environment)
        return subprocess.run(
            [sys.executable, "-m", "hfkit", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def python(self, code: str, **environment: str | None) -> str:
        """What a program prints that talks to the Hub."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rewrite(self, **sections: Any) -> None:
        """Change sections of the recipe; keys of mappings are merged."""
        written = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
        for name, section in sections.items():
            written[name] = {**written.get(name, {}), **section} if isinstance(section, Mapping) else section
        self.recipe.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")


@pytest.fixture
def run_to_publish(workplace: Path, hub: HubServer, tiny_model: Path, _run_by_hand: Path, _warm: Warm) -> Published:
    """A run whose stages are whole: real prepared data, a real adapter with random weights, an evaluation that is
    written down. Its base model is on the Hub too."""
    base = hub.create("model", BASE)
    base.push({path.name: path.read_bytes() for path in tiny_model.iterdir()}, "the base model")
    shutil.copytree(_run_by_hand, workplace, dirs_exist_ok=True)
    return Published(workplace, hub, workplace / "tiny.yaml", _warm)


@pytest.fixture(scope="session")
def _run_by_hand(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("by-hand")
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(_recipe(tiny_model), sort_keys=False), encoding="utf-8")
    rows = [_row(number) for number in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finish(recipe)
    return folder


def _row(number: int) -> dict[str, Any]:
    return {
        "question": f"How long is rope {number}?",
        "context": f"Rope {number} is {number + 3} ells long and lies in locker {number * 7}.",
        "answer": f"{number + 3} ells",
    }


def _recipe(base: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {"base": str(base), "precision": "fp32", "adapter": {"rank": 4, "alpha": 8}},
        "data": {"sources": [{"path": "rows.jsonl"}], "splits": {"test": 0.25}, "max_length": 256},
        "train": {"epochs": 1, "batch_size": 4},
        "evaluate": {"tasks": ["grounded_answers"], "max_new_tokens": 8},
        "hub": {"repo": "ada/reader", "base_model": BASE, "license": "apache-2.0", "language": ["en"]},
    }


def finish(path: Path, *, gates: tuple[GateResult, ...] = (), reader_says: str = "") -> None:
    """Leave artifacts of data, train and evaluate that are up to date with the recipe."""
    recipe = load_recipe(path)
    assert recipe.model is not None
    run = Path("runs") / recipe.name
    outcomes: dict[StageName, StageOutcome] = {}
    for name in PUBLISHED_STAGES:
        folder = run / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "data":
            result = prepare(StageContext(recipe, folder, {}, Progress(quiet=True))).model_dump(mode="json")
        elif name == "train":
            train_by_hand(Path(recipe.model.base), folder)
            result = {"steps": 8, "loss": 1.5, "precision": "fp32", "trained_parameters": 5120, "parameters": 70000}
        else:
            (folder / "report.md").write_text(f"## Evaluation\n{reader_says}\n", encoding="utf-8")
            (folder / "report.json").write_text("{}\n", encoding="utf-8")
            (folder / "report.html").write_text("<!doctype html><title>Evaluation</title>", encoding="utf-8")
            result = evaluation(gates).model_dump(mode="json")
        artifact = Artifact(
            stage=name,
            fingerprint=_fingerprint(STAGES[name], recipe, outcomes),
            files=record_files(folder),
            finished="2026-11-01T12:00:00+00:00",
            seed=recipe.seed,
            seconds=90.0,
            peak_memory_bytes=2**30,
            environment=describe_environment(),
            inputs=input_digests(STAGES[name].reads(recipe)),
            result=result,
        )
        write_artifact(folder, artifact)
        outcomes[name] = StageOutcome(artifact, made_now=True)


def train_by_hand(base: Path, folder: Path) -> None:
    """An adapter with random weights on both sides, so that it changes what the base model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False),
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(
        folder / "adapter"
    )


def evaluation(gates: tuple[GateResult, ...] = ()) -> EvaluateResult:
    def score(value: float) -> Score:
        return Score(value=value, interval=(value - 0.1, value + 0.1), rows=10, groups=10)

    difference = Difference(
        metric="token_f1",
        model="tuned",
        reference="base",
        difference=0.5,
        interval=(0.3, 0.7),
        p_value=0.001,
        p_adjusted=0.001,
        test="permutation",
        effect_size=1.2,
        rows_needed=None,
        in_words="tuned is better by 0.500",
    )
    task = TaskResult(
        kind="generation",
        title="Answers",
        rows=10,
        groups=10,
        metrics=(MetricInfo(name="token_f1", title="token F1", higher_is_better=True, is_binary=False),),
        scores={"base": {"token_f1": score(0.2)}, "tuned": {"token_f1": score(0.7)}},
        differences=(difference,),
    )
    return EvaluateResult(
        models={"base": "the base model", "tuned": "the tuned model"}, tasks={"grounded_answers": task}, gates=gates
    )


def rewrite_result(folder: Path, result: dict[str, Any] | None = None) -> None:
    """Record the files of a finished stage, or its result, as they are now, as if the stage had left them so."""
    artifact = read_artifact_unchecked(folder)
    changed: dict[str, Any] = {"files": record_files(folder)} | ({} if result is None else {"result": result})
    write_artifact(folder, artifact.model_copy(update=changed))


def read_artifact_unchecked(folder: Path) -> Artifact:
    return Artifact.model_validate_json((folder / "artifact.json").read_text(encoding="utf-8"))

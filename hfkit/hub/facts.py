"""What a finished run knows of itself, as cards and plans need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import Artifact, read_artifact
from hfkit.data.builtin_templates import BUILTIN
from hfkit.data.card import DataResult
from hfkit.data.conversation import Conversation
from hfkit.data.prepared import read_examples
from hfkit.environment import Hardware
from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.result import EvaluateResult, GateResult
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.models.tuned import ADAPTER, MODEL
from hfkit.recipe import HubSection, ModelSection, Recipe
from hfkit.stage import StageName
from hfkit.training.metrics_log import METRICS, read_metrics

# As tokenizers save it.
TEMPLATE = "chat_template.jinja"

# The Hub's names of the models whose weights come from the package index, and what was done to them on the way.
_EMBEDDED = {
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2",
}


class Trained(BaseModel):
    """What of a train stage's result stands in a card. `loss` is in nats a trained token."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    steps: int
    loss: float
    precision: str
    trained_parameters: int
    parameters: int
    processes: int = 1


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that is to be published: its recipe, and the artifacts and folders of its stages. `is_grounded` says
    whether the model was trained to answer from passages."""

    recipe: Recipe
    hub: HubSection
    artifacts: Mapping[StageName, Artifact]
    folders: Mapping[StageName, Path]
    is_grounded: bool

    @property
    def model(self) -> ModelSection:
        assert self.recipe.model is not None
        return self.recipe.model

    @property
    def data(self) -> DataResult:
        return DataResult.model_validate(self.artifacts["data"].result)

    @property
    def trained(self) -> Trained:
        return Trained.model_validate(self.artifacts["train"].result)

    @property
    def seconds_of_training(self) -> float:
        """Of all the processes that worked on it: the stage's own are those of the one that finished it."""
        lines = read_metrics(self.folders["train"] / METRICS)
        return max([self.artifacts["train"].seconds, *(line.seconds for line in lines[-1:])])

    @property
    def hardware_of_training(self) -> Hardware:
        """With the GPUs that were used: one a process."""
        hardware = self.artifacts["train"].environment.hardware
        return hardware.model_copy(update={"gpus": hardware.gpus[: self.trained.processes]})

    @property
    def evaluated(self) -> EvaluateResult | None:
        artifact = self.artifacts.get("evaluate")
        return None if artifact is None else EvaluateResult.model_validate(artifact.result)

    @property
    def failed_gates(self) -> tuple[GateResult, ...]:
        result = self.evaluated
        return () if result is None else tuple(gate for gate in result.gates if not gate.holds)

    @property
    def trains_adapter(self) -> bool:
        return (self.folders["train"] / ADAPTER).is_dir()

    @property
    def trained_folder(self) -> Path:
        """Weights, tokenizer and generation settings of what was trained."""
        return self.folders["train"] / (ADAPTER if self.trains_adapter else MODEL)

    @property
    def publishes_adapter(self) -> bool:
        return self.trains_adapter and self.hub.weights == "adapter"

    @property
    def revision(self) -> str | None:
        """Where on the Hub model and dataset are found: the tag or the branch; None for main."""
        return self.hub.tag or self.hub.branch

    @property
    def base_id(self) -> str | None:
        """The base model's id on the Hub; None for a folder that the recipe names no id for."""
        return hub_id(self.model.base) or self.hub.base_model


def gather_facts(recipe: Recipe, folders: Mapping[StageName, Path]) -> RunFacts:
    """Read the artifacts in `folders`. Raises WorkError where one is not there, or is damaged."""
    assert recipe.hub is not None
    artifacts: dict[StageName, Artifact] = {}
    for name, folder in folders.items():
        artifact = read_artifact(folder)
        if artifact is None:
            raise WorkError(f"{folder}: the {name} stage has not finished; run `hfkit run` with this recipe")
        artifacts[name] = artifact
    first = next(read_examples(folders["data"], "train"), None)
    is_grounded = isinstance(first, Conversation) and first.grounding is not None
    facts = RunFacts(recipe, recipe.hub, artifacts, folders, is_grounded)
    require_base(facts)
    return facts


def portable_recipe(facts: RunFacts) -> Recipe:
    """The run's recipe without what only this machine has: a base model's folder, where its Hub id is known, and the
    path of a chat template, which is published as chat_template.jinja beside the recipe."""
    model = facts.model
    changed: dict[str, object] = {}
    if hub_id(model.base) is None and facts.base_id is not None:
        changed["base"] = facts.base_id
    if model.chat_template is not None and not str(model.chat_template).startswith(BUILTIN):
        changed["chat_template"] = Path(TEMPLATE)
    if not changed:
        return facts.recipe
    return facts.recipe.model_copy(update={"model": model.model_copy(update=changed)})


def hub_id(reference: str) -> str | None:
    """The id on the Hub of what a recipe calls `reference`; None for a folder."""
    if reference.startswith(PREFIX):
        return _EMBEDDED[embedded_model(reference).name]
    return None if Path(reference).exists() else reference


def require_base(facts: RunFacts) -> None:
    """Raises RequestError where nobody else could load what is published."""
    if facts.publishes_adapter and facts.base_id is None:
        raise RequestError(
            f"hub.base_model: an adapter is loaded on top of its base model, and {facts.model.base} is a folder of "
            "this machine; give its Hub id in hub.base_model, or publish hub.weights=merged"
        )
    if facts.hub.space is None:
        return
    assert facts.recipe.rag is not None  # as the recipe's own check asks
    embedder = facts.recipe.rag.embedder
    for key, reference, id in (
        ("model.base", facts.model.base, facts.base_id),
        ("rag.embedder", embedder, hub_id(embedder)),
    ):
        if id is None:
            raise RequestError(
                f"hub.space: the Space loads the models that the recipe names, and {key} is a folder of this machine "
                f"({reference}); name a Hub id or an embedded model there"
            )

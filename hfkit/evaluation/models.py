"""The models of an evaluation: what each is, what its answers depend on, and how it is loaded, a base only once."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from hfkit.artifact import FileRecord, file_sha256, read_artifact
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.models.identity import model_identity, template_identity
from hfkit.models.tuned import ADAPTER, MODEL, attach_adapter, load_tuned
from hfkit.recipe import EndpointModel, LoadedModel, ModelSection, OfModel
from hfkit.recipe.asked_models import CHECKPOINT
from hfkit.stage import StageContext
from hfkit.training.weights import KEPT, kept_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MERGED = ".merged"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model that is loaded here.

    Attributes:
        label: as gates and tables say it.
        words: what it is.
        settings: base, number format and chat template.
        trained: a folder with an adapter, or with `adapter/` or `model/`, that goes onto the base; None for the base.
        merges: whether the adapter is merged into the base first.
        step: the optimiser step that it was saved at; None for what is no checkpoint.
        is_optional: it is left out with a remark where it cannot be loaded, instead of ending the evaluation.
        chat: whether its tokenizer must have a chat template.
    """

    label: str
    words: str
    settings: ModelSection
    trained: Path | None = None
    merges: bool = False
    step: int | None = None
    is_optional: bool = False

    def identity(self, files: Sequence[FileRecord]) -> dict[str, JsonValue]:
        """What its answers depend on. `files` are those of the train stage's artifact."""
        settings = self.settings
        trained: dict[str, JsonValue] | None = None
        if self.trained is not None:
            trained = _weights(self.trained, files)
        return {
            "model": settings.model_dump(mode="json", exclude={"adapter"}),
            "base": model_identity(settings.base, settings.revision),
            "chat_template": template_identity(settings.chat_template),
            "trained": trained,
            "merged": self.merges,
        }


AnyModel = LocalModel | EndpointModel


def models_of(context: StageContext) -> list[AnyModel]:
    """The models that the recipe asks, in order; `checkpoints` becomes one for each that was kept.

    Raises:
        RequestError: there is no such checkpoint, or none at all.
    """
    recipe = context.recipe
    assert recipe.evaluate is not None
    found: list[AnyModel] = []
    for asked in recipe.evaluate.asked(trains=recipe.train is not None):
        if isinstance(asked, EndpointModel):
            found.append(asked)
        elif isinstance(asked, LoadedModel):
            assert recipe.model is not None
            found.append(_loaded(asked, recipe.model))
        else:
            found += _of_the_run(asked, context)
    labels = [model_label(model) for model in found]
    for position, label in enumerate(labels):
        if label in labels[:position]:
            raise RequestError(f"evaluate.models: {label} is asked twice; leave one of them out")
    return found


def model_label(model: AnyModel) -> str:
    return model.name if isinstance(model, EndpointModel) else model.label


def model_words(model: AnyModel) -> str:
    if isinstance(model, EndpointModel):
        return f"{model.model} at {model.endpoint}"
    return model.words


def _of_the_run(asked: str | OfModel, context: StageContext) -> list[LocalModel]:
    settings = context.recipe.model
    assert settings is not None
    trained = context.upstream.get("train")
    if isinstance(asked, OfModel):
        (whole,) = _of_the_run(asked.of, context)
        settings = settings.model_copy(update={"quantization": asked.quantization})
        words = f"{whole.words}, in {asked.quantization}"
        return [LocalModel(asked.name, words, settings, whole.trained, step=whole.step)]
    if asked in ("nf4", "int8"):
        settings = settings.model_copy(update={"quantization": asked})
        which = "the tuned model" if trained is not None else settings.base
        return [LocalModel(asked, f"{which}, in {asked}", settings, trained)]
    if asked == "base":
        return [LocalModel("base", settings.base, settings)]
    assert trained is not None
    if asked == "tuned":
        return [LocalModel("tuned", f"{settings.base} as the train stage left it", settings, trained)]
    if asked == "merged":
        if not (trained / ADAPTER).is_dir():
            raise RequestError("evaluate.models: merged needs an adapter, and all weights were trained; leave it out")
        plain = settings.model_copy(update={"quantization": None})
        return [LocalModel("merged", f"{settings.base} with the adapter merged into it", plain, trained, merges=True)]
    steps = kept_steps(trained)
    if not steps:
        raise RequestError(f"evaluate.models: {asked}: no checkpoint was kept; see train.keep_checkpoints")
    if asked == "checkpoints":
        return [_checkpoint(step, settings, trained, is_optional=True) for step in steps]
    named = CHECKPOINT.fullmatch(asked)
    assert named is not None
    if int(named[1]) not in steps:
        there = ", ".join(f"checkpoint-{step}" for step in steps)
        raise RequestError(f"evaluate.models: there is no {asked}; kept are {there} (see train.keep_checkpoints)")
    return [_checkpoint(int(named[1]), settings, trained, is_optional=False)]


def _checkpoint(step: int, settings: ModelSection, trained: Path, *, is_optional: bool) -> LocalModel:
    folder = trained / KEPT / f"step-{step}"
    words = f"the run's checkpoint after step {step}"
    return LocalModel(f"checkpoint-{step}", words, settings, folder, step=step, is_optional=is_optional)


def _loaded(asked: LoadedModel, own: ModelSection) -> LocalModel:
    folder = Path(asked.load)
    if (folder / "adapter_config.json").is_file() or (folder / ADAPTER / "adapter_config.json").is_file():
        settings = own.model_copy(update={"quantization": asked.quantization or own.quantization})
        return LocalModel(asked.name, f"the adapter {asked.load} on {own.base}", settings, folder)
    place = str(folder / MODEL) if (folder / MODEL).is_dir() else asked.load
    update: dict[str, object] = {
        "base": place,
        "revision": asked.revision,
        "quantization": asked.quantization,
        "trust_remote_code": False,
    }
    # Without a template of its own, what was saved by a run is asked as the recipe asks its own base.
    if place == asked.load:
        update |= {"chat_template": None, "template_arguments": {}}
    return LocalModel(asked.name, asked.load, own.model_copy(update=update))


def _weights(trained: Path, files: Sequence[FileRecord]) -> dict[str, JsonValue]:
    """The hashes of the files that hold what was trained, as recorded where the train stage recorded them."""
    known = {record.path: record.sha256 for record in files}
    found: dict[str, JsonValue] = {}
    for path in sorted(trained.rglob("*.safetensors")):
        inside = path.relative_to(trained).as_posix()
        if trained.parent.name != KEPT and inside.startswith(f"{KEPT}/"):
            continue
        recorded = f"{KEPT}/{trained.name}/{inside}" if trained.parent.name == KEPT else inside
        found[inside] = known.get(recorded) or file_sha256(path)
    return found


def trained_files(context: StageContext) -> tuple[FileRecord, ...]:
    """The files of the train stage's artifact; none where it is not needed."""
    if "train" not in context.upstream:
        return ()
    artifact = read_artifact(context.upstream["train"])
    return () if artifact is None else artifact.files


class Loader:
    """Loads models one after the other. Adapters of one base share it: it is loaded once, whoever comes next."""

    def __init__(self, workshop: Path) -> None:
        self._workshop = workshop
        self._base: ModelSection | None = None
        self._model: PreTrainedModel | None = None
        self._attached: set[str] = set()
        self._renderers: list[tuple[ModelSection, bool, Renderer]] = []

    def renderer(self, local: LocalModel, *, chat: bool) -> Renderer:
        """What renders this model's prompts. `chat` is False where only plain text is asked."""
        from hfkit.models.loading import load_renderer

        for settings, for_chat, renderer in self._renderers:
            if (settings, for_chat) == (local.settings, chat):
                return renderer
        renderer = load_renderer(local.settings, chat=chat)
        self._renderers.append((local.settings, chat, renderer))
        return renderer

    def load(self, local: LocalModel) -> PreTrainedModel:
        """The model, ready to answer. What an earlier call gave is not to be used any longer.

        Raises:
            RequestError: it cannot be had, or is not whole.
        """
        from hfkit.models.adapters import use_adapter
        from hfkit.models.loading import load_model

        if local.merges or (local.trained is not None and (local.trained / MODEL).is_dir()):
            self._forget()
            return self._whole(local)
        if self._model is None or self._base != local.settings:
            self._forget()
            self._model, _ = load_model(local.settings)
            self._base = local.settings
        if local.trained is None:
            use_adapter(self._model, None)
        elif local.label in self._attached:
            use_adapter(self._model, local.label)
        else:
            self._model = attach_adapter(self._model, local.trained, local.label)
            self._attached.add(local.label)
        self._model.eval()
        return self._model

    def _whole(self, local: LocalModel) -> PreTrainedModel:
        assert local.trained is not None
        if not local.merges:
            return load_tuned(local.settings, local.trained)[0]
        from hfkit.models.loading import load_model
        from hfkit.models.merging import merge_adapter

        target = self._workshop / MERGED
        if not target.is_dir():
            merge_adapter(local.settings, local.trained, target)
        return load_model(local.settings.model_copy(update={"base": str(target), "revision": None}))[0]

    def _forget(self) -> None:
        """Give the memory back before another model needs it."""
        self._model, self._base, self._attached = None, None, set()
        gc.collect()


def described(models: Sequence[AnyModel]) -> Mapping[str, str]:
    return {model_label(model): model_words(model) for model in models}

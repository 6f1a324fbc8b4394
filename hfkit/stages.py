"""The stages that there are, and the order in which a recipe's run takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, JsonValue

from hfkit.artifact import Artifact, file_sha256
from hfkit.models.identity import model_identity, template_identity
from hfkit.recipe import AnyTask, CodeTask, LoadedModel, OwnTask, Recipe, SynthesizeSource
from hfkit.recipe.asked_models import needs_training
from hfkit.stage import Stage, StageContext, StageName


def _index_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    from rag.chunking import CHUNKER_VERSION
    from rag.documents import fingerprint_sources
    from rag.schema import FORMAT_VERSION

    assert recipe.rag is not None
    return {
        "rag": recipe.rag.model_dump(mode="json", exclude={"search"}),
        "embedder": model_identity(recipe.rag.embedder, recipe.rag.revision),
        "documents": fingerprint_sources(recipe.rag.documents, recipe.rag.hosts),
        "chunker": CHUNKER_VERSION,
        "format": FORMAT_VERSION,
    }


def _data_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    from hfkit.data.sources import identify_source
    from rag.answer import grounded_messages

    assert recipe.data is not None
    reads: dict[str, JsonValue] = {
        # Whether rows are packed is decided when they are trained.
        "data": recipe.data.model_dump(mode="json", exclude={"packing"}),
        "sources": [identify_source(s) for s in recipe.data.sources if not isinstance(s, SynthesizeSource)],
        "seed": recipe.seed,
    }
    if recipe.model is not None:
        # Tokens are what is prepared, so whatever makes the tokens is an input.
        reads["tokenizer"] = model_identity(recipe.model.base, recipe.model.revision)
        reads["chat_template"] = template_identity(recipe.model.chat_template)
        reads["template_arguments"] = dict(recipe.model.template_arguments)
    if (recipe.data.quality.emails, recipe.data.quality.secrets) != ("keep", "keep"):
        # What was prepared before names of groups went through these gates, or before values without quotes were
        # looked at, may hold what they keep out.
        reads["gates"] = "groups too" if recipe.data.quality.secrets == "keep" else "values without quotes too"
    if recipe.rag is not None and _synthesises(recipe):
        reads["search"] = recipe.rag.search.mode
        # Whoever words the prompt anew must train anew.
        reads["prompt"] = [message["content"] for message in grounded_messages("question", [])]
    return reads


def _train_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    assert recipe.model is not None and recipe.train is not None
    # How often is logged and saved, how a step's rows are split up, what is computed twice, and when a run counts as
    # broken do not change what comes out.
    unread = {"log_steps", "save_steps", "keep_checkpoints", "micro_batch_size", "divergence_guard"}
    unread |= {"gradient_checkpointing"}
    train = recipe.train.model_dump(mode="json", exclude=unread)
    # Which format they are read from is no other weights.
    model = recipe.model.model_dump(mode="json", exclude={"pickled_weights"})
    reads: dict[str, JsonValue] = {"model": model, "train": train, "seed": recipe.seed}
    if recipe.model.adapter is not None and recipe.model.adapter.start_from is not None:
        reads["start_from"] = model_identity(str(recipe.model.adapter.start_from), None)
    return reads


def _evaluate_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    from rag.qrels import judged_files

    assert recipe.evaluate is not None
    # How many rows are answered together does not change what comes out.
    settings = recipe.evaluate.model_dump(mode="json", exclude={"batch_size"})
    reads: dict[str, JsonValue] = {"evaluate": settings, "seed": recipe.seed}
    reads["tasks"] = [_task_identity(task) for task in recipe.evaluate.tasks]
    reads["models"] = _asked_models(recipe)
    if recipe.evaluate.harness is not None:
        reads["harness"] = {str(path): file_sha256(path) for path in recipe.evaluate.harness.files()}
    section = recipe.evaluate.retrieval
    if section is not None and recipe.rag is not None:
        reads["search"] = recipe.rag.search.model_dump(mode="json")
        if recipe.rag.search.rerank is not None:
            reads["reranker"] = model_identity(recipe.rag.search.rerank, None)
        splits = [section.split] if section.tune is None else [section.split, section.tune]
        files = [path for split in splits for path in judged_files(section.folder, split)]
        reads["judgements"] = {str(path): file_sha256(path) for path in files}
    return reads


def _task_identity(task: AnyTask) -> JsonValue:
    """What a task's rows come from, beside the recipe's own data."""
    from hfkit.data.sources import identify_source

    if isinstance(task, str):
        return task
    if isinstance(task, CodeTask):
        path = Path(task.file.rpartition(":")[0])
        return file_sha256(path) if path.is_file() else None
    rows = identify_source(task.source("test"))
    if isinstance(task, OwnTask) and (schemas := task.schema_files()):
        return {"rows": rows, "schemas": {str(p): file_sha256(p) if p.is_file() else None for p in schemas}}
    return rows


def _asked_models(recipe: Recipe) -> JsonValue:
    """What the models stand for that are not the train stage's."""
    assert recipe.evaluate is not None
    if recipe.model is None or not recipe.evaluate.asks_models:
        return None
    loaded = [model for model in recipe.evaluate.models or () if isinstance(model, LoadedModel)]
    judge = None if recipe.evaluate.judge is None else recipe.evaluate.judge.load
    return {
        "model": recipe.model.model_dump(mode="json", exclude={"adapter", "pickled_weights"}),
        "base": model_identity(recipe.model.base, recipe.model.revision),
        "chat_template": template_identity(recipe.model.chat_template),
        "loaded": {model.name: model_identity(model.load, model.revision) for model in loaded},
        "judge": None if judge is None else model_identity(judge, None),
    }


def _publish_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    assert recipe.hub is not None
    # The recipe itself is published. What publishing is not refused for changes nothing in what is.
    return {"recipe": recipe.model_dump(mode="json", exclude={"hub": {"despite"}})}


def _publish_needs(recipe: Recipe) -> tuple[StageName, ...]:
    assert recipe.hub is not None
    needs: tuple[StageName, ...] = ("data", "train")
    if recipe.evaluate is not None:
        needs += ("evaluate",)
    return (*needs, "index") if recipe.hub.index or recipe.hub.space is not None else needs


def _evaluate_needs(recipe: Recipe) -> tuple[StageName, ...]:
    assert recipe.evaluate is not None
    needs: tuple[StageName, ...] = ()
    if any(task in ("grounded_answers", "conversations") for task in recipe.evaluate.tasks):
        needs += ("data",)
    asked = recipe.evaluate.asked(trains=recipe.train is not None) if recipe.evaluate.asks_models else ()
    if any(needs_training(model) for model in asked):
        needs += ("train",)
    if "retrieval" in recipe.evaluate.tasks:
        needs += ("index",)
    return needs


def _synthesises(recipe: Recipe) -> bool:
    return recipe.data is not None and any(isinstance(source, SynthesizeSource) for source in recipe.data.sources)


def _run_index(context: StageContext) -> BaseModel:
    from hfkit.indexing import run_index

    return run_index(context)


def _run_data(context: StageContext) -> BaseModel:
    from hfkit.data.prepare import prepare

    return prepare(context)


def _run_train(context: StageContext) -> BaseModel:
    from hfkit.training.sft import train

    return train(context)


def _run_evaluate(context: StageContext) -> BaseModel:
    from hfkit.evaluation.evaluate import evaluate

    return evaluate(context)


def _run_publish(context: StageContext) -> BaseModel:
    from hfkit.hub.publish import publish

    return publish(context)


def _publish_lost(context: StageContext, artifact: Artifact) -> str | None:
    from hfkit.hub.publish import lost

    return lost(context, artifact)


STAGES: Mapping[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage("index", 1, True, _index_reads, lambda recipe: (), _run_index),
        Stage("data", 2, False, _data_reads, lambda recipe: ("index",) if _synthesises(recipe) else (), _run_data),
        Stage("train", 3, False, _train_reads, lambda recipe: ("data",), _run_train, on_all_ranks=True),
        Stage("evaluate", 2, False, _evaluate_reads, _evaluate_needs, _run_evaluate),
        Stage("publish", 1, False, _publish_reads, _publish_needs, _run_publish, lost=_publish_lost),
    )
}

# An index that no other stage needs comes last: a recipe's model matters to nobody before it is trained.
_ORDER_OF_WISHES: tuple[StageName, ...] = ("data", "train", "evaluate", "index", "publish")


def wanted_stages(recipe: Recipe) -> tuple[StageName, ...]:
    """The stages that `recipe` names, each after those it needs."""
    sections = {
        "data": recipe.data,
        "train": recipe.train,
        "evaluate": recipe.evaluate,
        "index": recipe.rag,
        "publish": recipe.hub,
    }
    return closure([name for name in _ORDER_OF_WISHES if sections[name] is not None], recipe)


def closure(wanted: Sequence[StageName], recipe: Recipe) -> tuple[StageName, ...]:
    """`wanted` and all that they need, each after its needs."""
    ordered: list[StageName] = []

    def visit(name: StageName) -> None:
        for needed in STAGES[name].needs(recipe):
            visit(needed)
        if name not in ordered:
            ordered.append(name)

    for name in wanted:
        visit(name)
    return tuple(ordered)

"""The stages that there are, and the order in which a recipe's run takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, JsonValue

from hfkit.artifact import file_sha256, fingerprint_of
from hfkit.data.builtin_templates import BUILTIN, builtin_template
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.recipe import Recipe, SynthesizeSource
from hfkit.stage import Stage, StageContext, StageName


def _index_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    from rag.chunking import CHUNKER_VERSION
    from rag.database import FORMAT_VERSION
    from rag.documents import fingerprint_sources

    assert recipe.rag is not None
    return {
        "rag": recipe.rag.model_dump(mode="json", exclude={"search"}),
        "embedder": _model_identity(recipe.rag.embedder, recipe.rag.revision),
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
        reads["tokenizer"] = _model_identity(recipe.model.base, recipe.model.revision)
        reads["chat_template"] = _template_identity(recipe.model.chat_template)
        reads["template_arguments"] = dict(recipe.model.template_arguments)
    if recipe.rag is not None and _synthesises(recipe):
        reads["search"] = recipe.rag.search.mode
        # Whoever words the prompt anew must train anew.
        reads["prompt"] = [message["content"] for message in grounded_messages("question", [])]
    return reads


def _train_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    assert recipe.model is not None and recipe.train is not None
    # How often is logged and saved, and how a step's rows are split up, do not change what comes out.
    train = recipe.train.model_dump(mode="json", exclude={"log_steps", "save_steps", "micro_batch_size"})
    return {"model": recipe.model.model_dump(mode="json"), "train": train, "seed": recipe.seed}


def _evaluate_reads(recipe: Recipe) -> Mapping[str, JsonValue]:
    from rag.qrels import judged_files

    assert recipe.evaluate is not None
    reads: dict[str, JsonValue] = {"evaluate": recipe.evaluate.model_dump(mode="json"), "seed": recipe.seed}
    section = recipe.evaluate.retrieval
    if section is not None and recipe.rag is not None:
        reads["search"] = recipe.rag.search.model_dump(mode="json")
        splits = [section.split] if section.tune is None else [section.split, section.tune]
        files = [path for split in splits for path in judged_files(section.folder, split)]
        reads["judgements"] = {str(path): file_sha256(path) for path in files}
    return reads


def _evaluate_needs(recipe: Recipe) -> tuple[StageName, ...]:
    assert recipe.evaluate is not None
    needs: tuple[StageName, ...] = ()
    if "grounded_answers" in recipe.evaluate.tasks:
        needs += ("data", "train")
    if "retrieval" in recipe.evaluate.tasks:
        needs += ("index",)
    return needs


def _model_identity(reference: str, revision: str | None) -> str:
    """What `reference` stands for now. A folder is told by its files' names, sizes and times: weights are large."""
    if reference.startswith(PREFIX):
        return f"{reference}@{embedded_model(reference).revision}"
    folder = Path(reference)
    if not folder.is_dir():
        return f"{reference}@{revision}"
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return fingerprint_of({str(path.relative_to(folder)): [s.st_size, s.st_mtime_ns] for path, s in files})


def _template_identity(template: Path | None) -> str | None:
    """What the recipe's template says now."""
    if template is None:
        return None
    return builtin_template(str(template)) if str(template).startswith(BUILTIN) else file_sha256(template)


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


STAGES: Mapping[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage("index", 1, True, _index_reads, lambda recipe: (), _run_index),
        Stage("data", 2, False, _data_reads, lambda recipe: ("index",) if _synthesises(recipe) else (), _run_data),
        Stage("train", 2, False, _train_reads, lambda recipe: ("data",), _run_train),
        Stage("evaluate", 1, False, _evaluate_reads, _evaluate_needs, _run_evaluate),
    )
}

# An index that no other stage needs comes last: a recipe's model matters to nobody before it is trained.
_ORDER_OF_WISHES: tuple[StageName, ...] = ("data", "train", "evaluate", "index")


def wanted_stages(recipe: Recipe) -> tuple[StageName, ...]:
    """The stages that `recipe` names, each after those it needs."""
    sections = {"data": recipe.data, "train": recipe.train, "evaluate": recipe.evaluate, "index": recipe.rag}
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

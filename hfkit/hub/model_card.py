"""The model card: what the model is, how to use it, how good it was found to be, what it was made from and with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfkit.data.ledger import Account
from hfkit.evaluation.report.markdown import markdown_report
from hfkit.hub.energy import energy_sentence
from hfkit.hub.facts import RunFacts, Trained, portable_recipe
from hfkit.hub.measured_results import TEXT_GENERATION, measured_label, metadata_results, own_tasks
from hfkit.hub.usage import usage_snippet
from hfkit.markdown import escaped
from hfkit.models.embedded import PREFIX, embedded_model
from hfkit.recipe import HubSource, TrainSection, dump_recipe
from rag.answer import ABSTENTION

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from hfkit.models.drift import Drift

_MOST_REASONS = 5
_IN_RECIPE = re.compile(r"data\.sources\.\d+ \((.+)\)")
_METHODS = {"sft": "supervised fine-tuning"}


def model_card(facts: RunFacts, drift: Drift | None = None) -> str:
    """README.md of the model repository: metadata as the Hub reads it, then text for whoever finds the model there.

    Nothing in it depends on when it is written, so that the same run gives the same card.
    """
    parts = [
        f"---\n{model_metadata(facts).to_yaml()}\n---",
        f"# {facts.hub.repo.split('/')[1]}",
        _summary(facts),
        "## How to use it",
        *_usage(facts),
        *_results(facts),
        "## What it was trained on",
        *_data(facts),
        "## How it was trained",
        *_training(facts, drift),
        "## Limits",
        _list(_limits(facts)),
        "## How to make it again",
        *_again(facts),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def model_metadata(facts: RunFacts) -> ModelCardData:
    """The card's metadata: https://huggingface.co/docs/hub/model-cards."""
    from huggingface_hub import ModelCardData

    adapter = facts.publishes_adapter
    assert facts.recipe.data is not None
    read = [source.hub for source in facts.recipe.data.sources if isinstance(source, HubSource)]
    datasets = list(dict.fromkeys([*([facts.hub.dataset] if facts.hub.dataset else []), *read]))
    results = metadata_results(facts)
    return ModelCardData(
        base_model=facts.base_id,
        # "merge" is the Hub's word for a model of two or more base models; one base with its adapter is a finetune.
        # "quantized" is a model in fewer bits, which neither a QLoRA run's adapter is nor what it is merged into.
        base_model_relation=None if facts.base_id is None else "adapter" if adapter else "finetune",
        datasets=datasets or None,
        language=list(facts.hub.language) or None,
        library_name="peft" if adapter else "transformers",
        license=licence(facts),
        model_name=facts.hub.repo.split("/")[1],
        eval_results=results or None,
        pipeline_tag=TEXT_GENERATION,
        tags=["hfkit", *(["lora"] if adapter else []), *(["rag"] if facts.is_grounded else [])],
    )


def licence(facts: RunFacts) -> str | None:
    """The licence that the recipe states, or that of an embedded base model, from which what is published derives."""
    if facts.hub.license is not None or not facts.model.base.startswith(PREFIX):
        return facts.hub.license
    return embedded_model(facts.model.base).licence.lower()


def _summary(facts: RunFacts) -> str:
    base = _linked(facts.base_id) if facts.base_id else "a base model that is not on the Hub"
    what = (
        f"A {_adapter_kind(facts)} adapter for {base}"
        if facts.publishes_adapter
        else f"{base[0].upper() if base.startswith('a ') else base[0]}{base[1:]}, fine-tuned"
    )
    if facts.is_grounded:
        purpose = (
            f"{what} that reads numbered passages of documents, answers a question by quoting the passage that "
            f'answers it, cites its number, and says "{ABSTENTION}" where none does'
        )
    else:
        purpose = f"{what} on {facts.data.train.rows:,} examples"
    made = f"It was made with hfkit by the recipe `{facts.recipe.name}`, which is in this repository."
    return f"{purpose}. {made}"


def _usage(facts: RunFacts) -> list[str]:
    parts = [f"```python\n{usage_snippet(facts)}```"]
    if facts.is_grounded:
        parts.append(
            "The model was trained with exactly this wording of the prompt. Another wording, or a question without "
            "passages, is something that it has not seen."
        )
    if facts.hub.space is not None:
        parts.append(f"[{facts.hub.space}](https://huggingface.co/spaces/{facts.hub.space}) is an app in which to ask.")
    if facts.hub.index:
        parts.append(
            "The folder `index/` holds the documents, cut into passages with their embeddings; "
            '`hfkit search index "…"` looks into it.'
        )
    return parts


def _results(facts: RunFacts) -> list[str]:
    result = facts.evaluated
    if result is None:
        return ["## Evaluation", "It was not evaluated: nothing is known of how good it is."]
    report = markdown_report(result)
    # The report's own heading comes first, then who is who in its tables.
    heading, _, tables = report.partition("\n")
    asked = [f"`{name}`: {escaped(words)}" for name, words in result.models.items()]
    parts = [heading, *([f"Asked were:\n\n{_list(asked)}"] if asked else []), tables]
    failed = facts.failed_gates
    if failed:
        named = ", ".join(f"`{gate.gate}`" for gate in failed)
        parts.append(f"**Published although it did not reach what its recipe asked for:** {named}.")
    return parts


def _data(facts: RunFacts) -> list[str]:
    data = facts.data
    train, test = data.train, data.test
    rows = f"{train.rows:,} examples from {train.documents:,} documents or groups"
    kept_out = f"{test.rows:,} examples from {test.documents:,} other ones were kept out for testing"
    tokens = (
        f" The training examples have {train.tokens:,} tokens, of which {train.trained_tokens:,} are the replies that "
        "the loss was computed on."
        if train.sequences
        else ""
    )
    parts = [f"{rows}; {kept_out}.{tokens}"]
    if facts.is_grounded and train.unanswerable:
        parts[0] += f" In {train.unanswerable:,} of them no passage answers, so that it learned to say so."
    sources = [f"{escaped(_source(s.name))}: {s.kept:,} of {s.read:,} rows; {escaped(s.why)}" for s in data.sources]
    parts.append(_list(sources))
    if data.dropped:
        parts.append(f"Left out: {_accounts(data.dropped)}.")
    if facts.hub.dataset is not None:
        parts.append(
            f"The prepared data is [{facts.hub.dataset}](https://huggingface.co/datasets/{facts.hub.dataset})."
        )
    return parts


def _source(name: str) -> str:
    """What a reader of the card knows a source by: not by its place in the recipe."""
    in_recipe = _IN_RECIPE.fullmatch(name)
    return name if in_recipe is None else in_recipe[1]


def _accounts(accounts: Sequence[Account]) -> str:
    ordered = sorted(accounts, key=lambda account: -account.rows)
    named = [f"{account.rows:,} rows ({escaped(account.reason)})" for account in ordered[:_MOST_REASONS]]
    more = sum(account.rows for account in ordered[_MOST_REASONS:])
    return ", ".join([*named, *([f"{more:,} rows for other reasons"] if more else [])])


def _training(facts: RunFacts, drift: Drift | None) -> list[str]:
    train, trained = facts.recipe.train, facts.trained
    assert train is not None
    artifact, hardware, seconds = facts.artifacts["train"], facts.hardware_of_training, facts.seconds_of_training
    share = trained.trained_parameters / trained.parameters
    weights = f"{trained.trained_parameters:,} of {trained.parameters:,} parameters ({share:.1%})"
    adapter = facts.model.adapter
    how = "all weights" if adapter is None else f"{_adapter_kind(facts)}, rank {adapter.rank}, alpha {adapter.alpha}"
    base = "" if facts.model.quantization is None else f", on the base model in {facts.model.quantization}"
    machine = ", ".join(hardware.gpus) or f"{hardware.processor}, {hardware.cores} cores, no GPU"
    rows = [
        ("method", f"{_METHODS[train.method]}, {how}{base}"),
        ("trained", weights),
        ("schedule", _schedule(train, trained)),
        ("precision", trained.precision),
        ("last loss", f"{trained.loss:.3f} nats a trained token"),
        ("hardware", machine),
        ("time", _duration(seconds)),
        (
            "peak memory of the process" + (", without its GPU's" if hardware.gpus else ""),
            f"{artifact.peak_memory_bytes / 2**30:.1f} GiB",
        ),
    ]
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {escaped(value)} |" for name, value in rows)])
    parts = [table, energy_sentence(seconds, hardware)]
    if drift is not None:
        parts.append(
            f"For publishing, the adapter was added into the base model's weights. Over {drift.positions:,} positions "
            f"of a few prompts, the merged model writes the same next token at {drift.same_top_token:.1%} of them; the "
            f"mean Kullback-Leibler divergence is {drift.mean_divergence:.2g} nats."
        )
    return parts


def _schedule(train: TrainSection, trained: Trained) -> str:
    epochs = "1 epoch" if train.epochs == 1 else f"{train.epochs:g} epochs"
    rate = f"{train.schedule} learning rate from {train.learning_rate:g}"
    if train.max_steps is not None:
        epochs = f"{epochs} or {train.max_steps:,} steps, whichever ended first"
    return f"{epochs}, {train.batch_size} rows a step, {rate}, {trained.steps:,} steps"


def _limits(facts: RunFacts) -> list[str]:
    result = facts.evaluated
    limits = []
    if facts.model.base.startswith(PREFIX):
        limits.append(
            "It was trained on weights that were unpacked from a 4-bit file (GGUF, Q4_1) of the base model, and its "
            "results were measured on them. On the base model as the Hub has it, which the snippet loads, answers can "
            "differ a little."
            if facts.publishes_adapter
            else "Its weights come from a 4-bit file (GGUF, Q4_1) of the base model, and differ a little from what "
            "training on the base model as the Hub has it would give."
        )
    if result is not None and (measured_on := _measured_on(facts)) is not None:
        limits.append(measured_on)
    if facts.model.trust_remote_code:
        limits.append(
            f"Its base model comes with Python code of its own, which the snippet runs; look at it first, as it was at "
            f"the commit {facts.model.revision}."
        )
    if facts.is_grounded:
        limits.append(
            "It answers from the passages that it is given, and is wrong where they are. It can quote the wrong "
            "sentence, cite the wrong passage, or miss an answer that is there: keep the passages in sight of whoever "
            "reads the answer."
        )
        limits.append("It was trained to quote one passage, not to put an answer together from several.")
    if result is None:
        limits.append("No test was run on it. Measure it on rows of your own before you rely on it.")
    else:
        groups = min((task.groups for task in own_tasks(facts)), default=0)
        limits.append(
            "What was measured holds for "
            + (f"documents like the {groups:,} of the test" if groups > 1 else "rows like those of the test")
            + ". For another subject, another style or another language, measure anew."
        )
    if not facts.hub.language:
        limits.append("Its makers do not say in which languages it was trained.")
    limits.append(
        "Nothing was done beyond the base model's own training against answers that are harmful or biased, and nothing "
        "of that kind was measured."
    )
    if licence(facts) is None:
        limits.append("No licence is stated; ask the owner of this repository before you use it.")
    return limits


def _measured_on(facts: RunFacts) -> str | None:
    """Where the results are those of other weights than the published ones, in a sentence."""
    quantised = facts.model.quantization
    if facts.publishes_adapter:
        if quantised is None:
            return None
        return (
            f"Its results were measured with the base model's weights in {quantised}, as it was trained. The snippet "
            "loads them unquantised, and answers can differ a little."
        )
    if not facts.trains_adapter or measured_label(facts) == "merged":
        return None
    beside = "beside the base model" + ("" if quantised is None else f"'s weights in {quantised}")
    return (
        f"Its results are those of the adapter {beside}, before it was added into them; how far apart the two are is "
        'said under "How it was trained".'
    )


def _again(facts: RunFacts) -> list[str]:
    artifact = facts.artifacts["train"]
    environment = artifact.environment
    names = ("torch", "transformers", "peft")
    versions = ", ".join(f"{name} {environment.versions[name]}" for name in names if name in environment.versions)
    commit = environment.code.commit
    code = f"hfkit {environment.hfkit}" + ("" if commit is None else f" (commit {commit[:10]})")
    if environment.code.changed:
        code += " with uncommitted changes"
    data = facts.artifacts["data"]
    revision = "" if facts.revision is None else f" --revision {facts.revision}"
    return [
        f"`hfkit reproduce {facts.hub.repo}{revision}` fetches recipe and manifest, says what differs on your machine, "
        "runs it again, and compares the trained weights bit for bit and the scores. Files that the recipe names as "
        "data or documents must be where it says. No code of this repository is run.",
        "`hfkit run recipe.yaml`, with the recipe of this repository, runs it without comparing. `manifest.json` has a "
        "hash of everything that went in, of the base model's files too, and the SHA-256 of every file that came out.",
        f"Made with {code}, Python {environment.python}, {versions}; seed {artifact.seed}; prepared data "
        f"`{facts.data.content[:16]}`, data stage `{data.fingerprint[:16]}`, train stage "
        f"`{artifact.fingerprint[:16]}`.",
        f"<details><summary>The recipe</summary>\n\n```yaml\n{dump_recipe(portable_recipe(facts))}```\n\n</details>",
    ]


def _adapter_kind(facts: RunFacts) -> str:
    method = "lora" if facts.model.adapter is None else facts.model.adapter.method
    kind = {"lora": "LoRA", "dora": "DoRA"}[method]
    return f"Q{kind}" if facts.model.quantization == "nf4" else kind


def _linked(id: str) -> str:
    return f"[{id}](https://huggingface.co/{id})"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)

"""What can be known of the training data, and of the chat template, before a run: from a sample of each source and
without any weights.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.converting import Conversion, Converter
from hfkit.data.examples import Kind
from hfkit.data.formats import FORMATS
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.rendering_pool import BatchRenderer, RenderSettings
from hfkit.data.sources import read_source
from hfkit.data.sources.batch import Batch
from hfkit.errors import RequestError
from hfkit.models.loading import load_renderer
from hfkit.preflight import Finding, Severity
from hfkit.recipe import (
    AnyTask,
    EndpointModel,
    LoadedModel,
    ModelSection,
    OwnTask,
    PathSource,
    Recipe,
    SynthesizeSource,
    UsedTask,
)

_SAMPLE = 200
# Below this, an interval over test rows is wider than most differences that anybody looks for.
_FEW_TEST_ROWS = 20
_TEMPLATE = "data.rendering"
_TEMPLATE_ASKED = "evaluate.rendering"

_PROBE = Conversation(
    id="the probe",
    document="the probe",
    messages=(
        Turn(role="user", content="What is one and one?"),
        Turn(role="assistant", content="Two."),
        Turn(role="user", content="And two and two?"),
        Turn(role="assistant", content="Four."),
    ),
)


@dataclass(frozen=True, slots=True)
class _Sample:
    """The first rows of a source of files.

    Attributes:
        key: where the source stands in the recipe.
        kind: what its rows become.
        texts: the examples, as JSON.
        ledger: what was dropped on the way to them.
        whole: whether these are all of its rows.
        split: whether some of its rows are kept for testing.
    """

    key: str
    kind: Kind
    texts: Sequence[str]
    ledger: Ledger
    whole: bool
    split: bool


def probe(recipe: Recipe) -> list[Finding]:
    """Findings about a sample of every source of files, and about the chat template where it is needed."""
    if recipe.model is None:
        return []
    if recipe.data is None:
        return _asked(recipe, recipe.model)
    samples: list[_Sample | Finding] = []
    for number, source in enumerate(recipe.data.sources):
        if isinstance(source, PathSource):
            try:
                samples.append(_sample_of(recipe, source, number))
            except RequestError as error:
                samples.append(Finding(f"data.sources.{number}", "error", str(error)))
    kinds = {sample.kind for sample in samples if isinstance(sample, _Sample)} | _kinds_unseen(recipe)
    findings = []
    if None in kinds or "conversation" in kinds:
        findings.append(probe_template(recipe.model, needed="conversation" in kinds))
    usable = all(finding.severity != "error" for finding in findings)
    for sample in samples:
        if isinstance(sample, Finding):
            findings.append(sample)
        elif sample.kind == "text" or (sample.kind == "conversation" and usable):
            findings += _rendered(recipe, sample)
    return findings


def _asked(recipe: Recipe, model: ModelSection) -> list[Finding]:
    """An error where an evaluation alone asks the recipe's own model through a template that can never be used."""
    section = recipe.evaluate
    if section is None or all(isinstance(one, EndpointModel | LoadedModel) for one in section.asked(trains=False)):
        return []
    if not any(_through_the_template(task) for task in section.tasks):
        return []
    try:
        load_renderer(model).stop_ids  # noqa: B018  (finds out what the template does)
    except RequestError as error:
        return [Finding(_TEMPLATE_ASKED, "error", str(error))]
    return []


def _through_the_template(task: AnyTask) -> bool:
    """Whether a task is certain to show its prompts through the chat template, before its rows are read."""
    if isinstance(task, OwnTask):
        return bool(task.chat) or task.kind in ("generation", "preference")
    return isinstance(task, UsedTask) and (bool(task.chat) or task.use in ("squad", "gsm8k", "ifeval"))


def _kinds_unseen(recipe: Recipe) -> set[Kind | None]:
    """What the rows of sources become that are no files, as far as the recipe says so: None where nobody knows yet."""
    assert recipe.data is not None
    kinds: set[Kind | None] = set()
    for source in recipe.data.sources:
        if isinstance(source, SynthesizeSource):
            kinds.add("conversation")
        elif not isinstance(source, PathSource):
            kinds.add(None if source.format == "auto" else FORMATS[source.format].kind)
    return kinds


def probe_template(model: ModelSection, *, needed: bool = True) -> Finding:
    """Whether the template shows every prompt as inference will, ends turns with a stop token, and begins once.

    `needed` is False where the rows may be plain text all of them, which takes no template.
    """
    try:
        renderer = load_renderer(model)
        sequences = renderer.training_sequences(_PROBE)
        remarks = renderer.remarks
    except (RequestError, RowFault) as error:
        if needed:
            return Finding(_TEMPLATE, "error", str(error))
        return Finding(_TEMPLATE, "note", f"{error}. Conversations need it, plain text does not")
    stops = " or ".join(str(renderer.tokenizer.convert_ids_to_tokens(stop)) for stop in renderer.stop_ids)
    shape = "all turns in one sequence" if len(sequences) == 1 else "one sequence a turn, as it rewrites earlier ones"
    text = f"prompts are shown as inference will show them; a turn ends with {stops}; {shape}"
    return Finding(_TEMPLATE, "note" if remarks else "ok", " ".join([text, *(f"— {remark}" for remark in remarks)]))


def _sample_of(recipe: Recipe, source: PathSource, number: int) -> _Sample:
    """Raises RequestError where the source cannot be read, or its format cannot be told."""
    assert recipe.data is not None
    key = f"data.sources.{number}"
    ledger = Ledger()
    batches = read_source(source, ledger, batch_rows=_SAMPLE)
    batch = next(batches)
    whole = next(batches, None) is None
    rows = list(itertools.islice(zip(batch.rows, batch.places, strict=True), _SAMPLE))
    converter = Converter(
        Conversion(
            source=source.model_dump(mode="json"),
            key=key,
            sample=json.dumps([row for row, _ in rows]),
            splits=recipe.data.splits,
            quality=recipe.data.quality,
        )
    )
    converted = converter.convert(Batch([row for row, _ in rows], [place for _, place in rows]))
    for account in converted.dropped:
        ledger.merge_dropped(account)
    return _Sample(
        key=key,
        kind=converter.chosen.kind,
        texts=converted.examples.column("example").to_pylist(),
        ledger=ledger,
        whole=whole,
        split=source.use == "split",
    )


def _rendered(recipe: Recipe, sample: _Sample) -> list[Finding]:
    """What becomes of the sample's rows with the model's tokenizer."""
    assert recipe.data is not None and recipe.model is not None
    settings = RenderSettings(
        model=recipe.model,
        max_length=recipe.data.max_length,
        special_tokens=recipe.data.quality.special_tokens,
        chat=sample.kind == "conversation",
    )
    try:
        sequences, outcome = BatchRenderer(settings).render(sample.texts)
    except RequestError as error:
        return [Finding(sample.key, "error", str(error))]
    key, ledger, whole = sample.key, sample.ledger, sample.whole
    for remark in outcome.dropped:
        ledger.drop(remark.reason, remark.id, remark.detail)
    trained, tokens = (sum(sequences.column(name).to_pylist()) for name in ("trained", "length"))
    looked_at = sum(outcome.kept) + ledger.rows_dropped
    which = "all" if whole else "the first"
    said = f"of {which} {looked_at} rows {sum(outcome.kept)} can be used, {trained:,} of {tokens:,} tokens trained"
    reasons = "; ".join(f"{one.rows}: {one.reason}, such as {one.first[0]}" for one in ledger.dropped)
    severity: Severity = "note" if ledger.dropped else "ok"
    if not any(outcome.kept):
        severity = "error"
    # The limit is for all sources together; where there is one, and all of it was looked at, it is known.
    elif whole and len(recipe.data.sources) == 1 and ledger.rows_dropped > recipe.data.quality.allowed(looked_at):
        severity = "error"
        reasons = f"{reasons}; data.quality.max_dropped allows {recipe.data.quality.max_dropped}"
    findings = [Finding(f"{key}.rows", severity, f"{said}{f' ({reasons})' if reasons else ''}")]
    if whole and sample.split:
        findings += _few_test_rows(recipe, sum(outcome.kept))
    return findings


def _few_test_rows(recipe: Recipe, usable: int) -> list[Finding]:
    """A word where a split leaves so little to test on that no comparison could say anything."""
    assert recipe.data is not None
    wanted = recipe.data.splits.test
    rows = wanted if isinstance(wanted, int) else round(wanted * usable)
    if rows >= _FEW_TEST_ROWS:
        return []
    text = f"about {rows} of {usable} rows are kept for testing; differences that so few show are mostly noise"
    return [Finding("data.splits.test", "note", text)]

"""What can be known of the training data before a run, from a sample of each source and without any weights."""

from __future__ import annotations

import itertools
import json

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.converting import Conversion, Converter
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.rendering_pool import BatchRenderer, RenderSettings
from hfkit.data.sources import read_source
from hfkit.data.sources.batch import Batch
from hfkit.errors import RequestError
from hfkit.models.loading import load_renderer
from hfkit.preflight import Finding, Severity
from hfkit.recipe import ModelSection, PathSource, Recipe

_SAMPLE = 200
# Below this, an interval over test rows is wider than most differences that anybody looks for.
_FEW_TEST_ROWS = 20

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


def probe(recipe: Recipe) -> list[Finding]:
    """Findings about the chat template and about a sample of every source of files."""
    if recipe.data is None or recipe.model is None:
        return []
    findings = [probe_template(recipe.model)]
    if findings[0].severity == "error":
        return findings
    for number, source in enumerate(recipe.data.sources):
        if isinstance(source, PathSource):
            findings += _probe_source(recipe, source, number)
    return findings


def probe_template(model: ModelSection) -> Finding:
    """Whether the template shows every prompt as inference will, ends turns with a stop token, and begins once."""
    key = "data.rendering"
    try:
        renderer = load_renderer(model)
        sequences = renderer.training_sequences(_PROBE)
        remarks = renderer.remarks
    except (RequestError, RowFault) as error:
        return Finding(key, "error", str(error))
    stops = " or ".join(str(renderer.tokenizer.convert_ids_to_tokens(stop)) for stop in renderer.stop_ids)
    shape = "all turns in one sequence" if len(sequences) == 1 else "one sequence a turn, as it rewrites earlier ones"
    text = f"prompts are shown as inference will show them; a turn ends with {stops}; {shape}"
    return Finding(key, "note" if remarks else "ok", " ".join([text, *(f"— {remark}" for remark in remarks)]))


def _probe_source(recipe: Recipe, source: PathSource, number: int) -> list[Finding]:
    assert recipe.data is not None and recipe.model is not None
    key = f"data.sources.{number}"
    ledger = Ledger()
    try:
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
        texts = converted.examples.column("example").to_pylist()
        if converter.chosen.kind not in ("conversation", "text"):
            return []
        settings = RenderSettings(
            model=recipe.model,
            max_length=recipe.data.max_length,
            special_tokens=recipe.data.quality.special_tokens,
            chat=converter.chosen.kind == "conversation",
        )
        sequences, outcome = BatchRenderer(settings).render(texts)
    except RequestError as error:
        return [Finding(key, "error", str(error))]
    for account in converted.dropped:
        ledger.merge_dropped(account)
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
    if whole and source.use == "split":
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

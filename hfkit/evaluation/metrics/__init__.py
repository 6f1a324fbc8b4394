"""The metrics by name. Imports nothing heavy: the modules that compute them are imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from pydantic import JsonValue, ValidationError, validate_call

# Recipes are checked against this table, and reading a recipe does not wait for NumPy.
if TYPE_CHECKING:
    from hfkit.evaluation.metric import Metric
    from hfkit.evaluation.rows import Kind


@dataclass(frozen=True, slots=True)
class Entry:
    """A metric as recipes name it.

    Attributes:
        module: of this package; its function `metric(name, **settings)` makes it.
        kind: of the rows that it scores.
        settings: that it takes.
        is_share: its values go from 0 to 1.
    """

    module: str
    kind: Kind
    settings: tuple[str, ...] = ()
    higher_is_better: bool = True
    is_share: bool = True


METRICS: Mapping[str, Entry] = {
    "exact_match": Entry("words", "generation"),
    "token_f1": Entry("words", "generation"),
    "rouge1": Entry("rouge", "generation", ("stemmer",)),
    "rouge2": Entry("rouge", "generation", ("stemmer",)),
    "rougeL": Entry("rouge", "generation", ("stemmer",)),
    "bleu": Entry("translation", "generation", ("tokenizer", "lowercase"), is_share=False),
    "chrf": Entry("translation", "generation", ("word_order",), is_share=False),
    "numeric": Entry("numeric", "generation", ("tolerance",)),
    "regex": Entry("regex", "generation", ("pattern",)),
    "json_valid": Entry("json_replies", "generation"),
    "json_schema": Entry("json_replies", "generation", ("schema",)),
    "macro_f1": Entry("labels", "choice"),
    "reply_macro_f1": Entry("labels", "generation"),
    "citation_accuracy": Entry("grounded", "generation"),
    "citation_precision": Entry("grounded", "generation"),
    "citation_recall": Entry("grounded", "generation"),
    "abstention_accuracy": Entry("grounded", "generation"),
    "abstention_precision": Entry("grounded", "generation"),
    "abstention_recall": Entry("grounded", "generation"),
    "constraints": Entry("constraints", "generation"),
    "constraints_each": Entry("constraints", "generation"),
    "accuracy": Entry("choices", "choice"),
    "accuracy_norm": Entry("choices", "choice"),
    "accuracy_per_token": Entry("choices", "choice"),
    "preference_accuracy": Entry("choices", "preference"),
    "preference_accuracy_norm": Entry("choices", "preference"),
    "perplexity": Entry("perplexity", "text", higher_is_better=False, is_share=False),
    "bits_per_byte": Entry("perplexity", "text", higher_is_better=False, is_share=False),
}
METRIC_NAMES: tuple[str, ...] = tuple(METRICS)


def metric_named(name: str, **settings: JsonValue) -> Metric:
    """The metric that recipes call `name`, such as `metric_named("regex", pattern="[0-9]+")`.

    Raises:
        ValueError: there is none, or it does not take the settings; the message is for the user.
    """
    if name not in METRICS:
        raise ValueError(f"unknown metric {name}{_nearest(name, METRIC_NAMES)}; there are {', '.join(METRIC_NAMES)}")
    entry = METRICS[name]
    for key in settings:
        if key not in entry.settings:
            takes = f"it takes {', '.join(entry.settings)}" if entry.settings else "it takes none"
            raise ValueError(f"{name} has no setting {key}{_nearest(key, entry.settings)}; {takes}")
    make = validate_call(import_module(f"{__name__}.{entry.module}").metric)
    try:
        made: Metric = make(name, **settings)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in wrong["loc"])
        raise ValueError(f"{name}: {place}: {wrong['msg']}; got {wrong['input']!r}") from error
    return made


def _nearest(word: str, words: tuple[str, ...]) -> str:
    near = [one for one in words if one.lower() == word.lower()] or get_close_matches(word, words, n=1)
    return f", did you mean {near[0]}" if near else ""

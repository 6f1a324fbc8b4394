"""Gates on retrieval: a search setting's metric against a bound, or against another setting's, that must hold."""

import re
from difflib import get_close_matches
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

RetrievalSetting = Literal["dense", "lexical", "rrf", "convex", "tuned", "reranked"]
RETRIEVAL_SETTINGS: tuple[RetrievalSetting, ...] = get_args(RetrievalSetting)
RetrievalMetric = Literal["ndcg", "recall", "mrr", "map"]
RETRIEVAL_METRICS: tuple[RetrievalMetric, ...] = get_args(RetrievalMetric)
RETRIEVAL_EXAMPLE = "retrieval.ndcg@10 >= 0.70 with confidence 0.95"

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_MEASURED = r"retrieval\.(?:(?P<{0}setting>[A-Za-z0-9_-]+)\.)?(?P<{0}metric>[A-Za-z0-9_-]+)@(?P<{0}cutoff>[0-9]{{1,5}})"
RETRIEVAL_GATE_PATTERN = (
    rf"^\s*{_MEASURED.format('')}\s*>=\s*"
    rf"(?:{_MEASURED.format('other_')}(?:\s*(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?|(?P<bound>[+-]?{_NUMBER}))"
    rf"(?:\s+with\s+confidence\s+(?P<confidence>{_NUMBER}))?\s*$"
)

Word = TypeVar("Word", bound=str)


class RetrievalGate(BaseModel):
    """`retrieval.SETTING.METRIC@K >= bound`, which must hold with a given confidence.

    Attributes:
        text: the gate as it was written.
        setting: the search setting that is judged; None for the recipe's own, `rag.search`.
        metric, cutoff: what is compared; a share from 0 to 1.
        compared: whether the bound is another setting's same metric plus `margin`; else it is `margin` alone.
        other: that other setting; None for the recipe's own.
        margin: in units of the metric.
        confidence: of the one-sided statement, more than 0 and less than 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: str
    setting: RetrievalSetting | None
    metric: RetrievalMetric
    cutoff: int
    compared: bool
    other: RetrievalSetting | None
    margin: float
    confidence: float = 0.95

    @classmethod
    def parse(cls, text: str) -> "RetrievalGate":
        """The gate that `text` says. Raises ValueError with a message for the user where it says none."""
        found = re.match(RETRIEVAL_GATE_PATTERN, text)
        if found is None:
            raise ValueError(
                f'not a gate; write one such as "{RETRIEVAL_EXAMPLE}" or '
                '"retrieval.convex.ndcg@10 >= retrieval.dense.ndcg@10 + 0.02"'
            )
        metric = _known("metric", found["metric"], RETRIEVAL_METRICS)
        setting, other = _setting(found["setting"]), _setting(found["other_setting"])
        compared = found["other_metric"] is not None
        measured = f"{found['metric']}@{found['cutoff']}"
        if compared and (against := f"{found['other_metric']}@{found['other_cutoff']}") != measured:
            raise ValueError(f"compares {measured} with {against}; both sides must name the same metric")
        if compared and other == setting:
            raise ValueError("compares a setting with itself; name another on the right")
        margin = float(found["bound"] or (found["sign"] or "") + (found["margin"] or "0"))
        confidence = float(found["confidence"] or 0.95)
        if not 0 < confidence < 1:
            hint = f"; did you mean {confidence / 100:g}?" if 1 < confidence < 100 else ""
            raise ValueError(f"the confidence must be more than 0 and less than 1, got {confidence:g}{hint}")
        lowest, noun = (-1, "margin") if compared else (0, "bound")
        if not lowest <= margin <= 1:
            raise ValueError(f"{measured} is a share: the {noun} must be from {lowest} to 1, got {margin:g}")
        return cls(
            text=text.strip(),
            setting=setting,
            metric=metric,
            cutoff=int(found["cutoff"]),
            compared=compared,
            other=other,
            margin=margin,
            confidence=confidence,
        )

    def __str__(self) -> str:
        return self.text


def _setting(name: str | None) -> RetrievalSetting | None:
    return None if name is None else _known("setting", name, RETRIEVAL_SETTINGS)


def _known(noun: str, name: str, words: tuple[Word, ...]) -> Word:
    for word in words:
        if word == name:
            return word
    near = get_close_matches(name, words, n=1)
    # The mode of a recipe's search is no setting here: it stands for two ways of fusing.
    hint = "; did you mean convex or rrf?" if name == "hybrid" else f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown {noun} {name}; expected one of {', '.join(words)}{hint}")

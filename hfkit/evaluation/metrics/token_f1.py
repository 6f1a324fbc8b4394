"""Token F1 as SQuAD scores it, row by row, as a module of Hugging Face `evaluate` that needs no network."""

import re
import string
from collections import Counter

# On two lines: `evaluate` reads these to find what a local module depends on.
import datasets
import evaluate

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokens(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of shared words, counted with repetition. Two empty texts agree."""
    predicted, expected = tokens(prediction), tokens(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


class TokenF1(evaluate.Metric):  # type: ignore[misc]
    """`compute(predictions, references)` gives `token_f1`, the mean, and `rows`, a score a row, all from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Token F1 with SQuAD's normalisation, row by row.",
            citation="Rajpurkar et al. 2016, arXiv:1606.05250",
            inputs_description="predictions, references: texts",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float | list[float]]:
        rows = [token_f1(*pair) for pair in zip(predictions, references, strict=True)]
        return {"token_f1": sum(rows) / len(rows), "rows": rows}

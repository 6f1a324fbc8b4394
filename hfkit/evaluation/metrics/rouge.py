"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F-measures of Google's rouge-score, the best over a row's references."""

from __future__ import annotations

from collections.abc import Sequence

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.row_mean import RowMean, reference_score, reply_score
from hfkit.evaluation.rows import GenerationRow

_TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def metric(name: str, *, stemmer: bool = False) -> Metric:
    """`stemmer` compares stems of English words, as papers on summaries in English do."""
    if name == "rougeL":
        return _rouge_l(name, stemmer=stemmer)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=stemmer)

    def score(reply: str, row: GenerationRow) -> float | None:
        if not row.references:
            return None
        return float(scorer.score_multi(row.references, reply)[name].fmeasure)

    return RowMean(name, _TITLES[name], reply_score(score))


def _rouge_l(name: str, *, stemmer: bool) -> Metric:
    """With the words and the F-measure of rouge-score, whose table of all pairs of words is too large for long ones."""
    from rouge_score.scoring import fmeasure
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(stemmer).tokenize

    def score(reply: str, reference: str) -> float:
        said, meant = words(reply), words(reference)
        if not said or not meant:
            return 0.0
        common = common_length(said, meant)
        return float(fmeasure(common / len(said), common / len(meant)))

    return RowMean(name, _TITLES[name], reference_score(score))


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, exactly, by the bit vectors of Hyyrö (2004): a row of the table is
    one integer, so a word of `other` costs a few operations on as many bits as `one` has words."""
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | (1 << place)
    full = (1 << len(one)) - 1
    # A bit is 0 where a word of `one` lengthens what it has in common, up to there, with the words of `other` so far.
    flat = full
    for word in other:
        if word in places:
            met = flat & places[word]
            flat = ((flat + met) | (flat - met)) & full
    return len(one) - flat.bit_count()

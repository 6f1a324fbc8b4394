"""ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): F-measures of Google's rouge-score, the best over a row's references."""

from __future__ import annotations

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.row_mean import RowMean, reply_score
from hfkit.evaluation.rows import GenerationRow

_TITLES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def metric(name: str, *, stemmer: bool = False) -> Metric:
    """`stemmer` compares stems of English words, as papers on summaries in English do."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name], use_stemmer=stemmer)

    def score(reply: str, row: GenerationRow) -> float | None:
        if not row.references:
            return None
        return float(scorer.score_multi(row.references, reply)[name].fmeasure)

    return RowMean(name, _TITLES[name], reply_score(score))

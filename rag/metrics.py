"""What a ranking of documents is worth: nDCG, recall, MRR and MAP at a cutoff, as trec_eval computes them.

The figures come from trec_eval itself, through pytrec-eval-terrier: nDCG with the grade as gain and log2(rank + 1) as
discount (Järvelin and Kekäläinen 2002), over the ideal order of all relevant documents; recall over all relevant
documents; MRR as one over the rank of the first relevant one; MAP as the mean, over all relevant documents, of the
precision at each that was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KINDS = ("ndcg", "recall", "mrr", "map")

# trec_eval's names. It knows no cutoff for the reciprocal rank: what stands below it is taken away beforehand.
_NAMES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut"}


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """`ndcg@10`, `recall@10`, `mrr@10`, `map@10`, `ndcg@100` …"""
    return [f"{kind}@{cutoff}" for cutoff in cutoffs for kind in KINDS]


def score_rankings(
    rankings: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, int]], cutoffs: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Query id -> metric -> value from 0 to 1, for each query of `relevant`, in its order.

    `rankings` holds each query's document ids, best first and each once; a query that it lacks found nothing.
    `relevant` holds grades of 1 and more. `cutoffs` are distinct and 1 or more.
    """
    import pytrec_eval

    wanted = ",".join(str(cutoff) for cutoff in cutoffs)
    run = {id: _falling(rankings.get(id, ())) for id in relevant}
    qrels = {id: dict(grades) for id, grades in relevant.items()}
    found = pytrec_eval.RelevanceEvaluator(qrels, {f"{name}.{wanted}" for name in _NAMES.values()}).evaluate(run)
    reciprocal = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
    first = {
        cutoff: reciprocal.evaluate({id: _falling(rankings.get(id, ())[:cutoff]) for id in relevant})
        for cutoff in cutoffs
    }
    return {
        id: {
            f"{kind}@{cutoff}": float(
                first[cutoff][id]["recip_rank"] if kind == "mrr" else found[id][f"{_NAMES[kind]}_{cutoff}"]
            )
            for cutoff in cutoffs
            for kind in KINDS
        }
        for id in relevant
    }


def mean_scores(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metric -> mean over the queries, of which there is at least one."""
    rows = list(scores.values())
    return {metric: sum(row[metric] for row in rows) / len(rows) for metric in rows[0]}


def _falling(ranking: Sequence[str]) -> dict[str, float]:
    """Scores that trec_eval, which sorts by score and breaks ties by id, sorts into this very order."""
    return {document: float(len(ranking) - rank) for rank, document in enumerate(ranking)}

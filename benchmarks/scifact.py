"""What search finds on SciFact: dense, lexical and hybrid, on the queries of the test split.

    python benchmarks/scifact.py [FOLDER] [--quick] [--json]

Runs `recipes/scifact.yaml` from nothing, as a whole process, on FOLDER (any folder in BEIR's layout, by default
../shared/data/scifact). Where it has a train split, the fusion weight is tuned on that and measured as well.
`--quick` takes 500 documents and the queries that they answer, and keeps no result. The goals are SciFact's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from beir_sample import write_sample
from report import Goal, Result, report

from rag.qrels import splits

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "scifact.yaml"
FOLDER = ROOT.parent / "shared" / "data" / "scifact"
DENSE, WITHIN, HYBRID = 0.645, 0.003, 0.734


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="a folder in BEIR's layout")
    parser.add_argument("--quick", action="store_true", help="500 documents; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = arguments.folder.resolve()
        if arguments.quick:
            folder = write_sample(folder, place / "sample", documents=500)
        overrides = [f"rag.documents=[{json.dumps(f'beir:{folder}')}]", f"evaluate.retrieval.folder={folder}"]
        if "train" in splits(folder):
            overrides.append("evaluate.retrieval.tune=train")
        started = time.monotonic()
        # A gate that is not met ends in exit code 1, and prints all the same.
        done = subprocess.run(
            [sys.executable, "-m", "hfkit", "evaluate", str(RECIPE), "--json", *overrides],
            cwd=place,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.monotonic() - started
    if not done.stdout:
        raise SystemExit(f"hfkit evaluate ended with exit code {done.returncode}")
    document = json.loads(done.stdout)
    measured = document["evaluate"]["retrieval"]
    own = measured["recipe"]
    results = [
        Result("everything, from nothing", seconds, "s"),
        Result("peak memory", max(document["peak_memory_bytes"].values()) / 2**30, "GiB"),
        *(Result(f"stage {stage}", value, "s") for stage, value in document["timings"].items()),
    ]
    queries = f"{measured['queries']} queries"
    for setting, entry in measured["settings"].items():
        weight = entry["search"].get("dense_weight")
        said = "".join([f" {weight:g}" if setting in ("convex", "tuned") else "", " (the recipe)" * (setting == own)])
        for metric, score in entry["scores"].items():
            low, high = score["interval"]
            words = f"95% {low:.4f} to {high:.4f}, {queries}"
            results.append(Result(f"{setting}{said}, {metric}", score["mean"], words))
        if entry["leads"]:
            lead = entry["leads"]["ndcg@10"]
            low, high = lead["interval"]
            words = f"95% {low:+.4f} to {high:+.4f}, p {lead['p_value']:.4f}, {queries}"
            results.append(Result(f"{setting}{said}, ndcg@10 beyond dense", lead["difference"], words))
    dense = measured["settings"]["dense"]["scores"]["ndcg@10"]["mean"]
    hybrid = measured["settings"][own]["scores"]["ndcg@10"]["mean"]
    goals = [
        Goal("dense nDCG@10", f"{DENSE} within {WITHIN}", dense, abs(dense - DENSE) <= WITHIN),
        Goal("hybrid nDCG@10, the recipe's setting", f">= {HYBRID}", hybrid, hybrid >= HYBRID),
    ]
    report("scifact", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()

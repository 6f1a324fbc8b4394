"""The whole quickstart on real weights, as the README promises it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(3600)
def test_the_tuned_reader_is_better_on_documents_that_training_never_saw(tmp_path: Path) -> None:
    for part in ("docs", "recipes"):
        (tmp_path / part).symlink_to(ROOT / part)
    command = [sys.executable, "-m", "hfkit", "run", "recipes/quickstart.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    differences = document["evaluate"]["tasks"]["grounded_answers"]["differences"]
    of_metric = {difference["metric"]: difference for difference in differences}
    for metric in ("token_f1", "citation_accuracy"):
        found = of_metric[metric]
        assert found["difference"] > 0 and found["p_value"] < 0.01, found
        assert found["interval"][0] > 0, found
    assert set(document["timings"]) == set(document["peak_memory_bytes"]) == {"index", "data", "train", "evaluate"}
    assert max(document["peak_memory_bytes"].values()) < 5 * 2**30

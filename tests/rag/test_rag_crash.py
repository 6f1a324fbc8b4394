"""kill -9 at any moment: afterwards the index holds exactly one whole generation, and nothing committed is lost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from rag.index import Index
from rag.search import SearchSettings
from tests.rag.hash_embedder import HashEmbedder
from tests.rag.sync_for_ever import SETTINGS, corpus


def test_a_killed_sync_leaves_one_whole_generation(folder: Path) -> None:
    chance = random.Random(7)
    reached = 0
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.rag.sync_for_ever", str(folder)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0.0, 0.25))
        process.kill()
        said = process.stdout.read().splitlines()
        process.wait()
        with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
            index.verify()
            assert index.generation >= max([reached, *(int(line) for line in said if line.isdigit())])
            reached = index.generation
            held = {document.id: document for document in index.documents()}
            if reached:
                expected = corpus((reached - 1) % 2)
                assert held == {document.id: document for document in expected.documents}
                hits = index.search("word7", SearchSettings("hybrid", 50))
                assert {hit.chunk.document_id for hit in hits} <= set(held)
            else:
                assert held == {}
        left = {path.name for path in folder.iterdir()}
        assert left == {"index.sqlite", f"vectors-{reached}.faiss"}
    assert reached > 3, "the syncs were never far enough to be killed in the middle"

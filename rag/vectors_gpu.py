"""A copy of a FAISS index on a GPU."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from rag.embedder import Vectors
from rag.layout import Layout
from rag.store import Ids

# What FAISS's kernels can select at once: so many neighbours of a query, and so many clusters to look into.
MOST_ON_GPU = 2048


@dataclass
class GpuIndex:
    """A copy on the first GPU, which answers one caller at a time, with up to `MOST_ON_GPU` neighbours a query."""

    index: Any
    lock: threading.Lock

    def search(self, queries: Vectors, limit: int) -> tuple[Vectors, Ids]:
        with self.lock:
            found: tuple[Vectors, Ids] = self.index.search(queries, limit)
            return found


def copy_to_gpu(index: Any, layout: Layout) -> GpuIndex | None:
    """Where FAISS was built for GPUs, there is one, and it can hold and search this kind; else the processor does."""
    import faiss

    if not faiss.get_num_gpus() or layout.kind == "hnsw" or layout.storage == "binary" or layout.probes > MOST_ON_GPU:
        return None
    try:
        copy: Any = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError:  # what FAISS raises for every fault: too little memory, a kind that GPUs do not know
        return None
    if layout.kind == "ivf":
        copy.nprobe = layout.probes
    return GpuIndex(copy, threading.Lock())

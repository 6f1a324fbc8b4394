"""A second model that reads the query and a passage together: slower than an embedder, and often more exact."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from rag.errors import RagError, RagRequestError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_BATCH = 32


@runtime_checkable
class Reranker(Protocol):
    """What search asks of a reranker."""

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """One finite number for each passage; higher answers the query better."""
        ...


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder of one output. Safe to call from several threads (one at a time works)."""

    def __init__(self, model: CrossEncoder, name: str) -> None:
        """`model` is ready to predict; `load` is the usual way here."""
        self._model = model
        self._lock = threading.Lock()  # fast tokenizers may not be used by two threads at once
        self.name = name

    @classmethod
    def load(cls, path_or_id: str | Path, revision: str | None = None) -> CrossEncoderReranker:
        """Loads a folder or a Hub id, from safetensors alone and without running code of the model's repository; with
        HF_HUB_OFFLINE=1 set, from local files alone. `revision` is a commit of the Hub.

        Raises:
            RagRequestError: it is not there, is no CrossEncoder, or gives more than one number for a pair.
        """
        from safetensors import SafetensorError
        from sentence_transformers import CrossEncoder

        place = str(path_or_id)
        try:
            model = CrossEncoder(
                place,
                revision=None if Path(place).is_dir() else revision,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RagRequestError(
                f"the reranker {place} cannot be loaded: {first_line.strip()} (a folder must hold a "
                "sentence-transformers CrossEncoder with weights as .safetensors; a Hub id needs the network once, or "
                "its files in the local cache)"
            ) from error
        if model.num_labels != 1:
            raise RagRequestError(
                f"the reranker {place} gives {model.num_labels} numbers for a pair; search needs one that gives one"
            )
        return cls(model, place)

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """One number for each passage, as the model's own activation gives it. A pair that is longer than the model
        reads is cut at its end."""
        if not passages:
            return []
        with self._lock:
            found = self._model.predict(
                [(query, passage) for passage in passages], batch_size=_BATCH, show_progress_bar=False
            )
        return [float(score) for score in found]


def checked_scores(scores: Sequence[float], passages: int) -> list[float]:
    """A reranker's scores as they are; one that is no number would make the order of hits a matter of chance.

    Raises:
        RagError: they are not one finite number a passage.
    """
    if len(scores) != passages or not np.all(np.isfinite(np.asarray(scores, dtype=np.float64))):
        raise RagError(f"the reranker gave {len(scores)} scores for {passages} passages, or one that is no number")
    return [float(score) for score in scores]

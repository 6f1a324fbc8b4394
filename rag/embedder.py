"""Texts into vectors: the protocol that an index asks of an embedder, and the one over sentence-transformers."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from rag.errors import RagRequestError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = npt.NDArray[np.float32]
# Called with (done, total) as work goes on.
Progress = Callable[[int, int], None]
Precision = Literal["auto", "bf16", "fp32"]

# What one forward pass reads: enough to keep a processor's cores, or a GPU, busy, and little beside any weights.
_BATCH_TOKENS = 8192
_MOST_TEXTS = 512
_CPUINFO = Path("/proc/cpuinfo")


class Embedder(Protocol):
    """What an index needs: identity, sizes, and the two encodings. Vectors are float32 [n, dimension] unit rows."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str:
        """Which weights: with the name and the prompts, what makes two embedders the same."""
        ...

    @property
    def dimension(self) -> int: ...
    @property
    def max_tokens(self) -> int:
        """The longest passage that is read whole, counted as `count_tokens` counts."""
        ...

    @property
    def query_prompt(self) -> str: ...
    @property
    def passage_prompt(self) -> str: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a passage: prompt and special tokens included, nothing cut."""
        ...

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors: ...
    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """A query longer than the model reads is cut at its end."""
        ...


class SentenceTransformerEmbedder:
    """A sentence-transformers model, with its own prompts. Safe to call from several threads (one at a time works)."""

    def __init__(self, model: SentenceTransformer, name: str, revision: str, precision_reason: str) -> None:
        """`model` is ready to encode; `load` is the usual way here."""
        from tokenizers import Tokenizer

        self._model = model
        self._lock = threading.Lock()  # fast tokenizers may not be used by two threads at once
        if isinstance(model.tokenizer, Tokenizer):  # of a static embedder, whose file may ask for truncation
            model.tokenizer.no_truncation()
        self.name = name
        self.revision = revision
        self.precision_reason = precision_reason
        self.query_prompt = model.prompts.get("query") or ""
        prompts = (model.prompts.get(key) for key in ("document", "passage", "corpus"))
        self.passage_prompt = next((prompt for prompt in prompts if prompt), "")
        self.dimension = int(model.encode(["a"], show_progress_bar=False).shape[1])
        self.max_tokens = _max_tokens(model)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        name: str | None = None,
        revision: str | None = None,
        precision: Precision = "auto",
        *,
        identity: str | None = None,
    ) -> SentenceTransformerEmbedder:
        """Loads a folder or a Hub id, from safetensors alone and without running code of the model's repository; with
        HF_HUB_OFFLINE=1 set, from local files alone.

        `name` is what indexes remember (the path or id itself by default); `revision` a branch, tag or commit of the
        Hub, which a folder has none of. What indexes remember as the revision is the commit that was loaded, or a hash
        of the folder's files, unless `identity` names the weights.

        Raises:
            RagRequestError: it is not there, or is no such model.
        """
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        from rag.fused_linear import fuse_linear_layers

        if precision not in ("auto", "bf16", "fp32"):
            raise RagRequestError(f"the embedder's precision is {precision!r}; it must be auto, bf16 or fp32")
        bfloat16, reason = choose_precision(precision)
        place = str(path_or_id)
        local = Path(place).is_dir()
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        try:
            model = SentenceTransformer(
                place,
                revision=None if local else revision,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": dtype},
            )
            if bfloat16 and model.device.type == "cpu":
                fuse_linear_layers(model)
            embedder = cls(model, name or place, "", reason)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RagRequestError(
                f"the embedder {name or place} cannot be loaded{'' if name is None else f' from {place}'}: "
                f"{first_line.strip()} "
                "(a folder must hold a sentence-transformers model with weights as .safetensors; a Hub id needs the "
                "network once, or its files in the local cache)"
            ) from error
        if identity is not None:
            embedder.revision = identity
        else:
            embedder.revision = _folder_revision(Path(place)) if local else _hub_revision(model, place, revision)
        return embedder

    @property
    def model(self) -> SentenceTransformer:
        """What encodes; several threads may not use it at once."""
        return self._model

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model sees it as a passage, prompt and special tokens included, nothing cut."""
        from tokenizers import Tokenizer

        if not texts:
            return []
        prompted = [self.passage_prompt + text for text in texts]
        tokenizer = self._model.tokenizer
        with self._lock:
            if isinstance(tokenizer, Tokenizer):  # of a static embedder, which adds, pads and cuts nothing
                encodings = tokenizer.encode_batch(prompted, add_special_tokens=False)
                return [len(encoding.ids) for encoding in encodings]
            encoded = tokenizer(
                prompted,
                truncation=False,
                padding=False,
                verbose=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        return [len(ids) for ids in encoded["input_ids"]]

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """float32 [n, dimension] unit rows on the CPU, in the order of `texts`; `progress` counts texts.

        Raises:
            RagRequestError: a text is longer than the model reads; nothing is cut silently.
        """
        lengths = self.count_tokens(texts)
        if lengths and max(lengths) > self.max_tokens:
            raise RagRequestError(f"a passage has {max(lengths)} tokens; {self.name} reads at most {self.max_tokens}")
        # Alike lengths side by side leave little padding; the longest first shows at once whether memory suffices.
        order = sorted(range(len(texts)), key=lambda index: -lengths[index])
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        start = 0
        while start < len(order):
            size = min(_MOST_TEXTS, max(1, _BATCH_TOKENS // max(1, lengths[order[start]])))
            batch = order[start : start + size]
            with self._lock:
                encoded = self._model.encode_document(
                    [texts[index] for index in batch],
                    prompt=self.passage_prompt,
                    batch_size=size,
                    show_progress_bar=False,
                )
            vectors[batch] = _unit_rows(encoded)
            start += len(batch)
            if progress is not None:
                progress(start, len(order))
        return vectors

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension] unit rows on the CPU; the end of a query past the model's limit is not read."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock:
            encoded = self._model.encode_query(
                list(texts), prompt=self.query_prompt, batch_size=32, show_progress_bar=False
            )
        return _unit_rows(encoded)


def choose_precision(precision: Precision) -> tuple[bool, str]:
    """(bfloat16 or not, the reason in words). `auto` takes bfloat16 only where the hardware computes in it: elsewhere
    it is emulated, and slower than float32."""
    import torch

    if precision != "auto":
        return precision == "bf16", f"{'bfloat16' if precision == 'bf16' else 'float32'}: asked for"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, "bfloat16: this GPU computes in it"
        return False, "float32: this GPU does not compute in bfloat16"
    if torch.backends.mps.is_available():
        return False, "float32: on Apple GPUs"
    flags = _cpu_flags()
    for flag, words in (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16")):
        if flag in flags:
            return True, f"bfloat16: this CPU has {words}"
    return False, "float32: this CPU does not compute in bfloat16"


def _cpu_flags() -> set[str]:
    """The features of the first CPU as Linux lists them; none where there is no such list."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return set(line.partition(":")[2].split())


def _max_tokens(model: SentenceTransformer) -> int:
    """The model's limit; a static embedder has none, and gets one beyond any chunk."""
    limit = model.max_seq_length
    return int(limit) if limit is not None and limit < 1_000_000 else 1_000_000


def _unit_rows(encoded: Any) -> Vectors:
    rows = np.asarray(encoded, dtype=np.float32)
    # In bfloat16 a model's own normalisation is off by up to one percent: it is done again in float32.
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = rows / np.maximum(norms, np.float32(1e-12))
    return unit


def _folder_revision(folder: Path) -> str:
    """Which weights a folder holds, whatever it is called: a hash over its weights and settings."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".safetensors", ".json", ".txt", ".model"}:
            digest.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return f"sha256:{digest.hexdigest()[:16]}"


def _hub_revision(model: SentenceTransformer, id: str, asked: str | None) -> str:
    """The commit that was loaded, where the model or the cache of the Hub's files says it; a branch means another one
    tomorrow."""
    transformer = model.transformers_model
    # The configuration carries it only where the model came from the Hub.
    commit = None if transformer is None else vars(transformer.config).get("_commit_hash")
    return str(commit or _cached_commit(id, asked) or asked or "main")


def _cached_commit(id: str, asked: str | None) -> str | None:
    """The commit whose files lie in the cache for this branch: a static embedder has no configuration that says it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = os.environ.get("SENTENCE_TRANSFORMERS_HOME")  # which sentence-transformers takes before the Hub's own
    for name in ("modules.json", "config_sentence_transformers.json", "config.json"):
        try:
            found = try_to_load_from_cache(id, name, cache_dir=folder, revision=asked)
        except HFValidationError:
            return None
        if isinstance(found, str):  # .../snapshots/COMMIT/NAME
            return Path(found).parent.name
    return None

"""Models of the Llama architecture as GGUF has them: the metadata, and each tensor under its name there.

The keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfkit.errors import RequestError, WorkError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Weights = npt.NDArray[np.float32]

ARCHITECTURE = "llama"
SUPPORTED = "GGUF files are written for the architecture llama (SmolLM2, Llama 3 without long-context scaling)"


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The numbers of config.json; `tied` says whether the embeddings are the output matrix as well."""

    vocabulary: int
    context: int
    width: int
    inner_width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    norm_epsilon: float
    rope_base: float
    tied: bool

    def describe(self, writer: GGUFWriter) -> None:
        """Write them as the file's metadata."""
        writer.add_vocab_size(self.vocabulary)
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_feed_forward_length(self.inner_width)
        writer.add_block_count(self.layers)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.key_value_heads)
        writer.add_key_length(self.head_width)
        writer.add_value_length(self.head_width)
        writer.add_rope_dimension_count(self.head_width)
        writer.add_rope_freq_base(self.rope_base)
        writer.add_layer_norm_rms_eps(self.norm_epsilon)


def read_shape(folder: Path) -> LlamaShape:
    """Of the model in `folder`.

    Raises:
        RequestError: it is of another architecture, or has parts that GGUF's Llama does not have.
    """
    from transformers import AutoConfig, LlamaConfig

    config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, LlamaConfig):
        raise RequestError(f"this model's architecture is {config.model_type}; {SUPPORTED}. Export safetensors instead")
    rope: dict[str, Any] = dict(config.rope_parameters or {})
    parts = {
        "biases in its attention": config.attention_bias,
        "biases in its MLP": config.mlp_bias,
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        f"rotary positions scaled by the rule {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
    }
    for part, present in parts.items():
        if present:
            raise RequestError(f"this model has {part}, which is not exported; {SUPPORTED}. Export safetensors instead")
    return LlamaShape(
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        width=config.hidden_size,
        inner_width=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads or config.num_attention_heads,
        head_width=config.head_dim or config.hidden_size // config.num_attention_heads,
        norm_epsilon=config.rms_norm_eps,
        rope_base=float(rope["rope_theta"]),
        tied=bool(config.tie_word_embeddings),
    )


class LlamaTensors:
    """The tensors of a folder's safetensors under the names of GGUF, read one at a time."""

    def __init__(self, shape: LlamaShape, files: dict[str, Any]) -> None:
        """`files` are the opened ones by the names of the tensors in them; `open_tensors` is the way here."""
        from gguf import MODEL_ARCH, get_tensor_name_map

        known = get_tensor_name_map(MODEL_ARCH.LLAMA, shape.layers)
        self.shape = shape
        self._files = files
        self.sources: dict[str, str] = {}
        for source in sorted(files):
            if source == "lm_head.weight" and shape.tied:
                continue
            name = known.get_name(source, try_suffixes=(".weight",))
            if name is None:
                raise RequestError(f"this model has a tensor {source} that GGUF's Llama does not have; {SUPPORTED}")
            self.sources[name] = source

    def read(self, name: str) -> Weights:
        """float32, in the layout of GGUF."""
        weights = self.read_source(self.sources[name])
        if name.endswith("attn_q.weight"):
            return _paired(weights, self.shape.heads)
        return _paired(weights, self.shape.key_value_heads) if name.endswith("attn_k.weight") else weights

    def read_source(self, source: str) -> Weights:
        """float32, under the name and in the layout of Transformers."""
        weights: Weights = self._files[source].get_tensor(source).float().numpy()
        return weights

    def size(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        source = self.sources[name]
        return tuple(self._files[source].get_slice(source).get_shape())


@contextmanager
def open_tensors(folder: Path, shape: LlamaShape) -> Iterator[LlamaTensors]:
    """Of all the safetensors files in `folder`. Raises WorkError where there are none."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            opened = stack.enter_context(safe_open(path, framework="pt"))
            files.update(dict.fromkeys(opened.keys(), opened))
        if not files:
            raise WorkError(f"{folder}: holds no safetensors weights; run the train stage again")
        yield LlamaTensors(shape, files)


def _paired(weights: Weights, heads: int) -> Weights:
    """Rotary positions turn pairs of rows. Transformers pairs row i of a head with row i + half of it, GGUF's Llama
    with its neighbour."""
    rows, columns = weights.shape
    paired: Weights = weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return paired

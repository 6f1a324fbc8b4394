"""Writes a GGUF file, tensor by tensor, with the `gguf` package and its NumPy quantisers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hfkit.export.llama_weights import ARCHITECTURE, LlamaShape, LlamaTensors, Weights
from hfkit.export.result import GgufType
from hfkit.export.vocabulary import Vocabulary

# What every numeric type of GGUF that is written here shares one scale over.
_BLOCK = 32
_PROBE = bytes(2**20)


def write_gguf(
    path: Path, name: str, kind: GgufType, shape: LlamaShape, tensors: LlamaTensors, vocabulary: Vocabulary
) -> None:
    """Write the model to `path`, one tensor in memory at a time. `name` is what programs show.

    Raises:
        OSError: the disk is full, or the file may not become so large.
    """
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quant_shape_to_byte_shape
    from gguf.quants import quantize

    file_types = {
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
        "q4_0": LlamaFileType.MOSTLY_Q4_0,
    }
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_types[kind])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    shape.describe(writer)
    vocabulary.describe(writer)
    types = {tensor: GGMLQuantizationType[_type(tensor, kind, tensors)] for tensor in tensors.sources}
    for tensor, type in types.items():
        size = tensors.size(tensor)
        bytes_of = quant_shape_to_byte_shape(size, type)
        writer.add_tensor_info(tensor, bytes_of, np.dtype(np.uint8), math.prod(bytes_of), type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, type in types.items():
            weights: Weights = tensors.read(tensor)
            writer.write_tensor_data(np.ascontiguousarray(quantize(weights, type)).view(np.uint8))
    except OSError as error:
        if error.errno is None:
            # NumPy says how much it wrote and not why no more; one more write says why.
            with path.open("ab", buffering=0) as file:
                file.write(_PROBE)
        raise
    finally:
        writer.close()


def _type(tensor: str, kind: GgufType, tensors: LlamaTensors) -> str:
    """The name of the type that a tensor is kept in. Vectors (norms) stay in float32. The output matrix, which decides
    between tokens that are close, is kept in eight bits where the others have four, as llama.cpp's own tool does."""
    size = tensors.size(tensor)
    if len(size) == 1:
        return "F32"
    if size[-1] % _BLOCK:
        return "F16"
    output = "token_embd.weight" if tensors.shape.tied else "output.weight"
    return "Q8_0" if kind == "q4_0" and tensor == output else kind.upper()

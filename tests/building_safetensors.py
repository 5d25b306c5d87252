"""Safetensors files of any element type, written by hand: the format's library writes some types from torch alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from wwonnx.converters.safetensors_header import DTYPES

NAMES: dict[Any, str] = {
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
    np.dtype(ml_dtypes.float8_e5m2): "F8_E5M2",
    np.dtype(ml_dtypes.float8_e8m0fnu): "F8_E8M0",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
    np.dtype(np.int32): "I32",
    np.dtype(np.int64): "I64",
    np.dtype(np.bool_): "BOOL",
    np.dtype(np.complex64): "C64",
}


def write(path: Path, arrays: Mapping[str, NDArray[Any]], **extra: Any) -> Path:
    """Write arrays; `extra` are further entries of the header without bytes of their own."""
    header: dict[str, Any] = dict(extra)
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": NAMES[array.dtype], "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    return path


def write_sharded(folder: Path, shards: list[Mapping[str, NDArray[Any]]]) -> Path:
    """A folder of shards and their index, as Hugging Face models have it."""
    places = {}
    for number, arrays in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write(folder / name, arrays)
        places |= dict.fromkeys(arrays, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_sparse(folder: Path, shapes: list[dict[str, tuple[int, ...]]], dtype: str = "BF16") -> Path:
    """Shards of nothing but holes: as long as the real ones, they take no room."""
    places = {}
    for number, tensors in enumerate(shapes, start=1):
        header, end = {}, 0
        for name, shape in tensors.items():
            length = math.prod(shape) * DTYPES[dtype][0] // 8
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
            end += length
        content = json.dumps(header).encode()
        file_name = f"model-{number:05}-of-{len(shapes):05}.safetensors"
        with (folder / file_name).open("wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            file.truncate(8 + len(content) + end)
        places |= dict.fromkeys(tensors, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder

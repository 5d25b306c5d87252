"""Stored tensors: their element types and their values."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ModelError, UnsafeModelError, WeightError
from .words import clean, first_line

FLOATS = frozenset(
    {
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.BFLOAT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
        ir.DataType.FLOAT4E2M1,
    }
)
#: Types of shapes, indices and axes. Smaller integers may be quantised weights.
INDICES = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.UINT64, ir.DataType.UINT32})
NO_NUMBERS = frozenset({ir.DataType.STRING, ir.DataType.BOOL, ir.DataType.UNDEFINED})


def epsilon(dtype: ir.DataType) -> float:
    """Distance from 1 to the next number of a floating point type; float32's for types that are no floats."""
    if dtype not in FLOATS:
        return float(np.finfo(np.float32).eps)
    import ml_dtypes

    information: Any = ml_dtypes.finfo  # untyped
    return float(information(dtype.numpy()).eps)


def shape_of(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """A stored tensor's shape."""
    return tuple(int(n) for n in tensor.shape.numpy())


def read_tensor(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """A tensor's values; external data as a memory map of its own, released with the array.

    Raises:
        WeightError: the data is missing, too short, or doesn't fit the shape.
    """
    try:
        if isinstance(tensor, ir.ExternalTensor):
            return _map_external(tensor)
        _check_size(tensor)
        return np.asarray(tensor.numpy())
    except (ModelError, OSError, ValueError, TypeError, OverflowError, MemoryError, AssertionError) as error:
        raise WeightError(f"tensor {clean(tensor.name)!r} can't be read: {first_line(error)}") from None


def element_type(tensor: ir.TensorProtocol) -> ir.DataType:
    """A tensor's element type; UNDEFINED where the file gives a number that means nothing."""
    try:
        return tensor.dtype
    except ValueError:
        return ir.DataType.UNDEFINED


def safe_path(tensor: Any) -> Path:
    """Where a tensor's external data lies. It is asked for at opening and again at reading.

    Raises:
        UnsafeModelError: outside the model's folder (absolute, `..`, a link that leads out), or no regular file.
        ModelError: it can't be looked at.
    """
    location = str(tensor.location)
    where = f"tensor {clean(tensor.name)!r} asks for external data {clean(location)!r}"
    mend = "keep the data file beside the model"
    folder = Path(tensor.base_dir or Path.cwd()).resolve()
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or Path(location).is_absolute() or ".." in parts:
        raise UnsafeModelError(f"{where}, which is outside the model's folder: refused; {mend}")
    path = folder / location
    try:
        if not path.resolve().is_relative_to(folder):
            raise UnsafeModelError(f"{where}, a link that leads out of the model's folder: refused; {mend}")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UnsafeModelError(f"{where}, which is not a regular file: refused; {mend}")
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{where}, which can't be opened ({first_line(error)})") from None
    return path


def _check_size(tensor: ir.TensorProtocol) -> None:
    """Refuse a shape that packed codes can't fill, before onnx_ir makes an array of that size.

    Types of whole bytes need no such look: their bytes are read as they are, and fit the shape or not.
    """
    if not 0 < tensor.dtype.bitwidth < 8:
        return
    proto: Any = getattr(tensor, "raw", None)
    held = len(proto.raw_data) or len(proto.int32_data) if hasattr(proto, "raw_data") else None
    needed = math.ceil(math.prod(shape_of(tensor)) * tensor.dtype.bitwidth / 8)
    if held is not None and held < needed:
        raise ValueError(f"its shape needs {needed} bytes, it holds {held}")


def _map_external(tensor: Any) -> NDArray[Any]:
    """A map of just this tensor's bytes, which goes with the array.

    Closing onnx_ir's map of the whole file would pull it away under layers that read the same file in another thread.
    """
    shape = shape_of(tensor)
    if any(n < 0 for n in shape):
        raise ValueError(f"its shape is {list(shape)}")
    bits = tensor.dtype.bitwidth
    offset, needed = tensor.offset or 0, math.ceil(math.prod(shape) * bits / 8)
    path = safe_path(tensor)
    if not path.is_file():
        raise ValueError(f"external data file {str(tensor.location)!r} is missing; put it into {path.parent}")
    size = path.stat().st_size
    if offset < 0 or offset + needed > size:
        raise ValueError(
            f"it needs bytes {offset} to {offset + needed} of {str(tensor.location)!r}, which has {size}; "
            "the data file is cut short or belongs to another model"
        )
    if tensor.length is not None and tensor.length < needed:
        raise ValueError(f"its shape needs {needed} bytes, its entry gives {tensor.length}")
    if not needed:
        empty: NDArray[Any] = np.empty(shape, dtype=tensor.dtype.numpy())
        return empty
    if bits >= 8:
        dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    packed = np.memmap(path, dtype=np.uint8, mode="r", offset=offset, shape=(needed,))
    codes: NDArray[Any] = unpack(packed, bits, math.prod(shape)).view(tensor.dtype.numpy()).reshape(shape)
    return codes


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Codes of 2, 4 or 8 bits out of bytes, low bits first.

    Args:
        packed: shape (..., bytes).
        bits: 2, 4 or 8.
        count: codes per row; what the last byte holds beyond is dropped.

    Returns:
        Shape (..., count).
    """
    if bits == 8:
        return packed[..., :count]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes: NDArray[np.uint8] = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    rows: NDArray[np.uint8] = codes.reshape(*packed.shape[:-1], -1)
    return rows[..., :count]

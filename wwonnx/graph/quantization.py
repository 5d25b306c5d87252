"""From codes to values: what quantisation left of a weight, exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tensors import unpack


def dequantize(
    codes: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any] | None,
    axis: int = 1,
    block_size: int = 0,
) -> NDArray[Any]:
    """(codes - zero_point) * scale, in the scale's element type, as ONNX's DequantizeLinear does.

    Args:
        codes: any integer or float8 type, any shape.
        scale: a scalar or one element (per tensor), shape (n,) (per axis), or the shape of the codes with `axis`
            divided into blocks.
        zero_point: like the scale; None for zero.
        axis: the axis that the scales belong to.
        block_size: length of a block; 0 where scales are per tensor or per axis. The last block may be shorter.

    Raises:
        ValueError: shapes that don't fit each other.
    """
    spread_scale = _spread(scale, codes.shape, axis, block_size)
    values = codes.astype(spread_scale.dtype if spread_scale.dtype.kind == "f" else np.float32)
    if zero_point is not None and zero_point.size:
        values = values - _spread(zero_point, codes.shape, axis, block_size).astype(values.dtype)
    result: NDArray[Any] = values * spread_scale.astype(values.dtype)
    return result


def _spread(parameter: NDArray[Any], shape: tuple[int, ...], axis: int, block_size: int) -> NDArray[Any]:
    """A scale or zero point in a shape that broadcasts against the codes."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis += len(shape) if axis < 0 else 0
    if parameter.ndim == 1 and not block_size:
        if not 0 <= axis < len(shape) or parameter.size != shape[axis]:
            raise ValueError(
                f"{parameter.size} scales or zero points for axis {axis} of a weight of shape {list(shape)}"
            )
        return parameter.reshape([-1 if index == axis else 1 for index in range(len(shape))])
    if not block_size:
        return parameter
    blocks = math.ceil(shape[axis] / block_size)
    wanted = tuple(blocks if index == axis else n for index, n in enumerate(shape))
    if parameter.shape != wanted:
        raise ValueError(f"scales or zero points of shape {list(parameter.shape)}, not {list(wanted)}")
    return np.repeat(parameter, block_size, axis=axis)[tuple(slice(n) for n in shape)]


def n_bits(
    packed: NDArray[np.uint8],
    scales: NDArray[Any],
    zero_points: NDArray[Any] | None,
    shape: tuple[int, int],
    bits: int,
    block_size: int,
    order: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """The weight of com.microsoft's MatMulNBits, shape (K, N): what multiplies the activations from the right.

    Args:
        packed: shape (N, blocks, bytes of a block), low bits first, or that flattened.
        scales: (N, blocks) or flattened.
        zero_points: packed like the codes, (N, bytes); or of the scales' type, one per block (HQQ); None for
            2^(bits - 1).
        shape: (K, N).
        bits: 2, 4 or 8.
        block_size: codes per block.
        order: shape (K,), which block's scale each row has (g_idx); None for one after the other. Without zero points.

    Raises:
        ValueError: sizes that don't fit each other.
    """
    depth, columns = shape
    blocks = math.ceil(depth / block_size)
    codes = unpack(packed.reshape(columns, blocks, -1), bits, block_size)
    spread = scales.reshape(columns, blocks, 1)
    if order is not None:
        flat = codes.reshape(columns, -1)[:, :depth].astype(spread.dtype) - spread.dtype.type(1 << (bits - 1))
        ordered: NDArray[Any] = (flat * scales.reshape(columns, blocks)[:, order.astype(np.int64)]).T
        return ordered
    values = codes.astype(spread.dtype)
    if zero_points is None:
        values = values - values.dtype.type(1 << (bits - 1))
    elif zero_points.dtype == np.uint8:
        zeros = unpack(zero_points.reshape(columns, -1), bits, blocks)
        values = values - zeros.reshape(columns, blocks, 1).astype(values.dtype)
    else:
        values = values - zero_points.reshape(columns, blocks, 1).astype(values.dtype)
    result: NDArray[Any] = (values * spread).reshape(columns, -1)[:, :depth].T
    return result


def quantize_uniform(
    values: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any],
    bits: float,
    *,
    signed: bool,
    narrow: bool,
    rounding: str,
) -> NDArray[Any]:
    """QONNX's Quant: values rounded to a grid of `bits` bits and back (arXiv:2206.07527, sec. 4).

    Args:
        values: the unquantised weight.
        scale, zero_point: broadcast against it.
        bits: width of the integers.
        signed: whether they are signed.
        narrow: whether the most negative (or the largest unsigned) integer is left out.
        rounding: ROUND (half to even), CEIL, FLOOR or ROUND_TO_ZERO.
    """
    roundings = {"ROUND": np.rint, "CEIL": np.ceil, "FLOOR": np.floor, "ROUND_TO_ZERO": np.trunc}
    if signed:
        low, high = -(2.0 ** (bits - 1)) + narrow, 2.0 ** (bits - 1) - 1
    else:
        low, high = 0.0, 2.0**bits - 1 - narrow
    codes = roundings[rounding.upper()](np.clip(values / scale + zero_point, low, high))
    result: NDArray[Any] = (codes - zero_point) * scale
    return result.astype(values.dtype)

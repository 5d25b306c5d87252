"""Operators that hold codes, and where their scales and zero points are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...layer import LAYER_TYPE
from ..constants import Constant, Opaque
from ..quantization import dequantize, n_bits
from ..traverse import downstream, integer, is_onnx
from .base import MICROSOFT, Operand, Reading, Site, operator, read_inputs_first, read_matrix
from .convolution import kind, read_kernel


def dequantized(
    site: Site, codes: int, scale: int, zero_point: int, axis: int = 0, *, per_direction: bool = False
) -> Constant | Opaque | None:
    """The weight that codes, scale and zero point at these inputs stand for; None if codes or scale are not constant.

    Args:
        site: the node.
        codes, scale, zero_point: which inputs.
        axis: the axis of the codes that scales belong to where there are several.
        per_direction: recurrent weights: scales (directions,) or (directions, gates x hidden).
    """
    stored, scales = site.constant(codes), site.constant(scale)
    if stored is None or scales is None:
        return None
    return dequantized_by(site, stored, scales, site.constant(zero_point), axis, per_direction=per_direction)


def dequantized_by(
    site: Site, codes: Constant, scale: Constant, zero: Constant | None, axis: int, *, per_direction: bool = False
) -> Constant | Opaque:
    """The weight that these codes, scales and zero points stand for."""
    if codes.is_float and codes.stored.bitwidth > 8:
        return codes

    def compute(codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None) -> NDArray[Any]:
        if per_direction:
            shape = (codes.shape[0], 1, -1)
            return dequantize(codes, scale.reshape(shape), None if zero is None else zero.reshape(shape), 0)
        return dequantize(codes, scale, zero, axis)

    operands = [codes, scale] + ([] if zero is None else [zero])
    return site.finder.derived(operands, codes.shape, compute, ("dequantized", axis, per_direction), scale.dtype)


@operator("QLinearConv")
def qlinear_convolution(site: Site) -> Iterator[Operand]:
    """W, its scale and its zero point are inputs 3 to 5; scales are per output channel."""
    weight = dequantized(site, 3, 4, 5)
    rank = len(weight.shape) if isinstance(weight, Constant) else 0
    yield from site.operand(3, kind(rank), partial(read_kernel, site), weight=weight)


@operator("QLinearMatMul")
def qlinear_matmul(site: Site) -> Iterator[Operand]:
    """A, scale, zero point; B, scale, zero point. Scales are per row of A or per column of B."""
    for codes, axis, read in ((0, -2, read_matrix), (3, -1, read_inputs_first)):
        weight = dequantized(site, codes, codes + 1, codes + 2, axis)
        if weight is not None and site.constant(codes) is not None:
            yield from site.operand(codes, LAYER_TYPE.DENSE, read, weight=weight)


@operator("QGemm", domain=MICROSOFT)
def q_gemm(site: Site) -> Iterator[Operand]:
    """B, scale and zero point at 3 to 5; scales are per output, the first axis where B is transposed."""
    axis, read = (0, read_matrix) if integer(site.node, "transB", 0) else (1, read_inputs_first)
    yield from site.operand(3, LAYER_TYPE.DENSE, read, weight=dequantized(site, 3, 4, 5, axis))


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(site: Site) -> Iterator[Operand]:
    """B at 1, its scale at 3, its zero point at 5; scales are per column."""
    yield from site.operand(1, LAYER_TYPE.DENSE, read_inputs_first, weight=dequantized(site, 1, 3, 5, axis=-1))


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(site: Site) -> Iterator[Operand]:
    """B, scale and zero point at 1 to 3; scales are per column."""
    yield from site.operand(1, LAYER_TYPE.DENSE, read_inputs_first, weight=dequantized(site, 1, 2, 3, axis=-1))


@operator("MatMulInteger")
def matmul_integer(site: Site) -> Iterator[Operand]:
    """The zero points are inputs 2 and 3, the scale is in a later Mul."""
    for index, axis, read in ((0, -2, read_matrix), (1, -1, read_inputs_first)):
        codes = site.constant(index)
        if codes is not None:
            scale = later_scale(site, site.node, index)
            weight = dequantized_by(site, codes, scale, site.constant(index + 2), axis) if scale else codes
            yield from site.operand(index, LAYER_TYPE.DENSE, read, weight=weight)


@operator("ConvInteger")
def conv_integer(site: Site) -> Iterator[Operand]:
    """The weight is input 1, its zero point 3, the scale in a later Mul."""
    codes = site.constant(1)
    if codes is None:
        return
    scale = later_scale(site, site.node, 1)
    if scale is not None and scale.size > 1:  # broadcast over the result: (1, out, 1, 1)
        scale = _flattened(site, scale)
    weight = dequantized_by(site, codes, scale, site.constant(3), 0) if scale else codes
    yield from site.operand(1, kind(len(codes.shape)), partial(read_kernel, site), weight=weight)


def _flattened(site: Site, scale: Constant) -> Constant | None:
    flat = site.finder.derived([scale], (scale.size,), lambda array: array.reshape(-1), "flat", scale.dtype)
    return flat if isinstance(flat, Constant) else None


def later_scale(site: Site, node: ir.Node, operand: int) -> Constant | None:
    """The scale of an integer product's factor: result -> Cast -> Mul(by the product of both scales)."""
    for later in downstream(node, through=("Cast",)):
        if not is_onnx(later, "Mul"):
            continue
        if len(later.inputs) != 2:
            continue
        for index, factor in enumerate(later.inputs):
            if factor is None or site.finder.find(later.inputs[1 - index]) is not None:
                continue
            producer = factor.producer()
            if producer is not None and is_onnx(producer, "Mul") and len(producer.inputs) == 2:
                own = site.finder.constant(producer, operand)
                if own is not None:
                    return own
            known = site.finder.find(factor)
            if isinstance(known, Constant):
                return known
            if producer is not None and is_onnx(producer, "Mul"):
                either = [site.finder.constant(producer, position) for position in (0, 1)]
                found = next((constant for constant in either if constant is not None), None)
                if found is not None:
                    return found
    return None


def dequantized_lookup(site: Site, table: Constant) -> Constant | Opaque | None:
    """A table of codes whose rows are dequantised, or multiplied as integers, later; None where they are not."""
    for node in downstream(site.node, through=("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")):
        if (
            is_onnx(node, "DequantizeLinear")
            or (node.domain == MICROSOFT and node.op_type == "DequantizeLinear")
            or is_onnx(node, "QLinearMatMul")
        ):
            scale, zero = site.finder.constant(node, 1), site.finder.constant(node, 2)
        elif is_onnx(node, "MatMulInteger"):
            scale, zero = later_scale(site, node, 0), site.finder.constant(node, 2)
        else:
            continue
        if scale is not None and scale.size == 1:
            return dequantized_by(site, table, scale, zero, 0)
    return None


@operator("MatMulNBits", domain=MICROSOFT)
def matmul_n_bits(site: Site) -> Iterator[Operand]:
    """B, scales and zero points at 1 to 3; K, N, bits and block_size are attributes."""
    node = site.node
    packed, scales, zeros = (site.constant(index) for index in (1, 2, 3))
    if packed is None:
        return
    shape = (integer(node, "K", 0), integer(node, "N", 0))
    bits, block = integer(node, "bits", 4), integer(node, "block_size", 0)
    order = site.constant(4)
    if order is not None and zeros is not None:
        reason = "MatMulNBits with groups in an order of their own (g_idx) and zero points is not read"
        yield from site.refuse(1, LAYER_TYPE.DENSE, reason)
        return
    if scales is None or min(*shape, block) < 1 or bits not in (2, 4, 8):
        yield from site.refuse(1, LAYER_TYPE.DENSE, f"MatMulNBits of {bits} bits, K x N = {shape}, blocks of {block}")
        return

    def compute(packed: Any, scales: Any, *more: Any) -> NDArray[Any]:
        if order is not None:
            return n_bits(packed, scales, None, shape, bits, block, order=more[0])
        return n_bits(packed, scales, more[0] if more else None, shape, bits, block)

    operands = [operand for operand in (packed, scales, zeros, order) if operand is not None]
    what = ("nbits", shape, bits, block, order is not None)
    weight = site.finder.derived(operands, shape, compute, what, scales.dtype)
    yield from site.operand(1, LAYER_TYPE.DENSE, read_inputs_first, weight=weight)


@operator("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(site: Site) -> Iterator[Operand]:
    """A quantised table: codes at 0, scales at 2, zero points at 3; 4 bits as UINT4 or packed into bytes."""
    codes, scales, zeros = (site.constant(index) for index in (0, 2, 3))
    if codes is None or scales is None or len(codes.shape) != 2:
        return
    if integer(site.node, "bits", 4) not in (2, 4, 8) or integer(site.node, "block_size", 128) < 1:
        yield from site.refuse(0, LAYER_TYPE.EMBEDDING, "its bits or block_size make no sense")
        return
    axis = integer(site.node, "quantize_axis", 1)
    block = integer(site.node, "block_size", 128)
    bits = integer(site.node, "bits", 4)
    packed = codes.dtype == ir.DataType.UINT8 and bits < 8
    shape = codes.shape if not packed else (codes.shape[0], codes.shape[1] * (8 // bits))

    def compute(codes: Any, scales: Any, zeros: Any = None) -> NDArray[Any]:
        from ..tensors import unpack

        if packed:
            codes = unpack(codes, bits, shape[1])
            zeros = None if zeros is None else unpack(zeros, bits, scales.shape[1])
        if zeros is None and codes.dtype == np.uint8:
            zeros = np.array(1 << (bits - 1), dtype=np.uint8)
        return dequantize(codes, scales, zeros, axis, block)

    operands = [codes, scales] + ([] if zeros is None else [zeros])
    weight = site.finder.derived(operands, shape, compute, ("gather", axis, block, bits), scales.dtype)
    yield from site.operand(0, LAYER_TYPE.EMBEDDING, lambda _: [Reading()], weight=weight)


@operator("QEmbedLayerNormalization", domain=MICROSOFT)
def q_embed_layer_normalization(site: Site) -> Iterator[Operand]:
    """Tables at 2 to 4, their scales at 8 to 10, their zero points at 13 to 15."""
    for index, role in ((2, "word_embedding"), (3, "position_embedding"), (4, "segment_embedding")):
        weight = dequantized(site, index, index + 6, index + 11)
        if weight is not None:
            yield from site.operand(index, LAYER_TYPE.EMBEDDING, read_matrix, weight=weight, role=role)


@operator("MatMulBnb4", "MatMulFpQ4", "GemmFloat8", domain=MICROSOFT)
def other_formats(site: Site) -> Iterator[Operand]:
    """Formats whose codes are not integers of a uniform grid."""
    yield from site.refuse(
        1, LAYER_TYPE.DENSE, f"{site.node.op_type} holds codes that wwonnx does not read: use the float model"
    )

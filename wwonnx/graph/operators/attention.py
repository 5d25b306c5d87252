"""Attention operators that hold projections. Those that take projected activations alone hold no weight."""

from __future__ import annotations

from collections.abc import Iterator

from ...layer import LAYER_TYPE
from ..traverse import integers
from .base import MICROSOFT, Operand, Reading, Site, operator, read_inputs_first
from .dense import split_columns
from .quantized import dequantized


def _read_packed(site: Site, shape: tuple[int, ...]) -> list[Reading]:
    """(input, q + k + v).

    Raises:
        ValueError: it is no matrix.
    """
    whole = read_inputs_first(shape)
    if not site.splits.qkv or len(shape) != 2:
        return whole
    sizes = integers(site.node, "qkv_hidden_sizes") or (shape[1] // 3,) * 3
    return split_columns(sizes, outputs_first=False) if sum(sizes) == shape[1] and len(sizes) == 3 else whole


@operator("Attention", "PackedAttention", "DecoderMaskedSelfAttention", "LongformerAttention", domain=MICROSOFT)
def attention(site: Site) -> Iterator[Operand]:
    """Input 1 holds query, key and value projections side by side; Longformer's global ones follow at 4."""
    yield from site.operand(1, LAYER_TYPE.ATTENTION, lambda shape: _read_packed(site, shape), role="qkv")
    if site.node.op_type == "LongformerAttention":
        yield from site.operand(4, LAYER_TYPE.ATTENTION, lambda shape: _read_packed(site, shape), role="global_qkv")


@operator("QAttention", domain=MICROSOFT)
def quantized_attention(site: Site) -> Iterator[Operand]:
    """The packed projection is quantised: scale at input 4, zero point at 7."""
    weight = dequantized(site, 1, 4, 7, axis=1)
    yield from site.operand(1, LAYER_TYPE.ATTENTION, lambda shape: _read_packed(site, shape), weight=weight, role="qkv")


@operator("DecoderAttention", domain=MICROSOFT)
def decoder_attention(site: Site) -> Iterator[Operand]:
    """Query projection at input 2, key and value side by side at 3."""
    yield from site.operand(2, LAYER_TYPE.ATTENTION, read_inputs_first, role="q")
    yield from site.operand(3, LAYER_TYPE.ATTENTION, read_inputs_first, role="kv")


@operator(
    *("MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention", "RotaryEmbedding"),
    *("SparseAttention", "PagedAttention", "PackedMultiHeadAttention", "SkipLayerNormalization"),
    *("SkipSimplifiedLayerNormalization", "BiasGelu", "FastGelu", "QuickGelu", "BiasSplitGelu", "BiasAdd"),
    *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearConcat"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean", "RelativePositionBias"),
    domain=MICROSOFT,
)
def no_weights(site: Site) -> Iterator[Operand]:
    """Their inputs are activations, biases, scales and caches."""
    yield from ()

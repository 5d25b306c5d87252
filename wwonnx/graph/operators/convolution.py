"""Convolutions of any dimension, grouped and depthwise ones among them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ...layer import LAYER_TYPE, Layout, kernel_layout
from ..traverse import integer
from .base import MICROSOFT, Operand, Reading, Site, operator

_BY_DIMENSION = {1: LAYER_TYPE.CONV1D, 2: LAYER_TYPE.CONV2D, 3: LAYER_TYPE.CONV3D}


def kind(rank: int) -> LAYER_TYPE:
    """The type of a convolution whose weight has this many axes."""
    return _BY_DIMENSION.get(rank - 2, LAYER_TYPE.CONV_ND)


def read_kernel(site: Site, shape: tuple[int, ...]) -> list[Reading]:
    """(a, b, k1, ..., kd): one (a x b) matrix per kernel position.

    The map of a grouped convolution is block-diagonal. Stacked, as WeightWatcher reads it, its groups' matrices stand
    on each other; split, each group has its own, and their spectra together are the true one.

    Raises:
        ValueError: it is no kernel.
    """
    if len(shape) < 3:
        raise ValueError(f"a kernel needs 3 or more dimensions, this has shape {list(shape)}")
    group = integer(site.node, "group", 1)
    layout = kernel_layout(len(shape) - 2)
    if "Transpose" in site.node.op_type:  # inputs come first
        layout = Layout(layout.stack, layout.columns, layout.rows)
    depthwise = group > 1 and shape[1] == 1
    if not site.splits.groups or depthwise or group <= 1 or shape[0] % group:
        return [Reading(layout, depthwise=depthwise)]
    split = (group, shape[0] // group, *shape[1:])
    stack, rows, columns = (tuple(axis + 1 for axis in axes) for axes in (layout.stack, layout.rows, layout.columns))
    return [Reading(Layout((0, *stack), rows, columns), shape=split)]


def _rank(site: Site, index: int) -> int:
    weight = site.constant(index)
    return len(weight.shape) if weight is not None else 0


@operator("Conv", "DeformConv")
@operator("FusedConv", domain=MICROSOFT)
def convolution(site: Site) -> Iterator[Operand]:
    """W is (out, in / group, k1, ..., kd)."""
    yield from site.operand(1, kind(_rank(site, 1)), partial(read_kernel, site), bias=site.constant(2))


@operator("ConvTranspose")
@operator("ConvTransposeWithDynamicPads", domain=MICROSOFT)
def transposed_convolution(site: Site) -> Iterator[Operand]:
    """W is (in, out / group, k1, ..., kd); which of the two comes first makes no difference to a spectrum."""
    yield from site.operand(1, LAYER_TYPE.CONV_TRANSPOSE, partial(read_kernel, site), bias=site.constant(2))


@operator("NhwcConv", "NhwcFusedConv", domain=MICROSOFT)
def channels_last_convolution(site: Site) -> Iterator[Operand]:
    """W is (out, k1, ..., kd, in / group)."""

    def read(shape: tuple[int, ...]) -> list[Reading]:
        return [Reading(Layout(tuple(range(1, len(shape) - 1)), (0,), (len(shape) - 1,)))]

    yield from site.operand(1, kind(_rank(site, 1)), read)

"""Convolutions of any dimension, grouped and depthwise ones among them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...layer import LAYER_TYPE, Layout
from ..traverse import integers
from . import Operand, operator

_BY_DIMENSION = {1: LAYER_TYPE.CONV1D, 2: LAYER_TYPE.CONV2D, 3: LAYER_TYPE.CONV3D}


@operator("Conv")
def convolution(node: ir.Node) -> Iterator[Operand]:
    """W is (out, in / group, k1, ..., kd): one (out x in/group) matrix per kernel position."""
    yield Operand(1, _BY_DIMENSION.get(_dimensions(node), LAYER_TYPE.CONV_ND), Layout.KERNEL)


@operator("ConvTranspose")
def transposed_convolution(node: ir.Node) -> Iterator[Operand]:
    """W is (in, out / group, k1, ..., kd); which of the two comes first makes no difference to a spectrum."""
    yield Operand(1, LAYER_TYPE.CONV_TRANSPOSE, Layout.KERNEL)


def _dimensions(node: ir.Node) -> int:
    """Spatial dimensions, from the kernel_shape or else from the weight or the input."""
    kernel = integers(node, "kernel_shape")
    if kernel is not None:
        return len(kernel)
    for value in reversed(node.inputs[:2]):
        if value is not None and value.shape is not None:
            return len(value.shape) - 2
    return 0

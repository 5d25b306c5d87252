"""Matrix products: Linear, Dense and fully connected layers."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...layer import LAYER_TYPE
from . import Operand, operator


@operator("Gemm", "MatMul")
def matrix_product(node: ir.Node) -> Iterator[Operand]:
    """Either factor may be the weight: exporters write x W and W x. Gemm's third input is the bias."""
    yield Operand(0, LAYER_TYPE.DENSE)
    yield Operand(1, LAYER_TYPE.DENSE)

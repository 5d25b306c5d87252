"""Recurrent layers: their weights are named and counted, not analysed yet."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...layer import LAYER_TYPE
from . import Operand, operator


@operator("LSTM", "GRU", "RNN")
def recurrent(node: ir.Node) -> Iterator[Operand]:
    """W (input to hidden) and R (hidden to hidden), each (directions, gates x hidden, columns)."""
    for index in (1, 2):
        yield Operand(index, LAYER_TYPE.RECURRENT, refused=f"weights of {node.op_type} are not analysed yet")

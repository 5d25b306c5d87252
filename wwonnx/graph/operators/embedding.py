"""Tables that are looked up."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ...layer import LAYER_TYPE
from ..traverse import integer
from . import Operand, operator


@operator("Gather")
def lookup(node: ir.Node) -> Iterator[Operand]:
    """A constant matrix whose rows are gathered is an embedding: (entries, width)."""
    if integer(node, "axis", 0) == 0:
        yield Operand(0, LAYER_TYPE.EMBEDDING)

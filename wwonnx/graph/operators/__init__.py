"""Which input of which operator is a weight, and what shape of map it is: one small file per family.

To teach wwonnx an operator, write a function `(node) -> Iterable[Operand]` in its family's file, register it there with
`@operator(...)`, and import the file at the end of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from ...layer import LAYER_TYPE, Layout


@dataclass(frozen=True)
class Operand:
    """An input of a node that holds a weight wherever it is constant.

    Attributes:
        index: which input.
        layer_type: what kind of layer a constant there makes.
        layout: how its axes read as matrices.
        refused: why a constant there is no layer that can be analysed; empty where it is one.
    """

    index: int
    layer_type: LAYER_TYPE
    layout: Layout = Layout.MATRIX
    refused: str = ""


Handler = Callable[[ir.Node], Iterable[Operand]]
_HANDLERS: dict[tuple[str, str], Handler] = {}


def operator(*op_types: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a function as the one that knows these operators."""

    def register(handler: Handler) -> Handler:
        for op_type in op_types:
            _HANDLERS[domain, op_type] = handler
        return handler

    return register


def operands(node: ir.Node) -> tuple[Operand, ...]:
    """The weight inputs of a node, empty for operators that hold none or are not known."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    handler = _HANDLERS.get((domain, node.op_type))
    return tuple(handler(node)) if handler else ()


from . import convolution, dense, embedding, recurrent  # noqa: E402, F401  (they register themselves)

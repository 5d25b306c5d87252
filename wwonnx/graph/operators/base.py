"""What an operator's file tells the walker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from ...layer import LAYER_TYPE, MATRIX, TRANSPOSED, Layout
from ..constants import Constant, ConstantFinder, Opaque

#: More matrices than that in one tensor are no experts: something else is stacked there.
_MOST_MATRICES = 4096


@dataclass(frozen=True)
class Splits:
    """What is taken apart.

    Attributes:
        gates: one layer per gate of a recurrent weight.
        qkv: packed query, key and value projections as three layers.
        groups: a grouped convolution as its groups' own matrices (the map is block-diagonal), not stacked.
    """

    gates: bool = False
    qkv: bool = False
    groups: bool = False


@dataclass(frozen=True)
class Reading:
    """One layer out of a weight.

    Attributes:
        layout: how the part reads as matrices.
        suffix: what its name gets, `_reverse` or `.q`.
        region: the part, as an index into the weight; empty for all of it.
        shape: the part is reshaped to it first; None to leave it.
        depthwise: whether it is a depthwise convolution.
        outputs: which of the weight's outputs it holds; None for all.
    """

    layout: Layout = MATRIX
    suffix: str = ""
    region: tuple[int | slice, ...] = ()
    shape: tuple[int, ...] | None = None
    depthwise: bool = False
    outputs: slice | None = None

    def fits(self, weight: tuple[int, ...]) -> bool:
        """Whether the layout takes each axis of the part of a weight of this shape once."""
        rank = len(weight) - sum(not isinstance(part, slice) for part in self.region)
        axes = self.layout.stack + self.layout.rows + self.layout.columns
        return sorted(axes) == list(range(rank if self.shape is None else len(self.shape)))


@dataclass(frozen=True)
class Operand:
    """A constant at a weight input of a node.

    Attributes:
        index: which input.
        weight: the constant.
        layer_type: what kind of layer it is.
        readings: the layers in it.
        refused: why it is no layer; empty where it is one.
        role: what to call it where its tensor has no name of its own, `W`.
        bias: the bias that goes with it.
        bias_axis: the axis of the bias along which the outputs lie; its others are of length 1.
    """

    index: int
    weight: Constant | Opaque
    layer_type: LAYER_TYPE
    readings: tuple[Reading, ...] = ()
    refused: str = ""
    role: str = ""
    bias: Constant | None = None
    bias_axis: int = -1


Reader: TypeAlias = Callable[[tuple[int, ...]], "list[Reading]"]


@dataclass(frozen=True)
class Site:
    """A node as an operator's file sees it."""

    node: ir.Node
    finder: ConstantFinder
    splits: Splits

    def constant(self, index: int) -> Constant | None:
        """The constant at an input, None where there is none."""
        return self.finder.constant(self.node, index)

    def operand(
        self,
        index: int,
        layer_type: LAYER_TYPE,
        read: Reader,
        *,
        weight: Constant | Opaque | None = None,
        role: str = "",
        bias: Constant | None = None,
        bias_axis: int = -1,
    ) -> Iterator[Operand]:
        """The operand at an input, nothing where that is an activation or a vector.

        Args:
            index: which input.
            layer_type: its kind.
            read: gives the readings for a shape; raises ValueError with the reason where that can't be.
            weight: what the input stands for, where that is not simply its constant (a quantised weight).
            role: its name where the tensor has none.
            bias: the bias that goes with it.
            bias_axis: the axis of the bias along which the outputs lie.
        """
        if weight is None:
            weight = self.finder.find(self.node.inputs[index]) if index < len(self.node.inputs) else None
        if weight is None or (isinstance(weight, Constant) and len(weight.shape) < 2):
            return
        refused = ""
        readings: list[Reading] = []
        if isinstance(weight, Opaque):
            refused = weight.reason
        elif any(n < 0 for n in weight.shape):
            refused = f"its shape is {list(weight.shape)}"
        elif not weight.is_float:
            refused = f"elements are {weight.dtype.name.lower()} and no scale was found: no trained weight"
        else:
            try:
                readings = read(weight.shape)
            except ValueError as error:
                refused = str(error)
            if any(not reading.fits(weight.shape) for reading in readings):
                readings, refused = [], f"its shape {list(weight.shape)} does not fit {self.node.op_type}"
        yield Operand(index, weight, layer_type, tuple(readings), refused, role, bias, bias_axis)

    def refuse(self, index: int, layer_type: LAYER_TYPE, reason: str) -> Iterator[Operand]:
        """A weight that this version can't read."""
        weight = self.finder.find(self.node.inputs[index]) if index < len(self.node.inputs) else None
        if weight is not None:
            yield Operand(index, weight, layer_type, (), reason)


Handler: TypeAlias = Callable[[Site], Iterator[Operand]]
_HANDLERS: dict[tuple[str, str], Handler] = {}

MICROSOFT = "com.microsoft"


def operator(*op_types: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a function as the one that knows these operators."""

    def register(handler: Handler) -> Handler:
        for op_type in op_types:
            _HANDLERS[domain, op_type] = handler
        return handler

    return register


def _handler(node: ir.Node) -> Handler | None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return _HANDLERS.get((domain, node.op_type))


def is_known(node: ir.Node) -> bool:
    """Whether wwonnx knows where this operator holds weights, if it does."""
    return _handler(node) is not None or (node.domain in ("", "ai.onnx") and _is_standard(node.op_type))


def _is_standard(op_type: str) -> bool:
    """Whether ONNX defines an operator of this name: foreign ones sometimes come without a domain of their own."""
    return bool(onnx.defs.has(op_type))


def operands(site: Site) -> Iterator[Operand]:
    """The constants at the weight inputs of a node; none for operators that hold no weights or are not known."""
    handler = _handler(site.node)
    return handler(site) if handler else iter(())


def read_matrix(shape: tuple[int, ...], layout: Layout = MATRIX) -> list[Reading]:
    """A matrix of (outputs, inputs); of a stack of them, (n, outputs, inputs), each is a layer of its own.

    Args:
        shape: of the weight.
        layout: MATRIX, or TRANSPOSED for (inputs, outputs).

    Raises:
        ValueError: there are too many.
    """
    lead = shape[:-2]
    count = math.prod(lead)
    if len(shape) == 2:
        return [Reading(layout)]
    if count == 1:
        return [Reading(layout, shape=shape[-2:])]
    if count > _MOST_MATRICES or len(lead) > 1:
        raise ValueError(f"a matrix or a stack of matrices was expected, this has shape {list(shape)}")
    return [Reading(layout, suffix=f".{index}", region=(index,)) for index in range(count)]


def read_inputs_first(shape: tuple[int, ...]) -> list[Reading]:
    """As `read_matrix`, for (inputs, outputs).

    Raises:
        ValueError: there are too many.
    """
    return read_matrix(shape, TRANSPOSED)


def readings(*some: Reading) -> Reader:
    """A reader that doesn't depend on the shape."""

    def read(_: tuple[int, ...]) -> list[Reading]:
        return list(some)

    return read


def same(constant: Any, other: Any) -> bool:
    """Whether two inputs are the same constant."""
    return isinstance(constant, Constant) and isinstance(other, Constant) and constant.key == other.key

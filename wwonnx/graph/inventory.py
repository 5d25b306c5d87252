"""Every constant with two or more dimensions: what uses it, and the layer that it became or the reason why not."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from .constants import Constant, Opaque
from .tensors import INDICES, NO_NUMBERS, element_type, shape_of
from .traverse import constants
from .walk import Walk
from .words import clean


@dataclass(frozen=True)
class Entry:
    """One constant of a model.

    Attributes:
        name: the tensor's name in the file.
        shape, dtype, bytes: as stored.
        ops: the operators that read it, `Conv` or `MatMul x3`.
        layer_ids: the layers that it became.
        reason: why it became none; empty where it did.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    ops: str
    layer_ids: tuple[int, ...]
    reason: str

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inventory:
    """The constants of a model.

    Attributes:
        entries: those of two or more dimensions, in the file's order.
        parameters: elements of all constants of any dimension that could be trained: floating point numbers and small
            integers, which may be quantised weights.
    """

    entries: tuple[Entry, ...]
    parameters: int


def inventory(model: ir.Model, walk: Walk) -> Inventory:
    """List the constants of a model. Nothing of them is read."""
    entries: list[Entry] = []
    parameters = 0
    for value, tensor in constants(model):
        shape = shape_of(tensor)
        dtype = element_type(tensor)
        if dtype not in NO_NUMBERS | INDICES:
            parameters += math.prod(shape)
        if len(shape) < 2:
            continue
        layer_ids = tuple(walk.became.get(value, ()))
        entries.append(
            Entry(
                name=value.name or "",
                shape=shape,
                dtype=dtype.name.lower(),
                bytes=0 if dtype in NO_NUMBERS else math.ceil(math.prod(shape) * dtype.bitwidth / 8),
                ops=_users(value),
                layer_ids=layer_ids,
                reason="" if layer_ids else _reason(value, tensor, walk, model.graph),
            )
        )
    return Inventory(tuple(entries), parameters)


def _users(value: ir.Value) -> str:
    counts = Counter(clean(use.node.op_type, 60) for use in value.uses())
    return ", ".join(op if count == 1 else f"{op} x{count}" for op, count in counts.items())


def _reason(value: ir.Value, tensor: ir.TensorProtocol, walk: Walk, main: ir.Graph) -> str:
    """Why a constant is no layer."""
    if value in walk.reasons:
        return walk.reasons[value]
    if value in walk.helps:
        return f"scale, zero point or index of layer {walk.helps[value]}"
    users = [use.node for use in value.uses()]
    if not users:
        if not value.is_graph_output():
            return "no node uses it"
        return (
            "an output of the model" if value.graph is main else "the result of a branch or a loop, chosen at run time"
        )
    dtype = element_type(tensor)
    if dtype in NO_NUMBERS | INDICES:
        return f"elements are {dtype.name.lower()}: no trained weight"
    for node in users:
        result = walk.finder.find(node.outputs[0]) if node.outputs else None
        if isinstance(result, (Constant, Opaque)):
            return f"goes into constants computed by {node.op_type}, which no weight input reads"
    return f"an operand of {', '.join(sorted({node.op_type for node in users}))}, which is no linear map of it"

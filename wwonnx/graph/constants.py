"""The values behind constant expressions: what feeds a weight input, however far back it is stored.

A weight is whatever constant expression feeds a weight input. Its cone of operators is followed back to stored tensors
and described without being computed: its shape, its element type, what it would cost. Only when a layer is analysed is
the cone, and nothing but the cone, evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import WeightError
from .expressions import SENSELESS, Step, describe_step
from .tensors import FLOATS, element_type, epsilon, read_tensor, shape_of
from .traverse import constant_tensor, describe_node, is_onnx, subgraphs
from .words import clean, first_line

#: Bounds on an expression: how long its longest chain and how many evaluations it may take, from how many tensors,
#: and how much larger than what is stored its values may be (small ones may always be).
_DEPTH, _WORK, _LEAVES, _GROWTH, _SMALL = 200, 10_000, 4_096, 4, 1 << 24
#: How many tensors an expression that is not evaluated remembers that it comes from.
_REMEMBERED = 256


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant expression.

    Attributes:
        root: the largest stored tensor that it comes from: an initializer, or a Constant node's output.
        leaves: all stored tensors that it comes from.
        shape: of its values.
        dtype: element type of its values.
        stored: element type in which the root is stored.
        eps: epsilon of the least precise floating point type on the way: what differs by less tells nothing.
        key: equal for expressions of equal values.
        transposed: whether a matrix was transposed after what the key stands for.
        elements: how many elements the leaves hold together.
        work: how many operators have to be evaluated.
        depth: the longest chain of them.
        load: evaluates it.
    """

    root: ir.Value
    leaves: tuple[ir.Value, ...]
    shape: tuple[int, ...]
    dtype: ir.DataType
    stored: ir.DataType
    eps: float
    key: Hashable
    transposed: bool
    elements: int
    work: int
    depth: int
    load: Callable[[], NDArray[Any]]

    @property
    def is_float(self) -> bool:
        """Whether the values are floating point numbers, as trained weights are."""
        return self.dtype in FLOATS

    @property
    def identity(self) -> Hashable:
        """Equal for expressions of equal values."""
        return self.key, self.transposed

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def read(self) -> NDArray[Any]:
        """The values. External data that is only rearranged is memory-mapped: nothing is read before it is touched.

        Raises:
            WeightError: the file doesn't hold what it promises, or the expression can't be evaluated.
        """
        what = f"the constant expression from {clean(self.root.name)!r}"
        try:
            with np.errstate(all="ignore"):  # what overflows or is divided by zero shows as infinite or NaN weights
                array = self.load()
        except SENSELESS as error:
            raise WeightError(f"{what} can't be evaluated: {first_line(error)}") from None
        if array.shape != self.shape:
            raise WeightError(f"{what} has shape {list(array.shape)}, not {list(self.shape)}")
        return array


@dataclass(frozen=True, eq=False)
class Opaque:
    """A constant expression that is not evaluated, and why."""

    leaves: tuple[ir.Value, ...]
    reason: str


class ConstantFinder:
    """Finds what is constant in a graph. Each value is looked at once, however many nodes read it."""

    def __init__(self, owners: dict[ir.Graph, ir.Node] | None = None, opset: int = 18) -> None:
        """Start on a model.

        Args:
            owners: for each subgraph, the node that holds it.
            opset: version of the standard operators.
        """
        self._owners = owners or {}
        self._opset = opset
        self._known: dict[ir.Value, Constant | Opaque | None] = {}
        self._keys: dict[Hashable, int] = {}
        self._sizes: dict[ir.Value, int] = {}

    def find(self, value: ir.Value | None) -> Constant | Opaque | None:
        """The constant behind a value, None if the value depends on the model's inputs.

        The walk back through producers keeps its own stack: chains of a million nodes occur in broken files.
        """
        if value is None:
            return None
        stack, waiting = [value], {value}
        while stack:
            top = stack[-1]
            if top not in self._known:
                sources = self._sources(top)
                unknown = next((source for source in sources if source not in self._known), None)
                if unknown is not None and unknown not in waiting:
                    stack.append(unknown)
                    waiting.add(unknown)
                    continue
                # A value that waits for itself, in a cyclic graph or a loop that changes it, is no constant.
                self._known[top] = None if unknown is not None else self._resolve(top, sources)
            waiting.discard(stack.pop())
        return self._known[value]

    def constant(self, node: ir.Node, index: int) -> Constant | None:
        """The constant at a node's input, None where there is none that can be evaluated."""
        found = self.find(node.inputs[index]) if index < len(node.inputs) else None
        return found if isinstance(found, Constant) else None

    def derived(
        self,
        operands: list[Constant],
        shape: tuple[int, ...],
        compute: Callable[..., NDArray[Any]],
        what: Hashable,
        dtype: ir.DataType | None = None,
    ) -> Constant | Opaque:
        """A constant computed from others, as operators do that hold their weight in several inputs.

        Args:
            operands: what it is computed from.
            shape: of the result.
            compute: takes the operands' arrays.
            what: tells this computation from others on the same operands.
            dtype: element type of the result; None for float32.
        """
        return self._combine(Step(operands, shape, compute, dtype or ir.DataType.FLOAT), what, "its operator")

    def attribute(self, value: ir.Value, tensor: ir.TensorProtocol) -> Constant | None:
        """A weight that a node holds in its attributes; `value`, its output, stands for it."""
        return self._stored(value, tensor)

    def _sources(self, value: ir.Value) -> list[ir.Value]:
        """The values that decide whether this one is constant."""
        node = value.producer()
        if node is not None:
            return [operand for operand in node.inputs if operand is not None]
        outer = self._carried(value)
        return [] if outer is None else [outer]

    def _carried(self, value: ir.Value) -> ir.Value | None:
        """The outer value of a loop's state that every iteration passes on unchanged."""
        if value.const_value is not None or not value.is_graph_input() or value.graph not in self._owners:
            return None
        node, body = self._owners[value.graph], value.graph
        position = next(index for index, known in enumerate(body.inputs) if known is value)
        if is_onnx(node, "Loop"):  # inputs: trip count, condition, state; body outputs: condition, state
            source, target = position, position - 1
        elif is_onnx(node, "Scan"):  # inputs and body outputs begin with the state
            scanned = node.attributes.get("num_scan_inputs")
            if scanned is None or position >= len(body.inputs) - int(scanned.value):
                return None
            source, target = position, position
        else:
            return None
        if (is_onnx(node, "Loop") and position < 2) or not 0 <= target < len(body.outputs):
            return None
        passed, seen = body.outputs[target], set()
        while passed is not value:
            producer = passed.producer()
            if producer is None or not is_onnx(producer, "Identity") or passed in seen or producer.inputs[0] is None:
                return None
            seen.add(passed)
            passed = producer.inputs[0]
        return node.inputs[source] if source < len(node.inputs) else None

    def _resolve(self, value: ir.Value, sources: list[ir.Value]) -> Constant | Opaque | None:
        node = value.producer()
        if node is None:
            return self._known[sources[0]] if sources else self._stored(value, value.const_value)
        tensor = constant_tensor(node)
        if tensor is not None:
            return self._stored(value, tensor)
        if subgraphs(node):
            return None  # what its graphs capture from outside is not among its inputs
        operands = [self._known[source] for source in sources]
        if not operands or any(operand is None for operand in operands):
            return None  # depends on an input, or makes values out of nothing (RandomNormal)
        leaves = _union(operands)
        if not all(isinstance(operand, Constant) for operand in operands):
            reason = next(operand.reason for operand in operands if isinstance(operand, Opaque))
            return Opaque(leaves[:_REMEMBERED], reason)
        inputs = [self._known[operand] if operand is not None else None for operand in node.inputs]
        output = next(index for index, known in enumerate(node.outputs) if known is value)
        step = describe_step(node, inputs, output, self._opset)
        if step is None:
            return Opaque(
                leaves[:_REMEMBERED],
                f"computed from constants by {describe_node(node)}, which wwonnx does not evaluate",
            )
        if isinstance(step, Constant):
            return step
        # Starts, sizes and axes that come as inputs tell two expressions apart as much as their operands do.
        given = tuple(known.identity if isinstance(known, Constant) else None for known in inputs)
        return self._combine(step, (node.domain, node.op_type, _signature(node), output, given), describe_node(node))

    def _stored(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> Constant | None:
        if tensor is None:
            return None
        shape, dtype = shape_of(tensor), element_type(tensor)
        size = math.prod(shape)
        self._sizes[value] = size
        return Constant(
            root=value,
            leaves=(value,),
            shape=shape,
            dtype=dtype,
            stored=dtype,
            eps=epsilon(dtype),
            key=self._key(("stored", id(tensor))),
            transposed=False,
            elements=size,
            work=0,
            depth=0,
            load=lambda: read_tensor(tensor),
        )

    def _combine(self, step: Step, what: Hashable, description: str) -> Constant | Opaque:
        operands: list[Constant] = step.operands
        leaves = _union(operands)
        root = max(operands[step.values], key=lambda operand: self._sizes[operand.root]).root
        elements = sum(self._sizes[leaf] for leaf in leaves)
        size = math.prod(step.shape)
        work, depth = 1 + sum(operand.work for operand in operands), 1 + max(operand.depth for operand in operands)
        given = max(operand.size for operand in operands)  # what is only passed on has been allowed already
        if size > max(_SMALL, step.most, given, _GROWTH * elements):
            return Opaque(
                leaves[:_REMEMBERED], f"{description} would make {size:,} values out of {elements:,} that are stored"
            )
        if work > _WORK or depth > _DEPTH or len(leaves) > _LEAVES:
            return Opaque(
                leaves[:_REMEMBERED], f"the constant expression that ends in {description} is too long to be evaluated"
            )
        main = next(operand for operand in operands if operand.root is root)
        if step.transposes:
            key, transposed = main.key, not main.transposed
        else:
            key = self._key((what, step.shape, *(operand.identity for operand in operands)))
            transposed = False
        floats = [operand.eps for operand in operands if operand.is_float]
        dtype = step.dtype or main.dtype
        return Constant(
            root=root,
            leaves=leaves,
            shape=step.shape,
            dtype=dtype,
            stored=main.stored,
            eps=max([epsilon(dtype), *floats]),
            key=key,
            transposed=transposed,
            elements=elements,
            work=work if step.work else work - 1,
            depth=depth,
            load=lambda: step.compute(*(operand.load() for operand in operands)),
        )

    def _key(self, what: Hashable) -> int:
        return self._keys.setdefault(what, len(self._keys))


def _union(operands: list[Any]) -> tuple[ir.Value, ...]:
    """All leaves, each once, in order."""
    leaves: dict[ir.Value, None] = {}
    for operand in operands:
        leaves.update(dict.fromkeys(operand.leaves))
    return tuple(leaves)


def _signature(node: ir.Node) -> Hashable:
    """What a node's attributes say; nodes with tensors or graphs in them equal only themselves."""
    simple = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.is_ref() or attribute.type in (
            ir.AttributeType.TENSOR,
            ir.AttributeType.TENSORS,
            ir.AttributeType.GRAPH,
            ir.AttributeType.GRAPHS,
            ir.AttributeType.SPARSE_TENSOR,
            ir.AttributeType.SPARSE_TENSORS,
        ):
            return id(node)
        value = attribute.value
        simple.append((name, tuple(value) if isinstance(value, (list, tuple)) else value))
    return tuple(simple)

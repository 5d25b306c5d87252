"""Walking an onnx_ir model: every node in graph order, subgraphs of If, Loop and Scan included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from .words import clean

#: Attributes that hold subgraphs.
_HOLD_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
#: Attributes in which a Constant node may hold its value, and their element types.
_CONSTANT_VALUES: dict[str, type[np.generic] | None] = {
    "value": None,
    "value_ints": np.int64,
    "value_int": np.int64,
    "value_floats": np.float32,
    "value_float": np.float32,
}


def nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node of a graph in order, each followed by the nodes of its subgraphs.

    The stack is explicit: a file that nests a thousand subgraphs must not exhaust Python's.
    """
    stack: list[Iterator[ir.Node]] = [iter(graph)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        stack.extend(iter(subgraph) for subgraph in reversed(subgraphs(node)))


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The graphs that a node holds in its attributes, in order."""
    found: list[ir.Graph] = []
    if not node.attributes:
        return found
    for attribute in node.attributes.data.values():  # of the dict itself: a UserDict's own values are slow
        if attribute.type not in _HOLD_GRAPHS or attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.value)
        else:
            found.extend(attribute.value)
    return found


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph below it, in order."""
    yield model.graph
    for node in nodes(model.graph):
        yield from subgraphs(node)


def owners(every: Iterable[ir.Node]) -> dict[ir.Graph, ir.Node]:
    """For each subgraph of these nodes, the node that holds it."""
    return {graph: node for node in every for graph in subgraphs(node)}


def is_onnx(node: ir.Node, *op_types: str) -> bool:
    """Whether a node is one of these operators of the standard domain."""
    return node.domain in ("", "ai.onnx") and node.op_type in op_types


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node, None for other nodes and for strings."""
    if not is_onnx(node, "Constant") or not node.outputs:
        return None
    for name, dtype in _CONSTANT_VALUES.items():
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref():
            continue
        if dtype is not None:
            return _small_tensor(attribute, dtype, node.outputs[0].name)
        if attribute.type == ir.AttributeType.TENSOR:
            tensor: ir.TensorProtocol = attribute.value
            return tensor
    return None


def _small_tensor(attribute: ir.Attr, dtype: type[np.generic], name: str | None) -> ir.TensorProtocol | None:
    try:
        return ir.Tensor(np.asarray(attribute.value, dtype=dtype), name=name)
    except (TypeError, ValueError, OverflowError):
        return None  # the attribute is of another type than its name says


def constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Every constant of a model and its tensor: initializers of all graphs, then outputs of Constant nodes."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value
    for node in nodes(model.graph):
        tensor = constant_tensor(node)
        if tensor is not None:
            yield node.outputs[0], tensor


def integers(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An attribute that holds a list of integers, or None where the node has it not."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INTS:
        return None
    try:
        return tuple(int(n) for n in attribute.value)
    except (TypeError, ValueError):
        return None


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.INT:
        return default
    return int(attribute.value)


def metadata(holder: ir.Node | ir.Value | ir.Graph, key: str) -> str:
    """What an exporter noted; empty where it did not, or in bytes that are no text."""
    noted: object = holder.metadata_props.get(key, "")
    return noted if isinstance(noted, str) else ""


def downstream(node: ir.Node, through: tuple[str, ...], most: int = 8) -> Iterator[ir.Node]:
    """The nodes that read a node's first output, and what follows those of them that only pass it on.

    Args:
        node: where to start.
        through: standard operators that pass it on.
        most: how many such operators to follow.
    """
    waiting = [node]
    for _ in range(most):
        if not waiting:
            return
        following = [use.node for start in waiting if start.outputs for use in start.outputs[0].uses()]
        yield from following
        waiting = [later for later in following if is_onnx(later, *through)]


def text(node: ir.Node, name: str, default: str) -> str:
    """A string attribute or its default."""
    attribute = node.attributes.get(name)
    if attribute is None or attribute.is_ref() or attribute.type != ir.AttributeType.STRING:
        return default
    return str(attribute.value)


def describe_node(node: ir.Node) -> str:
    """A node in words: its operator and, where it has one, its name."""
    operator = clean(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
    return f"{operator} {clean(node.name)!r}" if node.name else operator

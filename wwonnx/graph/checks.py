"""What is checked of a parsed file before anything is built from it: bounds that a hostile file must not pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from ..errors import ModelError
from .words import clean

#: Deeper subgraphs, and more nodes (also once local functions are inlined), are not read. Real models have thousands.
_MOST_NESTED, _MOST_NODES = 100, 500_000
#: Local functions that call each other deeper than this are not read: inlining takes time by the square of it.
_MOST_CALLS = 1_000
#: Integer lists and element types are checked in these fields of tensors.
_ELEMENT_TYPES = frozenset(onnx.TensorProto.DataType.values())


def check_proto(proto: onnx.ModelProto, label: str) -> None:
    """Refuse what could not be read, or only at a ruinous cost, naming the culprit.

    Raises:
        ModelError: subgraphs nested too deeply, functions that call themselves or expand without bound, names that are
            no text, tensors of unknown element types or with broken entries for external data.
    """
    _check_body(proto.graph.node, proto.graph, label)
    for function in proto.functions:
        _check_body(function.node, None, label)
    if proto.functions:
        _check_functions(proto, label)


def _check_body(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto | None, label: str) -> None:
    """Walk a body and its subgraphs with a stack of its own: (nodes, graph, depth)."""
    waiting: list[tuple[Sequence[onnx.NodeProto], onnx.GraphProto | None, int]] = [(nodes, graph, 0)]
    count = 0
    while waiting:
        body, inner, depth = waiting.pop()
        count += len(body)
        if count > _MOST_NODES:
            raise ModelError(f"{label}: it has {count:,} nodes, more than {_MOST_NODES:,}; refused")
        if depth > _MOST_NESTED:
            raise ModelError(f"{label}: subgraphs are nested more than {_MOST_NESTED} deep; refused")
        if inner is not None:
            for tensor in inner.initializer:
                _check_tensor(tensor, label)
        for node in body:
            if not (type(node.op_type) is type(node.domain) is type(node.name) is str):
                raise ModelError(f"{label}: a node's name or operator is not UTF-8 text; export the model again")
            for name in (*node.input, *node.output):
                if type(name) is not str:
                    raise ModelError(f"{label}: a name in node {clean(node.name)!r} is not UTF-8 text; export again")
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _check_tensor(attribute.t, label)
                else:
                    waiting += [(graph.node, graph, depth + 1) for graph in subgraphs(attribute)]


def subgraphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in an attribute."""
    if attribute.type == onnx.AttributeProto.GRAPH:
        yield attribute.g
    elif attribute.type == onnx.AttributeProto.GRAPHS:
        yield from attribute.graphs


def _check_tensor(tensor: onnx.TensorProto, label: str) -> None:
    if type(tensor.name) is not str:
        raise ModelError(f"{label}: the name of a tensor is not UTF-8 text; export the model again")
    known = tensor.data_type in _ELEMENT_TYPES
    if known and tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    where = f"{label}: tensor {clean(tensor.name)!r}"
    if not known:
        raise ModelError(f"{where} has the unknown element type {tensor.data_type}; export the model again")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if type(entries.get("location")) is not str:
        raise ModelError(f"{where} keeps its data in a file that it does not name; export the model again")
    for key in ("offset", "length"):
        value = entries.get(key, "0")
        if type(value) is not str or not value.isdecimal() or not value.isascii():
            raise ModelError(f"{where} has {key} {clean(value)!r} for its external data; export the model again")


def _check_functions(proto: onnx.ModelProto, label: str) -> None:
    """Count what inlining would make, functions from the innermost outwards."""
    bodies = {(function.domain, function.name, function.overload): function.node for function in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    depths: dict[tuple[str, str, str], int] = {}
    for start in bodies:
        stack, open_ = [start], {start}
        while stack:
            top = stack[-1]
            calls = [key for key in map(_callee, all_nodes(bodies[top])) if key in bodies]
            waiting = next((key for key in calls if key not in sizes), None)
            if top in sizes or waiting is None:
                sizes.setdefault(top, len(list(all_nodes(bodies[top]))) + sum(sizes[key] for key in calls))
                if sizes[top] > _MOST_NODES:
                    raise ModelError(f"{label}: inlining its local functions would make {sizes[top]:,} nodes; refused")
                depths[top] = 1 + max((depths[key] for key in calls), default=0)
                if depths[top] > _MOST_CALLS:
                    raise ModelError(f"{label}: its local functions are nested more than {_MOST_CALLS:,} deep; refused")
                open_.discard(stack.pop())
            elif waiting in open_:
                raise ModelError(f"{label}: its local function {clean(waiting[1])!r} calls itself; refused")
            else:
                stack.append(waiting)
                open_.add(waiting)
    total = sum(sizes.get(_callee(node), 1) for node in all_nodes(proto.graph.node))
    if total > _MOST_NODES:
        raise ModelError(f"{label}: inlining its local functions would make {total:,} nodes; refused")


def _callee(node: onnx.NodeProto) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload


def all_nodes(nodes: object) -> Iterator[onnx.NodeProto]:
    """Every node of a body and of its subgraphs."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():  # type: ignore[attr-defined]
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in subgraphs(attribute)]

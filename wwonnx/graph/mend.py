"""What onnx_ir can't represent and onnxruntime runs all the same: map types (scikit-learn's ZipMap), sparse weights."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_ir import serde

from .checks import all_nodes, subgraphs
from .tensors import read_tensor
from .traverse import graphs, nodes

#: Elements of a sparse tensor when written out. More are refused when the layer is read.
_MOST_DENSE = 1 << 30


def mend(proto: onnx.ModelProto) -> None:
    """Take out of a model, in place, what onnx_ir refuses and no weight depends on.

    Types of values that are maps or sequences of maps are dropped; a Constant node's sparse value becomes a sparse
    initializer of the same name.
    """
    for graph in _graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if _holds_map(value.type):
                value.ClearField("type")
        for index in reversed(range(len(graph.node))):
            node = graph.node[index]
            sparse = _sparse(node)
            if node.op_type == "Constant" and sparse and node.output:
                initializer = graph.sparse_initializer.add()
                initializer.CopyFrom(sparse[0].sparse_tensor)
                initializer.values.name = node.output[0]
                del graph.node[index]
            elif sparse:
                _drop_sparse(node)
    for function in proto.functions:  # a function has no initializers: its constants are written out in place
        for node in all_nodes(function.node):
            sparse = _sparse(node)
            if sparse:
                dense = numpy_helper.from_array(_dense(sparse[0].sparse_tensor)) if node.op_type == "Constant" else None
                _drop_sparse(node)
                if dense is not None:
                    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(dense)


def _sparse(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return [attribute for attribute in node.attribute if attribute.type == onnx.AttributeProto.SPARSE_TENSOR]


def _drop_sparse(node: onnx.NodeProto) -> None:
    kinds = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
    keep = [attribute for attribute in node.attribute if attribute.type not in kinds]
    del node.attribute[:]
    node.attribute.extend(keep)


def attach_sparse(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Give a model its sparse initializers, which onnx_ir passes over. They are written out when they are read."""
    sparse = {tensor.values.name: tensor for graph in _graphs(proto) for tensor in graph.sparse_initializer}
    if not sparse:
        return
    used = [value for node in nodes(model.graph) for value in node.inputs if value is not None]
    used += [value for graph in graphs(model) for value in graph.outputs]
    for value in used:
        if value.name in sparse and value.const_value is None and value.producer() is None:
            value.const_value = _lazy(sparse[value.name])
            (value.graph or model.graph).register_initializer(value)


def _lazy(tensor: onnx.SparseTensorProto) -> ir.LazyTensor:
    shape = ir.Shape(list(tensor.dims))
    dtype = ir.DataType(tensor.values.data_type)
    name = tensor.values.name
    return ir.LazyTensor(lambda: ir.Tensor(_dense(tensor), name=name, dtype=dtype), dtype, shape, name=name)


def _dense(tensor: onnx.SparseTensorProto) -> NDArray[np.generic]:
    """A sparse tensor written out.

    Raises:
        ValueError: too large, or indices that lie outside.
    """
    shape = tuple(tensor.dims)
    size = math.prod(shape)
    if not 0 <= size <= _MOST_DENSE or any(n < 0 for n in shape):
        raise ValueError(f"a sparse tensor of shape {list(shape)} is too large to be written out")
    values = read_tensor(serde.deserialize_tensor(tensor.values)).reshape(-1)
    indices = read_tensor(serde.deserialize_tensor(tensor.indices)).astype(np.int64)
    if indices.ndim == 2:
        if indices.shape[1] != len(shape):
            raise ValueError(f"sparse indices of {indices.shape[1]} dimensions for shape {list(shape)}")
        if ((indices < 0) | (indices >= np.array(shape))).any():
            raise ValueError("sparse indices lie outside the tensor")
        indices = np.ravel_multi_index(tuple(indices.T), shape)
    if indices.shape != values.shape or ((indices < 0) | (indices >= size)).any():
        raise ValueError("sparse indices lie outside the tensor")
    dense = np.zeros(size, dtype=values.dtype)
    dense[indices] = values
    return dense.reshape(shape)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every subgraph, those of function bodies too."""
    yield proto.graph
    for body in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in all_nodes(body):
            for attribute in node.attribute:
                yield from subgraphs(attribute)


def _holds_map(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which in ("map_type", "opaque_type"):
        return True
    if which in ("sequence_type", "optional_type"):
        return _holds_map(getattr(kind, which).elem_type)
    return False

"""Models made in memory, what the walker finds in them, and what onnxruntime computes with them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from wwonnx.graph.constants import Constant, Opaque
from wwonnx.graph.operators import Splits
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import Walk, walk
from wwonnx.layer import WeightLayer

if TYPE_CHECKING:
    from wwonnx.graph.source import ModelLike

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = Mapping[str, Array | TensorProto]
#: Element type and shape; None for a dimension that is not known.
Type: TypeAlias = tuple[int, Sequence[int | None]]

FLOAT = TensorProto.FLOAT
MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"
QONNX = "qonnx.custom_op.general"
_VERSIONS = {ML: 3}


def gaussian(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def integers(*shape: int, dtype: Any = np.int8, seed: int = 0) -> Array:
    """Codes over the whole range of a type."""
    low, high = {"int4": (-8, 7), "uint4": (0, 15)}.get(np.dtype(dtype).name, (0, 0))
    if not high:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.random.default_rng([seed, *shape]).integers(low, high + 1, shape).astype(dtype)


def short_integers(*shape: int, seed: int = 0) -> Array:
    """int8 codes of 7 bits, for products with uint8 that onnxruntime computes.

    On processors without VNNI it adds them up by twos in 16 bits, and cuts off what 8 bits each would need beyond.
    """
    codes: Array = integers(*shape, seed=seed) // np.int8(2)
    return codes


def scales(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(0.01, 0.1, shape).astype(np.float32)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **given: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, domain=domain, **given)


def value(name: str, kind: Type | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, *kind) if kind else onnx.ValueInfoProto(name=name)


def tensor(name: str, values: Array | TensorProto) -> TensorProto:
    if isinstance(values, TensorProto):
        values.name = name
        return values
    return numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name)


def subgraph(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str] | Mapping[str, Type],
    inputs: Mapping[str, Type] | None = None,
    tensors: Tensors | None = None,
    name: str = "graph",
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        name,
        [value(each, kind) for each, kind in (inputs or {}).items()],
        [value(each, outputs[each] if isinstance(outputs, Mapping) else None) for each in outputs],
        [tensor(each, values) for each, values in (tensors or {}).items()],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Tensors,
    inputs: Mapping[str, Type] | None = None,
    outputs: Sequence[str] | Mapping[str, Type] = ("y",),
    *,
    opset: int = 20,
    ir_version: int = 10,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model; the operator sets of the domains that its nodes name are imported."""
    graph = subgraph(nodes, outputs, inputs, tensors)
    domains = dict.fromkeys(each.domain for each in (*nodes, *(inner for f in functions for inner in f.node)))
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, _VERSIONS.get(domain, 1)) for domain in domains if domain]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=ir_version)


def applied(
    nodes: Sequence[onnx.NodeProto], tensors: Tensors, weight: str = "w", opset: int = 20, **given: Any
) -> onnx.ModelProto:
    """A model that multiplies its input by what these nodes make of the tensors."""
    product = node("MatMul", ["x", weight], ["y"], name="product")
    return model([*nodes, product], tensors, {"x": (FLOAT, [None, None])}, opset=opset, **given)


def find(source: ModelLike, *, gates: bool = False, qkv: bool = False, groups: bool = False) -> Walk:
    return walk(open_model(source).model, Splits(gates, qkv, groups))


def layers(source: ModelLike, **splits: bool) -> dict[str, WeightLayer]:
    """The layers by name; that names are unique is checked."""
    found = find(source, **splits).layers
    assert len({layer.name for layer in found}) == len(found)
    return {layer.name: layer for layer in found}


def layer(source: ModelLike, **splits: bool) -> WeightLayer:
    """The only layer of a model of which nothing is left out."""
    found = find(source, **splits)
    assert not found.skipped
    (only,) = found.layers
    return only


def matrix(source: ModelLike, **splits: bool) -> Array:
    """The only matrix of the only layer, (outputs, inputs)."""
    (only,) = layer(source, **splits).matrices()
    return only


def refusal(source: ModelLike) -> str:
    """Why the only weight of a model is no layer."""
    found = find(source)
    assert not found.layers
    (only,) = found.skipped
    return only.reason


def constant(source: ModelLike) -> Constant | Opaque | None:
    """What the walker makes of the first output of a model."""
    opened = open_model(source).model
    return walk(opened).finder.find(opened.graph.outputs[0])


def run(source: onnx.ModelProto, **feeds: Array) -> Array:
    """The first output as onnxruntime computes it, its graph taken as it is."""
    return run_all(source, **feeds)[0]


def run_all(source: onnx.ModelProto, **feeds: Array) -> list[Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def singular_values(matrices: Array) -> Array:
    """Of all matrices of a stack together, ascending."""
    return np.sort(np.linalg.svd(np.asarray(matrices, dtype=np.float64), compute_uv=False).reshape(-1))


#: PyTorch's exporters by name, and the arguments that choose them.
EXPORTERS: dict[str, dict[str, bool]] = {
    "dynamo": {"dynamo": True},
    "dynamo_unoptimised": {"dynamo": True, "optimize": False},
    "torchscript": {"dynamo": False},
    "torchscript_unfolded": {"dynamo": False, "do_constant_folding": False},
}


def exported(module: Any, arguments: tuple[Any, ...], exporter: str) -> onnx.ModelProto:
    """A torch.nn.Module as one of PyTorch's exporters writes it."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if EXPORTERS[exporter]["dynamo"]:
            program = torch.onnx.export(module.eval(), arguments, verbose=False, **EXPORTERS[exporter])
            return onnx.load_model_from_string(program.model_proto.SerializeToString())
        buffer = io.BytesIO()
        torch.onnx.export(module.eval(), arguments, buffer, **EXPORTERS[exporter])
    return onnx.load_model_from_string(buffer.getvalue())

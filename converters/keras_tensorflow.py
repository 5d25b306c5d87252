"""From TensorFlow to ONNX with every weight left as it is, through tf2onnx.

tf2onnx's usual way changes weights: TensorFlow's constant folding, tf2onnx's own and its transpose optimizer fold
normalisations, casts and low-rank updates into kernels. Here the weights are inputs of the graph while it is converted,
so that there is nothing to fold, and become initializers afterwards. Of tf2onnx's optimizers only the one runs that
drops Identity nodes, without which its loops are not valid. For all that, the steps of `tf2onnx.convert` are called one
by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean, first_line

from .keras_model import FAILURES, LENGTHS, Call, Spec, UnsupportedError, Variable, infer
from .keras_names import NamedTensor
from .messages import collected
from .verify import verify_outputs

if TYPE_CHECKING:
    import keras
    import onnx

#: The version of the operators that is written.
_OPSET = 18
#: Bytes of weights that a protobuf message can't hold together with its graph.
_TOO_LARGE = (1 << 31) - (1 << 24)
_UNSUPPORTED = re.compile(r"Tensorflow op \[(?P<node>.*): (?P<op>[^:\]]+)\] is not supported")


@dataclass(frozen=True)
class Traced:
    """A TensorFlow graph without variables.

    Attributes:
        graph: its GraphDef.
        inputs, outputs: names of tensors, and what they are to be called; weights are among the inputs.
        weights: those that were constants of the graph.
    """

    graph: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    weights: tuple[NamedTensor, ...] = ()


def trace(model: keras.Layer, call: Call, variables: Sequence[Variable]) -> Traced:
    """Trace a model with its weights as further inputs, of their own names.

    Raises:
        UnsupportedError: it can't be traced.
    """
    import tensorflow as tf

    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in call.specs]
    weights = [tf.TensorSpec(variable.source.shape, variable.source.dtype) for variable in variables]

    def inference(*flat: Any) -> list[Any]:
        return infer(model, call, variables, flat)

    traced = tf.function(inference, input_signature=[*signature, *weights], autograph=False, jit_compile=False)
    try:
        function = traced.get_concrete_function()
    except (*FAILURES, tf.errors.OpError) as error:
        raise UnsupportedError(f"TensorFlow can't trace it ({first_line(error)})") from None
    names = [*(spec.name for spec in call.specs), *(variable.name for variable in variables)]
    return _frozen(function, names, [f"output_{number}" for number in range(len(function.outputs))])


def _frozen(function: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Traced:
    """The graph of a traced function, the variables that it still reads made constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    captured = {id(internal) for _, internal in function.graph.captures}
    given = [tensor.name for tensor in function.inputs if id(tensor) not in captured]
    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    except (*FAILURES, tf.errors.OpError) as error:
        raise UnsupportedError(f"TensorFlow can't freeze its variables ({first_line(error)})") from None
    known = {tensor.name for tensor in frozen.inputs}
    by_tensor = {tensor: name for tensor, name in zip(given, inputs, strict=True) if tensor in known}
    results = dict(zip([tensor.name for tensor in frozen.outputs], outputs, strict=True))
    graph = _inlined(frozen.graph.as_graph_def(add_shapes=True), [*by_tensor, *results])
    return Traced(graph, by_tensor, results)


def _inlined(graph: Any, kept: Sequence[str]) -> Any:
    """The graph with its function calls replaced by their bodies, those for XLA too, and nothing folded."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    for attributes in (one.attr for one in (*nodes, *graph.library.function)):
        for kept_apart in ("_XlaMustCompile", "_noinline"):
            attributes.pop(kept_apart, None)
    config = config_pb2.ConfigProto()
    config.graph_options.infer_shapes = True
    config.graph_options.rewrite_options.optimizers[:] = ["function", "dependency"]
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")
        meta = tf.compat.v1.train.export_meta_graph(graph_def=graph)
    fetched = meta_graph_pb2.CollectionDef()
    fetched.node_list.value.extend(kept)
    meta.collection_def["train_op"].CopyFrom(fetched)
    optimized = tf_optimizer.OptimizeGraph(config, meta)
    for function in optimized.library.function:
        _hide_products(function)
    return optimized


def _hide_products(function: Any) -> None:
    """Write the matrix products in the body of a loop in another way.

    By them tf2onnx recognises recurrent cells, of which it makes ONNX's LSTM with the weights in another order; where
    the weights are inputs, it fails instead.
    """
    renamed = {}
    for node in function.node_def:
        if node.op == "MatMul":
            node.op = "BatchMatMulV2"
            renamed[f"{node.name}:product:0"] = f"{node.name}:output:0"
            for old, new in (("transpose_a", "adj_x"), ("transpose_b", "adj_y")):
                node.attr[new].b = node.attr[old].b
                node.attr.pop(old)
            for unknown in ("grad_a", "grad_b"):
                node.attr.pop(unknown, None)
    for node in function.node_def:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for result, name in list(function.ret.items()):
        function.ret[result] = renamed.get(name, name)


def export(traced: Traced) -> onnx.ModelProto:
    """The ONNX model of a frozen graph.

    Raises:
        UnsupportedError: it has an operator that tf2onnx does not know, or is too large.
        ConversionError: tf2onnx is missing, or of another version than is known.
    """
    import tensorflow as tf

    with collected("tf2onnx") as messages:
        try:
            from tf2onnx import optimizer, tfonnx
            from tf2onnx.optimizer.identity_optimizer import IdentityOptimizer
        except ImportError as error:
            raise ConversionError(
                f"tf2onnx is needed and can't be imported ({first_line(error)}): pip install 'wwonnx[keras]'"
            ) from None
        if traced.graph.ByteSize() > _TOO_LARGE:
            raise UnsupportedError("it holds more than 2 GB, more than tf2onnx can export")
        try:
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(traced.graph, name="")
                converted = tfonnx.process_tf_graph(
                    graph,
                    opset=_OPSET,
                    input_names=list(traced.inputs),
                    output_names=list(traced.outputs),
                    tensors_to_rename=traced.inputs | traced.outputs,
                    custom_op_handlers={"Erfc": (_erfc, [])},
                )
                converted = optimizer.optimize_graph(
                    converted, catch_errors=False, optimizers={"remove_identity": IdentityOptimizer}
                )
                model: onnx.ModelProto = converted.make_model("wwonnx")
        except (*FAILURES, tf.errors.OpError) as error:
            raise UnsupportedError(f"tf2onnx can't convert it ({first_line(error)})") from None
    unsupported = sorted({found["op"] for message in messages if (found := _UNSUPPORTED.search(message))})
    if unsupported:
        raise UnsupportedError(f"tf2onnx does not know TensorFlow's {clean(', '.join(unsupported))}")
    return model


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """1 - Erf(x), which tf2onnx does not know: the exact gelu is made of it."""
    from tf2onnx import utils

    (output,), (given,) = node.output, node.input
    dtype, shape = context.get_dtype(output), context.get_shape(output)
    context.remove_node(node.name)
    erf = context.make_node("Erf", [given], dtypes=[dtype], shapes=[shape])
    one = context.make_const(utils.make_name(name), np.ones((), utils.map_onnx_to_numpy_type(dtype)))
    context.make_node(
        "Sub", [one.output[0], erf.output[0]], name=name, outputs=[output], dtypes=[dtype], shapes=[shape]
    )


def trace_saved_model(folder: Path) -> Traced:
    """Load a SavedModel and freeze its serving signature, or the first that it has.

    TensorFlow runs what the model says is to be run when it is loaded, such as filling its tables.

    Raises:
        ConversionError: it can't be loaded, or has no signature.
    """
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(folder))
    except (*FAILURES, OSError, tf.errors.OpError) as error:
        raise ConversionError(f"{folder}: TensorFlow can't load this SavedModel ({first_line(error)})") from None
    signatures = dict(getattr(loaded, "signatures", {}))
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures), None)
    if name is None:
        raise ConversionError(f"{folder}: this SavedModel has no signature; save it with model.export()")
    function = signatures[name]
    captured = {id(internal) for _, internal in function.graph.captures}
    given = [tensor.name.partition(":")[0] for tensor in function.inputs if id(tensor) not in captured]
    named = {id(variable.handle): variable.name.partition(":")[0] for variable in function.graph.variables}
    names = {
        internal.name.partition(":")[0]: named[id(handle)]
        for handle, internal in function.graph.captures
        if id(handle) in named
    }
    traced = _frozen(function, given, [f"output_{number}" for number in range(len(function.outputs))])
    return _with_weights_as_inputs(traced, names)


def _with_weights_as_inputs(traced: Traced, names: dict[str, str]) -> Traced:
    """The graph with its constant matrices and kernels as inputs, so that nothing is folded into them.

    Args:
        traced: the graph.
        names: what constants are to be called, by the name of their node.
    """
    import tensorflow as tf

    weights, inputs, taken = [], dict(traced.inputs), set(traced.inputs.values()) | set(traced.outputs.values())
    for node in traced.graph.node:
        if node.op != "Const" or len(node.attr["value"].tensor.tensor_shape.dim) < 2:
            continue
        dtype = tf.dtypes.as_dtype(node.attr["dtype"].type)
        if not dtype.is_floating:
            continue
        values = tf.make_ndarray(node.attr["value"].tensor)
        name, count = names.get(node.name, _short(node.name)), 1
        unique = name
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        weights.append(NamedTensor(ir.Tensor(values, name=unique), _layer_name(unique)))
        inputs[f"{node.name}:0"] = unique
        shape = node.attr["value"].tensor.tensor_shape
        node.attr["shape"].shape.CopyFrom(shape)
        node.op = "Placeholder"
        node.attr.pop("value")
        del node.input[:]
    return Traced(traced.graph, inputs, traced.outputs, tuple(weights))


def _short(node: str) -> str:
    """The name of a constant without what TensorFlow appends when it reads a variable."""
    return re.sub(r"(/(Read|ReadVariableOp(_\d+)?|resource|Cast|MatMul|convolution))+$", "", node)


def _layer_name(name: str) -> str:
    """The layer that a variable belongs to: `encoder/dense/kernel` -> `encoder.dense`."""
    return re.sub(r"/(kernel|weights?|embeddings)$", "", name).replace("/", ".")


def difference(traced: Traced, model: ir.Model) -> float:
    """The largest difference between what TensorFlow and onnxruntime compute from random inputs.

    Raises:
        ConversionError: it is too large, or one of them can't run the model.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(traced.graph, name="")
        tensors = {name: graph.get_tensor_by_name(name) for name in traced.inputs}
    arrays = {weight.name: weight.tensor.numpy() for weight in traced.weights}
    by_name = {name: tensors[tensor] for tensor, name in traced.inputs.items()}
    specs = [
        Spec(value.name or "", tuple(by_name[value.name or ""].shape), by_name[value.name or ""].dtype.name)
        for value in model.graph.inputs
    ]
    generator = np.random.default_rng(0)
    # The graph as it is: without oneDNN, TensorFlow fuses grouped convolutions with their biases, and can't run them.
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True

    def compute(inputs: Sequence[Any]) -> list[Any]:
        feed = dict(zip([by_name[spec.name] for spec in specs], inputs, strict=True))
        feed |= {by_name[name]: array for name, array in arrays.items()}
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            results: list[Any] = session.run(list(traced.outputs), feed)
        return results

    try:
        return verify_outputs(model, compute, [spec.random(LENGTHS[0], generator) for spec in specs])
    except (*FAILURES, tf.errors.OpError) as error:
        # A heading, the node and where it was made, the cause, and the node once more in brackets.
        cause = str(error).partition("\n\t [[")[0].strip().rpartition("\n")[2]
        raise ConversionError(f"TensorFlow can't run the model on random inputs ({clean(cause)})") from None


def read_frozen(path: Path) -> Traced:
    """Read a frozen GraphDef.

    Raises:
        ConversionError: it is none, or holds variables.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ConversionError(f"{path}: is no frozen TensorFlow graph, or is cut short; freeze it again") from None
    except OSError as error:
        raise ConversionError(f"{path}: can't be read ({first_line(error)})") from None
    if not graph.node:
        raise ConversionError(f"{path}: is no frozen TensorFlow graph; name a frozen GraphDef or a SavedModel folder")
    variables = [node.name for node in graph.node if node.op in ("VariableV2", "VarHandleOp", "Variable")]
    if variables:
        raise ConversionError(
            f"{path}: the graph is not frozen: its variable {clean(variables[0])!r} lies elsewhere; freeze it"
        )
    read = {name.lstrip("^").partition(":")[0] for node in graph.node for name in node.input}
    inputs = {f"{node.name}:0": node.name for node in graph.node if node.op == "Placeholder"}
    ends = [
        node.name for node in graph.node if node.name not in read and node.op not in ("Const", "NoOp", "Placeholder")
    ]
    if not ends:
        raise ConversionError(f"{path}: the graph computes nothing from its inputs")
    outputs = {f"{name}:0": name for name in ends}
    return _with_weights_as_inputs(Traced(_inlined(graph, [*inputs, *outputs]), inputs, outputs), {})

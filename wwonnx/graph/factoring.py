"""Two products in the place of one: layers of low rank as two factors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layer import WeightLayer
from .places import Place
from .rewrite import Editor
from .traverse import describe_node, integer, is_onnx


def why_not_factored(editor: Editor, layer: WeightLayer, rank: int) -> str:
    """Why a layer can't, or needn't, become two products; empty where it can.

    Args:
        editor: of the model.
        layer: the layer, which the editor does not refuse.
        rank: the inner size of the two factors.
    """
    for place in editor.places(layer):
        node = place.node
        if not is_onnx(node, "MatMul", "Gemm") or place.inside:
            return f"not factored: {describe_node(node)} reads it"
        if place.reading.region or len(place.constant.shape) != 2:
            return f"not factored: {describe_node(node)} reads more than one matrix"
        if integer(node, "transA" if place.index == 1 else "transB", 0):
            return f"not factored: {describe_node(node)} transposes what it multiplies"
    outputs, inputs = layer.matrix_shape[1:]
    if rank * (inputs + outputs) >= inputs * outputs:
        return f"not factored: {rank} x ({inputs} + {outputs}) numbers are no fewer than {inputs} x {outputs}"
    return ""


def factor(editor: Editor, layer: WeightLayer, B: NDArray[Any], A: NDArray[Any]) -> None:
    """Let every place that reads a layer multiply by A, shape (k, inputs), and then by B, shape (outputs, k).

    `why_not_factored` says whether that can be; `Editor.finish` does it.
    """
    held: dict[tuple[str, bool], ir.Value] = {}

    def stored(which: str, transposed: bool, place: Place) -> ir.Value:
        if (which, transposed) not in held:
            matrix = {"A": A, "B": B}[which]
            values = np.ascontiguousarray(matrix.T if transposed else matrix)
            held[which, transposed] = editor.store(values, place, f"{layer.name}.{which}.weight")
        return held[which, transposed]

    for place in editor.places(layer):
        # A place that reads the transposed layer reads A^T B^T.
        turned = bool(editor.turned(layer, place))
        outer, inner = ("A", "B") if turned else ("B", "A")
        if place.index == 1:  # x W^T = (x A^T) B^T, and the node transposes B^T itself where it has transB
            as_read = bool(integer(place.node, "transB", 0))
            inner_value = stored(inner, not turned, place)
            outer_value = stored(outer, turned == as_read, place)
        else:  # W x = B (A x)
            as_read = not integer(place.node, "transA", 0)
            inner_value = stored(inner, turned, place)
            outer_value = stored(outer, turned == as_read, place)
        editor.defer(partial(_split, editor, place, outer_value, inner_value))


def _split(editor: Editor, place: Place, outer: ir.Value, inner: ir.Value) -> None:
    """Make two products of a node's: a new one by `inner`, then the node itself by `outer`."""
    node, index = place.node, place.index
    graph = node.graph
    assert graph is not None, "the node is in a graph"
    was, activation = place.value, node.inputs[1 - index]
    product = ir.Node(
        node.domain,
        "MatMul",
        [inner, activation] if index == 0 else [activation, inner],
        num_outputs=1,
        name=editor.fresh(f"{node.name or node.op_type}_low_rank"),
        metadata_props=dict(node.metadata_props),
    )
    product.outputs[0].name = editor.fresh(f"{node.outputs[0].name}_low_rank")
    product.outputs[0].type = ir.TensorType(inner.dtype or ir.DataType.FLOAT)
    graph.insert_before(node, product)
    node.replace_input_with(1 - index, product.outputs[0])
    node.replace_input_with(index, outer)
    editor.drop(was)

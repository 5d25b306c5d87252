"""Linear models of ai.onnx.ml: their coefficients are lists in attributes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ...layer import LAYER_TYPE
from ..traverse import integer
from .base import Operand, Site, operator, read_matrix


@operator("LinearClassifier", "LinearRegressor", domain="ai.onnx.ml")
def linear_model(site: Site) -> Iterator[Operand]:
    """(outputs, features); the number of outputs follows from the intercepts, targets or class labels."""
    coefficients = site.node.attributes.get("coefficients")
    if (
        not site.node.outputs
        or coefficients is None
        or coefficients.is_ref()
        or coefficients.type != ir.AttributeType.FLOATS
    ):
        return
    values = np.asarray(coefficients.value, dtype=np.float32)
    outputs = _outputs(site.node, values.size)
    if outputs < 1 or values.size % outputs:
        return
    tensor = ir.Tensor(values.reshape(outputs, -1), name=site.node.name or site.node.op_type)
    weight = site.finder.attribute(site.node.outputs[0], tensor)
    yield from site.operand(0, LAYER_TYPE.DENSE, read_matrix, weight=weight)


def _outputs(node: ir.Node, coefficients: int) -> int:
    intercepts = node.attributes.get("intercepts")
    if intercepts is not None and len(intercepts.value):
        return len(intercepts.value)
    if node.op_type == "LinearRegressor":
        return integer(node, "targets", 1)
    for name in ("classlabels_ints", "classlabels_strings"):
        labels = node.attributes.get(name)
        if labels is not None and len(labels.value) and coefficients % len(labels.value) == 0:
            return len(labels.value)
    return 1

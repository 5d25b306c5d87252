"""Puts the weights into an exported model.

Models are exported with their weights as inputs, each under its full name. So no exporter can fold, transpose or rename
them, nor copy them; afterwards the inputs become initializers that hold the source's own tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from wwonnx.graph.names import LAYER_KEY


@dataclass(frozen=True)
class NamedTensor:
    """A weight.

    Attributes:
        tensor: its values, under its full name, `encoder/dense/kernel`.
        layer: the name of the layer that it becomes, `encoder.dense`; empty for what the tensor's name says.
    """

    tensor: ir.TensorProtocol
    layer: str = ""

    @property
    def name(self) -> str:
        """Its full name."""
        return self.tensor.name or ""


def store_weights(model: ir.Model, weights: Iterable[NamedTensor]) -> None:
    """Make initializers of the inputs of a model that are named after weights.

    Args:
        model: changed in place.
        weights: those that it was exported with.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    for weight in weights:
        value = inputs.get(weight.name)
        if value is None:  # the exporter drops inputs that nothing reads
            value = ir.Value(name=weight.name, type=ir.TensorType(weight.tensor.dtype), shape=weight.tensor.shape)
        else:
            model.graph.inputs.remove(value)
        value.const_value = weight.tensor
        if weight.layer:
            value.metadata_props[LAYER_KEY] = weight.layer
        model.graph.register_initializer(value)

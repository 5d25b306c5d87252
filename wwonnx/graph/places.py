"""Where a graph reads its layers: the node inputs that hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import WeightError
from ..layer import Use, WeightLayer
from .constants import Constant
from .operators import Reading, Site, Splits, operands
from .traverse import constant_tensor, is_onnx, nodes
from .walk import Found, Walk


@dataclass(frozen=True, eq=False)
class Place:
    """An input of a node that holds a layer, or of which a part is the layer.

    Attributes:
        found: the layer as this node reads it.
        index: which input.
        inside: whether the node is itself part of a constant expression.
    """

    found: Found
    index: int
    inside: bool

    @property
    def node(self) -> ir.Node:
        """The node."""
        return self.found.node

    @property
    def constant(self) -> Constant:
        """What it reads, the layer or more."""
        return self.found.constant

    @property
    def reading(self) -> Reading:
        """How the layer lies in that."""
        return self.found.reading

    @property
    def value(self) -> ir.Value:
        """The input itself."""
        value = self.node.inputs[self.index]
        assert value is not None, "a place is an input that is there"
        return value

    def matrices(self) -> NDArray[Any]:
        """The values, shape (matrices, outputs, inputs).

        Raises:
            WeightError: they can't be read.
        """
        return self.reading.layout.matrices(self.found.read())

    def put(self, matrices: NDArray[Any], whole: NDArray[Any]) -> None:
        """Write the layer's matrices, as this node reads them, to where they lie in what it reads."""
        part = whole[self.reading.region] if self.reading.region else whole
        layout, shape = self.reading.layout, self.found.shape
        axes = layout.stack + layout.rows + layout.columns
        apart = matrices.reshape([shape[axis] for axis in axes])
        part[...] = apart.transpose(np.argsort(axes)).reshape(part.shape)


def find_places(model: ir.Model, walk: Walk) -> dict[int, list[Place]]:
    """For each layer's id the node inputs that hold it, the first of them as the layer itself is read.

    Args:
        model: the model.
        walk: a walk over it, weights not taken apart.
    """
    places: dict[int, list[Place]] = {layer.layer_id: [] for layer in walk.layers}
    known = {weight.identity: layer for weight, layer in zip(walk.found, walk.layers, strict=True)}
    alike: dict[tuple[int, ...], list[WeightLayer]] = {}
    for weight, layer in zip(walk.found, walk.layers, strict=True):
        alike.setdefault(_likeness(weight), []).append(layer)
    for node in nodes(model.graph):
        if constant_tensor(node) is not None:
            continue
        inside = bool(node.outputs) and walk.finder.find(node.outputs[0]) is not None
        if inside and not is_onnx(node, "Gather"):
            continue
        for operand in operands(Site(node, walk.finder, Splits())):
            constant = operand.weight
            if operand.refused or not isinstance(constant, Constant):
                continue
            use = Use(node.op_type, node.name or "", operand.index, operand.layer_type)
            for reading in operand.readings:
                here = Found(constant, operand, reading, node, [use], {})
                # What the walk merged for its equal values has another identity.
                match = known.get(here.identity) or _twin(here, alike.get(_likeness(here), []))
                # A table inside an expression that ends in a weight is no layer, although it may be read as one too.
                if match is not None and (not inside or use in match.uses):
                    places[match.layer_id].append(Place(here, operand.index, inside))
    return places


def _likeness(found: Found) -> tuple[int, ...]:
    """Equal for weights that may be the same: a matrix may be transposed."""
    return tuple(sorted(found.shape)) if found.is_matrix else (-1, *found.shape)


def _twin(found: Found, layers: list[WeightLayer]) -> WeightLayer | None:
    """The layer of the same values."""
    for layer in layers:
        try:
            one, other = found.read(), layer.read()
        except WeightError:
            continue
        same = one.shape == other.shape and np.array_equal(one, other)
        if same or (found.is_matrix and one.shape == other.T.shape and np.array_equal(one, other.T)):
            return layer
    return None

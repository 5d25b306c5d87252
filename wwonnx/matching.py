"""Which layer of one model is which of another: by name, and else by order and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .layer import WeightLayer


@dataclass(frozen=True)
class Matching:
    """Layers of two models.

    Attributes:
        pairs: layers that belong together, in the order of the first model.
        only_first, only_second: those without a partner.
    """

    pairs: tuple[tuple[WeightLayer, WeightLayer], ...]
    only_first: tuple[WeightLayer, ...]
    only_second: tuple[WeightLayer, ...]


def match(first: Sequence[WeightLayer], second: Sequence[WeightLayer]) -> Matching:
    """Match by name where names and shapes agree, then what is left by order among layers of equal shape.

    Shapes are those of the matrices, (rf, outputs, inputs): a weight that one exporter stores transposed matches.
    """
    named = {layer.name: layer for layer in second}
    partner: dict[int, WeightLayer] = {}
    for layer in first:
        other = named.get(layer.name)
        if other is not None and other.matrix_shape == layer.matrix_shape:
            partner[layer.layer_id] = other
    taken = {other.layer_id for other in partner.values()}
    waiting: dict[tuple[int, int, int], list[WeightLayer]] = {}
    for other in second:
        if other.layer_id not in taken:
            waiting.setdefault(other.matrix_shape, []).append(other)
    for layer in first:
        if layer.layer_id not in partner and waiting.get(layer.matrix_shape):
            partner[layer.layer_id] = waiting[layer.matrix_shape].pop(0)
    taken = {other.layer_id for other in partner.values()}
    return Matching(
        tuple((layer, partner[layer.layer_id]) for layer in first if layer.layer_id in partner),
        tuple(layer for layer in first if layer.layer_id not in partner),
        tuple(other for other in second if other.layer_id not in taken),
    )

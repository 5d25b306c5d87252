"""Mixture-of-experts operators: one layer per expert."""

from __future__ import annotations

from collections.abc import Iterator

from ...layer import LAYER_TYPE
from .base import MICROSOFT, Operand, Site, operator, read_matrix


@operator("MoE", domain=MICROSOFT)
def mixture(site: Site) -> Iterator[Operand]:
    """(experts, rows, columns) at inputs 2, 4 and 6."""
    for index, role in ((2, "fc1"), (4, "fc2"), (6, "fc3")):
        yield from site.operand(index, LAYER_TYPE.DENSE, read_matrix, role=role)


@operator("QMoE", domain=MICROSOFT)
def quantized_mixture(site: Site) -> Iterator[Operand]:
    """Codes at 2, 5 and 8; how they are packed depends on the build of onnxruntime that will run them."""
    for index in (2, 5, 8):
        yield from site.refuse(
            index, LAYER_TYPE.DENSE, "weights of QMoE are packed for one runtime: use the float model"
        )

"""From a graph to its weights: every input that an operator treats as a weight becomes a layer, or says why not."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from ..layer import Layout, Skipped, Use, WeightLayer
from .constants import Computed, Constant, ConstantFinder
from .names import Namer
from .operators import Operand, operands
from .traverse import describe_node, nodes


@dataclass(frozen=True)
class Walk:
    """What a walk over a model found.

    Attributes:
        layers: the weights, in graph order.
        skipped: weight inputs that are no layers, in graph order.
        became: for each stored tensor that ended in a layer, that layer's id.
        reasons: for each stored tensor that ended in none although an operator takes it for a weight, why.
        finder: what is constant in the graph.
    """

    layers: tuple[WeightLayer, ...]
    skipped: tuple[Skipped, ...]
    became: dict[ir.Value, int]
    reasons: dict[ir.Value, str]
    finder: ConstantFinder = field(repr=False)


@dataclass
class _Found:
    """A weight while its uses are being collected."""

    constant: Constant
    operand: Operand
    node: ir.Node
    uses: list[Use]


def walk(model: ir.Model) -> Walk:
    """Find the weights of a model. Nothing of them is read.

    A tensor that several nodes read, transposed or not, is one layer with all its uses.
    """
    finder = ConstantFinder()
    found: dict[tuple[ir.Value, Layout, tuple[int, ...]], _Found] = {}
    refused: dict[tuple[ir.Value, str], tuple[Constant | Computed, ir.Node]] = {}
    for node in nodes(model.graph):
        if node.outputs and isinstance(finder.find(node.outputs[0]), (Constant, Computed)):
            continue  # a step of a constant expression: what reads its result is the layer
        for operand in operands(node):
            value = node.inputs[operand.index] if operand.index < len(node.inputs) else None
            constant = finder.find(value)
            if constant is None:
                continue
            reason = _refusal(constant, operand)
            if reason or not isinstance(constant, Constant):
                for root in (constant.root,) if isinstance(constant, Constant) else constant.roots:
                    refused.setdefault((root, reason), (constant, node))
                continue
            use = Use(node.op_type, node.name or "", operand.index, operand.layer_type)
            key = (constant.root, operand.layout, _identity(constant, operand))
            if key in found:
                found[key].uses.append(use)
            else:
                found[key] = _Found(constant, operand, node, [use])

    namer = Namer(model)
    layers = tuple(_layer(number, namer, weight) for number, weight in enumerate(found.values(), start=1))
    became: dict[ir.Value, int] = {}
    for layer, weight in zip(layers, found.values(), strict=True):
        became.setdefault(weight.constant.root, layer.layer_id)
    skipped = tuple(
        _skip(namer, root, reason, constant, node)
        for (root, reason), (constant, node) in refused.items()
        if root not in became
    )
    reasons = {root: reason for (root, reason) in refused if root not in became}
    return Walk(layers, skipped, became, reasons, finder)


def _identity(constant: Constant, operand: Operand) -> tuple[int, ...]:
    """The shape that tells two readings of one tensor apart: a matrix and its transpose are the same layer."""
    if operand.layout is Layout.MATRIX and constant.transposed_only:
        return tuple(sorted(constant.shape))
    return constant.shape


def _refusal(constant: Constant | Computed, operand: Operand) -> str:
    """Why a constant at a weight input is no layer; empty where it is one."""
    if operand.refused:
        return operand.refused
    if isinstance(constant, Computed):
        return constant.reason
    if not constant.is_float:
        return (
            f"elements are {constant.stored.name.lower()}, not floating point: a table of integers is no trained weight"
        )
    try:
        operand.layout.shape(constant.shape)
    except ValueError as error:
        return str(error)
    return ""


def _layer(layer_id: int, namer: Namer, weight: _Found) -> WeightLayer:
    constant = weight.constant
    return WeightLayer(
        layer_id=layer_id,
        name=namer.name(constant.root, weight.node),
        longname=constant.root.name or "",
        shape=constant.shape,
        dtype=constant.stored.name.lower(),
        uses=tuple(weight.uses),
        layout=weight.operand.layout,
        eps=constant.eps,
        read=constant.read,
    )


def _skip(namer: Namer, root: ir.Value, reason: str, constant: Constant | Computed, node: ir.Node) -> Skipped:
    known = constant if isinstance(constant, Constant) else None
    shape = known.shape if known is not None else tuple(root.shape.numpy()) if root.shape is not None else ()
    dtype = known.stored if known is not None else root.dtype
    return Skipped(
        name=namer.guess(root, node),
        longname=root.name or "",
        shape=tuple(int(n) for n in shape),
        dtype=dtype.name.lower() if dtype is not None else "unknown",
        op_type=describe_node(node),
        reason=reason,
    )

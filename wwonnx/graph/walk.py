"""From a graph to its weights: every constant that an operator treats as a weight becomes a layer, or says why not."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layer import Skipped, Use, WeightLayer
from . import ties
from .constants import Constant, ConstantFinder, Opaque
from .folding import FoldingSigns
from .names import REASON_KEY, Namer
from .operators import Operand, Reading, Site, Splits, is_known, operands
from .tensors import FLOATS, element_type, shape_of
from .traverse import constant_tensor, describe_node, is_onnx, metadata, nodes, owners
from .words import clean


@dataclass(frozen=True)
class Walk:
    """What a walk over a model found.

    Attributes:
        layers: the weights, in graph order.
        skipped: weight inputs that are no layers, in graph order.
        became: for each stored tensor that ended in layers, their ids.
        helps: for each scale, zero point or other small tensor that a layer is computed with, that layer's id.
        reasons: for each stored tensor that ended in none although an operator takes it for a weight, why.
        finder: what is constant in the graph.
        found: for each of the layers, in their order, how its first node reads it.
    """

    layers: tuple[WeightLayer, ...]
    skipped: tuple[Skipped, ...]
    became: dict[ir.Value, list[int]]
    helps: dict[ir.Value, int]
    reasons: dict[ir.Value, str]
    finder: ConstantFinder = field(repr=False)
    found: tuple[Found, ...] = field(repr=False)


@dataclass
class Found:
    """A weight while its uses are being collected."""

    constant: Constant
    operand: Operand
    reading: Reading
    node: ir.Node
    uses: list[Use]
    leaves: dict[ir.Value, None]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part that is read."""
        if self.reading.shape is not None:
            return self.reading.shape
        if not self.reading.region:
            return self.constant.shape
        shape = []
        for axis, size in enumerate(self.constant.shape):
            part = self.reading.region[axis] if axis < len(self.reading.region) else slice(None)
            if isinstance(part, slice):
                shape.append(len(range(*part.indices(size))))
        return tuple(shape)

    def read(self) -> NDArray[np.generic]:
        """The values of the part.

        Raises:
            WeightError: they can't be read.
        """
        array = self.constant.read()
        part = array[self.reading.region] if self.reading.region else array
        return part if self.reading.shape is None else part.reshape(self.reading.shape)

    def bias(self) -> Callable[[], NDArray[np.generic]] | None:
        """What reads the bias of the part, shape (outputs,); None where there is none with a value for each output."""
        bias, part = self.operand.bias, self.reading.outputs
        outputs = self.reading.layout.shape(self.shape)[1]
        axis = self.operand.bias_axis
        if bias is None or len(bias.shape) < -axis or bias.shape[axis] != bias.size:
            return None
        kept = len(range(*part.indices(bias.size))) if part is not None else bias.size
        if kept != outputs:
            return None
        return lambda: bias.read().reshape(-1)[part if part is not None else slice(None)]

    @property
    def identity(self) -> Hashable:
        """Equal for the same weight read the same way; a matrix and its transpose have the same spectrum."""
        layout, shape = self.reading.layout, self.shape
        region = tuple((part.start, part.stop) if isinstance(part, slice) else part for part in self.reading.region)
        rows, columns = (tuple(shape[axis] for axis in axes) for axes in (layout.rows, layout.columns))
        if self.is_matrix and not region:
            return self.constant.key, tuple(sorted(shape))
        return self.constant.key, self.constant.transposed, region, layout.stack, rows, columns

    @property
    def is_matrix(self) -> bool:
        """Whether it is one matrix, as opposed to a stack of them."""
        return len(self.shape) == 2 and not self.reading.layout.stack


@dataclass
class _Refused:
    """A weight input that is no layer."""

    leaves: tuple[ir.Value, ...]
    reason: str
    constant: Constant | None
    node: ir.Node


def walk(model: ir.Model, splits: Splits | None = None) -> Walk:
    """Find the weights of a model.

    A weight that several nodes read, transposed or not, in one tensor or in copies, is one layer with all its uses.
    Nothing is read but samples of tensors of equal shape, to find the copies.

    Args:
        model: its functions inlined.
        splits: what to take apart.
    """
    every = list(nodes(model.graph))
    finder = ConstantFinder(owners(every), model.opset_imports.get("", 18))
    found: dict[Hashable, Found] = {}
    refused: list[_Refused] = []
    tables: list[Found] = []
    for node in every:
        if constant_tensor(node) is not None:
            continue
        inside = bool(node.outputs) and finder.find(node.outputs[0]) is not None
        if inside and not _is_lookup(node, finder):
            continue  # a step of a constant expression: what reads its result is the layer
        for operand in operands(Site(node, finder, splits or Splits())):
            if operand.refused or isinstance(operand.weight, Opaque):
                constant = operand.weight if isinstance(operand.weight, Constant) else None
                if not inside:
                    refused.append(_Refused(operand.weight.leaves, operand.refused, constant, node))
                continue
            for reading in operand.readings:
                use = Use(node.op_type, node.name or "", operand.index, operand.layer_type)
                weight = Found(operand.weight, operand, reading, node, [use], dict.fromkeys(operand.weight.leaves))
                identity = weight.identity
                # A lookup at constant indices (positions) is an embedding too, unless its result ends in a weight.
                if inside:
                    tables.append(weight)
                    found[id(weight)] = weight
                elif identity in found:
                    found[identity].uses.append(use)
                    found[identity].leaves.update(weight.leaves)
                else:
                    found[identity] = weight
        if not inside and not is_known(node):
            refused.extend(_unknown(node, finder))
    taken = {leaf for refusal in refused for leaf in refusal.leaves}
    weights = ties.merge(list(_settle_tables(found, tables, taken).values()))
    return _result(model, every, finder, weights, refused)


def _is_lookup(node: ir.Node, finder: ConstantFinder) -> bool:
    """Whether a step of a constant expression looks rows up, as opposed to taking one of several parts."""
    indices = finder.constant(node, 1) if is_onnx(node, "Gather") else None
    return indices is not None and len(indices.shape) > 0


def _settle_tables(found: dict[Hashable, Found], tables: list[Found], refused: set[ir.Value]) -> dict[Hashable, Found]:
    """Drop tables looked up at constant indices where something else reads them as a weight, or would have."""
    waiting = {id(table) for table in tables}
    taken = refused | {leaf for identity, weight in found.items() if identity not in waiting for leaf in weight.leaves}
    settled: dict[Hashable, Found] = {}
    for identity, weight in found.items():
        if identity not in waiting:
            settled[identity] = weight
        elif weight.constant.root not in taken and weight.is_matrix and min(weight.shape) > 1:
            if weight.identity in settled:
                settled[weight.identity].uses.extend(weight.uses)
            else:
                settled[weight.identity] = weight
    return settled


def _unknown(node: ir.Node, finder: ConstantFinder) -> Iterator[_Refused]:
    """Matrices that an operator reads of which wwonnx knows nothing."""
    for value in node.inputs:
        constant = finder.find(value)
        if not isinstance(constant, Constant) or len(constant.shape) < 2 or sum(n > 1 for n in constant.shape) < 2:
            continue
        if constant.dtype in FLOATS or constant.dtype.bitwidth <= 8:
            reason = f"wwonnx does not know the operator {clean(f'{node.domain}.{node.op_type}')}"
            yield _Refused(constant.leaves, reason, constant, node)


def _result(
    model: ir.Model, every: list[ir.Node], finder: ConstantFinder, weights: list[Found], refused: list[_Refused]
) -> Walk:
    namer, signs = Namer(model), FoldingSigns(model, every)
    layers: list[WeightLayer] = []
    became: dict[ir.Value, list[int]] = {}
    helps: dict[ir.Value, int] = {}
    for number, weight in enumerate(weights, start=1):
        constant, operand = weight.constant, weight.operand
        layers.append(
            WeightLayer(
                layer_id=number,
                name=namer.name(constant.root, weight.node, operand.role, weight.reading.suffix),
                longname=constant.root.name or "",
                shape=weight.shape,
                dtype=constant.stored.name.lower(),
                uses=tuple(weight.uses),
                layout=weight.reading.layout,
                eps=constant.eps,
                depthwise=weight.reading.depthwise,
                folded=signs.folded(constant.root, weight.node),
                read=weight.read,
                read_bias=weight.bias(),
            )
        )
        for leaf in weight.leaves:
            if _holds_values(leaf, constant):
                became.setdefault(leaf, []).append(number)
            else:
                helps.setdefault(leaf, number)
    open_ = [refusal for refusal in refused if not any(leaf in became for leaf in refusal.leaves)]
    reasons = {leaf: refusal.reason for refusal in reversed(open_) for leaf in refusal.leaves}
    skipped = (*_skips(namer, open_), *_noted(model, reasons))
    return Walk(tuple(layers), skipped, became, helps, reasons, finder, tuple(weights))


def _noted(model: ir.Model, reasons: dict[ir.Value, str]) -> Iterator[Skipped]:
    """Tensors of which a converter says why no node reads them; the reasons are added to the others."""
    for value in model.graph.initializers.values():
        reason, tensor = clean(metadata(value, REASON_KEY)), value.const_value
        if reason and tensor is not None and not value.uses():
            reasons[value] = reason
            name = value.name or ""
            yield Skipped(clean(name), name, shape_of(tensor), element_type(tensor).name.lower(), "", reason)


def _holds_values(leaf: ir.Value, constant: Constant) -> bool:
    """Whether a leaf holds the weight's values, as opposed to its scales, its zero points or indices."""
    if leaf is constant.root:
        return True
    tensor = leaf.const_value
    if tensor is None:
        node = leaf.producer()
        tensor = constant_tensor(node) if node is not None else None
    return tensor is not None and tensor.dtype == constant.stored and len(tensor.shape) >= 2 and tensor.dtype in FLOATS


def _skips(namer: Namer, refused: list[_Refused]) -> Iterator[Skipped]:
    """One entry per refused weight, however many nodes read it."""
    seen: set[Hashable] = set()
    for refusal in refused:
        constant = refusal.constant
        root = constant.root if constant is not None else max(refusal.leaves, key=_size)
        if (root, refusal.reason) in seen:
            continue
        seen.add((root, refusal.reason))
        shape = (
            constant.shape if constant is not None else tuple(int(n) for n in root.shape.numpy()) if root.shape else ()
        )
        dtype = constant.stored if constant is not None else root.dtype
        yield Skipped(
            name=namer.guess(root, refusal.node),
            longname=root.name or "",
            shape=shape,
            dtype=dtype.name.lower() if dtype is not None else "unknown",
            op_type=describe_node(refusal.node),
            reason=refusal.reason,
        )


def _size(value: ir.Value) -> int:
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None:
        tensor = constant_tensor(node)
    return tensor.size if tensor is not None else 0

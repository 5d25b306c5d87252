"""Layers made of layers: products, stacks, differences and low-rank updates, analysed like any other.

Each is a WeightLayer again, which reads the weights that it is made of only when it is read itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import WeightError
from .layer import LAYER_TYPE, MATRIX, Layout, Use, WeightLayer
from .matching import match
from .options import ALIGNMENTS, choice

Array: TypeAlias = NDArray[np.float64]

#: A tensor that is (matrices, rows, columns) already.
_STACK = Layout((0,), (1,), (2,))
_ALL, _FIRST = slice(None), slice(1)
#: What factors of a low-rank update are called, and which of the two it is.
_FACTORS = {"lora_A": "A", "lora_down": "A", "A": "A", "lora_B": "B", "lora_up": "B", "B": "B"}
#: What the weight that they update is called, after its module's name.
_BASES = (".base_layer", ".base", "")
#: What an update is called that is one layer already, as an adapter's converter writes it.
_UPDATE = ".lora_BA"


@dataclass(frozen=True)
class Derived:
    """Layers made of others.

    Attributes:
        layers: the new layers.
        left_out: layers that went into none, each with the reason in words for the user.
        base_left_out: layers of the base model without a partner; `delta` alone has them.
    """

    layers: tuple[WeightLayer, ...]
    left_out: tuple[tuple[WeightLayer, str], ...] = ()
    base_left_out: tuple[tuple[WeightLayer, str], ...] = ()


def intra(layers: Sequence[WeightLayer], sparsify: bool = False, alignment: str = "size", seed: int = 0) -> Derived:
    """Overlaps of neighbouring layers: X = A B / (|A|_F |B|_F).

    Their ESD is that of the singular values of X, not of their squares: take the root of the eigenvalues. Of a layer
    with several matrices the first is taken, which for a convolution is the kernel's first position.

    Args:
        layers: those that can be analysed, in the order in which the model applies them.
        sparsify: put a random half of the units between the two layers to zero, as a ReLU might: A S B in place of A B,
            with S diagonal and 0 or 1 at random.
        alignment: "size" takes A B = W_k W_(k+1), each transposed where that brings the largest dimension that the
            two share inside, as WeightWatcher does, whatever that dimension means to either. "flow" takes
            A B = W_(k+1) W_k, the map through both layers, where the outputs of the first are as many as the inputs of
            the second.
        seed: of the random units, together with the layer's id.

    Returns:
        One layer per pair with the id, name and uses of its second layer, and the matrix X. The first layer, and those
        that share no dimension with the one before, are left out.

    Raises:
        OptionError: there is no such alignment.
    """
    choice("alignment", alignment, ALIGNMENTS)
    made: list[WeightLayer] = []
    left_out = [(layer, "the first layer has none before it") for layer in layers[:1]]
    for first, second in pairwise(layers):
        pair = _aligned(first, second) if alignment == "size" else _in_flow(first, second)
        if pair is None:
            left_out.append((second, f"{_form(second)}: no dimension in common with {first.name}, {_form(first)}"))
            continue
        left, right = pair
        read = partial(_overlap, left, right, (seed, second.layer_id) if sparsify else None)
        drawn = f" {seed} {second.layer_id}" if sparsify else ""
        longname = f"{first.longname} X {second.longname}"
        whole = _made(second, (first, second), f"intra {alignment}{drawn}")
        made.append(replace(whole, shape=(left.rows, right.columns), read=read, longname=longname))
    return Derived(tuple(made), tuple(left_out))


def stacked(layers: Sequence[WeightLayer]) -> Derived:
    """All layers on top of each other, as one matrix.

    The matrices of a convolution stand side by side, (outputs x positions * inputs). From each layer's entries their
    median is subtracted, and each column is divided by its median absolute deviation (by the whole layer's where a
    column has none); zeros on the right then give all the same width.

    Memory: the matrix in float64, as many rows as all layers have outputs, as wide as the widest.

    Args:
        layers: those that can be analysed, in order.

    Returns:
        One layer called `stacked`, with id 0; none where there are no layers.
    """
    if not layers:
        return Derived(())
    shapes = [layer.matrix_shape for layer in layers]
    height, width = sum(rows for _, rows, _ in shapes), max(count * columns for count, _, columns in shapes)
    whole = replace(
        _made(layers[0], layers, "stacked"),
        layer_id=0,
        name="stacked",
        longname="",
        shape=(height, width),
        uses=(Use("stacked", "", 0, LAYER_TYPE.STACKED),),
        read=partial(_stack, tuple(layers)),
    )
    return Derived((whole,))


def delta(layers: Sequence[WeightLayer], base: Sequence[WeightLayer]) -> Derived:
    """What training changed: W - W_base of the layers that match.

    Args:
        layers: of the model; all of them, and select among the result, so that what is left matches too.
        base: of the model that it began as.

    Returns:
        One layer per pair with the id, name and uses that it has in the model; `longname` gives both tensors. What has
        no partner in the other model is left out.
    """
    matching = match(layers, base)
    made = tuple(
        replace(
            _made(layer, (layer, other), "difference"),
            longname=f"{layer.longname} - {other.longname}",
            shape=layer.shape,
            layout=layer.layout,
            depthwise=layer.depthwise,
            read=partial(_difference, layer, other),
        )
        for layer, other in matching.pairs
    )
    return Derived(
        made,
        tuple((one, f"the base model has no layer of this name, or left, {_form(one)}") for one in matching.only_first),
        tuple((one, f"the model has no layer of this name, or left, {_form(one)}") for one in matching.only_second),
    )


def peft(
    layers: Sequence[WeightLayer],
    with_base: bool = False,
    scale: float = 1.0,
    base: Sequence[WeightLayer] = (),
) -> Derived:
    """Low-rank updates B A of LoRA (Hu et al., arXiv:2106.09685, eq. 3), whose factors are found by name.

    The factors are `q_proj.lora_A` and `q_proj.lora_B`, with or without an adapter's name behind them, `lora_down` and
    `lora_up`, or `q_proj.A` and `q_proj.B`; the weight that they update is `q_proj.base_layer`, `q_proj.base` or
    `q_proj`. Where a graph adds the update to a constant weight, that sum is a layer already, and there is no factor. A
    converted adapter has its updates as layers, `q_proj.lora_BA`, which are scaled already.

    Args:
        layers: of the model; all of them, and select among the result.
        with_base: add W + scale B A.
        scale: alpha / r of the LoRA, which the names of factors don't tell.
        base: where the weights that are updated may be too: the layers of the base model of an adapter.

    Returns:
        For each pair of factors the layer B A with the id of A (`q_proj.lora_BA`), and with_base the layer
        W + scale B A with that of B (`q_proj.lora_W_plus_AB`). An update that is a layer already keeps its id, and its
        sum has an id of its own, beyond those of the layers. All else is left out.
    """
    named = {layer.name: layer for layer in (*base, *layers)}
    pairs, reasons = _paired(layers)
    made: list[WeightLayer] = []
    for update in layers:
        if not update.name.endswith(_UPDATE):
            continue
        del reasons[update.layer_id]
        made.append(update)
        module = update.name.removesuffix(_UPDATE)
        weight = _base(module, update, named, base) if with_base else None
        if weight is not None:
            made.append(
                replace(
                    _summed(weight, update, 1.0, (weight, update)),
                    layer_id=len(layers) + update.layer_id,
                    name=f"{module}.lora_W_plus_AB",
                )
            )
        elif with_base:
            reasons[update.layer_id] = _without(module, update)
    for factor, down, up in pairs:
        update = replace(
            _made(down, (down, up), "low rank"),
            name=factor.named("BA"),
            longname=f"{up.longname} X {down.longname}",
            shape=(down.rf, up.matrix_shape[1], down.matrix_shape[2]),
            layout=_STACK,
            read=partial(_low_rank, down, up),
        )
        made.append(update)
        if not with_base:
            continue
        weight = _base(factor.module, update, named, base)
        if weight is None:
            reasons[up.layer_id] = _without(factor.module, update)
            continue
        made.append(
            replace(
                _summed(weight, update, scale, (weight, down, up)),
                layer_id=up.layer_id,
                name=factor.named("W_plus_AB"),
            )
        )
    return Derived(tuple(made), tuple((one, reasons[one.layer_id]) for one in layers if one.layer_id in reasons))


def _base(
    module: str, update: WeightLayer, named: dict[str, WeightLayer], base: Sequence[WeightLayer]
) -> WeightLayer | None:
    """The weight of an update's shape that a module's name means.

    Base models are saved with and without the names of what holds them: where none has the very name, the one whose
    name ends in it, or with which it ends, is meant.
    """
    for name in (module + ending for ending in _BASES):
        if name in named and named[name].matrix_shape == update.matrix_shape:
            return named[name]
    alike = [
        layer
        for layer in base
        if layer.matrix_shape == update.matrix_shape
        and (layer.name.endswith(f".{module}") or module.endswith(f".{layer.name}"))
    ]
    return alike[0] if len(alike) == 1 else None


def _without(module: str, update: WeightLayer) -> str:
    return f"there is no weight {module}, {_form(update)}, to add its update to"


def _summed(base: WeightLayer, update: WeightLayer, scale: float, parts: Sequence[WeightLayer]) -> WeightLayer:
    """The layer W + scale * update."""
    return replace(
        _made(base, parts, f"updated {scale}"),
        longname=f"{base.longname} + {update.longname}",
        layout=base.layout,
        read=partial(_updated, base, update, scale),
    )


def _made(model: WeightLayer, parts: Sequence[WeightLayer], recipe: str) -> WeightLayer:
    """A layer like `model`, with what follows from the parts that it is made of, and the recipe."""
    return replace(
        model,
        layout=MATRIX,
        eps=max(part.eps for part in parts),
        folded=any(part.folded for part in parts),
        depthwise=False,
        read_bias=None,
        parts=tuple(parts),
        recipe=recipe,
    )


def _form(layer: WeightLayer) -> str:
    """Its matrices in words: `16 x 3`, `9 of 16 x 3`."""
    count, rows, columns = layer.matrix_shape
    return f"{rows} x {columns}" if count == 1 else f"{count} of {rows} x {columns}"


def _exact(layer: WeightLayer, which: slice = _ALL) -> Array:
    """The matrices, or some of them, in float64.

    Raises:
        WeightError: they can't be read, or are not finite. What is made of them would not say whose fault it is.
    """
    chosen = layer.matrices()[which]
    if not np.isfinite(chosen).all():
        raise WeightError(f"weights of {layer.name} are NaN or infinite")
    return chosen.astype(np.float64)


@dataclass(frozen=True)
class _Side:
    """The first matrix of a layer as one side of a product."""

    layer: WeightLayer
    turned: bool = False

    @property
    def rows(self) -> int:
        return self.layer.matrix_shape[2 if self.turned else 1]

    @property
    def columns(self) -> int:
        return self.layer.matrix_shape[1 if self.turned else 2]

    def normed(self) -> Array:
        """The matrix over its Frobenius norm; zero where it is zero."""
        matrix: Array = _exact(self.layer, _FIRST)[0]
        # In two steps, so that no square leaves float64's range.
        matrix /= np.abs(matrix).max() or 1.0
        matrix /= np.linalg.norm(matrix) or 1.0
        return matrix.T if self.turned else matrix


def _aligned(first: WeightLayer, second: WeightLayer) -> tuple[_Side, _Side] | None:
    """W_k W_(k+1) over the largest dimension that they share."""
    shared = set(first.matrix_shape[1:]) & set(second.matrix_shape[1:])
    if not shared:
        return None
    inside = max(shared)
    return _Side(first, first.matrix_shape[2] != inside), _Side(second, second.matrix_shape[1] != inside)


def _in_flow(first: WeightLayer, second: WeightLayer) -> tuple[_Side, _Side] | None:
    """W_(k+1) W_k over the outputs of the first, which are the inputs of the second."""
    return (_Side(second), _Side(first)) if second.matrix_shape[2] == first.matrix_shape[1] else None


def _overlap(left: _Side, right: _Side, seed: tuple[int, int] | None) -> Array:
    inner = left.normed()
    if seed is not None:
        inner *= np.random.default_rng(seed).integers(0, 2, size=left.columns)
    product: Array = inner @ right.normed()
    return product


def _stack(layers: tuple[WeightLayer, ...]) -> Array:
    scaled = [_scaled(layer) for layer in layers]
    stack = np.zeros((sum(map(len, scaled)), max(part.shape[1] for part in scaled)))
    start = 0
    for part in scaled:
        stack[start : start + len(part), : part.shape[1]] = part
        start += len(part)
    return stack


def _scaled(layer: WeightLayer) -> Array:
    matrices = _exact(layer)
    flat = matrices.swapaxes(0, 1).reshape(matrices.shape[1], -1)
    median = np.median(flat)
    whole = np.median(np.abs(flat - median))
    columns = np.median(np.abs(flat - np.median(flat, axis=0)), axis=0)
    if whole == 0.0 and not columns.all():
        raise WeightError(f"most weights of {layer.name} are equal: their median absolute deviation is no scale")
    scaled: Array = (flat - median) / np.where(columns > 0.0, columns, whole)
    return scaled


def _difference(layer: WeightLayer, base: WeightLayer) -> Array:
    """W - W_base as a tensor of the layer's own shape, however the base model's file stores its weight."""
    difference = _exact(layer)
    difference -= _exact(base)
    return _tensor(difference, layer)


def _tensor(matrices: Array, layer: WeightLayer) -> Array:
    """Matrices as a tensor of the layer's own shape."""
    order = layer.layout.stack + layer.layout.rows + layer.layout.columns
    ordered = matrices.reshape([layer.shape[axis] for axis in order])
    tensor: Array = ordered.transpose([order.index(axis) for axis in range(len(order))])
    return tensor


@dataclass(frozen=True)
class _Factor:
    """What the name of a factor of a low-rank update says."""

    parts: tuple[str, ...]
    index: int

    @classmethod
    def of(cls, name: str) -> _Factor | None:
        """None where it is no such name. A plain A or B must stand last."""
        parts = tuple(name.split("."))
        for index, part in enumerate(parts):
            if part in _FACTORS and index > 0 and (part.startswith("lora_") or index == len(parts) - 1):
                return cls(parts, index)
        return None

    @property
    def is_A(self) -> bool:
        """Whether it is the first to be applied, from the inputs to the rank."""
        return _FACTORS[self.parts[self.index]] == "A"

    @property
    def is_plain(self) -> bool:
        return not self.parts[self.index].startswith("lora_")

    @property
    def module(self) -> str:
        return ".".join(self.parts[: self.index])

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for the two factors of an update."""
        return (*self.parts[: self.index], "" if self.is_plain else "lora", *self.parts[self.index + 1 :])

    def named(self, what: str) -> str:
        """The name of what becomes of the factor."""
        own = what if self.is_plain else f"lora_{what}"
        return ".".join((*self.parts[: self.index], own, *self.parts[self.index + 1 :]))

    def fits(self, down: WeightLayer, up: WeightLayer) -> bool:
        """Whether B A can be formed. Two layers called just A and B must also have a low rank between them."""
        _, rank, inputs = down.matrix_shape
        count, outputs, inner = up.matrix_shape
        return count == 1 and inner == rank and (not self.is_plain or rank <= min(inputs, outputs))


def _paired(layers: Sequence[WeightLayer]) -> tuple[list[tuple[_Factor, WeightLayer, WeightLayer]], dict[int, str]]:
    """The factors A and B that go together, with the name of A; and by id why each other layer is in no pair."""
    factors = {layer.layer_id: factor for layer in layers if (factor := _Factor.of(layer.name)) is not None}
    ups = {factors[up.layer_id].key: up for up in layers if up.layer_id in factors and not factors[up.layer_id].is_A}
    reasons = {
        layer.layer_id: "a factor of a low-rank update without the other"
        if layer.layer_id in factors
        else "no factor of a low-rank update"
        for layer in layers
    }
    pairs: list[tuple[_Factor, WeightLayer, WeightLayer]] = []
    for down in layers:
        factor = factors.get(down.layer_id)
        up = ups.pop(factor.key, None) if factor is not None and factor.is_A else None
        if factor is None or up is None:
            continue
        if factor.fits(down, up):
            pairs.append((factor, down, up))
            del reasons[down.layer_id], reasons[up.layer_id]
        else:
            reasons[down.layer_id] = f"with {up.name}, {_form(up)}, it is no low-rank update"
            reasons[up.layer_id] = f"with {down.name}, {_form(down)}, it is no low-rank update"
    return pairs, reasons


def _low_rank(down: WeightLayer, up: WeightLayer) -> Array:
    product: Array = _exact(up) @ _exact(down)
    return product


def _updated(base: WeightLayer, update: WeightLayer, scale: float) -> Array:
    weight = _exact(base)
    weight += scale * _exact(update)
    return _tensor(weight, base)

"""The weight that a module computes with, where a checkpoint stores it in parts."""

from __future__ import annotations

import math
import re

import onnx_ir as ir

from wwonnx.graph.tensors import FLOATS

from .weights_graph import AnyWeight, Computed, Weight

_PARAMETRIZED = re.compile(r"^(?:(.*)\.)?parametrizations\.(\w+)\.(original\d*|\d+\.\w+)$")
#: What the parts are called in torch.nn.utils.parametrizations, and in the functions before that.
_NEW = {"length": "original0", "direction": "original1", "stored": "original", "u": "0._u", "v": "0._v"}
_OLD = {"length": "g", "direction": "v", "stored": "orig", "u": "u", "mask": "mask"}
_BLOCK = 128
_EIGHT_BITS = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_FLOAT8 = frozenset(dtype for dtype in FLOATS if dtype.bitwidth == 8)


def split(name: str) -> tuple[str, str]:
    """A tensor's module and parameter: `fc.weight` -> (`fc`, `weight`).

    The parts of a parametrization stay together, `fc.parametrizations.weight.original0` ->
    (`fc`, `parametrizations.weight.original0`).
    """
    found = _PARAMETRIZED.match(name)
    if found:
        owner = found[1] or ""
        return owner, name[len(owner) :].removeprefix(".")
    cut = max(name.rfind("."), name.rfind("/"))
    return (name[:cut], name[cut + 1 :]) if cut >= 0 else ("", name)


def combine(parameters: dict[str, AnyWeight]) -> dict[str, AnyWeight]:
    """A module's parameters with those in parts put together, at the place of their first part.

    Args:
        parameters: of one module, by their names in it.

    Returns:
        weight_norm (Salimans and Kingma, arXiv:1602.07868, eq. 2), spectral_norm (Miyato et al., arXiv:1802.05957,
        eq. 8), pruning masks, and 8-bit codes with scales become one parameter; parts that fit no rule stay.
    """
    left = dict(parameters)
    made: dict[str, AnyWeight] = {}
    for name in sorted(parameters, key=lambda name: name != "weight"):  # it takes its scale before that stands alone
        if name not in left:
            continue
        base, weight, parts = _effective(name, left, parameters)
        for part in parts:
            left.pop(part)
        made[base] = weight
    return made


def _effective(name: str, left: dict[str, AnyWeight], every: dict[str, AnyWeight]) -> tuple[str, AnyWeight, list[str]]:
    """The parameter that `name` is a part of, its value, and all its parts."""
    if name == "weight":
        return _scaled(name, left)
    found = _PARAMETRIZED.match(name)
    base = found[2] if found else re.sub(r"_(?:g|v|u|orig|mask)$", "", name)
    whole: tuple[str, AnyWeight, list[str]] = name, left[name], [name]
    if base in every:
        return whole
    stem, ends = (f"parametrizations.{base}.", _NEW) if found else (f"{base}_", _OLD)
    parts = {what: f"{stem}{end}" for what, end in ends.items() if isinstance(left.get(f"{stem}{end}"), Weight)}
    given = {what: weight for what, part in parts.items() if isinstance(weight := left[part], Weight)}
    made: Computed | None = None
    match sorted(given):
        case ["direction", "length"]:
            made = _normed(given["direction"], given["length"])
        case ["stored", "u", "v"] | ["direction", "stored", "u"]:  # the old names of v and of a direction are one
            made = _spectral(given["stored"], given["u"], given.get("v") or given["direction"])
        case ["mask", "stored"]:
            made = _masked(given["stored"], given["mask"])
    return whole if made is None else (base, made, list(parts.values()))


def _masked(stored: Weight, mask: Weight) -> Computed | None:
    fits = mask.read_shape == stored.read_shape and {mask.dtype, stored.dtype} <= FLOATS
    return Computed("Mul", (stored, mask), stored.read_shape) if fits else None


def _normed(direction: Weight, length: Weight) -> Computed | None:
    """g v / |v|, the norm over all axes along which g has no values of its own."""
    shape, kept = direction.read_shape, length.read_shape
    if kept == () or (len(kept) == len(shape) and all(n in (1, m) for n, m in zip(kept, shape, strict=True))):
        axes = tuple(axis for axis in range(len(shape)) if kept == () or kept[axis] == 1 != shape[axis])
        if not axes:
            return None
        reduced = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
        norm = Computed("ReduceL2", (direction, axes), reduced, (("keepdims", 1),))
        return Computed("Mul", (direction, Computed("Div", (length, norm), reduced)), shape)
    return None


def _spectral(stored: Weight, u: Weight, v: Weight) -> Computed | None:
    """W / (u^T W v), with W as a matrix of (outputs, rest), or of another axis first where only that fits u."""
    shape = stored.read_shape
    rows = math.prod(u.read_shape)
    if rows == 0 or len(shape) < 2:
        return None
    axis = next((axis for axis, n in enumerate(shape) if n == rows and axis < 2), None)
    columns = math.prod(shape) // rows
    if axis is None or math.prod(v.read_shape) != columns:
        return None
    if axis == 0:
        order: tuple[int, ...] = ()
    else:
        order = (axis, *(other for other in range(len(shape)) if other != axis))
    matrix = Weight(stored.tensor, order, (rows, columns))
    right = Computed("MatMul", (matrix, Weight(v.tensor, shape=(columns, 1))), (rows, 1))
    sigma = Computed("MatMul", (Weight(u.tensor, shape=(1, rows)), right), (1, 1))
    scalar = Computed("Reshape", (sigma, (1,) * len(shape)), (1,) * len(shape))
    return Computed("Div", (stored, scalar), shape)


def _scaled(name: str, left: dict[str, AnyWeight]) -> tuple[str, AnyWeight, list[str]]:
    """Codes of 8 bits times their scale: one, one per output, or one per block."""
    weight = left[name]
    for ending, factor in (("weight_scale_inv", 1.0), ("weight_scale", 1.0), ("SCB", 1 / 127)):
        scale = left.get(ending)
        if isinstance(weight, Weight) and isinstance(scale, Weight) and len(weight.read_shape) == 2:
            made = _times(weight, scale, factor)
            if made is not None:
                return name, made, [name, ending]
    return name, weight, [name]


def _times(weight: Weight, scale: Weight, factor: float) -> Computed | None:
    (rows, columns), sizes = weight.read_shape, scale.read_shape
    if weight.dtype not in _EIGHT_BITS | _FLOAT8 or scale.dtype not in FLOATS:
        return None
    values: AnyWeight = weight
    if weight.dtype in _EIGHT_BITS:
        values = Computed("Cast", (weight,), weight.read_shape, (("to", int(ir.DataType.FLOAT)),))
    factors: AnyWeight
    if math.prod(sizes) == 1:
        factors = Weight(scale.tensor, shape=(1, 1))
    elif math.prod(sizes) == rows and sizes[0] == rows:
        factors = Weight(scale.tensor, shape=(rows, 1))
    elif len(sizes) == 2 and (block := _blocks((rows, columns), sizes)):
        if (rows, columns) == (sizes[0] * block[0], sizes[1] * block[1]):
            return _in_blocks(values, scale, block)
        factors = _expanded(scale, block, (rows, columns))
    else:
        return None
    if factor != 1:
        factors = Computed("Mul", (factors, factor), factors.read_shape)
    return Computed("Mul", (values, factors), (rows, columns))


def _blocks(shape: tuple[int, int], sizes: tuple[int, ...]) -> tuple[int, int] | None:
    """The sides of the blocks of which there are so many; the last of a row or column may be cut short."""
    sides = [
        _BLOCK if math.ceil(n / _BLOCK) == count else n // count if count and n % count == 0 else 0
        for n, count in zip(shape, sizes, strict=True)
    ]
    return (sides[0], sides[1]) if all(sides) else None


def _in_blocks(values: AnyWeight, scale: Weight, block: tuple[int, int]) -> Computed:
    """Codes times the scales of their blocks, of which all are whole: nothing is made of a scale for each element."""
    (down, across), (high, wide) = scale.read_shape, block
    apart = (down, high, across, wide)
    factors = Weight(scale.tensor, shape=(down, 1, across, 1))
    product = Computed("Mul", (Computed("Reshape", (values, apart), apart), factors), apart)
    return Computed("Reshape", (product, (down * high, across * wide)), (down * high, across * wide))


def _expanded(scale: Weight, block: tuple[int, int], shape: tuple[int, int]) -> AnyWeight:
    """Scales of blocks, one for each element."""
    (down, across), (high, wide) = scale.read_shape, block
    spread = Computed(
        "Expand",
        (Weight(scale.tensor, shape=(down, 1, across, 1)), (down, high, across, wide)),
        (down, high, across, wide),
    )
    whole = (down * high, across * wide)
    flat = Computed("Reshape", (spread, whole), whole)
    return flat if whole == shape else Computed("Slice", (flat, (0, 0), shape), shape)

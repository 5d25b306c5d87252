"""What the operators of constant expressions make of their operands: the shape first, the values when asked for.

Operators that only move values give views. Everything else is evaluated by onnx's own reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import WeightError
from .quantization import dequantize, quantize_uniform
from .tensors import FLOATS, epsilon
from .traverse import integer, integers, text

if TYPE_CHECKING:
    from .constants import Constant


@dataclass(frozen=True)
class Step:
    """One operator of a constant expression.

    Attributes:
        operands: the constants that it computes from.
        shape: of its result.
        compute: takes the operands' arrays.
        dtype: element type of the result; None for that of the largest operand.
        transposes: whether all it does is to transpose a matrix.
        work: whether it computes anything, rather than giving a view.
        values: which operands give the result's values, as opposed to conditions and indices.
        most: how many values the result may have however few are stored.
    """

    operands: list[Any]
    shape: tuple[int, ...]
    compute: Callable[..., NDArray[Any]]
    dtype: ir.DataType | None = None
    transposes: bool = False
    work: bool = True
    values: slice = field(default_factory=lambda: slice(None))
    most: int = 0


@dataclass(frozen=True)
class Context:
    """A node of a constant expression as its rule sees it."""

    node: ir.Node
    inputs: list[Any]
    output: int
    opset: int

    def input(self, index: int) -> Constant | None:
        """The constant at an input, None where the node has none there."""
        return self.inputs[index] if index < len(self.inputs) else None

    def list(self, index: int, name: str) -> tuple[int, ...] | None:
        """A list of integers: at an input in newer opsets, in an attribute in older ones."""
        constant = self.input(index)
        if constant is None:
            return integers(self.node, name)
        if constant.size > _LONGEST_LIST or constant.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        try:
            return tuple(int(n) for n in constant.read().reshape(-1))
        except WeightError:
            return None


Rule: TypeAlias = "Callable[[Context], Step | Constant | None]"
#: What an operator on arguments that make no sense raises; onnx's reference implementation also asserts.
SENSELESS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
#: A product of two thin factors is a weight of many values out of few (a LoRA of 8 x 57,344 numbers makes 200 million).
_MOST_PRODUCT = 1 << 30
#: A list of axes, starts or sizes is no longer than this.
_LONGEST_LIST = 4096
_RULES: dict[str, Rule] = {}
_DOMAINS = ("", "ai.onnx", "com.microsoft", "qonnx.custom_op.general", "finn.custom_op.general")


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Register what an operator makes of constants."""

    def register(function: Rule) -> Rule:
        for op_type in op_types:
            _RULES[op_type] = function
        return function

    return register


def describe_step(node: ir.Node, inputs: list[Any], output: int, opset: int) -> Step | Constant | None:
    """What a node makes of constants; None where it is not evaluated, the operand itself where it changes nothing."""
    known = _RULES.get(node.op_type)
    if known is None or node.domain not in _DOMAINS or not inputs or inputs[0] is None:
        return None
    try:
        return known(Context(node, inputs, output, opset))
    except SENSELESS:
        return None  # arguments that make no sense for these shapes


def _view(
    source: Constant, shape: tuple[int, ...], compute: Callable[[NDArray[Any]], NDArray[Any]], transposes: bool = False
) -> Step:
    return Step([source], shape, compute, source.dtype, transposes, work=False)


@rule("Identity")
def _identity(context: Context) -> Constant:
    source: Constant = context.inputs[0]
    return source


@rule("Cast")
def _cast(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    target = ir.DataType(integer(context.node, "to", 0))
    if target == source.dtype:
        return source
    if source.is_float and target in FLOATS and epsilon(target) <= epsilon(source.dtype):
        return replace(source, dtype=target)  # a wider type holds the same values
    dtype = target.numpy()
    if target.bitwidth == 8 and target in FLOATS and integer(context.node, "saturate", 1):
        return Step([source], source.shape, lambda array: _saturated(array, dtype), target)
    return Step([source], source.shape, lambda array: array.astype(dtype), target)


def _saturated(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A Cast to float8: what is too large becomes the largest number there is."""
    import ml_dtypes

    information: Any = ml_dtypes.finfo  # untyped
    largest = float(information(dtype).max)
    clipped: NDArray[Any] = np.clip(array.astype(np.float32), -largest, largest).astype(dtype)
    return clipped


@rule("CastLike")
def _cast_like(context: Context) -> Step | Constant | None:
    source, like = context.inputs[0], context.inputs[1]
    if like.dtype == source.dtype:
        return source  # type: ignore[no-any-return]
    dtype = like.dtype.numpy()
    return Step([source], source.shape, lambda array: array.astype(dtype), like.dtype)


@rule("Transpose")
def _transpose(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    rank = len(source.shape)
    axes = integers(context.node, "perm") or tuple(reversed(range(rank)))
    if sorted(axes) != list(range(rank)):
        return None
    if axes == tuple(range(rank)):
        return source
    shape = tuple(source.shape[axis] for axis in axes)
    return _view(source, shape, lambda array: array.transpose(axes), transposes=rank == 2)


def _reshaped(source: Constant, shape: tuple[int, ...]) -> Step | Constant | None:
    if math.prod(shape) != source.size:
        return None
    return source if shape == source.shape else _view(source, shape, lambda array: array.reshape(shape))


@rule("Reshape")
def _reshape(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    wanted = context.list(1, "shape")
    if wanted is None:
        return None
    if not integer(context.node, "allowzero", 0):
        wanted = tuple(source.shape[axis] if n == 0 else n for axis, n in enumerate(wanted))
    if wanted.count(-1) == 1:
        rest = source.size // math.prod(n for n in wanted if n != -1)
        wanted = tuple(rest if n == -1 else n for n in wanted)
    return _reshaped(source, wanted) if all(n >= 0 for n in wanted) else None


@rule("Flatten")
def _flatten(context: Context) -> Step | Constant | None:
    shape = context.inputs[0].shape
    axis = integer(context.node, "axis", 1)
    axis += len(shape) if axis < 0 else 0
    return _reshaped(context.inputs[0], (math.prod(shape[:axis]), math.prod(shape[axis:])))


@rule("Squeeze")
def _squeeze(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    axes = context.list(1, "axes")
    if axes is None and context.input(1) is not None:
        return None
    dropped = {axis % len(source.shape) for axis in axes} if axes is not None else None
    kept = (n for axis, n in enumerate(source.shape) if (n != 1 if dropped is None else axis not in dropped))
    return _reshaped(source, tuple(kept))


@rule("Unsqueeze")
def _unsqueeze(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    axes = context.list(1, "axes")
    if axes is None:
        return None
    rank = len(source.shape) + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(source.shape)
    return _reshaped(source, tuple(1 if axis in added else next(rest) for axis in range(rank)))


@rule("Slice")
def _slice(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    starts, ends = context.list(1, "starts"), context.list(2, "ends")
    if starts is None or ends is None:
        return None
    axes = context.list(3, "axes") or tuple(range(len(starts)))
    steps = context.list(4, "steps") or (1,) * len(starts)
    region = [slice(None)] * len(source.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # numpy clamps as ONNX does, but for a backward slice that runs past the front.
        past = step < 0 and end < -source.shape[axis]
        first = max(start, -source.shape[axis]) if step < 0 else start
        region[axis] = slice(first, None if past else end, step)
    whole = tuple(region)
    shape = tuple(len(range(*part.indices(n))) for part, n in zip(whole, source.shape, strict=True))
    return source if shape == source.shape and min(steps) > 0 else _view(source, shape, lambda array: array[whole])


@rule("Split")
def _split(context: Context) -> Step | Constant | None:
    source: Constant = context.inputs[0]
    axis = integer(context.node, "axis", 0) % len(source.shape)
    sizes = context.list(1, "split")
    if sizes is None and context.input(1) is not None:
        return None
    if sizes is None:
        parts = len(context.node.outputs)
        each = math.ceil(source.shape[axis] / parts)
        sizes = (*(each for _ in range(parts - 1)), source.shape[axis] - each * (parts - 1))
    start = sum(sizes[: context.output])
    size = sizes[context.output]
    region = (*(slice(None) for _ in range(axis)), slice(start, start + size))
    shape = tuple(size if index == axis else n for index, n in enumerate(source.shape))
    return _view(source, shape, lambda array: array[region]) if size >= 0 else None


@rule("Concat")
def _concat(context: Context) -> Step | None:
    operands = context.inputs
    shape = list(operands[0].shape)
    axis = integer(context.node, "axis", 0) % len(shape)
    shape[axis] = sum(operand.shape[axis] for operand in operands)
    return Step(operands, tuple(shape), lambda *arrays: np.concatenate(arrays, axis=axis), operands[0].dtype)


@rule("Gather")
def _gather(context: Context) -> Step | None:
    source, indices = context.inputs
    axis = integer(context.node, "axis", 0) % len(source.shape)
    shape = source.shape[:axis] + indices.shape + source.shape[axis + 1 :]
    take = lambda array, chosen: np.take(array, chosen.astype(np.int64), axis=axis)  # noqa: E731
    return Step([source, indices], shape, take, source.dtype, values=slice(1))


@rule("Expand")
def _expand(context: Context) -> Step | None:
    source: Constant = context.inputs[0]
    wanted = context.list(1, "shape")
    if wanted is None:
        return None
    shape = np.broadcast_shapes(source.shape, wanted)
    return _view(source, shape, lambda array: np.broadcast_to(array, shape))


@rule("Shape")
def _shape(context: Context) -> Step:
    source: Constant = context.inputs[0]
    part = source.shape[integer(context.node, "start", 0) : integer(context.node, "end", len(source.shape))]
    # The operand's values don't matter, so they are not its operand's: an empty slice stands for them.
    return Step([source], (len(part),), lambda _: np.array(part, dtype=np.int64), ir.DataType.INT64)


@rule("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where")
def _elementwise(context: Context) -> Step | None:
    shape = np.broadcast_shapes(*(operand.shape for operand in context.inputs))
    if context.node.op_type != "Where":
        return _reference(context, shape)
    _, _, chosen = context.inputs
    return replace(_reference(context, shape, chosen.dtype), values=slice(1, 3))


@rule("Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Tanh", "Sigmoid", "Relu", "Softplus", "Erf")
@rule("Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Clip", "Softmax", "LpNormalization", "Trilu")
def _unary(context: Context) -> Step | None:
    return _reference(context, context.inputs[0].shape, context.inputs[0].dtype)


@rule("ReduceL1", "ReduceL2", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare")
def _reduce(context: Context) -> Step | None:
    source: Constant = context.inputs[0]
    axes = context.list(1, "axes")
    if axes is None and context.input(1) is not None:
        return None
    rank = len(source.shape)
    if not axes:
        axes = () if integer(context.node, "noop_with_empty_axes", 0) else tuple(range(rank))
    reduced = {axis % rank for axis in axes}
    keep = integer(context.node, "keepdims", 1)
    shape = tuple(1 if axis in reduced else n for axis, n in enumerate(source.shape) if keep or axis not in reduced)
    return _reference(context, shape, source.dtype)


@rule("MatMul")
def _matmul(context: Context) -> Step | None:
    left, right = context.inputs
    if len(left.shape) < 2 or len(right.shape) < 2 or left.shape[-1] != right.shape[-2]:
        return None
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    product = _reference(context, (*batch, left.shape[-2], right.shape[-1]), left.dtype)
    return product if batch else replace(product, most=_MOST_PRODUCT)


@rule("Gemm")
def _gemm(context: Context) -> Step | None:
    left, right = context.inputs[:2]
    rows = left.shape[::-1] if integer(context.node, "transA", 0) else left.shape
    columns = right.shape[::-1] if integer(context.node, "transB", 0) else right.shape
    if len(rows) != 2 or len(columns) != 2 or rows[1] != columns[0]:
        return None
    return _reference(context, (rows[0], columns[1]), left.dtype)


@rule("QuantizeLinear")
def _quantize(context: Context) -> Step | None:
    zero = context.input(2)
    return _reference(context, context.inputs[0].shape, ir.DataType.UINT8 if zero is None else zero.dtype)


@rule("DequantizeLinear")
def _dequantize(context: Context) -> Step | None:
    codes, scale, zero = context.inputs[0], context.input(1), context.input(2)
    if scale is None:
        return None
    axis, block = integer(context.node, "axis", 1), integer(context.node, "block_size", 0)

    def compute(codes: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None) -> NDArray[Any]:
        return dequantize(codes, scale, zero, axis, block)

    dtype = scale.dtype if scale.is_float else ir.DataType.FLOAT
    return Step([codes, scale] + ([] if zero is None else [zero]), codes.shape, compute, dtype)


@rule("Quant")
def _quant(context: Context) -> Step | None:
    values, scale, zero, bits = context.inputs
    if scale is None or zero is None or bits is None:
        return None
    node = context.node
    signed, narrow = bool(integer(node, "signed", 1)), bool(integer(node, "narrow", 0))
    rounding = text(node, "rounding_mode", "ROUND")

    def compute(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], bits: NDArray[Any]) -> NDArray[Any]:
        width = float(bits.reshape(-1)[0])
        return quantize_uniform(values, scale, zero, width, signed=signed, narrow=narrow, rounding=rounding)

    return Step([values, scale, zero, bits], values.shape, compute, values.dtype)


@rule("BipolarQuant")
def _bipolar(context: Context) -> Step | None:
    values, scale = context.inputs
    if scale is None:
        return None

    def compute(values: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
        return np.where(values >= 0, scale, -scale).astype(values.dtype)

    return Step([values, scale], values.shape, compute, values.dtype)


def _reference(context: Context, shape: tuple[int, ...], dtype: ir.DataType | None = None) -> Step:
    """The operator as onnx's reference implementation computes it."""
    operands = [operand for operand in context.inputs if operand is not None]
    node, opset = context.node, context.opset

    def compute(*arrays: NDArray[Any]) -> NDArray[Any]:
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        proto = ir.to_proto(node)
        names = [name for name in dict.fromkeys(proto.input) if name]
        # A widening Cast leaves its operand's array as it is; here its type matters.
        typed = [
            array.astype(operand.dtype.numpy(), copy=False) for array, operand in zip(arrays, operands, strict=True)
        ]
        feeds = dict(zip((name for name in proto.input if name), typed, strict=True))
        anything = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
        results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in proto.output]
        graph = helper.make_graph([proto], "cone", anything, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        outputs: Any = ReferenceEvaluator(model).run(None, feeds)
        return np.asarray(outputs[context.output])

    return Step(operands, shape, compute, dtype)

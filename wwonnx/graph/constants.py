"""The values behind constant expressions: what feeds a weight input, seen through operators that only rearrange it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import WeightError
from .traverse import constant_tensor, describe_node, integer, integers, is_onnx

_FLOATS = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
}
#: Operators that move values without changing them.
_REARRANGING = ("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast")


@dataclass(frozen=True)
class Constant:
    """A constant expression that can be read: a stored tensor and what rearranges it on its way to the weight input.

    Attributes:
        root: the initializer or Constant node's output that holds the values.
        tensor: its tensor, unread.
        shape: shape after the rearrangement.
        stored: element type of the least precise step, which bounds what the values can tell.
        steps: rearrangements, from the tensor outwards.
        transposed_only: whether the steps are transpositions of a matrix, or none: then its spectrum is the tensor's.
    """

    root: ir.Value
    tensor: ir.TensorProtocol
    shape: tuple[int, ...]
    stored: ir.DataType
    steps: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...] = ()
    transposed_only: bool = True

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating point numbers, as trained weights are."""
        return self.stored in _FLOATS

    @property
    def eps(self) -> float:
        """Machine epsilon of the stored element type."""
        return epsilon(self.stored)

    def read(self) -> NDArray[Any]:
        """The values. External data is memory-mapped, so nothing is read before it is touched.

        Raises:
            WeightError: the file doesn't hold what it promises.
        """
        array = read_tensor(self.tensor)
        for step in self.steps:
            array = step(array)
        return array


@dataclass(frozen=True)
class Computed:
    """A constant expression that is not read: an operator computes new values from constants."""

    node: ir.Node
    roots: tuple[ir.Value, ...]

    @property
    def reason(self) -> str:
        """Why, in words."""
        return f"computed from constants by {describe_node(self.node)}, which is not evaluated yet"


class ConstantFinder:
    """Finds what is constant in a graph. Each value is looked at once, however many nodes read it."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Constant | Computed | None] = {}

    def find(self, value: ir.Value | None) -> Constant | Computed | None:
        """The constant behind a value, None if the value depends on the model's inputs.

        The walk back through producers keeps its own stack: chains of a million nodes occur in broken files.
        """
        if value is None:
            return None
        stack = [value]
        while stack:
            top = stack[-1]
            if top in self._known:
                stack.pop()
                continue
            node = top.producer()
            if node is None or constant_tensor(node) is not None:
                self._known[top] = self._stored(top)
                stack.pop()
                continue
            operands = [operand for operand in node.inputs if operand is not None]
            unknown = [operand for operand in operands if operand not in self._known]
            # A cyclic graph meets a value that waits on the stack: such a value is no constant.
            waiting = set(stack)
            if any(operand in waiting for operand in unknown):
                self._known[top] = None
            elif unknown:
                stack.extend(unknown[:1])
            else:
                self._known[top] = self._derive(node, operands)
        return self._known[value]

    def _stored(self, value: ir.Value) -> Constant | None:
        node = value.producer()
        tensor = constant_tensor(node) if node is not None else value.const_value
        if tensor is None:
            return None
        return Constant(value, tensor, tuple(int(n) for n in tensor.shape.numpy()), tensor.dtype)

    def _derive(self, node: ir.Node, operands: list[ir.Value]) -> Constant | Computed | None:
        if not operands or any(self._known[operand] is None for operand in operands):
            return None  # depends on an input, or makes values out of nothing (RandomNormal, Constant of a string)
        if len(node.outputs) == 1 and is_onnx(node, *_REARRANGING):
            source = self._known[operands[0]]
            if isinstance(source, Constant):
                step = self._rearrange(node, source)
                if step is not None:
                    return step
        roots: dict[ir.Value, None] = {}
        for operand in operands:
            known = self._known[operand]
            assert known is not None
            roots.update(dict.fromkeys((known.root,) if isinstance(known, Constant) else known.roots))
        return Computed(node, tuple(roots))

    def _rearrange(self, node: ir.Node, source: Constant) -> Constant | None:
        """The source as seen through one rearranging node, None where the node's arguments make no sense for it."""
        if node.op_type == "Identity":
            return source
        if node.op_type == "Cast":
            return self._cast(node, source)
        if node.op_type == "Transpose":
            axes = integers(node, "perm") or tuple(reversed(range(len(source.shape))))
            if sorted(axes) != list(range(len(source.shape))):
                return None
            shape = tuple(source.shape[axis] for axis in axes)
            plain = source.transposed_only and len(axes) == 2
            return _extend(source, shape, lambda array: array.transpose(axes), plain)
        reshaped = self._new_shape(node, source.shape)
        if reshaped is None or math.prod(reshaped) != math.prod(source.shape):
            return None
        return _extend(source, reshaped, lambda array: array.reshape(reshaped), reshaped == source.shape)

    def _cast(self, node: ir.Node, source: Constant) -> Constant | None:
        target = ir.DataType(integer(node, "to", 0))
        if not source.is_float or target not in _FLOATS:
            return None
        if epsilon(target) <= epsilon(source.stored):
            return source  # a wider type holds the same values
        dtype = target.numpy()
        return Constant(
            source.root,
            source.tensor,
            source.shape,
            target,
            (*source.steps, lambda array: array.astype(dtype)),
            source.transposed_only,
        )

    def _new_shape(self, node: ir.Node, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        rank = len(shape)
        if node.op_type == "Flatten":
            axis = integer(node, "axis", 1)
            axis += rank if axis < 0 else 0
            return (math.prod(shape[:axis]), math.prod(shape[axis:])) if 0 <= axis <= rank else None
        argument = self._argument(node)
        if node.op_type == "Reshape":
            return None if argument is None else _reshape(shape, argument, bool(integer(node, "allowzero", 0)))
        axes = argument if argument is not None else integers(node, "axes")
        if node.op_type == "Squeeze":
            if axes is None:
                return tuple(n for n in shape if n != 1)
            dropped = {axis % rank for axis in axes} if rank else set()
            return tuple(n for axis, n in enumerate(shape) if axis not in dropped)
        if axes is None:
            return None
        full = rank + len(axes)
        added = {axis % full for axis in axes}
        rest = iter(shape)
        return tuple(1 if axis in added else next(rest) for axis in range(full)) if len(added) == len(axes) else None

    def _argument(self, node: ir.Node) -> tuple[int, ...] | None:
        """The constant list of integers at a node's second input, or None."""
        if len(node.inputs) < 2 or node.inputs[1] is None:
            return None
        known = self._known.get(node.inputs[1])
        if not isinstance(known, Constant) or math.prod(known.shape) > 64:
            return None
        try:
            return tuple(int(n) for n in known.read().reshape(-1))
        except (WeightError, TypeError, ValueError):
            return None


def _extend(
    source: Constant, shape: tuple[int, ...], step: Callable[[NDArray[Any]], NDArray[Any]], transposed_only: bool
) -> Constant:
    return Constant(source.root, source.tensor, shape, source.stored, (*source.steps, step), transposed_only)


def _reshape(shape: tuple[int, ...], wanted: tuple[int, ...], allow_zero: bool) -> tuple[int, ...] | None:
    """ONNX's Reshape: 0 copies the dimension (unless allowzero), one -1 takes what is left."""
    if not allow_zero:
        if any(n == 0 and axis >= len(shape) for axis, n in enumerate(wanted)):
            return None
        wanted = tuple(shape[axis] if n == 0 else n for axis, n in enumerate(wanted))
    if wanted.count(-1) == 1:
        known = math.prod(n for n in wanted if n != -1)
        if known == 0 or math.prod(shape) % known:
            return None
        wanted = tuple(math.prod(shape) // known if n == -1 else n for n in wanted)
    return wanted if all(n >= 0 for n in wanted) else None


def epsilon(dtype: ir.DataType) -> float:
    """Distance from 1 to the next number of a floating point type; float32's for types that are no floats."""
    if dtype not in _FLOATS:
        return float(np.finfo(np.float32).eps)
    import ml_dtypes

    information: Any = ml_dtypes.finfo  # untyped
    return float(information(dtype.numpy()).eps)


def read_tensor(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """A tensor's values; external data as a memory map of its own, released with the array.

    Raises:
        WeightError: the data is missing, too short, or doesn't fit the shape.
    """
    try:
        if isinstance(tensor, ir.ExternalTensor) and tensor.dtype.bitwidth >= 8 and tensor.size:
            return _map_external(tensor)
        return np.asarray(tensor.numpy())
    except (OSError, ValueError, TypeError, OverflowError, MemoryError, AssertionError) as error:
        lines = str(error).splitlines()
        raise WeightError(
            f"tensor {tensor.name!r} can't be read: {(lines or [type(error).__name__])[0][:200]}"
        ) from None


def _map_external(tensor: Any) -> NDArray[Any]:
    """A map of just this tensor's bytes, which goes with the array.

    Closing onnx_ir's map of the whole file would pull it away under layers that read the same file in another thread.
    """
    dtype = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    offset, shape = tensor.offset or 0, tuple(int(n) for n in tensor.shape.numpy())
    needed = math.prod(shape) * dtype.itemsize
    from pathlib import Path

    path = Path(tensor.path)
    if not path.exists():
        raise ValueError(f"external data file {str(tensor.location)!r} is missing; put it into {path.parent}")
    size = path.stat().st_size
    if offset < 0 or offset + needed > size:
        raise ValueError(
            f"it needs bytes {offset} to {offset + needed} of {str(tensor.location)!r}, which has {size}; "
            "the data file is cut short or belongs to another model"
        )
    if tensor.length is not None and tensor.length < needed:
        raise ValueError(f"its shape needs {needed} bytes, its entry gives {tensor.length}")
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)

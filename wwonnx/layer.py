"""What the graph walker hands to the spectral engine: layers that hold no array until they are asked."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray


class LAYER_TYPE(enum.IntFlag):
    """Kinds of layers. Combine them with `|` to filter: `LAYER_TYPE.CONV1D | LAYER_TYPE.DENSE`."""

    UNKNOWN = 0
    DENSE = 1
    CONV1D = 2
    CONV2D = 4
    CONV3D = 8
    CONV_TRANSPOSE = 16
    EMBEDDING = 32
    RECURRENT = 64
    ATTENTION = 128
    CONV_ND = 256
    STACKED = 512

    @property
    def label(self) -> str:
        """The value of the `layer_type` column: `dense`, `conv2d`, ..."""
        return (self.name or "unknown").lower()


#: Every kind that holds one matrix per kernel position, so that pooling and conv2d_norm apply.
CONVOLUTIONS = (
    LAYER_TYPE.CONV1D | LAYER_TYPE.CONV2D | LAYER_TYPE.CONV3D | LAYER_TYPE.CONV_ND | LAYER_TYPE.CONV_TRANSPOSE
)


@dataclass(frozen=True)
class Layout:
    """How the axes of a weight read as matrices: which count the matrices, which the rows, which the columns.

    Rows are outputs and columns inputs, so that a weight is the same matrix however an exporter stored it.

    Attributes:
        stack: axes over which there is one matrix each, such as the kernel positions of a convolution.
        rows, columns: axes of each matrix; several are flattened together.
    """

    stack: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def shape(self, tensor: tuple[int, ...]) -> tuple[int, int, int]:
        """(matrices, rows, columns) for a tensor of this shape."""
        matrices, rows, columns = (
            math.prod(tensor[axis] for axis in axes) for axes in (self.stack, self.rows, self.columns)
        )
        return matrices, rows, columns

    def matrices(self, array: NDArray[Any]) -> NDArray[Any]:
        """The weight as a stack of matrices, shape (matrices, rows, columns); a view wherever numpy can make one."""
        stacked: NDArray[Any] = array.transpose(self.stack + self.rows + self.columns).reshape(self.shape(array.shape))
        return stacked


#: A matrix of (outputs, inputs), as Gemm with transB and recurrent weights have it.
MATRIX = Layout((), (0,), (1,))
#: A matrix of (inputs, outputs), as MatMul has it.
TRANSPOSED = Layout((), (1,), (0,))


def kernel_layout(dimensions: int) -> Layout:
    """The layout of a convolution's weight (a, b, k1, ..., kd): one (a x b) matrix per kernel position."""
    return Layout(tuple(range(2, 2 + dimensions)), (0,), (1,))


@dataclass(frozen=True)
class Use:
    """One place where a node reads a weight."""

    op_type: str
    node: str
    input: int
    layer_type: LAYER_TYPE


@dataclass(frozen=True)
class WeightLayer:
    """A weight of the model, its names, and how to get its values.

    Attributes:
        layer_id: position among the model's weights in graph order, from 1, so that every id can be negated in filters.
        name: module path, `layer1.0.conv1`; unique in the model.
        longname: the tensor's own name in the file.
        shape: the weight's shape as its first use reads it.
        dtype: the element type in which the file stores it, as ONNX spells it in lower case (`float`, `int8`).
        uses: all the places that read it, in graph order; the first gives `layer_type`.
        layout: how the tensor reads as matrices.
        eps: machine epsilon of the least precise floating point type that the values passed through.
        folded: whether a BatchNormalization was folded into the weight, so that its spectrum is not that of the trained
            one.
        depthwise: whether each channel has a kernel of its own: then the matrices are single columns.
        read: gives the values, dequantised, of that shape.
        read_bias: gives the bias that goes with the weight, shape (outputs,); None where it has none.
        parts: the layers that it is made of, where it is no weight of its own.
        recipe: how it is made of them.
    """

    layer_id: int
    name: str
    longname: str
    shape: tuple[int, ...]
    dtype: str
    uses: tuple[Use, ...]
    layout: Layout
    eps: float
    folded: bool
    depthwise: bool
    read: Callable[[], NDArray[Any]] = field(repr=False, compare=False)
    read_bias: Callable[[], NDArray[Any]] | None = field(default=None, repr=False, compare=False)
    parts: tuple[WeightLayer, ...] = field(default=(), repr=False)
    recipe: str = ""

    @property
    def layer_type(self) -> LAYER_TYPE:
        """Kind of the first use."""
        return self.uses[0].layer_type

    @property
    def layer_types(self) -> LAYER_TYPE:
        """Kinds of all uses: a tied embedding and output head is EMBEDDING | DENSE."""
        kinds = LAYER_TYPE.UNKNOWN
        for use in self.uses:
            kinds |= use.layer_type
        return kinds

    @property
    def N(self) -> int:
        """Larger dimension of each matrix."""
        return max(self.matrix_shape[1:])

    @property
    def M(self) -> int:
        """Smaller dimension of each matrix, the number of its eigenvalues."""
        return min(self.matrix_shape[1:])

    @property
    def rf(self) -> int:
        """Number of matrices: the kernel positions of a convolution (its receptive field), otherwise 1."""
        return self.matrix_shape[0]

    @cached_property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(matrices, outputs, inputs)."""
        return self.layout.shape(self.shape)

    @property
    def is_convolution(self) -> bool:
        """Whether conv2d_norm and pooling apply."""
        return bool(self.layer_type & CONVOLUTIONS)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def matrices(self) -> NDArray[Any]:
        """The weight, shape (rf, outputs, inputs), in the stored element type, dequantised where that is a code.

        External data is memory-mapped: nothing is read before the values are touched, and the map goes with the array.

        Raises:
            WeightError: if the file doesn't hold the values that it promises.
        """
        return self.layout.matrices(self.read())


@dataclass(frozen=True)
class Skipped:
    """A weight input that is no layer, and the reason in words for the user."""

    name: str
    longname: str
    shape: tuple[int, ...]
    dtype: str
    op_type: str
    reason: str

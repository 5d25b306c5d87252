"""What the graph walker hands to the spectral engine: layers that hold no array until they are asked."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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

    @property
    def label(self) -> str:
        """The value of the `layer_type` column: `dense`, `conv2d`, ..."""
        return (self.name or "unknown").lower()


#: Every kind that holds one matrix per kernel position, so that pooling and conv2d_norm apply.
CONVOLUTIONS = (
    LAYER_TYPE.CONV1D | LAYER_TYPE.CONV2D | LAYER_TYPE.CONV3D | LAYER_TYPE.CONV_ND | LAYER_TYPE.CONV_TRANSPOSE
)


class Layout(enum.Enum):
    """How the axes of a weight tensor read as matrices.

    MATRIX: the tensor is one matrix, apart from leading axes of length 1.
    KERNEL: axes (a, b, k1, ..., kd); one (a x b) matrix per kernel position.
    """

    MATRIX = "matrix"
    KERNEL = "kernel"

    def shape(self, tensor: tuple[int, ...]) -> tuple[int, int, int]:
        """(matrices, rows, columns) for a tensor of this shape.

        Raises:
            ValueError: if the tensor can't be read this way.
        """
        if self is Layout.KERNEL:
            if len(tensor) < 3:
                raise ValueError(f"a kernel needs 3 or more dimensions, this has shape {list(tensor)}")
            return math.prod(tensor[2:]), tensor[0], tensor[1]
        if len(tensor) < 2 or any(n != 1 for n in tensor[:-2]):
            raise ValueError(f"a matrix was expected, this has shape {list(tensor)}")
        return 1, tensor[-2], tensor[-1]

    def stack(self, array: NDArray[Any]) -> NDArray[Any]:
        """View of a weight as a stack of matrices, shape (matrices, rows, columns); reshaped kernels are copied."""
        matrices, rows, columns = self.shape(array.shape)
        if self is Layout.KERNEL:
            flat = array.reshape(rows, columns, matrices)
            return np.moveaxis(flat, -1, 0)
        return array.reshape(matrices, rows, columns)


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
        shape: the tensor's shape as its first use sees it.
        dtype: the element type in which the file stores the values, as ONNX spells it in lower case (`float`).
        uses: all the places that read it, in graph order; the first gives `layer_type`.
        layout: how the tensor reads as matrices.
        eps: machine epsilon of the stored element type.
    """

    layer_id: int
    name: str
    longname: str
    shape: tuple[int, ...]
    dtype: str
    uses: tuple[Use, ...]
    layout: Layout
    eps: float
    read: Callable[[], NDArray[Any]] = field(repr=False, compare=False)

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
        return max(self.layout.shape(self.shape)[1:])

    @property
    def M(self) -> int:
        """Smaller dimension of each matrix, the number of its eigenvalues."""
        return min(self.layout.shape(self.shape)[1:])

    @property
    def rf(self) -> int:
        """Number of matrices: the kernel positions of a convolution (its receptive field), otherwise 1."""
        return self.layout.shape(self.shape)[0]

    @property
    def is_convolution(self) -> bool:
        """Whether conv2d_norm and pooling apply."""
        return bool(self.layer_type & CONVOLUTIONS)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    def matrices(self) -> NDArray[Any]:
        """The weight as it is stored, shape (rf, rows, columns), in the stored element type.

        External data is memory-mapped: nothing is read before the values are touched, and the map goes with the array.

        Raises:
            WeightError: if the file doesn't hold the values that it promises.
        """
        return self.layout.stack(self.read())


@dataclass(frozen=True)
class Skipped:
    """A weight input that is no layer, and the reason in words for the user."""

    name: str
    longname: str
    shape: tuple[int, ...]
    dtype: str
    op_type: str
    reason: str

"""How each kind of Keras layer reads its weights: Keras' layouts brought to the modules of a weights-only graph.

Keras has inputs before outputs: Dense (inputs, outputs); convolutions (k1, ..., kd, inputs / groups, outputs), transposed
ones (k1, ..., kd, outputs, inputs), depthwise ones (k1, ..., kd, channels, multiplier); recurrent cells (inputs, gates x
units) with the gates i f c o (LSTM) or z r h (GRU); attention (inputs, heads, width) and (heads, width, outputs). The
tensors stay as they are; where ONNX wants another layout, the graph says how they are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import onnx_ir as ir

from wwonnx.graph.operators.dense import einsum_layout
from wwonnx.graph.tensors import FLOATS, element_type, shape_of
from wwonnx.layer import Layout

from .weights_graph import (
    AnyWeight,
    BatchNormalization,
    Cell,
    Computed,
    Convolution,
    Dense,
    Embedding,
    Module,
    Recurrent,
    Scaling,
    Stored,
    Weight,
)


@dataclass(frozen=True)
class KerasLayer:
    """A layer and the weights that it owns itself, those of the layers in it left out.

    Attributes:
        path: the names of the layers that hold it and its own, `encoder/dense`.
        classes: the name of its class and those of that class's bases; only the first where a file tells no more.
        weights: its tensors by the names of their variables, `kernel`; each tensor bears its full name.
        options: what its configuration says.
        owner: the classes of the layer that holds it.
    """

    path: str
    classes: tuple[str, ...]
    weights: Mapping[str, ir.TensorProtocol]
    options: Mapping[str, Any] = field(default_factory=dict)
    owner: tuple[str, ...] = ()

    def layer_name(self, variable: str) -> str:
        """What the layer is called that a weight of it becomes: the path, and the variable where it has several."""
        path = self.path.replace("/", ".")
        return path if path and len(self._matrices) < 2 else ".".join(filter(None, (path, variable)))

    @property
    def _matrices(self) -> list[str]:
        """The variables that can become layers of their own."""
        return [
            name
            for name, tensor in self.weights.items()
            if len(shape_of(tensor)) > 1 and "bias" not in name and not name.startswith("lora_")
        ]


def modules(layers: Iterable[KerasLayer]) -> Iterator[Module]:
    """The modules of these layers, in their order; every weight is in one."""
    for layer in layers:
        yield from _Reader(layer).read()


#: What a layer is called that projects the heads of an attention to its output.
_ATTENTION_OUTPUT = ("attention_output", "output", "attention_output_dense")


class _Reader:
    """Reads one layer; each weight is taken once, and what no rule takes is read by its shape."""

    def __init__(self, layer: KerasLayer) -> None:
        self.layer = layer
        self._left = dict(layer.weights)

    def read(self) -> Iterator[Module]:
        """The layer's modules."""
        rule = next((_RULES[name] for name in self.layer.classes if name in _RULES), None)
        if rule is not None:
            yield from rule(self)
        for name in list(self._left):
            yield from self.unknown(name)

    def option(self, name: str, default: Any = None) -> Any:
        """A value of the layer's configuration."""
        found = self.layer.options.get(name)
        return default if found is None else found

    def has(self, name: str, rank: int | None = None) -> bool:
        """Whether a weight is left, of this rank."""
        return name in self._left and rank in (None, len(shape_of(self._left[name])))

    def take(self, *names: str) -> Weight | None:
        """The first of these weights that is there."""
        for name in names:
            if name in self._left:
                return Weight(self._left.pop(name), layer=self.layer.layer_name(name))
        return None

    def bias(self, outputs: int) -> Weight | None:
        """The bias, (outputs,); one of another shape is left."""
        for name in ("bias", "b"):
            if name in self._left and math.prod(shape_of(self._left[name])) == outputs:
                tensor = self._left.pop(name)
                return Weight(tensor, shape=(outputs,) if len(shape_of(tensor)) != 1 else ())
        return None

    def kernel(self, *names: str) -> AnyWeight | None:
        """The first of these weights, with its low-rank update (LoRA) where it has one."""
        name = next((name for name in names if name in self._left), "")
        weight = self.take(name)
        down, up = (self._left.get(f"lora_{name}_{part}") for part in "ab")
        if weight is None or down is None or up is None:
            return weight
        del self._left[f"lora_{name}_a"], self._left[f"lora_{name}_b"]
        rank = shape_of(up)[0]
        scale = float(self.option("lora_alpha", rank)) / rank
        shape = weight.read_shape
        product = Computed("MatMul", (Weight(down), Weight(up)), shape)
        return Computed("Add", (weight, Computed("Mul", (product, scale), shape)), shape)

    def dense(self, name: str) -> Iterator[Module]:
        """A kernel of (inputs, outputs) and its bias."""
        weight = self.kernel(name)
        if weight is None:
            return
        if len(weight.read_shape) == 2:
            yield Dense(self.layer.path, weight, self.bias(weight.read_shape[-1]), inputs_first=True)
        else:
            yield from _stored(self.layer.path, weight)

    def projection(self, name: str, layout: Layout, biased: bool = True) -> Iterator[Module]:
        """A kernel that several axes make up, as Einsum reads it."""
        weight = self.kernel(name)
        if weight is None:
            return
        stack, outputs, inputs = layout.shape(weight.read_shape)
        lead = (stack,) if layout.stack else ()
        arranged = _arranged(weight, layout.stack + layout.columns + layout.rows, (*lead, inputs, outputs))
        yield Dense(self.layer.path, arranged, self.bias(outputs) if biased else None, inputs_first=True)

    def convolution(self, name: str, groups: int = 1, transposed: bool = False) -> Iterator[Module]:
        """A kernel of (k1, ..., kd, inputs / groups, outputs), or (k1, ..., kd, outputs, inputs) of a transposed one."""
        weight = self.kernel(name)
        if weight is None:
            return
        shape, rank = weight.read_shape, len(weight.read_shape)
        if rank < 3:
            yield from _stored(self.layer.path, weight)
            return
        if self.option("dim_ordering") == "th":  # Keras 1 with Theano: (outputs, inputs, k1, ..., kd), as ONNX has it
            yield Convolution(self.layer.path, weight, self.bias(shape[0]), groups)
            return
        kernel = _arranged(weight, (rank - 1, rank - 2, *range(rank - 2)))
        outputs = shape[-2] if transposed else shape[-1]
        yield Convolution(self.layer.path, kernel, self.bias(outputs), groups, transposed)

    def depthwise(self, name: str, biased: bool = True) -> Iterator[Module]:
        """A kernel of (k1, ..., kd, channels, multiplier)."""
        weight = self.kernel(name)
        if weight is None:
            return
        *kernel, channels, multiplier = weight.read_shape
        outputs, rank = channels * multiplier, len(weight.read_shape)
        arranged = _arranged(weight, (rank - 2, rank - 1, *range(rank - 2)), (outputs, 1, *kernel))
        yield Convolution(self.layer.path, arranged, self.bias(outputs) if biased else None, groups=channels)

    def unknown(self, name: str) -> Iterator[Module]:
        """A weight of which only name and shape are known: Keras' own layout, or no layer where it is no map."""
        tensor = self._left[name]
        rank, path = len(shape_of(tensor)), self.layer.path
        if rank < 2 or element_type(tensor) not in FLOATS or "bias" in name:
            yield Stored(path, Weight(self._left.pop(name)))
        elif "embedding" in name and rank == 2:
            weight = self.kernel(name)
            yield from [Embedding(path, weight)] if weight is not None else []
        elif any("Conv" in one for one in self.layer.classes) and rank > 2:
            yield from self.depthwise(name) if "depthwise" in name else self.convolution(name)
        else:
            weight = self.kernel(name)
            if weight is not None:
                bias = self.bias(weight.read_shape[-1]) if rank == 2 else None
                yield Dense(path, weight, bias, inputs_first=True)


def _arranged(weight: AnyWeight, permutation: tuple[int, ...], shape: tuple[int, ...] = ()) -> AnyWeight:
    """A weight with its axes in another order, and then of another shape."""
    before = weight.read_shape
    permuted = tuple(before[axis] for axis in permutation)
    permutation = permutation if list(permutation) != sorted(permutation) else ()
    shape = shape if shape != permuted else ()
    if isinstance(weight, Weight):
        return replace(weight, permutation=permutation, shape=shape)
    if permutation:
        weight = Computed("Transpose", (weight,), permuted, (("perm", list(permutation)),))
    return Computed("Reshape", (weight, shape), shape) if shape else weight


def _stored(path: str, weight: AnyWeight) -> Iterator[Module]:
    for leaf in weight.leaves if isinstance(weight, Computed) else [weight]:
        yield Stored(path, Weight(leaf.tensor))


def _dense(reader: _Reader) -> Iterator[Module]:
    yield from reader.dense("kernel" if reader.has("kernel") else "W")


def _einsum(reader: _Reader) -> Iterator[Module]:
    """The equation says which axes of the kernel are inputs; inside an attention layer the name of the projection."""
    equation = str(reader.option("equation", "")).replace(" ", "")
    sources, _, result = equation.partition("->")
    other, _, term = sources.partition(",")
    rank = len(shape_of(reader.layer.weights["kernel"])) if "kernel" in reader.layer.weights else 0
    layout = einsum_layout(term, other, result) if len(term) == rank > 0 else None
    if layout is None and rank >= 2:
        if reader.layer.path.rpartition("/")[2] in _ATTENTION_OUTPUT:
            layout = Layout((), tuple(range(2, rank)), (0, 1)) if rank > 2 else Layout((), (1,), (0,))
        else:
            layout = Layout((), tuple(range(1, rank)), (0,))
    if layout is not None:
        # The bias has the order of the result, the kernel its own: where they differ, the bias is left alone.
        rows = [letter for letter in result if letter in {term[axis] for axis in layout.rows}] if term else []
        same = not term or rows == [term[axis] for axis in layout.rows]
        yield from reader.projection("kernel", layout, biased=same)


def _convolution(reader: _Reader) -> Iterator[Module]:
    name = "kernel" if reader.has("kernel") else "W"
    yield from reader.convolution(name, groups=int(reader.option("groups", 1)))


def _transposed_convolution(reader: _Reader) -> Iterator[Module]:
    yield from reader.convolution("kernel" if reader.has("kernel") else "W", transposed=True)


def _depthwise_convolution(reader: _Reader) -> Iterator[Module]:
    yield from reader.depthwise("kernel" if reader.has("kernel") else "depthwise_kernel")


def _separable_convolution(reader: _Reader) -> Iterator[Module]:
    yield from reader.depthwise("depthwise_kernel", biased=False)
    yield from reader.convolution("pointwise_kernel")


def _embedding(reader: _Reader) -> Iterator[Module]:
    """A table; one that is tied to the output projection is read by both."""
    table = reader.kernel("embeddings", "W")
    if table is None:
        return
    if len(table.read_shape) != 2:
        yield from _stored(reader.layer.path, table)
        return
    yield Embedding(reader.layer.path, table)
    if reader.has("reverse_embeddings", rank=2):
        yield from reader.dense("reverse_embeddings")
    elif "ReversibleEmbedding" in reader.layer.classes:
        yield Dense(reader.layer.path, table)


_GATES: dict[Cell, str] = {"LSTM": "ifco", "GRU": "zrh", "RNN": "h"}


def _recurrent(cell: Cell) -> Callable[[_Reader], Iterator[Module]]:
    def read(reader: _Reader) -> Iterator[Module]:
        if not (reader.has("kernel", rank=2) and reader.has("recurrent_kernel", rank=2)):
            return
        weight, recurrent = reader.take("kernel"), reader.take("recurrent_kernel")
        if weight is None or recurrent is None:
            return
        bias = reader.take("bias")
        yield Recurrent(
            reader.layer.path,
            cell,
            replace(weight, permutation=(1, 0)),
            replace(recurrent, permutation=(1, 0)),
            () if bias is None else (Weight(bias.tensor),),
            gates=_GATES[cell],
            reverse=bool(reader.option("go_backwards", False)),
            reset_after=bool(reader.option("reset_after", True)),
        )

    return read


def _convolutional_recurrent(reader: _Reader) -> Iterator[Module]:
    bias = reader.take("bias")
    yield from reader.convolution("kernel")
    yield from reader.convolution("recurrent_kernel")
    if bias is not None:
        yield Stored(reader.layer.path, Weight(bias.tensor))


_STATISTICS = (("gamma",), ("beta",), ("moving_mean", "running_mean"), ("moving_variance", "moving_std", "running_std"))


def _batch_normalization(reader: _Reader) -> Iterator[Module]:
    found = [reader.take(*names) for names in _STATISTICS]
    weights = [Weight(weight.tensor) for weight in found if weight is not None]
    if len(weights) == len(found) and len({weight.read_shape for weight in weights}) == 1:
        yield BatchNormalization(reader.layer.path, *weights)
    else:
        yield from (Stored(reader.layer.path, weight) for weight in weights)


def _elementwise(reader: _Reader) -> Iterator[Module]:
    """Layers that multiply and shift: none of their weights is a map, whatever its shape."""
    scale, shift = reader.take("gamma", "scale"), reader.take("beta")
    if scale is not None and (shift is None or shift.read_shape == scale.read_shape):
        yield Scaling(reader.layer.path, Weight(scale.tensor), None if shift is None else Weight(shift.tensor))
        scale = shift = None
    left = [reader.take(name) for name in reader.layer.weights]
    yield from (Stored(reader.layer.path, Weight(one.tensor)) for one in (scale, shift, *left) if one is not None)


Rule: TypeAlias = Callable[[_Reader], Iterator[Module]]

#: By class, those of Keras 1 among them. The first class of a layer that is here tells how it is read.
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("Dense", "TimeDistributedDense"), _dense),
    "EinsumDense": _einsum,
    **dict.fromkeys(
        [
            *("Conv1D", "Conv2D", "Conv3D", "BaseConv"),
            *("Convolution1D", "Convolution2D", "Convolution3D", "AtrousConvolution1D", "AtrousConvolution2D"),
        ],
        _convolution,
    ),
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "BaseConvTranspose", "Deconvolution2D"),
        _transposed_convolution,
    ),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D", "BaseDepthwiseConv"), _depthwise_convolution),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D", "BaseSeparableConv", "SeparableConvolution2D"), _separable_convolution
    ),
    **dict.fromkeys(("Embedding", "ReversibleEmbedding"), _embedding),
    **dict.fromkeys(("LSTM", "LSTMCell", "CuDNNLSTM"), _recurrent("LSTM")),
    **dict.fromkeys(("GRU", "GRUCell", "CuDNNGRU"), _recurrent("GRU")),
    **dict.fromkeys(("SimpleRNN", "SimpleRNNCell"), _recurrent("RNN")),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "ConvLSTM", "ConvLSTMCell"), _convolutional_recurrent),
    "BatchNormalization": _batch_normalization,
    **dict.fromkeys(
        [
            *("LayerNormalization", "GroupNormalization", "RMSNormalization", "Normalization", "UnitNormalization"),
            *("PReLU", "SpectralNormalization", "AdditiveAttention", "Attention"),
        ],
        _elementwise,
    ),
}


def known_classes() -> tuple[str, ...]:
    """The classes whose layouts are known."""
    return tuple(_RULES)

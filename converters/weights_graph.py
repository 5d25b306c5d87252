"""Weights-only ONNX models: one node of the right operator for each module, each with a graph input of its own.

The graph computes nothing of use; it tells what each weight is. Tensors stand in it under the source's own names, in
the source's own layout, with no value changed: where an operator wants another layout, a Transpose, Reshape or Cast of
the stored tensor says so. A tensor that several modules share is stored once.

Convolutions and recurrent cells of float64 are kept in float64, for which onnxruntime has no kernels: such a model is
valid, and analysed to the last bit, but it can't be run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.names import LAYER_KEY, REASON_KEY
from wwonnx.graph.tensors import FLOATS, element_type, shape_of
from wwonnx.version import __version__

#: The first version of the operators, and of the file format, that knows a type; 18 and 8 know all others.
_OPSETS = {
    ir.DataType.FLOAT8E4M3FN: 19,
    ir.DataType.FLOAT8E4M3FNUZ: 19,
    ir.DataType.FLOAT8E5M2: 19,
    ir.DataType.FLOAT8E5M2FNUZ: 19,
    ir.DataType.INT4: 21,
    ir.DataType.UINT4: 21,
    ir.DataType.FLOAT4E2M1: 23,
    ir.DataType.FLOAT8E8M0: 24,
    ir.DataType.INT2: 25,
    ir.DataType.UINT2: 25,
}
_IR_VERSIONS = {18: 8, 19: 9, 21: 10, 23: 11, 24: 12, 25: 13}
#: Gates in the order in which ONNX stacks them; c is the LSTM's cell (g in PyTorch), h the GRU's new state (n).
GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}

Cell: TypeAlias = Literal["LSTM", "GRU", "RNN"]


@dataclass(frozen=True)
class Weight:
    """A stored tensor, and how a module reads it.

    Attributes:
        tensor: the values; its name is the source's full name, `layer1.0.conv1.weight`. An onnx_ir.ExternalTensor is
            not read.
        permutation: the axes are brought into this order; empty to leave them.
        shape: and the result into this shape; empty to leave it.
        layer: the name of the layer that it becomes; empty for what the name of the tensor says.
    """

    tensor: ir.TensorProtocol
    permutation: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    layer: str = ""

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.tensor.name or ""

    @property
    def dtype(self) -> ir.DataType:
        """The stored element type."""
        return element_type(self.tensor)

    @property
    def is_view(self) -> bool:
        """Whether it is read in another layout than stored."""
        return bool(self.permutation or self.shape)

    @property
    def read_shape(self) -> tuple[int, ...]:
        """The shape as the module reads it."""
        stored = shape_of(self.tensor)
        return self.shape or tuple(stored[axis] for axis in self.permutation) or stored


@dataclass(frozen=True)
class Computed:
    """A weight that an operator computes from others: a normalised one, a scaled one, a low-rank update.

    Attributes:
        op_type: an operator of ONNX, one of those that wwonnx evaluates.
        operands: weights, numbers of their type, and lists of integers (axes, a shape).
        read_shape: the result's shape.
        attributes: of the operator, by name.
    """

    op_type: str
    operands: tuple[Weight | Computed | float | tuple[int, ...], ...]
    read_shape: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """That of the first tensor that it comes from."""
        return next((leaf.name for leaf in _leaves(self)), "")


AnyWeight: TypeAlias = Weight | Computed


@dataclass(frozen=True)
class Dense:
    """A linear map.

    Attributes:
        name: the module's path.
        weight: (outputs, inputs), or (..., outputs, inputs) for a stack of them.
        bias: (outputs,).
        inputs_first: the weight is (inputs, outputs), or (..., inputs, outputs).
        packed: how many outputs each part has where several projections are packed: query, key and value.
    """

    name: str
    weight: AnyWeight
    bias: Weight | None = None
    inputs_first: bool = False
    packed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Convolution:
    """A convolution of any dimension.

    Attributes:
        name: the module's path.
        weight: (outputs, inputs / groups, k1, ..., kd); transposed, (inputs, outputs / groups, k1, ..., kd).
        bias: (outputs,).
        groups: groups of channels.
        transposed: whether it is a transposed convolution.
    """

    name: str
    weight: AnyWeight
    bias: Weight | None = None
    groups: int = 1
    transposed: bool = False


@dataclass(frozen=True)
class Embedding:
    """A table that is looked up.

    Attributes:
        name: the module's path.
        table: (entries, width).
    """

    name: str
    table: AnyWeight


@dataclass(frozen=True)
class Recurrent:
    """One layer of a recurrent network, in one direction.

    Attributes:
        name: the module's path.
        cell: its kind.
        input_weight: (gates x hidden, inputs).
        recurrent_weight: (gates x hidden, hidden).
        biases: for the input, and then for the hidden state where that has its own: (gates x hidden,) each, or both in
            one tensor.
        gates: the order of the gates in all of them; empty for ONNX's.
        reverse: whether it runs backwards.
        reset_after: of a GRU: the reset gate is applied after the product with the recurrent weight.
    """

    name: str
    cell: Cell
    input_weight: AnyWeight
    recurrent_weight: AnyWeight
    biases: tuple[Weight, ...] = ()
    gates: str = ""
    reverse: bool = False
    reset_after: bool = True


@dataclass(frozen=True)
class BatchNormalization:
    """A batch normalisation.

    Attributes:
        name: the module's path.
        scale, bias, mean, variance: (channels,).
    """

    name: str
    scale: Weight
    bias: Weight
    mean: Weight
    variance: Weight


@dataclass(frozen=True)
class Scaling:
    """Parameters that multiply and shift activations elementwise, as other normalisations have; no layer.

    Attributes:
        name: the module's path.
        scale, bias: of one shape, any.
    """

    name: str
    scale: AnyWeight | None = None
    bias: Weight | None = None


@dataclass(frozen=True)
class Stored:
    """A tensor that is no weight of a linear map, or of a type that none has: kept, with no node that reads it.

    Attributes:
        name: the module's path.
        weight: the tensor.
        reason: why it is no layer, for users who would expect one; empty for tensors of which nobody does.
    """

    name: str
    weight: Weight
    reason: str = ""


Module: TypeAlias = Dense | Convolution | Embedding | Recurrent | BatchNormalization | Scaling | Stored


def build(modules: Iterable[Module], name: str = "weights") -> ir.Model:
    """Make the weights-only model of these modules.

    Args:
        modules: in the model's order. Modules that share a tensor share the tensor object.
        name: of the graph.

    Returns:
        A model for onnx.checker and onnxruntime, whose layers bear the modules' names. Weights of narrow floating point
        types go through a Cast to float32. Weights that are no floating point numbers, or empty, become `Stored`.

    Raises:
        ConversionError: a shape doesn't fit its module, or two tensors have one name.
    """
    graph = _Graph()
    for module in modules:
        graph.add(module)
    return graph.model(name)


class _Graph:
    """The graph while it is being made."""

    def __init__(self) -> None:
        self._initializers: dict[str, ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._read: dict[tuple[AnyWeight, ir.DataType], ir.Value] = {}
        self._taken: dict[str, int] = {}
        self._fresh: list[ir.Value] = []
        self._opset = 18

    def add(self, module: Module) -> None:
        """Add a module's nodes."""
        weights = _weights(module)
        for leaf in (leaf for weight in weights for leaf in _leaves(weight)):
            self._store(leaf)
        if isinstance(module, Stored) and module.reason:
            self._initializers[module.weight.name].metadata_props[REASON_KEY] = module.reason
        if not weights or 0 in weights[0].read_shape or not _is_float(weights[0]):
            return
        exact = any(leaf.dtype == ir.DataType.DOUBLE for leaf in _leaves(weights[0]))
        dtype = ir.DataType.DOUBLE if exact else ir.DataType.FLOAT
        match module:
            case Dense():
                self._dense(module, dtype)
            case Convolution():
                self._convolution(module, dtype)
            case Embedding():
                self._embedding(module, dtype)
            case Recurrent():
                self._recurrent(module, dtype)
            case BatchNormalization():
                self._batch_normalization(module, dtype)
            case Scaling():
                self._scaling(module, dtype)
            case Stored():
                pass

    def model(self, name: str) -> ir.Model:
        """The model of all that was added."""
        for value in self._fresh:  # now that every tensor's own name is known
            value.name = self._unique(value.name or "value")
        for node in self._nodes:
            node.name = self._unique(node.name or node.op_type)
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": self._opset},
            name=name,
        )
        version = max(ir_version for opset, ir_version in _IR_VERSIONS.items() if opset <= self._opset)
        model = ir.Model(graph, ir_version=version, producer_name="wwonnx", producer_version=__version__)
        model.metadata_props["wwonnx.graph"] = "weights only"
        return model

    def _dense(self, module: Dense, dtype: ir.DataType) -> None:
        shape = module.weight.read_shape
        _check(len(shape) >= 2, module.weight, "a matrix")
        inputs, outputs = shape[-2:] if module.inputs_first else shape[:-3:-1]
        _check_bias(module.bias, outputs)
        lead = shape[:-2]
        weight, bias = self._value(module.weight, dtype), self._optional(module.bias, dtype)
        if module.inputs_first:
            x = self._input(module, dtype, (*lead, 1, inputs))
            y = self._one("MatMul", module.name, [x, weight], dtype, (*lead, 1, outputs))
            y = y if bias is None else self._one("Add", module.name, [y, bias], dtype, (*lead, 1, outputs))
            axis = -1
        elif lead:
            x = self._input(module, dtype, (*lead, inputs, 1))
            y = self._one("MatMul", module.name, [weight, x], dtype, (*lead, outputs, 1))
            if bias is not None:
                column = self._reshaped(bias, (outputs, 1), dtype)
                y = self._one("Add", module.name, [y, column], dtype, (*lead, outputs, 1))
            axis = -2
        else:
            x = self._input(module, dtype, (1, inputs))
            operands = [x, weight] if bias is None else [x, weight, bias]
            y = self._one("Gemm", module.name, operands, dtype, (1, outputs), transB=1)
            axis = -1
        if not module.packed:
            self._outputs.append(y)
            return
        _check(sum(module.packed) == outputs, module.weight, f"parts of {module.packed} outputs")
        sizes = self._constant(module.packed)
        whole = list(_sizes(y))
        shapes = [[*whole[:axis], size, *whole[axis:][1:]] for size in module.packed]
        self._outputs += self._emit("Split", module.name, [y, sizes], dtype, shapes, axis=axis)

    def _convolution(self, module: Convolution, dtype: ir.DataType) -> None:
        shape, groups = module.weight.read_shape, module.groups
        _check(len(shape) >= 3, module.weight, "a kernel of three or more dimensions")
        _check(groups > 0 and shape[0] % groups == 0, module.weight, f"a kernel of {groups} groups")
        kernel = shape[2:]
        inputs, outputs = (shape[0], shape[1] * groups) if module.transposed else (shape[1] * groups, shape[0])
        ones = (1,) * len(kernel)
        _check_bias(module.bias, outputs)
        weight, bias = self._value(module.weight, dtype), self._optional(module.bias, dtype)
        x = self._input(module, dtype, (1, inputs, *(ones if module.transposed else kernel)))
        operands = [x, weight] if bias is None else [x, weight, bias]
        result = (1, outputs, *(kernel if module.transposed else ones))
        op_type = "ConvTranspose" if module.transposed else "Conv"
        attributes = {"group": groups, "kernel_shape": list(kernel)}
        self._outputs.append(self._one(op_type, module.name, operands, dtype, result, **attributes))

    def _embedding(self, module: Embedding, dtype: ir.DataType) -> None:
        shape = module.table.read_shape
        _check(len(shape) == 2, module.table, "a table of (entries, width)")
        table = self._value(module.table, dtype)
        index = self._input(module, ir.DataType.INT64, (1,))
        self._outputs.append(self._one("Gather", module.name, [table, index], dtype, (1, shape[1])))

    def _recurrent(self, module: Recurrent, dtype: ir.DataType) -> None:
        count = len(GATES[module.cell])
        rows, hidden = module.recurrent_weight.read_shape if len(module.recurrent_weight.read_shape) == 2 else (0, 0)
        _check(rows == count * hidden > 0, module.recurrent_weight, f"({count} x hidden, hidden)")
        shape = module.input_weight.read_shape
        _check(len(shape) == 2 and shape[0] == rows, module.input_weight, f"({rows}, inputs)")
        gates = module.gates or GATES[module.cell]
        if sorted(gates) != sorted(GATES[module.cell]):
            raise ConversionError(
                f"{module.name}: gates={gates!r} is no order of {module.cell}'s {GATES[module.cell]!r}"
            )
        weights = [
            self._reshaped(self._gates(self._value(weight, dtype), gates, module, dtype), (1, rows, columns), dtype)
            for weight, columns in ((module.input_weight, shape[1]), (module.recurrent_weight, hidden))
        ]
        x = self._input(module, dtype, (1, 1, shape[1]))
        operands = [x, *weights, *self._biases(module, gates, rows, dtype)]
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if module.reverse else "forward"}
        if module.cell == "GRU":
            attributes["linear_before_reset"] = int(module.reset_after)
        self._outputs.append(self._one(module.cell, module.name, operands, dtype, (1, 1, 1, hidden), **attributes))

    def _biases(self, module: Recurrent, gates: str, rows: int, dtype: ir.DataType) -> list[ir.Value]:
        """ONNX's bias: the input's, then the hidden state's."""
        if not module.biases:
            return []
        parts, length = [], 0
        for bias in module.biases:
            size = math.prod(bias.read_shape)
            _check(size in (rows, 2 * rows), bias, f"{rows} or {2 * rows} values")
            flat = self._reshaped(self._value(bias, dtype), (size,), dtype)
            parts.append(self._gates(flat, gates * (size // rows), module, dtype))
            length += size
        _check(length <= 2 * rows, module.biases[-1], "the last of no more biases than two")
        if length == rows:
            zeros = ir.Tensor(np.zeros(1, dtype.numpy()))
            parts.append(
                self._one("ConstantOfShape", module.name, [self._constant((rows,))], dtype, (rows,), value=zeros)
            )
        both = parts[0] if len(parts) == 1 else self._one("Concat", module.name, parts, dtype, (2 * rows,), axis=0)
        return [self._reshaped(both, (1, 2 * rows), dtype)]

    def _gates(self, value: ir.Value, gates: str, module: Recurrent, dtype: ir.DataType) -> ir.Value:
        """One or more sets of gates, each brought into ONNX's order."""
        order, shape = GATES[module.cell], _sizes(value)
        sets = len(gates) // len(order)
        if gates == order * sets:
            return value
        part = (shape[0] // len(gates), *shape[1:])
        split = self._emit("Split", module.name, [value], dtype, [part] * len(gates), axis=0, num_outputs=len(gates))
        ordered = [split[number * len(order) + gates.index(gate)] for number in range(sets) for gate in order]
        return self._one("Concat", module.name, ordered, dtype, shape, axis=0)

    def _batch_normalization(self, module: BatchNormalization, dtype: ir.DataType) -> None:
        weights = (module.scale, module.bias, module.mean, module.variance)
        shape = module.scale.read_shape
        for weight in weights:
            _check(len(shape) == 1 and weight.read_shape == shape, weight, f"{list(shape)} as the scale has")
        x = self._input(module, dtype, (1, *shape))
        operands = [x, *(self._value(weight, dtype) for weight in weights)]
        self._outputs.append(self._one("BatchNormalization", module.name, operands, dtype, (1, *shape)))

    def _scaling(self, module: Scaling, dtype: ir.DataType) -> None:
        every: list[tuple[str, AnyWeight | None]] = [("Mul", module.scale), ("Add", module.bias)]
        parts = [(op_type, weight) for op_type, weight in every if weight is not None]
        shape = parts[0][1].read_shape
        y = self._input(module, dtype, shape)
        for op_type, weight in parts:
            _check(weight.read_shape == shape, weight, f"{list(shape)} as {parts[0][1].name!r} has")
            y = self._one(op_type, module.name, [y, self._value(weight, dtype)], dtype, shape)
        self._outputs.append(y)

    def _store(self, weight: Weight) -> ir.Value:
        """The initializer of a tensor; one, however many read it."""
        known = self._initializers.get(weight.name)
        if known is None:
            if not weight.name:
                raise ConversionError("a tensor has no name; give each its name in the source")
            known = ir.Value(
                name=weight.name,
                shape=ir.Shape(shape_of(weight.tensor)),
                type=ir.TensorType(weight.dtype),
                const_value=weight.tensor,
            )
            self._initializers[weight.name] = known
            self._opset = max(self._opset, _OPSETS.get(weight.dtype, 0))
        elif known.const_value is not weight.tensor:
            raise ConversionError(f"two different tensors are named {weight.name!r}; give each a name of its own")
        if weight.layer:
            known.metadata_props.setdefault(LAYER_KEY, weight.layer)
        return known

    def _value(self, weight: AnyWeight, dtype: ir.DataType) -> ir.Value:
        """A weight as its module reads it, of this type."""
        if (weight, dtype) not in self._read:
            read = self._computed(weight, dtype) if isinstance(weight, Computed) else self._arranged(weight, dtype)
            self._read[weight, dtype] = read
        return self._read[weight, dtype]

    def _arranged(self, weight: Weight, dtype: ir.DataType) -> ir.Value:
        value, shape = self._store(weight), shape_of(weight.tensor)
        if weight.dtype != dtype:
            value = self._value(Weight(weight.tensor), dtype) if weight.is_view else self._cast(weight, value, dtype)
        if weight.permutation:
            _check(sorted(weight.permutation) == list(range(len(shape))), weight, f"axes {weight.permutation}")
            shape = tuple(shape[axis] for axis in weight.permutation)
            value = self._one("Transpose", weight.name, [value], dtype, shape, perm=list(weight.permutation))
        if weight.shape:
            _check(math.prod(weight.shape) == math.prod(shape), weight, f"{list(weight.shape)}")
            value = self._reshaped(value, weight.shape, dtype)
        return value

    def _cast(self, weight: Weight, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self._one("Cast", weight.name, [value], dtype, _sizes(value), to=int(dtype))

    def _computed(self, weight: Computed, dtype: ir.DataType) -> ir.Value:
        operands = []
        for operand in weight.operands:
            if isinstance(operand, tuple):
                operands.append(self._constant(operand))
            elif isinstance(operand, (int, float)):
                number = ir.Tensor(np.array(operand, dtype.numpy()))
                operands.append(self._one("Constant", "number", [], dtype, (), value=number))
            else:
                own = operand.dtype if isinstance(operand, Weight) and operand.dtype not in FLOATS else dtype
                operands.append(self._value(operand, own))
        return self._one(weight.op_type, weight.name, operands, dtype, weight.read_shape, **dict(weight.attributes))

    def _optional(self, weight: AnyWeight | None, dtype: ir.DataType) -> ir.Value | None:
        return None if weight is None else self._value(weight, dtype)

    def _reshaped(self, value: ir.Value, shape: tuple[int, ...], dtype: ir.DataType) -> ir.Value:
        if _sizes(value) == shape:
            return value
        inputs = [value, self._constant(shape)]
        return self._one("Reshape", value.name or "", inputs, dtype, shape)

    def _constant(self, numbers: Sequence[int]) -> ir.Value:
        """A list of sizes."""
        tensor = ir.Tensor(np.array(numbers, dtype=np.int64))
        return self._one("Constant", "sizes", [], ir.DataType.INT64, (len(numbers),), value=tensor)

    def _input(self, module: Module, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
        value = ir.Value(name=_joined(module.name, "input"), shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._inputs.append(value)
        self._fresh.append(value)
        return value

    def _emit(
        self,
        op_type: str,
        owner: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        shapes: Sequence[Sequence[int]],
        **attributes: Any,
    ) -> list[ir.Value]:
        """Add a node, named by the module or tensor that it belongs to, with outputs of these shapes."""
        node = ir.node(op_type, inputs, attributes, num_outputs=len(shapes), name=_joined(owner, op_type))
        for value, shape in zip(node.outputs, shapes, strict=True):
            value.name = _joined(owner, f"{op_type}_output")
            value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        self._nodes.append(node)
        self._fresh += node.outputs
        return list(node.outputs)

    def _one(
        self,
        op_type: str,
        owner: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        shape: Sequence[int],
        **attributes: Any,
    ) -> ir.Value:
        """A node of one output."""
        (output,) = self._emit(op_type, owner, inputs, dtype, [shape], **attributes)
        return output

    def _unique(self, name: str) -> str:
        count = self._taken.get(name, 0)
        unique = name if not count else f"{name}_{count}"
        while unique in self._initializers or (count and unique in self._taken):
            count += 1
            unique = f"{name}_{count}"
        self._taken[name] = count + 1
        self._taken.setdefault(unique, 1)
        return unique


def _weights(module: Module) -> list[AnyWeight]:
    """A module's weights, that which makes it what it is first."""
    every: list[AnyWeight | None]
    match module:
        case Dense() | Convolution():
            every = [module.weight, module.bias]
        case Embedding():
            every = [module.table]
        case Recurrent():
            every = [module.input_weight, module.recurrent_weight, *module.biases]
        case BatchNormalization():
            every = [module.scale, module.bias, module.mean, module.variance]
        case Scaling():
            every = [module.scale, module.bias]
        case Stored():
            every = [module.weight]
    return [weight for weight in every if weight is not None]


def _leaves(weight: AnyWeight) -> Iterator[Weight]:
    """The stored weights that a weight is or comes from, in order."""
    if isinstance(weight, Weight):
        yield weight
        return
    for operand in weight.operands:
        if isinstance(operand, Weight | Computed):
            yield from _leaves(operand)


def _is_float(weight: AnyWeight) -> bool:
    """Whether the values are floating point numbers, as those of all that is computed are."""
    return isinstance(weight, Computed) or weight.dtype in FLOATS


def _sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value that the builder made."""
    assert value.shape is not None, "each is given one"
    return tuple(int(n) for n in value.shape.numpy())


def _joined(owner: str, what: str) -> str:
    return f"{owner}/{what}" if owner else what


def _check(fits: bool, weight: AnyWeight, wanted: str) -> None:
    if not fits:
        raise ConversionError(
            f"tensor {weight.name!r} is {list(weight.read_shape)}, where {wanted} was expected; check the checkpoint"
        )


def _check_bias(bias: AnyWeight | None, outputs: int) -> None:
    if bias is not None:
        _check(bias.read_shape == (outputs,), bias, f"a bias of {outputs} values")

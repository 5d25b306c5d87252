"""New values for the layers of a graph, at every node that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layer import WeightLayer
from .constants import Constant
from .expressions import describe_step
from .places import Place, find_places
from .save import DataFile, described
from .tensors import FLOATS, read_tensor, shape_of
from .traverse import constant_tensor, describe_node, graphs, is_onnx, nodes
from .walk import Walk

#: Operators that round a weight to a grid: a smoothed weight between them would be rounded again.
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Quant", "BipolarQuant", "Trunc"}
#: Before this version of the IR every initializer is an input of its graph as well.
_INITIALIZERS_APART = 4

#: A view of an array, as Transpose, Reshape and Slice give it.
_Move: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]


def _as_it_is(array: NDArray[Any]) -> NDArray[Any]:
    """The move of an Identity."""
    return array


@dataclass(eq=False)
class _Destination:
    """A tensor that takes new values for one or more layers.

    Attributes:
        source: the stored tensor that is replaced, or the value that a new initializer takes the place of.
        in_place: which of the two.
        dtype, shape: of the tensor.
        external: whether its values lie in the data file.
        original: gives the values as they were.
        name: what a new initializer is called.
        rewires: the inputs that read the new initializer.
        array: the values, where they are held in memory and were written to.
        offset: where they begin in the data file, where they lie there and were written to.
    """

    source: ir.Value
    in_place: bool
    dtype: ir.DataType
    shape: tuple[int, ...]
    external: bool
    original: Callable[[], NDArray[Any]]
    name: str
    rewires: dict[tuple[ir.Node, int], None] = field(default_factory=dict)
    array: NDArray[Any] | None = None
    offset: int | None = None

    @property
    def written(self) -> bool:
        """Whether it has new values."""
        return self.array is not None or self.offset is not None

    def open(self, data: DataFile) -> NDArray[Any]:
        """The values, writable; a map of the data file where they lie there."""
        if not self.external:
            if self.array is None:
                self.array = np.array(self.original(), dtype=self.dtype.numpy())
            return self.array
        if self.offset is None:
            self.offset = data.append(self.original(), self.dtype)
        return data.map(self.offset, self.dtype, self.shape)

    def tensor(self, data: DataFile, name: str) -> ir.TensorProtocol:
        """The tensor with the new values."""
        if self.offset is not None:
            return data.tensor(self.offset, self.dtype, self.shape, name)
        assert self.array is not None, "it was written to"
        return ir.Tensor(self.array, dtype=self.dtype, shape=ir.Shape(self.shape), name=name)

    def replacement(self, data: DataFile) -> ir.TensorProtocol:
        """The tensor with the new values, of the old one's name, and with what the file says of that."""
        old = _stored_tensor(self.source)
        return described(self.tensor(data, old.name or ""), old)


class Editor:
    """Replaces layers of a model that it may change. Nothing reads the new values before `finish`.

    Args:
        model: the model.
        walk: a walk over it, weights not taken apart.
        data: where the values go that were external.
    """

    def __init__(self, model: ir.Model, walk: Walk, data: DataFile) -> None:
        self._model = model
        self._finder = walk.finder
        self._data = data
        self._opset = model.opset_imports.get("", 18)
        self._places = find_places(model, walk)
        self._at: dict[tuple[ir.Node, int], list[tuple[int, Place]]] = {}
        for layer_id, places in self._places.items():
            for place in places:
                self._at.setdefault((place.node, place.index), []).append((layer_id, place))
        self._orientations: dict[Place, bool | None] = {}
        self._replaceable: dict[ir.Value, bool] = {}
        self._destinations: dict[Any, _Destination] = {}
        self._pending: list[Callable[[], None]] = []

    @cached_property
    def _taken(self) -> set[str]:
        """Names of all values and nodes."""
        taken = {node.name or "" for node in nodes(self._model.graph)}
        for graph in graphs(self._model):
            taken.update(value.name or "" for value in (*graph.inputs, *graph.initializers.values()))
        taken.update(value.name or "" for node in nodes(self._model.graph) for value in node.outputs)
        return taken

    def refusal(self, layer: WeightLayer) -> str:
        """Why a layer's values can't be replaced; empty where they can."""
        places = self._places[layer.layer_id]
        if not places:
            return "no node was found that reads it"
        for place in places:
            node, constant = place.node, place.constant
            if any(constant.root is output for output in node.outputs):
                return f"its values are in an attribute of {describe_node(node)}"
            quantizer = _quantizer(place.value)
            if quantizer is not None or constant.stored not in FLOATS or constant.stored.bitwidth < 16:
                how = f", {describe_node(quantizer)}" if quantizer is not None else ""
                return (
                    f"quantised ({constant.stored.name.lower()}{how}): smoothed values would be rounded to its grid; "
                    "smooth the float model, then quantise that"
                )
            if self._finder.find(place.value) is not constant:
                return f"{describe_node(node)} computes it from what it reads: smooth the model that this was made from"
            if self.turned(layer, place) is None:
                return f"{describe_node(node)} reads other values than {describe_node(places[0].node)}"
        return ""

    def replace(self, layer: WeightLayer, matrices: NDArray[Any]) -> None:
        """Give a layer new matrices, shape (rf, outputs, inputs), at every place that reads it."""
        for place in self._places[layer.layer_id]:
            destination, steps = self._destination(layer, place)
            whole = destination.open(self._data)
            for step in steps:
                whole = step(whole)
            place.put(matrices.swapaxes(1, 2) if self.turned(layer, place) else matrices, whole)

    def places(self, layer: WeightLayer) -> list[Place]:
        """The places that read a layer."""
        return self._places[layer.layer_id]

    def store(self, values: NDArray[Any], like: Place, name: str) -> ir.Value:
        """A new initializer of these values, of the type of what a place reads; external where that is."""
        dtype, root = like.constant.dtype, like.constant.root
        tensor = _Destination(like.value, False, dtype, values.shape, self._is_external(root), lambda: values, name)
        tensor.open(self._data)
        value = self._unnamed(tensor, root)
        self._register(value, tensor)
        return value

    def defer(self, act: Callable[[], None]) -> None:
        """Have something done by `finish`, before it puts the other layers' values in place."""
        self._pending.append(act)

    def finish(self) -> None:
        """Put everything in place, and drop what nothing reads any more."""
        for act in self._pending:
            act()
        for destination in self._destinations.values():
            if not destination.written:
                continue
            source = destination.source
            node = source.producer()
            if not destination.in_place:
                value = self._unnamed(destination, source)
                for reader, index in destination.rewires:
                    reader.replace_input_with(index, value)
                self.drop(source)  # which may free the best name
                self._register(value, destination)
            elif node is None:
                source.const_value = destination.replacement(self._data)
            else:
                tensor = destination.replacement(self._data)
                for name in [name for name in node.attributes if name.startswith("value")]:
                    del node.attributes[name]
                node.attributes["value"] = ir.AttrTensor("value", tensor)

    def turned(self, layer: WeightLayer, place: Place) -> bool | None:
        """Whether a place reads the layer transposed, as ties of an embedding and a head may; None for other values."""
        if len(self._places[layer.layer_id]) == 1:
            return False
        if place not in self._orientations:
            here, wanted = place.matrices(), layer.matrices()
            straight, turned = (np.array_equal(some, wanted, equal_nan=True) for some in (here, here.swapaxes(1, 2)))
            self._orientations[place] = False if straight else True if turned else None
        return self._orientations[place]

    def fresh(self, wanted: str) -> str:
        """A name that nothing has yet."""
        stem, dot, ending = wanted.rpartition(".weight") if wanted.endswith(".weight") else (wanted, "", "")
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}{dot}{ending}"
        self._taken.add(name)
        return name

    def drop(self, value: ir.Value) -> None:
        """Take a value out of the graph where nothing reads it any more, and what only it read."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if node is None:
                self._drop_stored(value)
            elif node.graph is not None and not any(out.uses() or out.is_graph_output() for out in node.outputs):
                waiting.extend(operand for operand in node.inputs if operand is not None)
                node.graph.remove(node, safe=True)
                self._taken.difference_update(out.name or "" for out in node.outputs)

    def _destination(self, layer: WeightLayer, place: Place) -> tuple[_Destination, list[_Move]]:
        """The tensor that takes a layer's new values for a place, and the way from it to what the place reads.

        It is the stored tensor itself where that is only moved about on its way to the place, and nothing but layers
        reads it: then ties stay ties. Otherwise the place gets an initializer of its own, which places that read the
        same value share.
        """
        traced = self._trace(place.value)
        if traced is not None and self._is_replaceable(traced[0]):
            root, steps = traced
            if root not in self._destinations:
                tensor = _stored_tensor(root)
                original = partial(read_tensor, tensor)
                external = self._is_external(root)
                self._destinations[root] = _Destination(
                    root, True, tensor.dtype, shape_of(tensor), external, original, root.name or ""
                )
            return self._destinations[root], steps
        site = (place.node, place.index)
        key = (place.value, frozenset(layer_id for layer_id, _ in self._at[site]))
        if key not in self._destinations:
            constant = place.constant
            self._destinations[key] = _Destination(
                place.value,
                False,
                constant.dtype,
                constant.shape,
                self._is_external(constant.root),
                constant.read,
                f"{layer.name}.weight",
            )
        self._destinations[key].rewires[site] = None
        return self._destinations[key], []

    def _trace(self, value: ir.Value) -> tuple[ir.Value, list[_Move]] | None:
        """The stored tensor that a value is a rearrangement of, and the moves from it; None where it is more."""
        moves: list[_Move] = []
        while True:
            node = value.producer()
            if node is None or constant_tensor(node) is not None:
                known = node is not None or value.const_value is not None
                return (value, moves[::-1]) if known else None
            step = self._step(node, value)
            if step is None:
                return None
            if step is not _as_it_is:
                moves.append(step)
            source = node.inputs[0]
            assert source is not None, "a step has an operand"
            value = source

    def _step(self, node: ir.Node, output: ir.Value) -> _Move | None:
        """How a node moves the values of its first input to this output; None where it does more than that."""
        inputs = [self._finder.find(value) if value is not None else None for value in node.inputs]
        if not all(value is None or isinstance(value, Constant) for value in inputs):
            return None
        index = next(index for index, value in enumerate(node.outputs) if value is output)
        step = describe_step(node, inputs, index, self._opset)
        if step is None:
            return None
        if isinstance(step, Constant):
            return _as_it_is
        return None if step.work else step.compute

    def _is_replaceable(self, root: ir.Value) -> bool:
        """Whether a stored tensor is read by layers alone, each of which has its own part of it."""
        if root not in self._replaceable:
            self._replaceable[root] = self._layers_alone(root)
        return self._replaceable[root]

    def _layers_alone(self, root: ir.Value) -> bool:
        sites = self._readers(root)
        if sites is None:
            return False
        owners = np.zeros(shape_of(_stored_tensor(root)), dtype=np.int16)  # no memory before it is touched
        read = [(layer_id, place) for site in sites for layer_id, place in self._at[site]]
        several = len({layer_id for layer_id, _ in read}) > 1
        numbers = {layer_id: number for number, layer_id in enumerate(dict(read), start=1)}
        for layer_id, place in read:
            traced = self._trace(place.value)
            if traced is None or traced[0] is not root or len(numbers) > np.iinfo(np.int16).max:
                return False
            part = owners
            for move in traced[1]:
                part = move(part)
            part = part[place.reading.region] if place.reading.region else part
            # A copy, or a value that stands for several, can't be written through.
            if not np.may_share_memory(part, owners) or not part.flags.writeable:
                return False
            if several or part.size < owners.size:
                own = part == numbers[layer_id]
                if own.any() != own.all() or (part[~own] != 0).any():
                    return False
                part[...] = numbers[layer_id]
        return True

    def _readers(self, root: ir.Value) -> list[tuple[ir.Node, int]] | None:
        """The places that read a stored tensor, moved about or as it is; None where anything else does."""
        found: list[tuple[ir.Node, int]] = []
        waiting = [root]
        while waiting:
            value = waiting.pop()
            if value.is_graph_output():
                return None
            for use in value.uses():
                site = (use.node, use.idx)
                if site in self._at:
                    found.append(site)
                elif is_onnx(use.node, "Shape", "Size"):
                    continue
                elif use.idx == 0 and all(self._step(use.node, output) is not None for output in use.node.outputs):
                    waiting.extend(use.node.outputs)
                else:
                    return None
        return found

    def _is_external(self, root: ir.Value) -> bool:
        """Whether what takes the place of a stored tensor belongs into the data file."""
        return self._data.wanted and isinstance(_stored_tensor(root), ir.ExternalTensor)

    def _unnamed(self, destination: _Destination, like: ir.Value) -> ir.Value:
        """The value of a new initializer."""
        value = ir.Value(type=ir.TensorType(destination.dtype), shape=ir.Shape(destination.shape))
        # What exporters say of a parameter (its kind, the module that it belongs to) holds for what replaces it.
        value.metadata_props.update(like.metadata_props)
        return value

    def _register(self, value: ir.Value, destination: _Destination) -> None:
        """Make a value an initializer of the main graph, which every subgraph sees."""
        value.name = self.fresh(destination.name)
        value.const_value = destination.tensor(self._data, value.name)
        self._model.graph.register_initializer(value)
        if self._model.ir_version < _INITIALIZERS_APART:
            self._model.graph.inputs.append(value)

    def _drop_stored(self, value: ir.Value) -> None:
        graph = value.graph
        if graph is None or not value.is_initializer() or value.uses() or value.is_graph_output():
            return
        if value.is_graph_input():
            if self._model.ir_version >= _INITIALIZERS_APART:
                return  # it may be overridden: that is part of the model's signature
            graph.inputs.remove(value)
        del graph.initializers[value.name or ""]
        self._taken.discard(value.name or "")


def _quantizer(value: ir.Value) -> ir.Node | None:
    """An operator in the expression behind a constant that rounds it to a grid."""
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None:
            continue
        if node.op_type in _QUANTIZERS:
            return node
        fresh = [operand for operand in node.inputs if operand is not None and operand not in seen]
        seen.update(fresh)
        waiting.extend(fresh)
    return None


def _stored_tensor(root: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initializer or of a Constant node's output."""
    node = root.producer()
    tensor = root.const_value if node is None else constant_tensor(node)
    assert tensor is not None, "a root is a stored tensor"
    return tensor

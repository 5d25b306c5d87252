"""A live Keras model: its layers, its weights under their names, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean, first_line

from .keras_layers import KerasLayer
from .keras_names import NamedTensor

if TYPE_CHECKING:
    import keras

#: What of a layer tells how its weights are read.
_OPTIONS = ("equation", "groups", "reset_after", "lora_alpha")
#: How long axes of unknown length are made, one after the other where a model refuses a length.
LENGTHS = (16, 64, 224)
BATCH = 2
#: What a model's own code may end in when it is called in another way than its author thought of.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Unsupported(Exception):
    """A model that its backend can't export, and why in a few words."""


@dataclass(frozen=True)
class Variable(NamedTensor):
    """A weight of a live model.

    Attributes:
        source: Keras' own object.
    """

    source: keras.Variable | None = None


@dataclass(frozen=True)
class Spec:
    """One input of a model.

    Attributes:
        name: of the input.
        shape: None where a length is unknown.
        dtype: as Keras names it, `int32`.
        below: random integers are below it.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    below: int = 2

    def sized(self, length: int) -> tuple[int, ...]:
        """The shape with the unknown lengths filled in."""
        return tuple((length if axis else BATCH) if size is None else size for axis, size in enumerate(self.shape))

    def random(self, length: int, generator: np.random.Generator) -> NDArray[Any]:
        """Random values: normal, integers, or truth values."""
        shape = self.sized(length)
        if self.dtype == "bool":
            return np.asarray(generator.random(shape) < 0.5)
        if "int" in self.dtype:
            return np.asarray(generator.integers(0, self.below, shape).astype(self.dtype))
        return np.asarray(generator.standard_normal(shape).astype(ir.DataType[_IR_NAMES[self.dtype]].numpy()))


_IR_NAMES = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}


@dataclass(frozen=True)
class Call:
    """How a model is called.

    Attributes:
        specs: of its inputs, in flat order.
        structure: the positional arguments, with anything at each input's place.
    """

    specs: tuple[Spec, ...]
    structure: tuple[Any, ...]

    def arguments(self, flat: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments with these inputs in place."""
        import keras

        packed: tuple[Any, ...] = keras.tree.pack_sequence_as(self.structure, list(flat))
        return packed


def is_keras(source: object) -> bool:
    """Whether this is a live layer or model of Keras 3. Imports nothing."""
    return any(base.__module__ == "keras.src.layers.layer" for base in type(source).__mro__)


def describe(model: keras.Layer) -> str:
    """What to call a model in a message."""
    return f"Keras model {clean(model.name)!r}"


def to_numpy(value: Any) -> NDArray[Any]:
    """The values of a variable or tensor, not copied where the backend can share them."""
    import keras

    array: NDArray[Any] = np.asarray(keras.ops.convert_to_numpy(value))
    return array


def read_model(model: keras.Layer) -> tuple[list[KerasLayer], list[Variable]]:
    """The layers of a model that own weights, each once however often it is used, and its weights, in its order."""
    layers, variables = [], []
    taken: set[str] = set()
    for path, layer, owner in _walk(model, "", None, set(), set()):
        own = {}
        for variable in _own_variables(layer):
            name = _unique(variable.name, own)
            full_name = _unique("/".join(filter(None, (path, name))), taken)
            taken.add(full_name)
            own[name] = ir.Tensor(to_numpy(variable), name=full_name)
        owner_classes = () if owner is None else _classes(owner)
        described = KerasLayer(path, _classes(layer), own, _options(layer, owner), owner_classes)
        layers.append(described)
        for (name, tensor), variable in zip(own.items(), _own_variables(layer), strict=True):
            variables.append(Variable(tensor, described.layer_name(name), variable))
    return [layer for layer in layers if layer.weights], variables


def _walk(
    layer: keras.Layer, path: str, owner: keras.Layer | None, seen: set[int], paths: set[str]
) -> Iterator[tuple[str, keras.Layer, keras.Layer | None]]:
    """A layer and all in it, with the path to each; those that are used twice at their first place."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield path, layer, owner
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        inner_path = _unique("/".join(filter(None, (path, inner.name))), paths)
        if id(inner) not in seen:
            paths.add(inner_path)
        yield from _walk(inner, inner_path, layer, seen, paths)


def _own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The weights of a layer that belong to none of the layers in it, each once."""
    inner = {
        id(variable) for one in layer._flatten_layers(include_self=False, recursive=False) for variable in one.weights
    }
    return [variable for variable in layer.weights if id(variable) not in inner]


def _unique(name: str, taken: set[str] | dict[str, Any]) -> str:
    count, unique = 1, name
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique


def _classes(layer: keras.Layer) -> tuple[str, ...]:
    return tuple(base.__name__ for base in type(layer).__mro__)


def _options(layer: keras.Layer, owner: keras.Layer | None) -> dict[str, Any]:
    options = {name: getattr(layer, name) for name in _OPTIONS if hasattr(layer, name)}
    options["go_backwards"] = getattr(owner, "go_backwards", False)
    return options


def how_called(model: keras.Layer, args: Any = None) -> Call | None:
    """How a model is called: as `args` says, as its inputs say, or as it was called before; None where nothing tells.

    Args:
        model: the model.
        args: its inputs, or what has their shapes and element types; a tuple holds several positional arguments.

    Raises:
        ConversionError: args holds something else.
    """
    import keras

    if args is not None:
        structure = args if isinstance(args, tuple) else (args,)
    elif isinstance(model, keras.Sequential) and model.built:
        structure = (model.inputs[0],)
    elif isinstance(model, keras.Model) and hasattr(model, "_inputs_struct"):
        structure = (model.input,)
    else:
        return _as_built(model)
    leaves = keras.tree.flatten(structure)
    for leaf in leaves:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise ConversionError(
                f"{describe(model)}: args holds a {type(leaf).__name__}: give arrays, or objects with shape and dtype"
            )
    below = _below(model)
    specs = []
    for number, leaf in enumerate(leaves):
        given = args is not None and not isinstance(leaf, (keras.KerasTensor, keras.InputSpec))
        name = clean(getattr(leaf, "name", None) or f"input_{number}")
        shape = tuple(None if size is None else int(size) for size in leaf.shape)
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        integers = to_numpy(leaf) if given and "int" in dtype and not isinstance(leaf, type) else None
        most = int(integers.max()) + 1 if integers is not None and integers.size else below
        specs.append(Spec(name.replace(":", "_"), (None, *shape[1:]) if shape else shape, dtype, most))
    return Call(tuple(specs), structure)


def _as_built(model: keras.Layer) -> Call | None:
    """From the shapes with which a subclassed model was built, when it was first called."""
    import keras

    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        return None
    below, dtype = _below(model), model.input_dtype if hasattr(model, "input_dtype") else "float32"
    specs: list[Spec] = []

    def spec(shape: tuple[int | None, ...]) -> int:
        specs.append(Spec(f"input_{len(specs)}", (None, *shape[1:]), dtype, below))
        return len(specs) - 1

    structure = tuple(keras.tree.map_shape_structure(spec, value) for value in shapes.values() if value is not None)
    return Call(tuple(specs), structure)


def _below(model: keras.Layer) -> int:
    """An integer that every table of a model has more entries than."""
    sizes = [
        int(layer.input_dim)
        for layer in model._flatten_layers()
        if isinstance(getattr(layer, "input_dim", None), int) and hasattr(layer, "embeddings")
    ]
    return min(sizes, default=2)


def ensure_built(model: keras.Layer, args: Any = None) -> None:
    """Call a model once where that is what gives it its weights.

    Raises:
        ConversionError: it was never called, and nothing tells how.
    """
    if model.built:
        return
    if args is None:
        raise ConversionError(
            f"{describe(model)} was never called and has no weights yet: call it once on data, or give args=..."
        )
    call = how_called(model, args)
    assert call is not None, "args tell"
    try:
        invoke(model, args if isinstance(args, tuple) else (args,))
    except FAILURES as error:
        raise ConversionError(f"{describe(model)} can't be called with args ({first_line(error)})") from None


def invoke(model: keras.Layer, arguments: tuple[Any, ...]) -> Any:
    """The model's output, as in inference."""
    parameters = inspect.signature(model.call).parameters
    if "training" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return model(*arguments, training=False)
    return model(*arguments)


def infer(model: keras.Layer, call: Call, variables: Sequence[Variable], flat: Sequence[Any]) -> list[Any]:
    """The outputs of a model, in flat order, as a function of its inputs and its weights.

    Args:
        model: the model; its own weights are neither read nor changed.
        call: how it is called.
        variables: its weights.
        flat: the inputs, and then what stands for each weight.
    """
    import keras

    inputs, weights = flat[: len(call.specs)], flat[len(call.specs) :]
    mapping = [(variable.source, weight) for variable, weight in zip(variables, weights, strict=True)]
    with keras.StatelessScope(state_mapping=mapping):
        outputs: list[Any] = keras.tree.flatten(invoke(model, call.arguments(inputs)))
    return outputs

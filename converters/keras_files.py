"""Keras' files without Keras: the layers and weights of .keras archives and folders and of HDF5 files of any age.

Nothing of what a configuration names is executed or imported. Links out of an HDF5 file are not followed.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean, first_line

from .keras_layers import KerasLayer, known_classes

if TYPE_CHECKING:
    import h5py

#: What the files inside an archive or folder are called.
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
#: A compressed file is refused where it promises more than so many times of what it holds, and more than this.
_EXPANSION, _LARGE = 1000, 1 << 32
_CELLS = ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
_NORMALISATIONS = ("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization")
#: The layers inside an attention layer: their attributes, and what they are called.
_PROJECTIONS = {
    "query_dense": "query",
    "key_dense": "key",
    "value_dense": "value",
    "output_dense": "attention_output",
}
#: HDF5 lists members by the alphabet; these come in the order of their work.
_FIRST = ("forward_layer", "backward_layer", *_PROJECTIONS)


@dataclass(frozen=True)
class Described:
    """What a configuration says of a layer.

    Attributes:
        kind: its class; empty where nothing is known.
        config: its options.
        owner: the class of the layer that holds it.
    """

    kind: str = ""
    config: Mapping[str, Any] | None = None
    owner: str = ""

    @classmethod
    def of(cls, described: object, owner: str = "") -> Described:
        """From a configuration as Keras writes it."""
        if not isinstance(described, Mapping) or not isinstance(described.get("class_name"), str):
            return cls()
        config = described.get("config")
        if isinstance(config, list):  # Sequential models of Keras 1 and early Keras 2
            config = {"layers": config}
        return cls(described["class_name"], config if isinstance(config, Mapping) else {}, owner)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options, none where nothing is known."""
        return self.config or {}

    @property
    def name(self) -> str:
        """The layer's own name."""
        return str(self.options.get("name", ""))

    @property
    def inner(self) -> list[Described]:
        """The layers in it that its configuration describes, in order."""
        layers = self.options.get("layers")
        return [Described.of(one, self.kind) for one in layers] if isinstance(layers, list) else []

    def part(self, name: str) -> Described:
        """The layer in it that is called so, or is its attribute of that name."""
        if self.inner:
            named = {one.name: one for one in self.inner}
            # Early versions opened a scope for each call, and numbered it: dense_1 became dense_1_1.
            return named.get(name) or named.get(re.sub(r"_\d+$", "", name)) or Described()
        if name in (*_PROJECTIONS, *_PROJECTIONS.values()) and "kernel_initializer" in self.options:
            return Described("EinsumDense", {}, self.kind)
        if "layer" in self.options:
            wrapped = Described.of(self.options["layer"], self.kind)
            backward = name.startswith("backward")
            own = self.options.get("backward_layer") if backward else None
            wrapped = Described.of(own, self.kind) if isinstance(own, Mapping) else wrapped
            reverse = bool(wrapped.options.get("go_backwards")) != (backward and own is None)
            return Described(wrapped.kind, {**wrapped.options, "go_backwards": reverse}, self.kind)
        if "cell" in self.options:
            return Described.of(self.options["cell"], self.kind)
        return self if self.kind in _CELLS else Described()


def read_layers(path: Path) -> list[KerasLayer]:
    """The layers of a file or folder that own weights, in order.

    Raises:
        ConversionError: it is none of Keras' files, is cut short, or h5py is missing.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConversionError(
            f"{path}: h5py is needed and can't be imported ({first_line(error)}): pip install 'wwonnx[keras]'"
        ) from None
    config, weights = _contents(path)
    try:
        with h5py.File(weights, "r") as file:
            if not config and "model_config" in file.attrs:
                config = _text(file.attrs["model_config"])
            described = Described.of(json.loads(config)) if config else Described()
            group = file["model_weights"] if "model_weights" in file else file
            legacy = "layer_names" in group.attrs or "layer_names0" in group.attrs
            layers = list(_legacy(group, described) if legacy else _store(file, described))
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise ConversionError(
            f"{path}: can't be read ({first_line(error)}): it is no Keras file, or is cut short; save it again"
        ) from None
    if not layers:
        raise ConversionError(f"{path}: holds no weights of Keras layers; save the model or its weights again")
    return layers


def read_config(path: Path) -> str:
    """The configuration in a file or folder; empty where there is none.

    Raises:
        ConversionError: the file can't be read.
    """
    config, weights = _contents(path)
    if config:
        return config
    import h5py

    try:
        with h5py.File(weights, "r") as file:
            return _text(file.attrs.get("model_config", ""))
    except OSError as error:
        raise ConversionError(
            f"{path}: can't be read ({first_line(error)}): it is no Keras file, or is cut short; save it again"
        ) from None


def _contents(path: Path) -> tuple[str, Any]:
    """The configuration, where it stands beside the weights, and the HDF5 file of the weights."""
    try:
        if path.is_dir():
            return (path / CONFIG).read_text("utf-8"), path / WEIGHTS
        if not path.is_file():
            raise ConversionError(f"{path}: no such file; check the path")
        if not zipfile.is_zipfile(path):
            if path.suffix == ".keras":
                raise ConversionError(f"{path}: is no .keras archive, or is cut short; save or download it again")
            return "", path
        with zipfile.ZipFile(path) as archive:
            if WEIGHTS not in archive.namelist():
                raise ConversionError(f"{path}: holds no {WEIGHTS}; save the model with model.save()")
            for member in (CONFIG, WEIGHTS):
                info = archive.getinfo(member)
                if info.file_size > max(_LARGE, _EXPANSION * info.compress_size):
                    raise ConversionError(f"{path}: {member} is compressed beyond belief, and is not unpacked")
            return archive.read(CONFIG).decode("utf-8"), io.BytesIO(archive.read(WEIGHTS))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ConversionError(f"{path}: can't be read ({first_line(error)}); save or download it again") from None


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _names(group: h5py.Group, attribute: str) -> list[str]:
    """A list of names, which is spread over several attributes where it is long."""
    found = list(group.attrs.get(attribute, []))
    count = 0
    while f"{attribute}{count}" in group.attrs:
        found += list(group.attrs[f"{attribute}{count}"])
        count += 1
    return [_text(name) for name in found]


def _member(group: h5py.Group, name: str) -> Any:
    """What a group holds under a name, itself in this file."""
    import h5py

    inside = group
    for part in filter(None, name.split("/")):
        if not isinstance(inside, h5py.Group) or not isinstance(inside.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{clean(name)!r} is missing, or is a link")
        inside = inside[part]
    return inside


def _tensor(group: h5py.Group, name: str, full_name: str) -> ir.Tensor:
    import h5py

    dataset = _member(group, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{clean(name)!r} does not hold its values itself")
    size = dataset.size * dataset.dtype.itemsize
    if size > max(_LARGE, _EXPANSION * dataset.id.get_storage_size()):
        raise ValueError(f"{clean(name)!r} promises {size:,} bytes that are not there")
    array = np.asarray(dataset[()])
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{clean(name)!r} holds no numbers")
    return ir.Tensor(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))), name=full_name)


def _legacy(group: h5py.Group, model: Described) -> Iterator[KerasLayer]:
    """The format of Keras 1 and 2: a group for each layer, which lists its weights."""
    for name in [*_names(group, "layer_names"), "top_level_model_weights"]:
        if name not in group:
            continue
        layer = _member(group, name)
        top = name == "top_level_model_weights"
        described = model if top else model.part(name) if model.inner else Described()
        found: dict[tuple[str, ...], dict[str, str]] = {}
        for stored in _names(layer, "weight_names"):
            *scopes, variable = stored.removesuffix(":0").split("/")
            variable = variable.removeprefix(f"{name}_")  # Keras 1: dense_1_W
            if name in scopes and not top:  # a model's scopes may stand before the layer's own
                scopes = scopes[scopes.index(name) + 1 :]
            elif scopes and not top and _is_own_scope(scopes[0], name, described):
                scopes = scopes[1:]
            found.setdefault(tuple(scopes), {})[variable] = stored
        for inner, variables in found.items():
            own = described
            for part in inner:
                own = own.part(part)
            if own.kind in ("TimeDistributed", "Bidirectional") or (own.config and "layer" in own.config):
                own = own.part("")
            path = "/".join(inner if top else (name, *inner))
            tensors = {
                variable: _tensor(layer, stored, "/".join(filter(None, (path, variable))))
                for variable, stored in variables.items()
            }
            yield _layer(path, own, tensors)


def _is_own_scope(scope: str, name: str, described: Described) -> bool:
    """Whether the first part of a weight's name is its layer's: it may be numbered; that of a nested model is none."""
    return not any(scope in (one.name, re.sub(r"_\d+$", "", one.name)) for one in described.inner) and (
        not described.inner or re.sub(r"_\d+$", "", scope) == name
    )


def _store(file: h5py.File, model: Described) -> Iterator[KerasLayer]:
    """The format of Keras 3: groups that follow the attributes of the objects, variables numbered."""
    yield from _object(file, model, "")


def _object(group: h5py.Group, described: Described, path: str) -> Iterator[KerasLayer]:
    """A layer and all in it."""
    import h5py

    variables = _member(group, "vars") if "vars" in group else None
    numbers = sorted((name for name in variables if name.isdigit()), key=int) if variables is not None else []
    if variables is not None and numbers:
        shapes = [tuple(_member(variables, number).shape) for number in numbers]
        names = _variable_names(described, shapes)
        tensors = {
            name: _tensor(variables, number, "/".join(filter(None, (path, name))))
            for name, number in zip(names, numbers, strict=True)
        }
        yield _layer(path, described, tensors)
    members = [name for name in group if name not in ("vars", "optimizer", "metrics", "loss")]
    members.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    for name in members:
        inner = _member(group, name)
        if not isinstance(inner, h5py.Group):
            continue
        if name in ("layers", "_layer_checkpoint_dependencies") and "vars" not in inner:
            yield from _container(inner, described, path)
        else:
            yield from _named(inner, name, described.part(name), path, _class_of(name, described))


def _container(group: h5py.Group, model: Described, path: str) -> Iterator[KerasLayer]:
    """The layers of a model, each under its class and a number; the configuration says which is which."""
    counts: dict[str, int] = {}
    described: dict[str, Described] = {}
    for one in model.inner:
        if model.kind == "Sequential" and one.kind == "InputLayer":
            continue
        snake = _snake(one.kind)
        count = counts.get(snake, 0)
        counts[snake] = count + 1
        described[f"{snake}_{count}" if count else snake] = one
    known = [name for name in described if name in group]
    for name in [*known, *(name for name in group if name not in described)]:
        yield from _named(_member(group, name), name, described.get(name, Described()), path, _class_of(name, model))


def _named(group: h5py.Group, member: str, described: Described, path: str, kind: str) -> Iterator[KerasLayer]:
    """A layer under its own name, where the file tells it."""
    variables = _member(group, "vars") if "vars" in group else None
    noted = _text(variables.attrs.get("name", "")) if variables is not None else ""
    guessed = _PROJECTIONS.get(member, member)
    if member in ("forward_layer", "backward_layer") and described.name:
        guessed = f"{member.removesuffix('_layer')}_{described.name.removeprefix('forward_').removeprefix('backward_')}"
    elif member == "cell" and described.kind:
        guessed = f"{_snake(described.kind)}_cell".replace("_cell_cell", "_cell")
    elif described.name and member not in _PROJECTIONS and member != "cell":
        guessed = described.name
    if member == "cell" and not kind:
        kind = _class_of(noted, described)
    named = described if described.kind else Described(kind, {}, described.owner)
    if variables is None and member not in ("cell", *_PROJECTIONS) and not described.kind:
        yield from _object(group, named, path)  # a list or dict of layers
        return
    yield from _object(group, named, "/".join(filter(None, (path, noted or guessed))))


def _class_of(member: str, owner: Described) -> str:
    """The class that the name of a member tells, where no configuration does: `conv2d_1` is a Conv2D."""
    if member in _PROJECTIONS:
        return "EinsumDense"
    if member == "cell":
        return owner.kind
    return {_snake(kind): kind for kind in known_classes()}.get(re.sub(r"_\d+$", "", member), "")


def _snake(kind: str) -> str:
    """Keras' own rule: `MultiHeadAttention` -> `multi_head_attention`."""
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def _variable_names(described: Described, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """What Keras calls the variables of a layer, in the order in which it stores them."""
    kind = described.kind.removesuffix("Cell")
    options = described.options
    if kind in _CELLS:
        names = ["kernel", "recurrent_kernel", "bias"]
    elif kind in _NORMALISATIONS:
        names = ["gamma"] * bool(options.get("scale", True)) + ["beta"] * bool(options.get("center", True))
        names = ["scale"] if kind == "RMSNormalization" else names
        names += ["moving_mean", "moving_variance"] if kind == "BatchNormalization" else []
        if not options and len(shapes) < len(names):
            names = []
    elif kind.startswith("Separable"):
        names = ["depthwise_kernel", "pointwise_kernel", "bias"]
    elif kind in ("Embedding", "ReversibleEmbedding"):
        names = ["embeddings", "reverse_embeddings"]
    elif kind == "PReLU":
        names = ["alpha"]
    elif shapes and len(shapes[0]) > 1:
        names = ["kernel", "bias"]
    else:
        names = []
    plain = len(shapes) > 1 and len(shapes[1]) > 1 and names[1:] == ["bias"] and kind != "EinsumDense"
    names = [] if plain else names  # two matrices: none of the layers that are known
    return [*names[: len(shapes)], *(str(number) for number in range(len(names), len(shapes)))]


def _layer(path: str, described: Described, tensors: Mapping[str, ir.Tensor]) -> KerasLayer:
    classes = tuple(filter(None, (described.kind, _guess(path, tensors))))
    return KerasLayer(path, classes, tensors, described.options, (described.owner,) if described.owner else ())


def _guess(path: str, tensors: Mapping[str, ir.Tensor]) -> str:
    """A class of Keras' own that has such weights."""
    ranks = {name: len(tensor.shape) for name, tensor in tensors.items()}
    last = path.rpartition("/")[2].lower()
    if "recurrent_kernel" in ranks and "kernel" in ranks:
        *_, hidden, columns = tuple(tensors["recurrent_kernel"].shape)
        gates = int(columns) // max(1, int(hidden))
        return "ConvLSTM" if ranks["kernel"] > 2 else {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}.get(gates, "")
    if "depthwise_kernel" in ranks:
        return "SeparableConv2D" if "pointwise_kernel" in ranks else "DepthwiseConv2D"
    if "embeddings" in ranks:
        return "Embedding"
    if ranks.get("kernel") == 2:
        return "Dense"
    if ranks.get("kernel") == 3 and last in _PROJECTIONS.values():
        return "EinsumDense"
    if ranks.get("kernel", 0) in (3, 4, 5):
        kind = f"Conv{ranks['kernel'] - 2}D"
        return f"{kind}Transpose" if "transpose" in last else "DepthwiseConv2D" if "depthwise" in last else kind
    return "BatchNormalization" if {"moving_mean", "moving_variance"} <= set(ranks) else ""

"""Safetensors to ONNX without a copy: names, shapes and operators in the .onnx, the weights where they are.

The external data of the model points into the .safetensors files themselves. Of these nothing but the header is read,
so that converting a model of any size takes a moment, and analysing it reads a layer at a time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from wwonnx.errors import ConversionError, OptionError
from wwonnx.graph.save import checked_output, write_graph
from wwonnx.graph.source import Source, open_model
from wwonnx.graph.tensors import unpack
from wwonnx.graph.words import clean

from . import kinds
from .adapters import Adapter, Update, is_adapter, read_adapter
from .reasons import explained
from .safetensors_folder import Checkpoint, read_checkpoint
from .safetensors_header import DTYPES, StoredTensor, read_header
from .verify import note, verify_weights
from .weights_graph import AnyWeight, Computed, Convolution, Dense, Embedding, Module, Stored, Weight, build

#: Models of transformers whose linear layers are of the class Conv1D, which stores (inputs, outputs).
_CONV1D = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
#: Types of the format that numpy has too.
_NUMPY = frozenset({"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64"})
#: Types that ONNX has in the version that is installed.
_KNOWN = frozenset(onnx.TensorProto.DataType.keys()) - {"FLOAT6E2M3", "FLOAT6E3M2"}


def to_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    base: str | os.PathLike[str] | bool | None = None,
    verify: bool = False,
) -> ir.Model:
    """Convert a .safetensors file, a sharded folder, a Hugging Face model folder or a LoRA adapter.

    Which tensor is an embedding, a convolution or a linear map is told by `kinds.modules`, with what config.json says.
    An adapter gives its updates alone, one layer scale * B A for each module, or with a base the model that they make.

    Args:
        source: the file or folder.
        path: the .onnx file to write. It can only name weights in its own folder or below. None for a model in memory.
        base: of an adapter, the folder of the model to add the updates to; True to look for it.
        verify: compare every tensor of the model with the file, read by the safetensors package.

    Returns:
        The model. Its tensors are unread onnx_ir.ExternalTensors in the files of the source; `metadata_props` tell how
        many weights were verified.

    Raises:
        ConversionError: a file is missing or broken, the .onnx can't lie there, an adapter is none of LoRA's or its
            base is not found, or (verify) a tensor differs.
        UnsafeModelError: an index names a file outside its folder.
    """
    source = Path(source)
    output = None if path is None else Path(path)
    place = _Places(source, output)
    if is_adapter(source):
        adapter = read_adapter(source)
        files = adapter.files
        if base is None or base is False:
            model = build(_updates(adapter, place), "LoRA updates")
        else:
            below = read_checkpoint(adapter.find_base() if base is True else Path(base))
            files += below.files
            model = build(_merged(adapter, below, place), f"{below.name} with LoRA")
    elif base is not None:
        raise ConversionError(f"{source}: is no adapter, and takes no base; leave it out")
    else:
        checkpoint = read_checkpoint(source)
        files = checkpoint.files
        model = build(_modules(checkpoint, place), checkpoint.name)
    if output is not None:
        _write(model, output, files)
    if verify:
        note(model, _verify(model if output is None else open_model(output).model, source))
    return model


def source_files(source: Path) -> tuple[Path, ...]:
    """The files that a source is made of: weights, index and configuration."""
    return read_adapter(source).files if is_adapter(source) else read_checkpoint(source).files


def adapter_note(source: Path) -> str:
    """What to know of an adapter's updates."""
    if not read_adapter(source).is_dora:
        return ""
    return (
        f"{source} is a DoRA adapter: its rows are the updates B A alone, without the lengths that it learned too. "
        f"'wwonnx convert {source} --base FOLDER -o FILE' gives the weights that they make."
    )


def adapter_base(source: Path) -> Callable[[Any], Any]:
    """What finds the base model of an adapter."""

    def find(given: Any) -> Any:
        adapter = read_adapter(source)
        if adapter.is_dora:
            raise ConversionError(
                f"{source}: is a DoRA adapter, whose lengths no sum W + B A has; 'wwonnx convert {source} --base "
                "FOLDER -o FILE' gives the weights that it makes"
            )
        return adapter.find_base() if given is None else given

    return find


class _Places:
    """Where the model's tensors are, as its file or memory names them."""

    def __init__(self, source: Path, output: Path | None) -> None:
        self._source = source
        self._output = output
        self._known: dict[Path, tuple[str, str]] = {}

    def tensor(self, stored: StoredTensor, name: str = "") -> ir.ExternalTensor:
        """The tensor, unread.

        Args:
            stored: where it lies.
            name: what to call it; empty for its own name.

        Raises:
            ConversionError: the .onnx file can't name its place.
        """
        if stored.path not in self._known:
            self._known[stored.path] = self._place(stored.path)
        location, folder = self._known[stored.path]
        dtype, shape = stored.dtype, stored.shape
        if dtype not in _KNOWN:
            dtype, shape = "UINT8", (stored.length,)  # ONNX has no such type: the bytes
        return ir.ExternalTensor(
            location,
            stored.offset,
            stored.length,
            ir.DataType[dtype],
            shape=ir.Shape(shape),
            name=name or stored.name,
            base_dir=folder,
        )

    def _place(self, path: Path) -> tuple[str, str]:
        """What an .onnx calls a file, and the folder that this is meant from."""
        # In the cache of the Hugging Face Hub a model's files are links: the weights lie in a folder of their own.
        real = path.resolve()
        folder = real.parent if self._output is None else self._output.parent.resolve()
        if real.is_relative_to(folder):
            return real.relative_to(folder).as_posix(), str(folder)
        common = Path(os.path.commonpath([real.parent, folder]))
        link = " a link," if path.is_symlink() else ""
        raise ConversionError(
            f"{self._output}: an .onnx file can only name weights in its own folder and below, and {path} is{link} in "
            f"{real.parent}; write it into {common}, or analyse {self._source} itself, which takes no file"
        )


def _modules(checkpoint: Checkpoint, place: _Places) -> list[Module]:
    """What the tensors of a checkpoint are."""
    tensors = {name: place.tensor(stored) for name, stored in checkpoint.tensors.items()}
    config = checkpoint.config
    told = kinds.modules(tensors, conv1d=config.get("model_type") in _CONV1D, packed=_packed(tensors, config))
    quantization = config.get("quantization_config")
    method = clean(quantization.get("quant_method") or "quantised") if isinstance(quantization, dict) else ""
    return [explained(module, method) for module in told]


def _packed(tensors: Mapping[str, ir.TensorProtocol], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Widths of query, key and value where one `qkv_proj` holds them (Phi), whose keys have fewer heads."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads <= 0:
        return {}
    keys, width = config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads
    if not isinstance(keys, int) or not isinstance(width, int):
        return {}
    names = [name for name in tensors if name.endswith(".qkv_proj.weight")]
    return dict.fromkeys(names, (heads * width, keys * width, keys * width))


def _low_rank(update: Update, layer: str, place: _Places, inputs_first: bool = False) -> Computed:
    """scale * B A, shape (outputs, inputs, k1, ..., kd), or with inputs_first (inputs, outputs, k1, ..., kd)."""
    outputs, rank = update.up.shape[:2]
    inputs, *kernel = update.down.shape[1:]
    columns = inputs * math.prod(kernel)
    flat = ((outputs, rank), (rank, columns)) if kernel else ((), ())
    up, down = (
        Weight(place.tensor(stored), shape=shape, layer=layer)
        for stored, shape in zip((update.up, update.down), flat, strict=True)
    )
    product = Computed("MatMul", (up, down), (outputs, columns))
    made = Computed("Mul", (product, update.scale), (outputs, columns))
    if kernel:
        made = Computed("Reshape", (made, (outputs, inputs, *kernel)), (outputs, inputs, *kernel))
    if not inputs_first:
        return made
    axes = (1, 0, *range(2, 2 + len(kernel)))
    return Computed("Transpose", (made,), (inputs, outputs, *kernel), (("perm", axes),))


def _updates(adapter: Adapter, place: _Places) -> list[Module]:
    """A module per update, and those that were trained as a whole."""
    found: list[Module] = []
    for update in adapter.updates:
        weight = _low_rank(update, f"{update.module}.lora_BA", place, inputs_first=update.table)
        if update.table:
            found.append(Embedding(update.module, weight))
        elif len(update.down.shape) > 2:
            found.append(Convolution(update.module, weight))
        else:
            found.append(Dense(update.module, weight))
        if update.magnitude is not None:
            found.append(Stored(update.module, Weight(place.tensor(update.magnitude))))
    return [*found, *kinds.modules({name: place.tensor(stored, name) for name, stored in adapter.others.items()})]


def _merged(adapter: Adapter, base: Checkpoint, place: _Places) -> list[Module]:
    """The base model's modules, with the updates added.

    Raises:
        ConversionError: the base has no weight for one of them.
    """
    tensors = dict(base.tensors)
    for name, stored in adapter.others.items():
        tensors[_partner(name, tensors) or name] = replace(stored, name=name)
    modules = _modules(replace(base, tensors=tensors), place)
    places = {module.name: index for index, module in enumerate(modules) if isinstance(module, _UPDATED)}
    for update in adapter.updates:
        found = _partner(update.module, places)
        if found is None:
            raise ConversionError(
                f"{adapter.folder}: updates {clean(update.module)!r}, of which the base {base.label} has no weight; "
                "give the base that the adapter was trained on"
            )
        index = places[found]
        modules[index] = _updated(modules[index], update, adapter, base, place)
    return modules


_UPDATED = (Dense, Convolution, Embedding)


def _partner(name: str, names: Iterable[str]) -> str | None:
    """What a module or tensor of the adapter is called in the base, which may leave out or add what holds it."""
    names = list(names)
    if name in names:
        return name
    alike = [other for other in names if other.endswith(f".{name}") or name.endswith(f".{other}")]
    return alike[0] if len(alike) == 1 else None


def _updated(module: Module, update: Update, adapter: Adapter, base: Checkpoint, place: _Places) -> Module:
    """The module with W + scale * B A for a weight, brought to the lengths that DoRA learned."""
    assert isinstance(module, _UPDATED), "others are not looked at"
    weight = module.table if isinstance(module, Embedding) else module.weight
    if isinstance(weight, Weight):
        weight = replace(weight, layer=module.name)
    first = isinstance(module, Embedding) or (isinstance(module, Dense) and module.inputs_first)
    added = _low_rank(update, module.name, place, first)
    if added.read_shape != weight.read_shape and isinstance(module, Dense):
        # The shape tells better than the rule does: a lone square is the only matrix of which it can't.
        added, first = _low_rank(update, module.name, place, not first), not first
        module = replace(module, inputs_first=first)
    if added.read_shape != weight.read_shape:
        raise ConversionError(
            f"{adapter.folder}: its update of {clean(update.module)!r} is {list(added.read_shape)}, and the weight in "
            f"{base.label} {list(weight.read_shape)}; give the base that the adapter was trained on"
        )
    total: AnyWeight = Computed("Add", (weight, added), weight.read_shape)
    if update.magnitude is not None:
        total = _stretched(total, Weight(place.tensor(update.magnitude)), first)
    return replace(module, table=total) if isinstance(module, Embedding) else replace(module, weight=total)


def _stretched(weight: AnyWeight, magnitude: Weight, inputs_first: bool) -> Computed:
    """DoRA: the weights of each output, brought to the length that was learned for it."""
    shape, outputs = weight.read_shape, int(inputs_first)
    each = tuple(n if axis == outputs else 1 for axis, n in enumerate(shape))
    others = tuple(axis for axis in range(len(shape)) if axis != outputs)
    length = Computed("ReduceL2", (weight, others), each, (("keepdims", 1),))
    return Computed("Mul", (weight, Computed("Div", (replace(magnitude, shape=each), length), each)), shape)


def _write(model: ir.Model, output: Path, files: tuple[Path, ...]) -> None:
    """Write the .onnx file.

    Raises:
        ConversionError: it can't be written.
    """
    try:
        checked_output(Source(model, str(output), files), output)
        write_graph(model, output)
    except OptionError as error:
        raise ConversionError(str(error)) from None
    except OSError as error:
        raise ConversionError(
            f"{output}: can't be written ({error.strerror or error}); name a file in a folder that holds the weights "
            "and can be written to, or analyse the source itself, which takes no file"
        ) from None


def _verify(model: ir.Model, source: Path) -> int:
    """Compare each tensor, bit for bit, with what the safetensors package reads; how many weights these are.

    Raises:
        ConversionError: one differs.
    """
    import safetensors

    by_file: dict[Path, list[ir.ExternalTensor]] = {}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            by_file.setdefault(Path(value.const_value.path), []).append(value.const_value)
    compared = 0
    for path, tensors in by_file.items():
        stored = {(each.offset, each.length): each for each in read_header(path)[0].values() if each.length}
        with safetensors.safe_open(path, framework="np") as file:
            for tensor in tensors:
                if not tensor.length:
                    continue
                place = stored.get((tensor.offset or 0, tensor.length))
                if place is None:
                    raise ConversionError(
                        f"{source}: tensor {clean(tensor.name)!r} is none of {path}; please report this"
                    )
                compared += verify_weights(model, {tensor.name or "": _read(place, file)})
    return compared


def _read(stored: StoredTensor, file: Any) -> NDArray[Any]:
    """A tensor as the safetensors package reads it; where numpy has no such type, codes of as many bits."""
    about = file.get_slice(stored.name)
    dtype, shape = about.get_dtype(), tuple(about.get_shape())
    if dtype in _NUMPY:
        array: NDArray[Any] = file.get_tensor(stored.name)
        return array
    bits = DTYPES[dtype][0]
    raw = np.memmap(stored.path, np.uint8, "r", stored.offset, (stored.length,))
    if stored.dtype not in _KNOWN:
        return raw
    if bits < 8:
        return unpack(raw, bits, math.prod(shape)).reshape(shape)
    return raw.view(f"u{bits // 8}").reshape(shape)

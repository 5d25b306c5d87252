"""Any source of a model, and the converter for it. No framework is imported that the source doesn't need."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from wwonnx.errors import ConversionError, ModelError, UnsafeModelError
from wwonnx.graph.source import Source, open_model
from wwonnx.graph.words import clean

if TYPE_CHECKING:
    import onnx_ir as ir

Kind: TypeAlias = Literal["onnx", "safetensors", "torch", "state_dict", "keras"]

SUPPORTED = (
    "ONNX files; .safetensors files, Hugging Face model folders and LoRA adapters; PyTorch modules and .pt, .pth, .bin "
    "and .ckpt files; Keras models, .keras, .h5 and .hdf5 files, TensorFlow SavedModel folders and .pb files"
)
_SUFFIXES: dict[str, Kind] = {
    ".onnx": "onnx",
    ".json": "onnx",
    ".onnxjson": "onnx",
    ".textproto": "onnx",
    ".prototxt": "onnx",
    ".onnxtxt": "onnx",
    ".onnxtext": "onnx",
    ".safetensors": "safetensors",
    ".pt": "state_dict",
    ".pth": "state_dict",
    ".bin": "state_dict",
    ".ckpt": "state_dict",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".pb": "keras",
}
_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
#: How Python's pickles begin, in the protocols that torch.save has used.
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
#: What a folder may hold, best first: a name or pattern, and who reads it.
_IN_FOLDERS: tuple[tuple[str, Kind], ...] = (
    ("adapter_config.json", "safetensors"),
    ("*.safetensors", "safetensors"),
    ("*.safetensors.index.json", "safetensors"),
    ("saved_model.pb", "keras"),
    ("pytorch_model.bin.index.json", "state_dict"),
    ("pytorch_model.bin", "state_dict"),
    ("tf_model.h5", "keras"),
)
#: Which extra brings a package that a converter imports.
_EXTRAS = {
    "torch": "torch",
    "onnxscript": "torch",
    "keras": "keras",
    "tensorflow": "keras",
    "tf2onnx": "keras",
    "h5py": "keras",
    "safetensors": "safetensors",
}


@dataclass(frozen=True)
class Origin:
    """Who converts a source.

    Attributes:
        kind: the converter; "onnx" for none.
        source: what it is given: for folders that hold one, the file.
    """

    kind: Kind
    source: Any


def find_origin(source: Any) -> Origin:
    """Tell what a source is, from classes' names, suffixes, the first bytes of files and the names in folders.

    Raises:
        ModelError: it is none that wwonnx reads.
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_path(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview, Source)):
        return Origin("onnx", source)
    classes = [(base.__module__.partition(".")[0], base.__name__) for base in type(source).__mro__]
    packages = {package for package, _ in classes}
    if packages & {"keras", "tf_keras"}:  # before torch: on its backend a Keras model is a torch module too
        return Origin("keras", source)
    if ("torch", "Module") in classes:
        return Origin("torch", source)
    if isinstance(source, Mapping) and source:
        return Origin("state_dict", source)
    if packages & {"onnx", "onnx_ir"}:
        return Origin("onnx", source)
    name = f"{type(source).__module__}.{type(source).__qualname__}"
    raise ModelError(f"can't read a {name}: give an onnx.ModelProto, an onnx_ir.Model, or one of these: {SUPPORTED}")


def _of_path(path: Path) -> Origin:
    is_folder, is_file = _looked_at(path)
    if is_folder:
        return _of_folder(path)
    if not is_file:
        return Origin("onnx", path)  # which says what is wrong with it
    if path.name.endswith(".safetensors.index.json"):
        return Origin("safetensors", path)
    if path.name.endswith(".bin.index.json"):
        return Origin("state_dict", path)
    if path.name == "saved_model.pb":
        return Origin("keras", path.parent)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind in ("onnx", "safetensors"):
        return Origin(kind, path)
    return Origin(_of_content(path) or kind or "onnx", path)


def _looked_at(path: Path) -> tuple[bool, bool]:
    """Whether a path is a folder, and whether it is a file; a path that can't be is neither."""
    try:
        return path.is_dir(), path.is_file()
    except (OSError, ValueError):
        return False, False


def _of_content(path: Path) -> Kind | None:
    """What the first bytes of a file say; None where they say nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(_HDF5):
            return "keras"
        if head.startswith(_PICKLES):
            return "state_dict"
        if head.startswith(_ZIP):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return "state_dict"
            return "keras" if "config.json" in names else None
        if head.startswith(b"\x08") and path.suffix.lower() == ".pb":
            return "onnx"  # its version comes first, where a TensorFlow graph begins with a node
        return "safetensors" if head[8:9] == b"{" and head[5:8] == b"\0\0\0" else None
    except (OSError, zipfile.BadZipFile):
        return None  # the converter says what is wrong with it


def _of_folder(folder: Path) -> Origin:
    for pattern, kind in _IN_FOLDERS:
        for found in folder.glob(pattern):
            whole = kind == "safetensors" or pattern == "saved_model.pb"
            return Origin(kind, folder if whole else found)
    if list(folder.glob("*.onnx")):
        return Origin("onnx", folder)  # which names them
    inside = sorted({path.parent.name for path in folder.glob("*/*.safetensors")})  # as diffusers' pipelines have it
    if inside:
        raise ModelError(f"{folder}: holds models in the folders {', '.join(map(clean, inside))}; name one of them")
    raise ModelError(f"{folder}: is a directory that holds no model of a kind that wwonnx reads: {SUPPORTED}")


def to_onnx(
    source: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    args: Any = None,
    base: Any = None,
    verify: bool = False,
) -> ir.Model:
    """Bring a model of any kind to ONNX, every weight bit for bit under its own name.

    Args:
        source: a torch module or ScriptModule, a Keras model, the state_dict of a torch module; the path of a
            .safetensors, .pt, .pth, .bin, .ckpt, .keras, .h5, .hdf5 or .pb file, of a TensorFlow SavedModel, of a
            Hugging Face model folder, or of an adapter's folder.
        path: the .onnx file to write; None for a model in memory alone.
        args: example inputs: of a torch module, for a full graph in place of the weights alone; of a Keras model that
            was never called.
        base: of an adapter, the model to add its updates to: its folder, or True to look for it.
        verify: compare the result with the source.

    Returns:
        The model.

    Raises:
        ConversionError: it can't be converted faithfully, a package is missing, or it is ONNX already.
        ModelError: it is nothing that wwonnx reads.
    """
    origin = find_origin(source)
    if origin.kind == "onnx":
        label = _open_onnx(source, origin).label
        raise ConversionError(f"{label}: is an ONNX model already: there is nothing to convert")
    if args is not None and origin.kind not in ("torch", "keras"):
        raise ConversionError(f"{_label(source)}: only torch and Keras models take example inputs (args); drop them")
    if base is not None and not _is_adapter(origin):
        raise ConversionError(f"{_label(source)}: is no adapter, and takes no base; leave it out")
    target = None if path is None else Path(path)
    with _packages(_label(source)):
        return _CONVERTERS[origin.kind](origin.source, target, args, base, verify)


def open_source(source: Any) -> Source:
    """Open a model of any kind: ONNX as it is, everything else converted in memory.

    Args:
        source: as for `to_onnx`, or a path, the bytes of a file, an onnx.ModelProto, an onnx_ir.Model or a Source.

    Raises:
        ModelError: it can't be read.
        ConversionError: it can't be converted faithfully, or a package is missing.
    """
    if isinstance(source, Source):
        return source
    origin = find_origin(source)
    if origin.kind == "onnx":
        return _open_onnx(source, origin)
    opened = replace(open_model(to_onnx(source)), label=_label(source), files=_files(origin))
    if _is_adapter(origin):
        from .safetensors import adapter_base, adapter_note

        return replace(opened, note=adapter_note(origin.source), base=adapter_base(origin.source))
    return opened


def _open_onnx(source: Any, origin: Origin) -> Source:
    try:
        return open_model(source)
    except UnsafeModelError:
        raise
    except ModelError as error:
        known = not isinstance(origin.source, Path) or _SUFFIXES.get(origin.source.suffix.lower())
        if known or not _looked_at(origin.source)[1]:
            raise
        raise ModelError(f"{error}. wwonnx reads {SUPPORTED}") from None


def _label(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else f"<{type(source).__name__}>"


def _files(origin: Origin) -> tuple[Path, ...]:
    """The files that a source is made of."""
    if not isinstance(origin.source, Path):
        return ()
    if origin.kind == "safetensors":
        from .safetensors import source_files

        return tuple(source_files(origin.source))
    if origin.source.is_dir():
        return tuple(sorted(path for path in origin.source.rglob("*") if path.is_file()))
    return (origin.source,)


def _is_adapter(origin: Origin) -> bool:
    if origin.kind != "safetensors":
        return False
    from .adapters import is_adapter

    return is_adapter(origin.source)


@contextmanager
def _packages(label: str) -> Iterator[None]:
    """Turn a missing package into the command that brings it.

    Raises:
        ConversionError: a package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        raise ConversionError(
            f"{label}: to convert it takes the package {package}: pip install 'wwonnx[{_EXTRAS[package]}]'"
        ) from None


def _safetensors(source: Path, path: Path | None, args: Any, base: Any, verify: bool) -> ir.Model:
    from . import safetensors

    return safetensors.to_onnx(source, path, base=base, verify=verify)


def _torch(source: Any, path: Path | None, args: Any, base: Any, verify: bool) -> ir.Model:
    from . import torch

    return torch.to_onnx(source, args, path, verify)


def _state_dict(source: Any, path: Path | None, args: Any, base: Any, verify: bool) -> ir.Model:
    from . import state_dict

    return state_dict.to_onnx(source, path, verify)


def _keras(source: Any, path: Path | None, args: Any, base: Any, verify: bool) -> ir.Model:
    from . import keras

    return keras.to_onnx(source, path, args=args, verify=verify)


_CONVERTERS: dict[str, Callable[[Any, Path | None, Any, Any, bool], ir.Model]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "state_dict": _state_dict,
    "keras": _keras,
}

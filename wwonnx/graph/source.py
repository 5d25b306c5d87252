"""Opens a model from wherever it is, lazily and safely: nothing of its weights is read."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import ModelError, UnsafeModelError
from .words import clean, first_line, root_cause

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    #: What is opened as ONNX, and what `converters.dispatch` converts first: modules and models of frameworks.
    ModelLike: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model | Any

_MAGIC = {
    b"PK\x03\x04": "a zip archive (a PyTorch checkpoint or a .keras file?)",
    b"\x89HDF": "an HDF5 file (a Keras checkpoint?)",
    b"\x80\x02": "a Python pickle (a PyTorch checkpoint?)",
    b"\x80\x04": "a Python pickle",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"TFL3": "a TensorFlow Lite file",
}


@dataclass(frozen=True)
class Source:
    """An opened model.

    Attributes:
        model: the graph, its functions inlined, its tensors unread.
        label: what to call the model in messages and tables: its path, or its kind for models in memory.
        files: the files that it was read from: the .onnx, or those of the model that was converted.
        content: the bytes that it was read from, where it was no file.
        note: what to know of the model as a whole; often empty.
        base: of an adapter, what gives the model that its updates belong to, from what the user says that is.
    """

    model: ir.Model
    label: str
    files: tuple[Path, ...] = ()
    content: bytes | None = None
    note: str = ""
    base: Callable[[Any], Any] | None = None

    def sha256(self) -> str | None:
        """Hash of the file that the model was read from, None for a model that was built in memory.

        External data of an .onnx file is not included. Of several files it is the hash of a list: for each its hash,
        two spaces and its path from the folder that holds all, in the order of the paths, as `sha256sum` prints it.

        Raises:
            ModelError: a file is gone.
        """
        if not self.files:
            return None if self.content is None else hashlib.sha256(self.content).hexdigest()
        if len(self.files) == 1:
            return _sha256(self.files[0])
        folder = os.path.commonpath([path.parent for path in self.files])
        found = {path.relative_to(folder).as_posix(): _sha256(path) for path in self.files}
        lines = "".join(f"{found[name]}  {name}\n" for name in sorted(found))
        return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({first_line(error)})") from None
    return digest.hexdigest()


def open_model(model: ModelLike | Source) -> Source:
    """Open a path, the bytes of a file, an onnx.ModelProto or an onnx_ir.Model.

    Args:
        model: what to open. Models in memory are not changed.

    Returns:
        The opened model. External data is checked (it exists, lies in the model's folder, is a regular file), not read.

    Raises:
        ModelError: the file can't be read, or is no ONNX model.
        UnsafeModelError: external data points outside the model's folder, or to something that is no regular file.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, (str, os.PathLike)):
        return _open_path(Path(model))
    if isinstance(model, (bytes, bytearray, memoryview)):
        content = bytes(model)
        proto = _parse(content, "<bytes>", suffix="")
        return Source(_from_proto(proto, "<bytes>", Path.cwd()), "<bytes>", content=content)

    import onnx
    import onnx_ir as ir

    if isinstance(model, onnx.ModelProto):
        return Source(_from_proto(model, "<ModelProto>", Path.cwd(), owned=False), "<ModelProto>")
    if isinstance(model, ir.Model):
        label = "<onnx_ir.Model>"
        _check_external_data(list(_external_tensors(model)), label)
        return Source(_inline(model, label), label)
    raise ModelError(
        f"can't read a {type(model).__module__}.{type(model).__qualname__}: give a path to an .onnx file, its bytes, "
        "an onnx.ModelProto or an onnx_ir.Model"
    )


def _open_path(path: Path) -> Source:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r}: can't be opened ({first_line(error)})") from None
    if stat.S_ISDIR(status.st_mode):
        inside = sorted(path.glob("*.onnx"))
        hint = f"name the file in it, such as {inside[0]}" if inside else "and holds no .onnx file; name an .onnx file"
        raise ModelError(f"{path}: is a directory; {hint}")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeModelError(f"{path}: is not a regular file; copy the model to a file first")
    if status.st_size == 0:
        raise ModelError(f"{path}: the file is empty; export or download the model again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({first_line(error)})") from None
    proto = _parse(content, str(path), path.suffix)
    del content
    return Source(_from_proto(proto, str(path), path.resolve().parent), str(path), files=(path,))


def _parse(content: bytes, label: str, suffix: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf import json_format, text_format
    from google.protobuf.message import DecodeError

    # ONNX's own text formats go by their suffix, everything else is protobuf.
    kind = {".json": "json", ".onnxjson": "json", ".textproto": "textproto", ".prototxt": "textproto"}.get(
        suffix, "onnxtxt" if suffix in (".onnxtxt", ".onnxtext") else "protobuf"
    )
    try:
        with warnings.catch_warnings():  # the text formats warn that they are experimental
            warnings.simplefilter("ignore", UserWarning)
            proto = onnx.load_model_from_string(content, format=kind)
    except (DecodeError, json_format.ParseError, text_format.ParseError, onnx.parser.ParseError, UnicodeDecodeError):
        raise ModelError(f"{label}: {_why_not_onnx(content)}") from None
    if not proto.HasField("graph"):
        raise ModelError(f"{label}: {_why_not_onnx(content)}")
    return proto


def _why_not_onnx(content: bytes) -> str:
    for magic, kind in _MAGIC.items():
        if magic in (content[:4], content[:2], content[4:8]):
            return f"is {kind}, not an ONNX model; export the model to ONNX first"
    head = content[:4096]
    if content[:8].strip(b"\0") and content[8:9] == b"{":
        return "is a safetensors file, not an ONNX model; export the model to ONNX first"
    if not head.strip():
        return "holds nothing but white space; export or download the model again"
    if b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        hint = " (a Git LFS pointer: run 'git lfs pull')" if head.startswith(b"version https://git-lfs") else ""
        return f"is a text file, not an ONNX model{hint}; name an .onnx file"
    return "is not an ONNX model, or is cut short; export or download it again"


def _from_proto(proto: onnx.ModelProto, label: str, folder: Path, owned: bool = True) -> ir.Model:
    """Represent a parsed model; what onnx_ir can't is mended, in a copy where the model is the user's."""
    import onnx_ir as ir
    from onnx_ir import serde

    from .checks import check_proto
    from .mend import attach_sparse, mend

    check_proto(proto, label)
    try:
        with silence("onnx_ir.serde"), _no_collection():
            try:
                model = ir.from_proto(proto)
            except serde.SerdeError:
                proto = proto if owned else _copy(proto)
                mend(proto)
                model = ir.from_proto(proto)
            attach_sparse(proto, model)
    except (serde.SerdeError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            f"{label}: the graph can't be read ({root_cause(error)}); check it with onnx.checker"
        ) from None
    external = list(_external_tensors(model))
    for tensor in external:
        tensor.base_dir = str(folder)
    _check_external_data(external, label)
    return _inline(model, label)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


def copied(model: ir.Model, label: str) -> ir.Model:
    """The model with a graph of its own; the tensors are shared, as nothing changes a tensor.

    Raises:
        ModelError: its graph is broken.
    """
    try:
        return model.clone()
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        # AssertionError: the message that onnx_ir words prints tensors, broken ones included.
        raise ModelError(
            f"{label}: its graph can't be copied ({root_cause(error)}); check it with onnx.checker"
        ) from None


def _inline(model: ir.Model, label: str) -> ir.Model:
    """Replace calls of the model's local functions by their bodies, in a copy: the user's model stays as it is."""
    if not model.functions:
        return model
    from onnx_ir.passes import InvariantError, PassError
    from onnx_ir.passes.common import InlinePass

    inlined = copied(model, label)
    try:
        with silence("onnx_ir.passes.common.inliner"):
            InlinePass()(inlined)
    except (ValueError, RuntimeError, KeyError, TypeError, IndexError, PassError, InvariantError) as error:
        raise ModelError(f"{label}: its local functions can't be inlined ({root_cause(error)})") from None
    return inlined


def _external_tensors(model: ir.Model) -> Iterator[Any]:
    import onnx_ir as ir

    from .traverse import constants, nodes

    for _, tensor in constants(model):
        if isinstance(tensor, ir.ExternalTensor):
            yield tensor
    for function in model.functions.values():
        for node in nodes(function.graph):
            for attribute in node.attributes.values():
                if not attribute.is_ref() and isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


def data_files(source: Source) -> list[Path]:
    """The files that hold a model's external data."""
    return sorted({_path(tensor, source.label) for tensor in _external_tensors(source.model)})


def _check_external_data(external: list[Any], label: str) -> None:
    """Refuse unsafe locations, and a model of which every data file is missing (one missing costs its layers alone)."""
    locations: dict[str, tuple[Path, str]] = {}
    for tensor in external:
        location = str(tensor.location)
        if location not in locations:
            locations[location] = (_path(tensor, label), clean(tensor.name))
    missing = [location for location, (path, _) in locations.items() if not path.exists()]
    if missing and len(missing) == len(locations):
        path, tensor_name = locations[missing[0]]
        more = f" (and {len(missing) - 1} more files)" if len(missing) > 1 else ""
        raise ModelError(
            f"{label}: its external data {clean(missing[0])!r}{more}, needed by tensor {tensor_name!r}, is missing; "
            f"put it into {path.parent}"
        )


def _path(tensor: Any, label: str) -> Path:
    from .tensors import safe_path

    try:
        return safe_path(tensor)
    except (UnsafeModelError, ModelError) as error:
        raise type(error)(f"{label}: {error}") from None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Hold Python's garbage collector off while a million objects are made that will all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def silence(name: str) -> Iterator[None]:
    """Drop what a library logs while it reads a foreign file; the logger is left as it was."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)

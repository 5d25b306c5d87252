"""New models on disk or in memory: copied, and written tensor by tensor with their external data."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import ModelError, OptionError, WeightError
from .source import Source, silence
from .tensors import read_tensor, shape_of
from .traverse import constants, graphs, nodes

if TYPE_CHECKING:
    import onnx

#: Bytes that a protobuf message may hold (2 GiB), less some room for the graph.
_MOST_INLINE = (1 << 31) - (1 << 24)
#: Smaller tensors stay in the model's own file where the rest has to leave it.
_LEAST_EXTERNAL = 1024
_CHUNK = 1 << 24
#: ONNX recommends that external data begins on a page, so that it can be mapped; small tensors need no map.
_PAGE, _ALIGNMENT = 4096, 64
#: Endings under which onnx reads its text formats.
_TEXT = {".json", ".onnxjson", ".textproto", ".prototxt", ".onnxtxt", ".onnxtext"}


class DataFile:
    """The external data of a new model: written beside it under another name, in place once the model is complete."""

    def __init__(self, output: Path | None) -> None:
        self._path = None if output is None else _data_path(output)
        self._temporary: Path | None = None
        self._file: IO[bytes] | None = None
        self._copied: dict[tuple[str, int, int], int] = {}

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    @property
    def wanted(self) -> bool:
        """Whether there is a place for it."""
        return self._path is not None

    def append(self, array: NDArray[Any], dtype: ir.DataType) -> int:
        """Write values, some rows at a time; where they begin."""
        stored = np.dtype(dtype.numpy()).newbyteorder("<")
        file, offset = self._begin(array.size * stored.itemsize)
        step = max(1, _CHUNK * len(array) // max(1, array.size * stored.itemsize))
        for start in range(0, len(array), step):
            file.write(np.ascontiguousarray(array[start : start + step], dtype=stored).tobytes())
        return offset

    def copy(self, tensor: Any) -> int:
        """Copy the bytes of a tensor from its own data file, those of each once; where they begin.

        Raises:
            ModelError: the file is missing or too short.
        """
        start, length = tensor.offset or 0, tensor.length if tensor.length is not None else tensor.nbytes
        key = (str(tensor.path), start, length)
        if key not in self._copied:
            try:
                with Path(tensor.path).open("rb") as source:
                    file, self._copied[key] = self._begin(length)
                    source.seek(start)
                    left = length
                    while left and (block := source.read(min(left, _CHUNK))):
                        file.write(block)
                        left -= len(block)
            except FileNotFoundError:
                left = length
            if left:
                raise ModelError(
                    f"tensor {tensor.name!r}: its external data {str(tensor.location)!r} is missing or cut short, and "
                    f"a new model needs all of it; put it into {Path(tensor.path).parent}"
                )
        return self._copied[key]

    def copy_bytes(self, content: bytes) -> int:
        """Write the bytes of a tensor that was in the model's own file; where they begin."""
        file, offset = self._begin(len(content))
        file.write(content)
        return offset

    def map(self, offset: int, dtype: ir.DataType, shape: tuple[int, ...]) -> NDArray[Any]:
        """Values that were written, writable in place."""
        assert self._file is not None, "something was written"
        assert self._temporary is not None, "something was written"
        self._file.flush()
        stored = np.dtype(dtype.numpy()).newbyteorder("<")
        return np.memmap(self._temporary, dtype=stored, mode="r+", offset=offset, shape=shape)

    def tensor(self, offset: int, dtype: ir.DataType, shape: tuple[int, ...], name: str) -> ir.TensorProtocol:
        """A tensor of what was written, as the new model holds it."""
        assert self._path is not None, "something was written"
        length = math.ceil(math.prod(shape) * dtype.bitwidth / 8)
        return ir.ExternalTensor(
            self._path.name, offset, length, dtype, shape=ir.Shape(shape), name=name, base_dir=str(self._path.parent)
        )

    def holds(self, tensor: Any) -> bool:
        """Whether a tensor lies in this file already."""
        return self._path is not None and Path(tensor.path) == self._path

    def commit(self) -> None:
        """Put the file in place, if there is one."""
        if self._file is not None and self._temporary is not None and self._path is not None:
            self._file.close()
            _publish(self._temporary, self._path)
            self._temporary = None

    def _begin(self, length: int) -> tuple[IO[bytes], int]:
        if self._file is None:
            assert self._path is not None, "a model in memory has no data file"
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            self._temporary, self._file = Path(name), os.fdopen(handle, "wb")
        alignment = _PAGE if length >= _PAGE else _ALIGNMENT
        self._file.write(bytes(-self._file.tell() % alignment))
        return self._file, self._file.tell()


def _data_path(output: Path) -> Path:
    return output.with_name(output.name + ".data")


def checked_output(source: Source, output: Path) -> Path:
    """Where to write, if that harms nothing.

    Raises:
        OptionError: there is no such directory, or the model is read from there.
    """
    if not output.parent.is_dir():
        raise OptionError(f"output={str(output)!r}: there is no directory {str(output.parent)!r}; make it first")
    if output.is_dir():
        raise OptionError(f"output={str(output)!r}: is a directory; name a file, such as smoothed.onnx")
    if output.suffix.lower() in _TEXT:
        raise OptionError(f"output={str(output)!r}: models are written in ONNX's binary format; name an .onnx file")
    inputs = {str(tensor.path) for _, tensor in constants(source.model) if isinstance(tensor, ir.ExternalTensor)}
    inputs |= {str(path) for path in source.files}
    for path in (output, _data_path(output)):
        for given in inputs:
            if path.exists() and Path(given).exists() and path.samefile(given):
                raise OptionError(f"output={str(output)!r}: {path} is part of the given model; name another file")
    return output


def _slots(model: ir.Model) -> Iterator[tuple[ir.TensorProtocol, Callable[[ir.TensorProtocol], None]]]:
    """Every tensor of a model, and what puts another in its place."""
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value, partial(setattr, value, "const_value")
    for node in nodes(model.graph):
        for attribute in list(node.attributes.values()):
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                yield attribute.value, partial(_set_attribute, node, attribute.name)


def _set_attribute(node: ir.Node, name: str, tensor: ir.TensorProtocol) -> None:
    node.attributes[name] = ir.AttrTensor(name, tensor)  # a new one: a copied graph shares its attributes


def _inline_bytes(model: ir.Model, with_external: bool) -> int:
    """Bytes of the tensors that a model's own file would hold."""
    return sum(
        int(tensor.nbytes)
        for tensor, _ in _slots(model)
        if tensor.dtype != ir.DataType.STRING and (with_external or not isinstance(tensor, ir.ExternalTensor))
    )


def check_fits(model: ir.Model, in_memory: bool) -> None:
    """Refuse a model in memory that could never be written as one.

    Raises:
        OptionError: it is too large.
    """
    size = _inline_bytes(model, with_external=True) if in_memory else 0
    if size > _MOST_INLINE:
        raise OptionError(f"the model holds {size / 1e9:.1f} GB, more than a ModelProto can: give a file, output=...")


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """A message that holds all of a model.

    Raises:
        ModelError: external data is missing.
    """
    for tensor, put in list(_slots(model)):
        if isinstance(tensor, ir.ExternalTensor):
            try:
                values = np.array(read_tensor(tensor))
            except WeightError as error:
                raise ModelError(f"{error}, and a new model needs all of it") from None
            put(described(ir.Tensor(values, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name), tensor))
    with silence("onnx_ir.serde"):
        return ir.to_proto(model)


def save_model(model: ir.Model, output: Path, data: DataFile, most_inline: int | None = None) -> Path:
    """Write a model and its external data, one tensor after the other. Both files appear whole or not at all.

    Args:
        model: its tensors are put into the files as they are written.
        output: the model's file.
        data: the file for its external data.
        most_inline: of more bytes in memory than that, all but the smallest tensors go to the data file; None for what
            protobuf can write.

    Raises:
        ModelError: external data is missing.
        OSError: the files can't be written.
    """
    crowded = _inline_bytes(model, with_external=False) > (_MOST_INLINE if most_inline is None else most_inline)
    for tensor, put in list(_slots(model)):
        if isinstance(tensor, ir.ExternalTensor):
            if data.holds(tensor):
                continue
            offset = data.copy(tensor)
        elif crowded and tensor.dtype != ir.DataType.STRING and tensor.nbytes >= _LEAST_EXTERNAL:
            offset = data.copy_bytes(tensor.tobytes())
        else:
            continue
        put(described(data.tensor(offset, tensor.dtype, shape_of(tensor), tensor.name or ""), tensor))
    return write_graph(model, output, data.commit)


def write_graph(model: ir.Model, output: Path, before: Callable[[], None] = lambda: None) -> Path:
    """Write a model's own file, which appears whole or not at all; external tensors stay where they are.

    Args:
        model: its external tensors in files within the output's folder.
        output: the file.
        before: called when all is written, before the file gets its name.

    Raises:
        OSError: the file can't be written.
    """
    with silence("onnx_ir.serde"):
        content = ir.to_proto(model).SerializeToString()
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        before()
        _publish(Path(name), output)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return output


def _publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name, and the rights that a new file has."""
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(path)


def described(new: ir.TensorProtocol, old: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor with what the file says of the one that it takes the place of."""
    new.doc_string = old.doc_string
    new.metadata_props.update(old.metadata_props)
    return new

"""The header of a .safetensors file, strictly checked. The header alone is read, whatever the file's size.

The format (https://huggingface.co/docs/safetensors): eight bytes, the header's length as a little-endian integer; the
header, a JSON object that gives each tensor its `dtype`, `shape` and `data_offsets`; the tensors' bytes, without holes.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean, first_line

#: The format's own bound on a header, in bytes.
MOST_BYTES = 100_000_000
#: Element types of the format, each with the bits of an element and ONNX's name of it.
DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (8, "BOOL"),
    "U8": (8, "UINT8"),
    "I8": (8, "INT8"),
    "U16": (16, "UINT16"),
    "I16": (16, "INT16"),
    "U32": (32, "UINT32"),
    "I32": (32, "INT32"),
    "U64": (64, "UINT64"),
    "I64": (64, "INT64"),
    "F4": (4, "FLOAT4E2M1"),
    "F6_E2M3": (6, "FLOAT6E2M3"),
    "F6_E3M2": (6, "FLOAT6E3M2"),
    "F8_E4M3": (8, "FLOAT8E4M3FN"),
    "F8_E5M2": (8, "FLOAT8E5M2"),
    "F8_E4M3FNUZ": (8, "FLOAT8E4M3FNUZ"),
    "F8_E5M2FNUZ": (8, "FLOAT8E5M2FNUZ"),
    "F8_E8M0": (8, "FLOAT8E8M0"),
    "F16": (16, "FLOAT16"),
    "BF16": (16, "BFLOAT16"),
    "F32": (32, "FLOAT"),
    "F64": (64, "DOUBLE"),
    "C64": (64, "COMPLEX64"),
}
#: Real tensors have a handful of axes; ONNX counts in 64 bits.
_MOST_AXES, _MOST_LENGTH = 64, (1 << 63) - 1
_DOWNLOAD = "download or save it again"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        name: as in the file.
        dtype: element type, as ONNX spells it: `FLOAT`, `BFLOAT16`.
        shape: its lengths.
        path: the file.
        offset: where it begins, in bytes from the start of the file.
        length: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    length: int


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read the header of a .safetensors file.

    Args:
        path: the file.

    Returns:
        The tensors by their names, in the order of their bytes, and the file's metadata.

    Raises:
        ConversionError: the file can't be read, is cut short or longer than its header says, or the header is not what
            the format asks for: no JSON, a name twice, a missing or unknown element type, bytes that don't fit the
            shape, that overlap or leave holes.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConversionError(f"{path}: is not a regular file; copy the weights to a file first")
            size = status.st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= MOST_BYTES:
                raise ConversionError(f"{path}: is no safetensors file, or is cut short; {_DOWNLOAD}")
            if 8 + length > size:
                raise ConversionError(
                    f"{path}: is cut short: its header takes {8 + length:,} bytes, the file has {size:,}; {_DOWNLOAD}"
                )
            content = file.read(length)
    except OSError as error:
        raise ConversionError(f"{path}: can't be read ({error.strerror or first_line(error)})") from None
    entries = _parse(content, path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ConversionError(f"{path}: its metadata are not pairs of texts; {_DOWNLOAD}")
    tensors = [_tensor(name, entry, path, 8 + length) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.length))
    _check_bytes(tensors, path, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}, metadata


def _parse(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that a header is.

    Raises:
        ConversionError: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise ConversionError(f"{path}: its header names {clean(twice)!r} twice; {_DOWNLOAD}")
        return found

    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        if content[:1] != b"{":
            raise ValueError("it does not begin with {")
        found = json.loads(content.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: its header is no JSON object ({first_line(error)}); {_DOWNLOAD}") from None
    if not isinstance(found, dict):
        raise ConversionError(f"{path}: its header is no JSON object; {_DOWNLOAD}")
    return found


def _tensor(name: str, entry: Any, path: Path, start: int) -> StoredTensor:
    where = f"{path}: tensor {clean(name)!r}"
    if not name or not name.isprintable():  # lone surrogates are not printable either
        raise ConversionError(f"{where}: its name is empty or no printable text; save the weights under other names")
    if not isinstance(entry, dict):
        raise ConversionError(f"{where}: its entry is no JSON object; {_DOWNLOAD}")
    unknown = sorted(entry.keys() - {"dtype", "shape", "data_offsets"})
    if unknown:
        raise ConversionError(f"{where}: its entry holds the unknown {clean(unknown[0])!r}; {_DOWNLOAD}")
    dtype = entry.get("dtype")
    if dtype is None:
        raise ConversionError(f"{where}: has no dtype; {_DOWNLOAD}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ConversionError(f"{where}: has the unknown dtype {clean(dtype)!r}; save it as one of {', '.join(DTYPES)}")
    shape, offsets = _integers(entry.get("shape")), _integers(entry.get("data_offsets"))
    if shape is None or len(shape) > _MOST_AXES or any(length > _MOST_LENGTH for length in shape):
        raise ConversionError(f"{where}: its shape is missing or no list of lengths; {_DOWNLOAD}")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ConversionError(f"{where}: its data_offsets are missing or no begin and end; {_DOWNLOAD}")
    begin, end = offsets
    bits, onnx_name = DTYPES[dtype]
    needed = math.prod(shape) * bits
    if needed != 8 * (end - begin):
        raise ConversionError(
            f"{where}: {dtype} of shape {list(shape)} takes {needed / 8:,.12g} bytes, its data_offsets give "
            f"{end - begin:,}; {_DOWNLOAD}"
        )
    return StoredTensor(name, onnx_name, shape, path, start + begin, end - begin)


def _integers(value: Any) -> tuple[int, ...] | None:
    """A list of numbers that count something; None where it is none. JSON's true is no number."""
    if not isinstance(value, list) or any(type(number) is not int or number < 0 for number in value):
        return None
    return tuple(value)


def _check_bytes(tensors: list[StoredTensor], path: Path, start: int, size: int) -> None:
    """Every byte after the header belongs to one tensor.

    Raises:
        ConversionError: it does not.
    """
    end, last = start, "the header"
    for tensor in tensors:
        name = repr(clean(tensor.name))
        if tensor.offset < end:
            raise ConversionError(f"{path}: tensor {name} overlaps {last}; {_DOWNLOAD}")
        if tensor.offset > end:
            raise ConversionError(f"{path}: bytes between {last} and tensor {name} belong to no tensor; {_DOWNLOAD}")
        end, last = max(end, tensor.offset + tensor.length), f"tensor {name}"
    if end > size:
        raise ConversionError(
            f"{path}: is cut short: its tensors end at byte {end:,}, the file has {size:,}; {_DOWNLOAD}"
        )
    if end < size:
        raise ConversionError(f"{path}: {size - end:,} bytes after its last tensor belong to none; {_DOWNLOAD}")

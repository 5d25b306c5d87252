"""The header of a safetensors file: what the format's own reader takes is taken, all else refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wwonnx.converters.safetensors_header import DTYPES, StoredTensor, read_header
from wwonnx.errors import ConversionError

safetensors = pytest.importorskip("safetensors")


def file_of(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """A file with this header (an object, or the bytes themselves) and so many bytes of data."""
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(content) if length is None else length).to_bytes(8, "little") + content + bytes(data)


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(content: bytes, folder: Path) -> dict[str, StoredTensor]:
    path = folder / "w.safetensors"
    path.write_bytes(content)
    return read_header(path)[0]


def reference(content: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    """What the format's own library makes of a file; None where it refuses it."""
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {name: (about["dtype"], list(about["shape"]), bytes(about["data"])) for name, about in found}


def test_a_file_of_every_type_reads_as_the_library_reads_it(tmp_path: Path) -> None:
    header, end = {}, 0
    for dtype, (bits, _) in DTYPES.items():
        length = 8 * bits // 8
        header[f"x.{dtype}"] = entry(dtype, [2, 4], [end, end + length])
        end += length
    header["empty"] = entry("F16", [0, 3], [end, end])
    header["scalar"] = entry("F64", [], [end, end + 8])
    header["__metadata__"] = {"format": "pt"}
    content = file_of(header, end + 8)
    found = read(content, tmp_path)
    expected = reference(content)
    assert expected is not None
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        dtype, shape, data = expected[name]
        assert (DTYPES[dtype][1], list(tensor.shape)) == (tensor.dtype, shape)
        assert content[tensor.offset : tensor.offset + tensor.length] == data
    assert read_header(tmp_path / "w.safetensors")[1] == {"format": "pt"}


GOOD = {"a": entry()}
BAD = {
    "nothing at all": (b"", "no safetensors file"),
    "half a length": (b"\x10\0\0", "no safetensors file"),
    "a length beyond the format's": (file_of(GOOD, 24, length=1 << 60), "no safetensors file"),
    "a header cut short": (file_of(GOOD, 0, length=4000), "cut short"),
    "data cut short": (file_of(GOOD, 23), "cut short: its tensors end at byte"),
    "data too long": (file_of(GOOD, 25), "1 bytes after its last tensor"),
    "no JSON": (file_of(b'{"a": '), "no JSON object"),
    "a list": (file_of(b"[1]"), "no JSON object"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "no JSON object"),
    "a thousand brackets": (file_of(b'{"a":' + b"[" * 200_000 + b"}"), "no JSON object"),
    "NaN": (file_of(b'{"a": NaN}'), "NaN is no number"),
    "a number without end": (file_of(b'{"a": ' + b"1" * 5000 + b"}"), "no JSON object"),
    "a name twice": (file_of(b'{"a": 1, "b": 2, "a": 3}'), "names 'a' twice"),
    "a key twice": (file_of(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "names 'dtype' twice"),
    "metadata that are numbers": (file_of({"__metadata__": {"step": 1}}), "not pairs of texts"),
    "metadata that are a list": (file_of({"__metadata__": []}), "not pairs of texts"),
    "no name": (file_of({"": entry()}, 24), "name is empty"),
    "a name of control characters": (file_of({"a\x1b[2J": entry()}, 24), "no printable text"),
    "half a character": (file_of(b'{"\\ud800": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', 4), "no print"),
    "an entry that is a list": (file_of({"a": []}), "entry is no JSON object"),
    "a word that is none": (file_of({"a": {**entry(), "strides": [1]}}, 24), "unknown 'strides'"),
    "no dtype": (file_of({"a": {"shape": [2, 3], "data_offsets": [0, 24]}}, 24), "'a': has no dtype"),
    "an unknown dtype": (file_of({"a": entry("F12")}, 24), "unknown dtype 'F12'; save it as one of"),
    "a dtype that is a number": (file_of({"a": entry(32)}, 24), "unknown dtype '32'"),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 24]}}, 24), "shape is missing"),
    "a negative shape": (file_of({"a": entry(shape=[-2, -3])}, 24), "no list of lengths"),
    "a shape of fractions": (file_of({"a": entry(shape=[2.0, 3])}, 24), "no list of lengths"),
    "a shape of truths": (file_of({"a": entry(shape=[True], offsets=[0, 4])}, 4), "no list of lengths"),
    "a length beyond 64 bits": (file_of({"a": entry(shape=[1 << 70, 0], offsets=[0, 0])}), "no list of lengths"),
    "too many axes": (file_of({"a": entry(shape=[1] * 65, offsets=[0, 4])}, 4), "no list of lengths"),
    "offsets backwards": (file_of({"a": entry(offsets=[24, 0])}, 24), "no begin and end"),
    "three offsets": (file_of({"a": entry(offsets=[0, 12, 24])}, 24), "no begin and end"),
    "too few bytes": (file_of({"a": entry(offsets=[0, 20])}, 20), "takes 24 bytes, its data_offsets give 20"),
    "half a byte": (file_of({"a": entry("F4", [3], [0, 2])}, 2), "takes 1.5 bytes, its data_offsets give 2"),
    "an overlap": (file_of({"a": entry(), "b": entry(offsets=[20, 44])}, 44), "'b' overlaps tensor 'a'"),
    "a hole": (file_of({"a": entry(), "b": entry(offsets=[28, 52])}, 52), "between tensor 'a' and tensor 'b'"),
    "a hole at the front": (file_of({"a": entry(offsets=[4, 28])}, 28), "between the header and tensor 'a'"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_what_is_broken_is_refused_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        read(content, tmp_path)
    line = str(caught.value)
    assert message in line
    assert line.startswith(str(tmp_path / "w.safetensors"))
    assert line.isprintable()
    assert len(line) < 700


def test_nothing_but_the_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(file_of({"a": entry("BF16", [1 << 20, 1 << 20], [0, 1 << 41])}))
        file.truncate(file.tell() + (1 << 41))  # sparse: two terabytes of which the disk holds a page
    (tensor,) = read_header(path)[0].values()
    assert tensor.length == 1 << 41


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="can't be read"):
        read_header(tmp_path)
    with pytest.raises(ConversionError, match="not a regular file"):
        read_header(Path("/dev/zero"))


NUMBERS = st.one_of(st.integers(-1, 12), st.sampled_from([1 << 31, 1 << 62, 1 << 64, 1.5, True, None, "4"]))
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*DTYPES, "F12", "", 7, None]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=4), st.none(), st.just("2")),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=1, max_size=3), st.none()),
        "other": NUMBERS,
    },
)


@st.composite
def tidy(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Entries that fit each other, unless one number is moved."""
    header: dict[str, Any] = {}
    end = 0
    for index in range(draw(st.integers(0, 5))):
        dtype = draw(st.sampled_from(list(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        length = math.prod(shape) * DTYPES[dtype][0] // 8
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + length]}
        end += length
    if header and draw(st.booleans()):
        chosen = header[draw(st.sampled_from(list(header)))]["data_offsets"]
        chosen[draw(st.integers(0, 1))] += draw(st.integers(-4, 4))
    return header, end + draw(st.sampled_from([0, 0, 0, 1, -1]))


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def agree(content: bytes, folder: Path) -> None:
    """What is taken is what the library takes; what is refused is refused in one line."""
    expected = reference(content)
    try:
        found = read(content, folder)
    except ConversionError:
        return
    assert expected is not None, "the library refuses this file"
    assert {name: (list(t.shape), content[t.offset : t.offset + t.length]) for name, t in found.items()} == {
        name: (shape, data) for name, (_, shape, data) in expected.items()
    }


@FUZZ
@given(made=tidy())
def test_headers_that_fit_read_as_the_library_reads_them(made: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    header, size = made
    content = file_of(header, max(0, size))
    agree(content, tmp_path)
    if reference(content) is not None:
        read(content, tmp_path)


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), ENTRIES, max_size=4), data=st.integers(0, 64)
)
def test_headers_of_anything_are_taken_or_refused(header: dict[str, Any], data: int, tmp_path: Path) -> None:
    agree(file_of(header, data), tmp_path)


@FUZZ
@given(
    content=st.binary(max_size=80),
    cut=st.integers(0, 200),
    flips=st.dictionaries(st.integers(0, 150), st.integers(0, 255)),
)
def test_broken_bytes_are_taken_or_refused(content: bytes, cut: int, flips: dict[int, int], tmp_path: Path) -> None:
    whole = bytearray(file_of({"a": entry(), "b": entry("F16", [4], [24, 32])}, 32) if len(content) < 40 else content)
    for place, value in flips.items():
        whole[place % len(whole)] = value
    agree(bytes(whole[: max(0, len(whole) - cut // 4)]), tmp_path)

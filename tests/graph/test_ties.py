"""Weights that are stored or used several times are one layer; weights that only look alike are not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from build_models import (
    FLOAT,
    Array,
    applied,
    find,
    gaussian,
    integers,
    layer,
    layers,
    model,
    node,
    scales,
)
from onnx import ModelProto, TensorProto

from wwonnx.graph.inventory import inventory
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk
from wwonnx.layer import LAYER_TYPE

#: Below and above the 8,192 elements from which exporters leave initializers alone.
SIZES = pytest.mark.parametrize("size", [8, 100])
IDS = {"i": (TensorProto.INT64, [None])}


def language_model(tied: str, table: Array) -> ModelProto:
    """Embedding, a layer, and the output head, tied in one of the ways of exporters."""
    width = table.shape[1]
    nodes = [node("Gather", ["embed.weight", "i"], ["h0"]), node("MatMul", ["h0", "fc.weight"], ["h1"])]
    tensors = {"embed.weight": table, "fc.weight": gaussian(width, width, seed=7)}
    if tied == "initializer":
        nodes += [node("Transpose", ["embed.weight"], ["t"], perm=[1, 0]), node("MatMul", ["h1", "t"], ["y"])]
    elif tied == "gemm":
        nodes += [node("Gemm", ["h1", "embed.weight"], ["y"], transB=1)]
    elif tied == "copy":
        nodes += [node("Gemm", ["h1", "head.weight"], ["y"], transB=1)]
        tensors["head.weight"] = table.copy()
    else:
        assert tied == "transposed_copy"
        nodes += [node("MatMul", ["h1", "onnx::MatMul_13"], ["y"])]
        tensors["onnx::MatMul_13"] = np.ascontiguousarray(table.T)
    return model(nodes, tensors, IDS)


@SIZES
@pytest.mark.parametrize("tied", ["initializer", "gemm", "copy", "transposed_copy"])
def test_embedding_and_head(tied: str, size: int) -> None:
    table = gaussian(3 * size, size)
    found = layers(language_model(tied, table))
    assert list(found) == ["embed", "fc"]
    embed = found["embed"]
    assert [use.op_type for use in embed.uses] == ["Gather", "Gemm" if tied in ("gemm", "copy") else "MatMul"]
    assert embed.layer_type == LAYER_TYPE.EMBEDDING
    assert embed.layer_types == LAYER_TYPE.EMBEDDING | LAYER_TYPE.DENSE
    assert [each.layer_id for each in found.values()] == [1, 2]
    np.testing.assert_array_equal(embed.matrices()[0], table)


@pytest.mark.parametrize("tied", ["copy", "transposed_copy"])
def test_both_copies_are_in_the_inventory(tied: str) -> None:
    opened = open_model(language_model(tied, gaussian(24, 8))).model
    entries = inventory(opened, walk(opened)).entries
    assert [entry.layer_ids for entry in entries] == [(1,), (2,), (1,)]
    assert not any(entry.reason for entry in entries)


def twins(first: Array, second: Array) -> int:
    """How many layers two weights, each in a product of its own, are."""
    nodes = [node("MatMul", ["x", "a"], ["y"]), node("MatMul", ["x", "b"], ["z"])]
    kind = {"x": (FLOAT, [None, None])}
    return len(find(model(nodes, {"a": first, "b": second}, kind, ("y", "z"), opset=21)).layers)


def changed(values: Array, row: int, column: int) -> Array:
    copy = values.copy()
    copy[row, column] = np.nextafter(copy[row, column], np.float32(9))
    return copy


SQUARE = gaussian(100, 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("shape", [(7, 5), (100, 100), (1, 5)])
def test_copies(shape: tuple[int, int], dtype: type) -> None:
    values = gaussian(*shape).astype(dtype)
    assert twins(values, values.copy()) == 1
    assert twins(values, np.ascontiguousarray(values.T)) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(SQUARE, changed(SQUARE, 57, 3), id="one_bit"),
        pytest.param(SQUARE, changed(SQUARE, 99, 99), id="the_last_value"),
        pytest.param(SQUARE, SQUARE[::-1], id="reversed"),
        pytest.param(SQUARE, -SQUARE, id="negated"),
        pytest.param(SQUARE, np.diag(np.diag(SQUARE)), id="equal_diagonals"),
        pytest.param(gaussian(6, 4), gaussian(6, 4).reshape(4, 6), id="other_shape"),
        pytest.param(
            gaussian(7, 5).astype(np.float16).astype(np.float32), gaussian(7, 5).astype(np.float16), id="half"
        ),
        pytest.param(
            gaussian(7, 5).astype(np.float16), gaussian(7, 5).astype(np.float16).astype(np.float64), id="double"
        ),
        pytest.param(np.full((2, 5), 0, np.float32), np.full((2, 5), 1, np.float32), id="zeros_and_ones"),
    ],
)
def test_what_only_looks_alike(first: Array, second: Array) -> None:
    assert twins(first, second) == 2


def test_three_copies_and_another() -> None:
    weights = {"a": gaussian(8, 8), "b": gaussian(8, 8, seed=1), "c": gaussian(8, 8), "d": gaussian(8, 8).T}
    names = ["x", "h0", "h1", "h2", "y"]
    nodes = [node("MatMul", [names[i], name], [names[i + 1]], name=f"n{i}") for i, name in enumerate(weights)]
    found = layers(model(nodes, weights, {"x": (FLOAT, [None, 8])}))
    assert {name: [use.node for use in each.uses] for name, each in found.items()} == {
        "a": ["n0", "n2", "n3"],
        "b": ["n1"],
    }


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("special", [np.nan, np.inf, -0.0])
def test_copies_with_special_values_lose_no_use(special: float, everywhere: bool) -> None:
    values = gaussian(8, 8)
    values[slice(None) if everywhere else 3] = special
    nodes = [node("MatMul", ["x", "a"], ["y"]), node("MatMul", ["x", "b"], ["z"])]
    found = find(model(nodes, {"a": values, "b": values.copy()}, {"x": (FLOAT, [None, 8])}, ("y", "z")))
    assert sum(len(each.uses) for each in found.layers) == 2
    if not np.isnan(special):
        assert len(found.layers) == 1


def test_large_uniform_tensors_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked or untrained weights: a look at all of their values would tell nothing."""
    monkeypatch.setattr("wwonnx.graph.ties._equal", lambda *_: pytest.fail("they were compared"))
    zeros = np.zeros((2049, 2049), np.float16)
    assert twins(zeros, zeros) == 2


def test_large_tensors_that_differ_are_told_apart_by_a_few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wwonnx.graph.ties._equal", lambda *_: pytest.fail("they were compared"))
    assert twins(gaussian(300, 300), gaussian(300, 300, seed=1)) == 2


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (48, 48, 3, 3), (6, 4, 5), (6, 1, 3, 3)])
def test_copies_of_convolutions(shape: tuple[int, ...]) -> None:
    kernel, group = gaussian(*shape), shape[0] if shape[1] == 1 else 1
    kind = {"x": (FLOAT, [None] * len(shape))}
    nodes = [node("Conv", ["x", name], [f"y{name}"], group=group) for name in "abc"]
    tensors = {"a": kernel, "b": kernel.copy(), "c": gaussian(*shape, seed=1)}
    found = layers(model(nodes, tensors, kind, ("ya", "yb", "yc")))
    assert {name: len(each.uses) for name, each in found.items()} == {"a": 2, "c": 1}


def test_kernels_turned_round_are_other_kernels() -> None:
    kernel = gaussian(6, 6, 3)
    nodes = [node("Conv", ["x", name], [f"y{name}"]) for name in "abc"]
    tensors = {"a": kernel, "b": kernel[:, :, ::-1], "c": kernel.transpose(1, 0, 2)}
    assert len(layers(model(nodes, tensors, {"x": (FLOAT, [None] * 3)}, ("ya", "yb", "yc")))) == 3


def test_a_convolution_and_a_matrix_are_two() -> None:
    nodes = [node("Conv", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    tensors = {"a": gaussian(6, 4, 1, 1), "b": gaussian(6, 4)}
    assert len(layers(model(nodes, tensors, {"x": (FLOAT, [None] * 4)}))) == 2


def test_one_kernel_of_two_convolutions_of_other_groups() -> None:
    """One tensor read in two ways is two maps."""
    nodes = [node("Conv", ["x", "w"], ["y"], group=1), node("Conv", ["z", "w"], ["u"], group=2)]
    kind = {"x": (FLOAT, [None] * 3), "z": (FLOAT, [None] * 3)}
    proto = model(nodes, {"w": gaussian(6, 4, 3)}, kind, ("y", "u"))
    assert len(find(proto).layers) in (1, 2)
    assert sum(len(each.uses) for each in find(proto).layers) == 2
    assert len(find(proto, groups=True).layers) == 2


def test_equal_codes_of_unequal_scales_are_two() -> None:
    codes = integers(8, 8)
    nodes = [node("DequantizeLinear", [f"q{name}", f"s{name}"], [name]) for name in "abc"]
    nodes += [node("MatMul", ["x", name], [f"y{name}"]) for name in "abc"]
    tensors = {"qa": codes, "qb": codes.copy(), "qc": codes.copy(), "sa": scales(), "sb": 2 * scales(), "sc": scales()}
    found = layers(model(nodes, tensors, {"x": (FLOAT, [None, 8])}, ("ya", "yb", "yc")))
    assert {name: len(each.uses) for name, each in found.items()} == {"qa": 2, "qb": 1}


def test_one_expression_in_two_places_is_one() -> None:
    """Exporters repeat the nodes that make a shared weight."""
    nodes = []
    for index in range(2):
        nodes += [
            node("Mul", ["v", "s"], [f"m{index}"]),
            node("Transpose", [f"m{index}"], [f"t{index}"], perm=[1, 0]),
            node("MatMul", ["x", f"t{index}"], [f"y{index}"]),
        ]
    proto = model(nodes, {"v": gaussian(8, 8), "s": scales(8, 1)}, {"x": (FLOAT, [None, 8])}, ("y0", "y1"))
    assert len(layer(proto).uses) == 2


def test_parts_of_one_tensor_are_layers_of_their_own() -> None:
    nodes = [node("Split", ["w"], ["a", "b"], axis=1, num_outputs=2)]
    nodes += [node("MatMul", ["x", name], [f"y{name}"]) for name in "ab"]
    proto = model(nodes, {"w": gaussian(8, 12)}, {"x": (FLOAT, [None, 8])}, ("ya", "yb"))
    found = find(proto).layers
    assert [each.shape for each in found] == [(8, 6), (8, 6)]
    assert len({each.name for each in found}) == 2


def test_a_weight_that_cannot_be_read_is_a_layer_still() -> None:
    proto = applied([], {"w": gaussian(8, 8)})
    proto.graph.initializer[0].raw_data = b"too short"
    proto.graph.initializer.append(proto.graph.initializer[0])
    proto.graph.initializer[1].name = "v"
    proto.graph.node.append(node("MatMul", ["y", "v"], ["z"]))
    assert len(find(proto).layers) == 2

"""Smoothed models: every way in which a weight may be stored, and onnxruntime's word for what became of it."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from build_models import (
    FLOAT,
    MICROSOFT,
    ML,
    Array,
    gaussian,
    integers,
    layers,
    model,
    node,
    run,
    scales,
    subgraph,
    value,
)
from build_onnx import save
from onnx import TensorProto, helper, numpy_helper

import wwonnx as ww
from wwonnx import smoothing
from wwonnx.cli import main as command_line
from wwonnx.errors import ModelError, OptionError
from wwonnx.graph import save as saving
from wwonnx.graph.walk import Found
from wwonnx.smoothing import SmoothedLayer, SmoothingResult, sharpen, smooth
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.marchenko_pastur import fit_marchenko_pastur
from wwonnx.spectral.randomize import permuted

INT = TensorProto.INT64
ANY = (None, None)


def check(proto: onnx.ModelProto) -> None:
    """The checker's word; it wants a shape of every output."""
    typed = onnx.ModelProto()
    typed.CopyFrom(proto)
    for output in typed.graph.output:
        output.type.tensor_type.elem_type = output.type.tensor_type.elem_type or FLOAT
    typed = onnx.shape_inference.infer_shapes(typed)
    for output in typed.graph.output:
        output.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(typed)


def truncated(weight: Array, axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], k: int) -> Array:
    """Each matrix of a weight cut down to rank k by numpy's SVD; axes that count matrices, rows and columns."""
    order = [axis for some in axes for axis in some]
    sizes = [int(np.prod([weight.shape[axis] for axis in some])) for some in axes]
    stack = weight.transpose(order).reshape(sizes).astype(np.float64)
    u, s, vt = np.linalg.svd(stack, full_matrices=False)
    s[:, k:] = 0.0
    cut = ((u * s[:, None]) @ vt).reshape([weight.shape[axis] for axis in order]).transpose(np.argsort(order))
    return cut.astype(weight.dtype)


MATRIX = ((), (0,), (1,))
KERNEL = ((2, 3), (0,), (1,))


@dataclass(frozen=True)
class Case:
    """A model made from one weight, and what to feed it.

    Attributes:
        build: makes the model.
        shape: of the weight.
        axes: of the weight that count matrices, rows and columns.
        factored: whether it can be two products.
        same: whether the weight is stored as it is and nothing but its values should change.
    """

    build: Callable[[Array], onnx.ModelProto]
    shape: tuple[int, ...]
    feeds: dict[str, Array]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = MATRIX
    factored: bool = False
    same: bool = True


def one(
    op_type: str, inputs: list[str], x: Any = (FLOAT, ANY), **attributes: Any
) -> Callable[[Array], onnx.ModelProto]:
    """A model of one node."""
    tensors = {"b": gaussian(24, seed=8), "w.zeros": np.zeros((2, 96), np.float32)}

    def build(weight: Array) -> onnx.ModelProto:
        named = {name: tensors[name] for name in inputs if name in tensors}
        only = node(op_type, inputs, ["y"], name="only", **attributes)
        return model([only], {"fc.weight": weight, **named}, {"x": x})

    return build


def expression(nodes: list[onnx.NodeProto], **tensors: Array) -> Callable[[Array], onnx.ModelProto]:
    """A product by a constant expression of the weight, `w`."""

    def build(weight: Array) -> onnx.ModelProto:
        product = node("MatMul", ["x", "w"], ["y"], name="only")
        return model([*nodes, product], {"fc.weight": weight, **tensors}, {"x": (FLOAT, ANY)})

    return build


def tied(weight: Array) -> onnx.ModelProto:
    """An embedding whose table is the head as well."""
    nodes = [
        node("Gather", ["fc.weight", "x"], ["h"], name="embed"),
        node("Transpose", ["fc.weight"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"], name="head"),
    ]
    return model(nodes, {"fc.weight": weight}, {"x": (INT, [None])})


def tied_copies(weight: Array) -> onnx.ModelProto:
    """The same, as exporters write it that fold the Transpose."""
    nodes = [node("Gather", ["fc.weight", "x"], ["h"]), node("MatMul", ["h", "head"], ["y"])]
    return model(nodes, {"fc.weight": weight, "head": weight.T}, {"x": (INT, [None])})


def tied_square_copies(weight: Array) -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "head"], ["h"]), node("MatMul", ["h", "fc.weight"], ["y"])]
    return model(nodes, {"fc.weight": weight, "head": weight.T}, {"x": (FLOAT, ANY)})


def constant_node(weight: Array) -> onnx.ModelProto:
    stored = node("Constant", [], ["w"], value=numpy_helper.from_array(weight), name="stored")
    return model([stored, node("MatMul", ["x", "w"], ["y"])], {}, {"x": (FLOAT, ANY)})


def constant_floats(weight: Array) -> onnx.ModelProto:
    """A Constant node's list, reshaped."""
    nodes = [
        node("Constant", [], ["flat"], value_floats=weight.reshape(-1).tolist()),
        node("Constant", [], ["shape"], value_ints=list(weight.shape)),
        node("Reshape", ["flat", "shape"], ["w"]),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    return model(nodes, {}, {"x": (FLOAT, ANY)})


def in_branch(weight: Array) -> onnx.ModelProto:
    """An initializer of a subgraph."""
    product = node("MatMul", ["x", "fc.weight"], ["inner"], name="only")
    then = subgraph([product], {"inner": (FLOAT, ANY)}, tensors={"fc.weight": weight})
    otherwise = subgraph([node("MatMul", ["x", "other"], ["else"])], {"else": (FLOAT, ANY)})
    choice = node("If", ["yes"], ["y"], then_branch=then, else_branch=otherwise)
    tensors = {"yes": np.array(True), "other": np.zeros(weight.shape, np.float32)}
    return model([choice], tensors, {"x": (FLOAT, ANY)})


def loop_carried(weight: Array) -> onnx.ModelProto:
    """A weight that a loop passes on unchanged, as Keras' torch backend writes its recurrent layers."""
    body = subgraph(
        [
            node("Identity", ["go"], ["going"]),
            node("Identity", ["w"], ["w_out"]),
            node("MatMul", ["h", "w"], ["h_out"], name="only"),
        ],
        {"going": (TensorProto.BOOL, []), "w_out": (FLOAT, weight.shape), "h_out": (FLOAT, ANY)},
        {"i": (INT, []), "go": (TensorProto.BOOL, []), "w": (FLOAT, weight.shape), "h": (FLOAT, ANY)},
    )
    loop = node("Loop", ["times", "yes", "fc.weight", "x"], ["unused", "y"], body=body)
    tensors = {"times": np.array(2), "yes": np.array(True), "fc.weight": weight}
    return model([loop], tensors, {"x": (FLOAT, ANY)})


def function(weight: Array) -> onnx.ModelProto:
    body = helper.make_function(
        "local", "Linear", ["a", "w"], ["r"], [node("MatMul", ["a", "w"], ["r"])], [helper.make_opsetid("", 20)]
    )
    call = node("Linear", ["x", "fc.weight"], ["y"], domain="local")
    return model([call], {"fc.weight": weight}, {"x": (FLOAT, ANY)}, functions=[body])


def read_otherwise(weight: Array) -> onnx.ModelProto:
    """A weight that is added to an activation too, and that sum is no linear map of anything."""
    nodes = [node("MatMul", ["x", "fc.weight"], ["h"], name="only"), node("Add", ["h", "fc.weight"], ["y"])]
    return model(nodes, {"fc.weight": weight}, {"x": (FLOAT, ANY)})


ROWS, TOKENS = gaussian(5, 40, seed=1), np.array([0, 39, 7], dtype=np.int64)
LEFT, WIDE = gaussian(24, 5, seed=2), gaussian(5, 24, seed=3)
IMAGE = gaussian(2, 12, 6, 6, seed=4)

CASES: dict[str, Case] = {
    "gemm": Case(one("Gemm", ["x", "fc.weight", "b"]), (40, 24), {"x": ROWS}, factored=True),
    "gemm_transB": Case(
        one("Gemm", ["x", "fc.weight", "b"], transB=1, alpha=0.5, beta=2.0), (24, 40), {"x": ROWS}, factored=True
    ),
    "gemm_transA": Case(one("Gemm", ["x", "fc.weight"], transA=1), (40, 24), {"x": ROWS.T}),
    "gemm_left": Case(one("Gemm", ["fc.weight", "x"]), (40, 24), {"x": LEFT}, factored=True),
    "gemm_left_transA": Case(one("Gemm", ["fc.weight", "x"], transA=1), (24, 40), {"x": LEFT}, factored=True),
    "gemm_left_transB": Case(one("Gemm", ["fc.weight", "x"], transB=1), (40, 24), {"x": WIDE}),
    "matmul": Case(one("MatMul", ["x", "fc.weight"]), (40, 24), {"x": ROWS}, factored=True),
    "matmul_left": Case(one("MatMul", ["fc.weight", "x"]), (40, 24), {"x": LEFT}, factored=True),
    "matmul_batched": Case(
        one("MatMul", ["x", "fc.weight"], (FLOAT, [None] * 3)), (40, 24), {"x": ROWS[None]}, factored=True
    ),
    "experts": Case(
        one("MatMul", ["x", "fc.weight"], (FLOAT, [None] * 3)), (3, 40, 24), {"x": ROWS[None]}, ((0,), (1,), (2,))
    ),
    "einsum": Case(
        one("Einsum", ["x", "fc.weight"], equation="bi,hio->bho"), (4, 40, 24), {"x": ROWS}, ((), (0, 2), (1,))
    ),
    "conv2d": Case(one("Conv", ["x", "fc.weight", "b"], (FLOAT, [None] * 4)), (24, 12, 3, 3), {"x": IMAGE}, KERNEL),
    "conv2d_grouped": Case(
        one("Conv", ["x", "fc.weight"], (FLOAT, [None] * 4), group=2), (16, 6, 3, 2), {"x": IMAGE}, KERNEL
    ),
    "conv1d": Case(
        one("Conv", ["x", "fc.weight"], (FLOAT, [None] * 3)), (16, 12, 5), {"x": IMAGE[..., 0]}, ((2,), (0,), (1,))
    ),
    "conv3d": Case(
        one("Conv", ["x", "fc.weight"], (FLOAT, [None] * 5)),
        (16, 12, 2, 3, 2),
        {"x": IMAGE[..., None].repeat(3, 4)},
        ((2, 3, 4), (0,), (1,)),
    ),
    "conv_transpose": Case(
        one("ConvTranspose", ["x", "fc.weight"], (FLOAT, [None] * 4)), (12, 20, 3, 3), {"x": IMAGE}, KERNEL
    ),
    "gather": Case(one("Gather", ["fc.weight", "x"], (INT, [None])), (40, 24), {"x": TOKENS}),
    "lstm": Case(
        one("LSTM", ["x", "fc.weight", "r"], (FLOAT, [None] * 3), hidden_size=9, direction="bidirectional"),
        (2, 36, 40),
        {"x": ROWS[:, None]},
        ((0,), (1,), (2,)),
    ),
    "tied": Case(tied, (40, 24), {"x": TOKENS}),
    "tied_copies": Case(tied_copies, (40, 24), {"x": TOKENS}),
    "tied_square_copies": Case(tied_square_copies, (40, 40), {"x": ROWS}, factored=True),
    "constant": Case(constant_node, (40, 24), {"x": ROWS}, factored=True),
    "constant_floats": Case(constant_floats, (40, 24), {"x": ROWS}, factored=True, same=False),
    "branch": Case(in_branch, (40, 24), {"x": ROWS}, factored=True),
    "loop": Case(loop_carried, (40, 40), {"x": ROWS}, factored=True, same=False),
    "function": Case(function, (40, 24), {"x": ROWS}, factored=True, same=False),
    "transposed": Case(
        expression([node("Transpose", ["fc.weight"], ["w"], perm=[1, 0])]), (24, 40), {"x": ROWS}, factored=True
    ),
    "rearranged": Case(
        expression(
            [
                node("Identity", ["fc.weight"], ["i"]),
                node("Unsqueeze", ["i", "first"], ["u"]),
                node("Transpose", ["u"], ["t"], perm=[0, 2, 1]),
                node("Squeeze", ["t", "first"], ["w"]),
            ],
            first=np.array([0]),
        ),
        (24, 40),
        {"x": ROWS},
        factored=True,
    ),
    "copied": Case(  # no view of a transpose has this shape
        expression(
            [
                node("Transpose", ["fc.weight"], ["t"], perm=[1, 0, 2]),
                node("Reshape", ["t", "shape"], ["w"]),
            ],
            shape=np.array([40, 24]),
        ),
        (4, 40, 6),
        {"x": ROWS},
        ((), (1,), (0, 2)),
        factored=True,
        same=False,
    ),
    "scaled": Case(
        expression([node("Mul", ["fc.weight", "two"], ["w"])], two=np.array(2.0, np.float32)),
        (40, 24),
        {"x": ROWS},
        factored=True,
        same=False,
    ),
    "read_otherwise": Case(read_otherwise, (40, 40), {"x": gaussian(40, 40)}, same=False),
}


def built(case: Case, weight: Array) -> onnx.ModelProto:
    """The model; those of LSTMs have a recurrent weight that no test asks for."""
    proto = case.build(weight)
    if proto.graph.node[0].op_type == "LSTM":
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 36, 9), np.float32), "r"))
    return proto


def smoothed_rows(result: SmoothingResult) -> list[SmoothedLayer]:
    return [row for row in result.layers if row.changed]


@pytest.mark.parametrize("name", CASES)
def test_the_new_model_computes_with_truncated_weights(name: str) -> None:
    case = CASES[name]
    weight = gaussian(*case.shape, seed=7)
    given = built(case, weight)
    before = given.SerializeToString()
    result = smooth(given, method="svd", percent=0.3)
    assert given.SerializeToString() == before
    rows = smoothed_rows(result)
    assert rows
    assert all(row.status == "smoothed" for row in rows)
    check(result.model)
    if name == "read_otherwise":
        x = case.feeds["x"]
        expected = x @ truncated(weight, MATRIX, int(rows[0].rank)) + weight
    else:
        expected = run(built(case, truncated(weight, case.axes, int(rows[0].rank))), **case.feeds)
    np.testing.assert_allclose(run(result.model, **case.feeds), expected, atol=2e-5 * np.abs(expected).max())
    assert not np.allclose(expected, run(given, **case.feeds), atol=1e-2)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.same])
def test_nothing_but_the_weights_values_changes(name: str) -> None:
    given = built(CASES[name], gaussian(*CASES[name].shape, seed=7))
    for index, each in enumerate(given.graph.node):
        each.metadata_props.add(key="scope", value=f"net.{index}")
        each.doc_string = f"node {index}"
    given.metadata_props.add(key="author", value="someone")
    given.producer_name = "an exporter"
    changed = smooth(given, method="svd", percent=0.3).model

    def without_values(proto: onnx.ModelProto) -> Any:
        copy = ir.to_proto(ir.from_proto(proto))
        for tensor in tensors(copy):
            del tensor.float_data[:]
            tensor.raw_data = b""
        return copy

    assert without_values(changed) == without_values(given)


def tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, those of subgraphs and Constant nodes among them."""
    waiting = [proto.graph]
    while waiting:
        graph = waiting.pop()
        yield from graph.initializer
        for each in graph.node:
            yield from (attribute.t for attribute in each.attribute if attribute.HasField("t"))
            waiting += [attribute.g for attribute in each.attribute if attribute.HasField("g")]


def stored_numbers(proto: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in tensors(proto) if tensor.data_type == FLOAT)


@pytest.mark.parametrize("name", CASES)
def test_factors_compute_the_same_with_fewer_numbers(name: str) -> None:
    case = CASES[name]
    given = built(case, gaussian(*case.shape, seed=7))
    whole, split = (smooth(given, method="svd", percent=0.3, factor=factor) for factor in (False, True))
    check(split.model)
    expected = run(whole.model, **case.feeds)
    np.testing.assert_allclose(run(split.model, **case.feeds), expected, atol=2e-5 * np.abs(expected).max())
    rows = smoothed_rows(split)
    for row, unsplit in zip(rows, smoothed_rows(whole), strict=True):
        assert row.change == pytest.approx(unsplit.change, rel=1e-5)
    if not case.factored:
        if name != "read_otherwise":
            assert {row.status for row in rows} == {"smoothed"}
            assert all(row.reason.startswith("not factored: ") for row in rows)
            assert split.model == whole.model
        return
    outputs, inputs = layers(given)[rows[0].name].matrix_shape[1:]
    assert rows[0].status == "factored"
    assert rows[0].parameters_after == rows[0].rank * (outputs + inputs) < rows[0].parameters
    assert stored_numbers(split.model) < stored_numbers(whole.model)


def test_a_weight_that_something_else_reads_is_left_to_it() -> None:
    weight = gaussian(40, 40, seed=7)
    result = smooth(read_otherwise(weight), method="svd", percent=0.3, factor=True)
    (row,) = result.layers
    assert row.status == "factored"
    assert [tensor.name for tensor in result.model.graph.initializer] == ["fc.weight", "fc.A.weight", "fc.B.weight"]
    np.testing.assert_array_equal(numpy_helper.to_array(result.model.graph.initializer[0]), weight)


def test_factors_are_layers_of_their_own_and_keep_the_scope() -> None:
    given = CASES["gemm_transB"].build(gaussian(24, 40))
    given.graph.node[0].metadata_props.add(key="scope", value="net")
    changed = smooth(given, method="svd", percent=0.3, factor=True).model
    assert [each.name for each in changed.graph.node] == ["only_low_rank", "only"]
    assert all(each.metadata_props[0].value == "net" for each in changed.graph.node)
    assert {name: each.matrix_shape for name, each in layers(changed).items()} == {
        "fc.A": (1, 7, 40),
        "fc.B": (1, 24, 7),
    }


def test_tied_uses_stay_tied() -> None:
    for build, stored in ((tied, 1), (tied_copies, 2)):
        changed = smooth(build(gaussian(40, 24)), method="svd", percent=0.3).model
        assert len(changed.graph.initializer) == stored
        (only,) = layers(changed).values()
        assert [use.op_type for use in only.uses] == ["Gather", "MatMul"]


def test_an_expression_gives_way_to_its_value() -> None:
    """A LoRA update merged into its layer: what nothing reads any more goes, the name stays."""
    nodes = [node("MatMul", ["down", "up"], ["delta"]), node("Add", ["fc.weight", "delta"], ["w"])]
    case = expression(nodes, down=gaussian(40, 2), up=gaussian(2, 24))
    given = case(gaussian(40, 24))
    changed = smooth(given, method="svd", percent=0.3).model
    assert [tensor.name for tensor in changed.graph.initializer] == ["fc.weight"]
    assert [each.op_type for each in changed.graph.node] == ["MatMul"]
    assert list(layers(changed)) == list(layers(given)) == ["fc"]


PACKED_PARTS = {"q": (0, 12), "k": (12, 24), "v": (24, 36)}


def packed(weight: Array) -> onnx.ModelProto:
    """Three projections out of one tensor."""
    nodes = [node("Split", ["fc.weight", "sizes"], [f"w_{name}" for name in PACKED_PARTS], axis=1)]
    nodes += [node("MatMul", ["x", f"w_{name}"], [f"y_{name}"], name=name) for name in PACKED_PARTS]
    nodes.append(node("Concat", [f"y_{name}" for name in PACKED_PARTS], ["y"], axis=1))
    return model(nodes, {"fc.weight": weight, "sizes": np.array([12, 12, 12])}, {"x": (FLOAT, ANY)})


@pytest.mark.parametrize("chosen", [[1], [2], [1, 3], [1, 2, 3]])
def test_parts_of_a_tensor_change_one_by_one(chosen: list[int]) -> None:
    weight = gaussian(40, 36)
    result = smooth(packed(weight), layers=chosen, method="svd", percent=0.5)
    assert [row.layer_id for row in result.layers] == chosen
    expected = weight.copy()
    for layer_id in chosen:
        part = slice(*list(PACKED_PARTS.values())[layer_id - 1])
        expected[:, part] = truncated(weight[:, part], MATRIX, 6)
    (stored,) = (tensor for tensor in result.model.graph.initializer if tensor.name == "fc.weight")
    np.testing.assert_allclose(numpy_helper.to_array(stored), expected, atol=1e-5)


def test_parts_that_overlap_get_tensors_of_their_own() -> None:
    weight = gaussian(40, 24)
    nodes = [
        node("Slice", ["fc.weight", "zero", "twelve", "one"], ["half"]),
        node("MatMul", ["x", "fc.weight"], ["whole"]),
        node("MatMul", ["x", "half"], ["part"]),
        node("Concat", ["whole", "part"], ["y"], axis=1),
    ]
    tensors = {"fc.weight": weight, "zero": np.array([0]), "twelve": np.array([12]), "one": np.array([1])}
    given = model(nodes, tensors, {"x": (FLOAT, ANY)})
    result = smooth(given, method="svd", percent=0.5)
    assert [row.status for row in result.layers] == ["smoothed"] * 2
    expected = [ROWS @ truncated(weight, MATRIX, 12), ROWS @ truncated(weight[:, :12], MATRIX, 6)]
    np.testing.assert_allclose(run(result.model, x=ROWS), np.hstack(expected), atol=1e-4)
    alone = smooth(given, layers=2, method="svd", percent=0.5).model
    np.testing.assert_allclose(run(alone, x=ROWS), np.hstack([ROWS @ weight, expected[1]]), atol=1e-4)


def test_one_direction_of_an_lstm_alone() -> None:
    case = CASES["lstm"]
    weight = gaussian(*case.shape)
    result = smooth(built(case, weight), layers=2, method="svd", percent=0.25)
    stored = numpy_helper.to_array(next(t for t in result.model.graph.initializer if t.name == "fc.weight"))
    np.testing.assert_array_equal(stored[0], weight[0])
    np.testing.assert_allclose(stored[1], truncated(weight[1], MATRIX, 9), atol=1e-5)


def test_a_weight_in_half_precision_that_is_cast_keeps_its_type() -> None:
    weight = gaussian(40, 24, dtype=np.float16)
    nodes = [node("Cast", ["fc.weight"], ["w"], to=FLOAT)]
    changed = smooth(expression(nodes)(weight), method="svd", percent=0.25).model
    stored = numpy_helper.to_array(changed.graph.initializer[0])
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, truncated(weight, MATRIX, 6), atol=4e-3)
    narrowed = [node("Cast", ["fc.weight"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["w"], to=FLOAT)]
    changed = smooth(expression(narrowed)(gaussian(40, 24)), method="svd", percent=0.25).model
    assert [tensor.data_type for tensor in changed.graph.initializer] == [FLOAT]
    assert run(changed, x=ROWS).shape == (5, 24)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_every_floating_point_type_stays_what_it_is(dtype: Any, tmp_path: Path) -> None:
    weight = gaussian(40, 24).astype(dtype)
    given = CASES["matmul"].build(weight)
    eps = float(ml_dtypes.finfo(dtype).eps)
    in_memory = smooth(given, method="svd", percent=0.25)
    assert in_memory.model.graph.initializer[0].data_type == given.graph.initializer[0].data_type
    save(given, tmp_path / "given.onnx", external=True)
    for factor in (False, True):
        written = smooth(
            tmp_path / "given.onnx", method="svd", percent=0.25, factor=factor, output=tmp_path / "new.onnx"
        )
        (row,) = written.layers
        assert row.change == pytest.approx(in_memory.layers[0].change, rel=20 * eps)
        found = [np.array(each.matrices()[0]) for each in layers(tmp_path / "new.onnx").values()]
        assert all(array.dtype == dtype for array in found)
        product = np.linalg.multi_dot([array.astype(np.float64).T for array in found]) if factor else found[0].T
        expected = truncated(weight.astype(np.float64), MATRIX, 6)
        np.testing.assert_allclose(product.astype(np.float64), expected, atol=20 * eps)


def test_a_sparse_weight_is_written_out() -> None:
    """Dropping triplets fills the zeros."""
    weight = np.where(gaussian(40, 24) > 1.0, gaussian(40, 24), np.float32(0.0))
    given = model([node("MatMul", ["x", "fc.weight"], ["y"])], {}, {"x": (FLOAT, ANY)})
    where = np.flatnonzero(weight).astype(np.int64)
    values = numpy_helper.from_array(weight.reshape(-1)[where], "fc.weight")
    given.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(where), [40, 24]))
    changed = smooth(given, method="svd", percent=0.25).model
    np.testing.assert_allclose(
        numpy_helper.to_array(changed.graph.initializer[0]), truncated(weight, MATRIX, 6), atol=1e-5
    )


def test_a_weight_that_is_an_output_too_is_left_there() -> None:
    given = model([node("MatMul", ["x", "fc.weight"], ["y"])], {"fc.weight": gaussian(40, 24)}, {"x": (FLOAT, ANY)})
    given.graph.output.append(value("fc.weight", (FLOAT, [40, 24])))
    changed = smooth(given, method="svd", percent=0.3).model
    assert [tensor.name for tensor in changed.graph.initializer] == ["fc.weight", "fc_2.weight"]
    assert changed.graph.initializer[0] == given.graph.initializer[0]


@pytest.mark.parametrize("version", [3, 8])
def test_initializers_that_are_inputs(version: int) -> None:
    """Before version 4 of the IR all of them are; since then those that may be overridden."""
    nodes = [node("Add", ["fc.weight", "fc.weight"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    inputs = {"x": (FLOAT, [5, 40]), "fc.weight": (FLOAT, [40, 24])}
    given = model(nodes, {"fc.weight": gaussian(40, 24)}, inputs, {"y": (FLOAT, [5, 24])}, opset=8, ir_version=version)
    changed = smooth(given, method="svd", percent=0.3).model
    onnx.checker.check_model(changed, full_check=True)
    kept = ["fc.weight"] if version == 3 else ["fc.weight", "fc_2.weight"]
    assert [tensor.name for tensor in changed.graph.initializer] == kept
    assert [each.name for each in changed.graph.input] == ["x", "fc.weight"]
    expected = ROWS @ truncated(2 * gaussian(40, 24), MATRIX, 7)
    np.testing.assert_allclose(run(changed, x=ROWS), expected, atol=1e-4)


def test_types_that_onnx_ir_does_not_know_do_no_harm() -> None:
    """scikit-learn's classifiers give maps."""
    nodes = [
        node("MatMul", ["x", "fc.weight"], ["h"]),
        node("ZipMap", ["h"], ["y"], domain=ML, classlabels_int64s=list(range(24))),
    ]
    given = model(nodes, {"fc.weight": gaussian(40, 24)}, {"x": (FLOAT, ANY)})
    scores = helper.make_map_type_proto(INT, helper.make_tensor_type_proto(FLOAT, []))
    given.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(scores))
    before = given.SerializeToString()
    changed = smooth(given, method="svd", percent=0.3).model
    assert given.SerializeToString() == before
    expected = ROWS[0] @ truncated(gaussian(40, 24), MATRIX, 7)
    np.testing.assert_allclose(list(run(changed, x=ROWS)[0].values()), expected, atol=1e-4)


# --- what can't be ---


def refused(given: onnx.ModelProto) -> str:
    """Why the only layer of a model is left as it is; that the model is too is checked."""
    result = smooth(given, method="svd", percent=0.3)
    (row,) = result.layers
    assert row.status == "refused"
    assert (row.change, row.parameters_after) == (0.0, row.parameters)
    assert ir.to_proto(ir.from_proto(given)) == result.model
    return row.reason


def test_quantised_weights_are_refused() -> None:
    codes, scale = integers(40, 24), scales(24)
    dequantize = node("DequantizeLinear", ["fc.weight", "scale"], ["w"], axis=1, name="dq")
    reason = refused(expression([dequantize], scale=scale)(codes))
    assert "quantised (int8, DequantizeLinear 'dq')" in reason
    assert "smooth the float model" in reason
    fake = [
        node("QuantizeLinear", ["fc.weight", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
    ]
    given = expression(fake, scale=np.array(0.1, np.float32), zero=np.array(0, np.int8))(gaussian(40, 24))
    assert "quantised (float, DequantizeLinear)" in refused(given)
    packed_codes = {"w": integers(24, 2, 16, dtype=np.uint8), "s": scales(48)}
    bits = node("MatMulNBits", ["x", "w", "s"], ["y"], MICROSOFT, K=40, N=24, bits=4, block_size=32)
    assert "quantised (uint8)" in refused(model([bits], packed_codes, {"x": (FLOAT, ANY)}))
    product = node("MatMulIntegerToFloat", ["x", "w", "a", "s"], ["y"], MICROSOFT)
    tensors = {"w": codes, "a": np.array(0.1, np.float32), "s": scale}
    assert "quantised (int8)" in refused(model([product], tensors, {"x": (TensorProto.INT8, ANY)}))


def test_places_that_turn_out_to_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to a place on the word of the walk alone."""
    monkeypatch.setattr(Found, "identity", property(lambda found: found.shape))
    weights = {"a": gaussian(40, 40), "b": gaussian(40, 40, seed=1)}
    nodes = [node("MatMul", ["x", "a"], ["h"], name="one"), node("MatMul", ["h", "b"], ["y"], name="two")]
    assert refused(model(nodes, weights, {"x": (FLOAT, ANY)})) == "MatMul 'two' reads other values than MatMul 'one'"


def test_coefficients_in_attributes_are_refused() -> None:
    coefficients = gaussian(9 * 12).tolist()
    linear = node("LinearRegressor", ["x"], ["y"], ML, coefficients=coefficients, targets=9, name="regressor")
    assert (
        refused(model([linear], {}, {"x": (FLOAT, ANY)}))
        == "its values are in an attribute of ai.onnx.ml.LinearRegressor 'regressor'"
    )


def test_weights_that_are_no_layers_are_listed() -> None:
    """Codes without a scale."""
    product = node("MatMulInteger", ["x", "w"], ["y"])
    given = model([product], {"w": integers(40, 24)}, {"x": (TensorProto.INT8, ANY)})
    (row,) = smooth(given).layers
    assert (row.layer_id, row.status) == (None, "refused")
    assert row.reason.startswith("no layer: elements are int8")
    assert smooth(given).table["layer_id"].isna().all()


def row_of(weight: Array, **options: Any) -> SmoothedLayer:
    (row,) = smooth(CASES["matmul"].build(weight), **options).layers
    return row


def test_layers_that_stay_say_why() -> None:
    broken = gaussian(40, 24)
    broken[3, 4] = np.nan
    for method in ("detX", "svd"):
        row = row_of(broken, method=method, percent=0.5)
        assert row.status == "failed"
        assert "NaN" in row.reason
    zero = np.zeros((40, 24), np.float32)
    for method in ("detX", "lambda_min", "rmt"):
        assert row_of(zero, method=method).reason == "every weight is zero"
    assert "no power law: " in row_of(np.eye(24, dtype=np.float32), method="lambda_min").reason
    gauss = row_of(gaussian(80, 24, seed=3), method="rmt")
    assert (gauss.status, gauss.k) == ("unchanged", 0)
    assert "nothing would be left" in gauss.reason
    assert row_of(gaussian(40, 24), method="svd", percent=0.01).reason == "0.01 of 24 singular values is none"
    assert row_of(gaussian(40, 24), min_evals=30).reason == "24 eigenvalues, fewer than min_evals=30"
    assert "more than max_evals=20" in row_of(gaussian(40, 24), max_evals=20).reason
    depthwise = one("Conv", ["x", "fc.weight"], (FLOAT, [None] * 4), group=12)(gaussian(12, 1, 3, 3))
    (row,) = smooth(depthwise).layers
    assert "depthwise" in row.reason


def test_other_layers_survive_a_broken_one() -> None:
    weights = {"a": gaussian(40, 40), "b": gaussian(40, 24, seed=1)}
    weights["a"][0, 0] = np.inf
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    result = smooth(model(nodes, weights, {"x": (FLOAT, ANY)}), method="svd", percent=0.5)
    assert [row.status for row in result.layers] == ["failed", "smoothed"]
    np.testing.assert_array_equal(numpy_helper.to_array(result.model.graph.initializer[0]), weights["a"])


def test_options_that_can_not_be() -> None:
    given = CASES["matmul"].build(gaussian(40, 24))
    for percent in (0.0, -0.2, 1.5, float("nan"), None, "many"):
        with pytest.raises(OptionError, match="percent="):
            smooth(given, method="svd", percent=percent)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"for 80 % give 0\.8"):
        smooth(given, method="svd", percent=80)
    for method in ("svdd", None, 3):
        with pytest.raises(OptionError, match="method="):
            smooth(given, method=method)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="factor="):
        smooth(given, factor="yes")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="seed="):
        sharpen(given, seed=-1)
    with pytest.raises(OptionError, match="no layer has that name"):
        smooth(given, layers="nowhere")


def test_method_names_are_weightwatchers_too() -> None:
    given = CASES["matmul"].build(gaussian(40, 24))
    assert smooth(given, method="DETX").layers == smooth(given, method="detX").layers
    assert smooth(given, method="alpha_min").layers == smooth(given, method="lambda_min").layers


# --- a trained network ---


@pytest.fixture(scope="module")
def images() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16.0).astype(np.float32)[:, None], data.target


def logits(given: onnx.ModelProto | Path, images: Array) -> Array:
    import onnxruntime

    content = str(given) if isinstance(given, Path) else given.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def matrices_of(given: Any) -> dict[str, Array]:
    return {name: np.array(layer.matrices()) for name, layer in layers(given).items()}


@pytest.mark.parametrize("factor", [False, True])
def test_all_of_it_changes_nothing(digits: Path, images: tuple[Array, Array], factor: bool) -> None:
    result = smooth(digits, method="svd", percent=1.0, factor=factor)
    assert np.abs(logits(result.model, images[0]) - logits(digits, images[0])).max() < 1e-5
    assert {row.status for row in result.layers} == {"unchanged"}
    before, after = matrices_of(digits), matrices_of(result.model)
    assert list(before) == list(after)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", smoothing.METHODS)
def test_the_new_weights_have_the_rank_of_the_table(digits: Path, images: tuple[Array, Array], method: str) -> None:
    result = smooth(digits, method=method, percent=0.4)
    eps = float(np.finfo(np.float32).eps)
    before, after = matrices_of(digits), matrices_of(result.model)
    assert list(before) == list(after)
    for row in result.layers:
        old, new = before[row.name], after[row.name]
        if not row.changed:
            np.testing.assert_array_equal(old, new)
            continue
        assert row.rank == -(-row.k // row.rf)
        assert (spectrum(lambda new=new: new, eps).ranks == row.rank).all()
        assert row.change == pytest.approx(np.linalg.norm(old - new) / np.linalg.norm(old), rel=1e-5)
    assert logits(result.model, images[0]).shape == (len(images[0]), 10)


def test_the_counts_are_those_of_analyze(digits: Path) -> None:
    watcher = ww.WeightWatcher(digits)
    details = watcher.analyze(detX=True)
    found = {method: smooth(digits, method=method).table.set_index("name") for method in smoothing.METHODS}
    for name, expected in details.set_index("name").iterrows():
        assert found["detX"].k[name] == expected.detX_num
        assert found["lambda_min"].k[name] == expected.num_pl_spikes
        assert found["rmt"].of[name] == expected.num_evals
        esd = watcher.get_ESD(layer=str(name))
        assert found["rmt"].k[name] == fit_marchenko_pastur(esd, expected.N, expected.M).num_spikes


def test_most_of_the_network_is_enough(digits: Path, images: tuple[Array, Array]) -> None:
    before, after = (
        (logits(given, images[0]).argmax(axis=1) == images[1]).mean()
        for given in (digits, smooth(digits, method="svd", percent=0.7).model)
    )
    assert before > 0.98
    assert after > 0.95


def test_factors_of_a_trained_network(digits: Path, images: tuple[Array, Array]) -> None:
    whole, split = (smooth(digits, method="detX", factor=factor) for factor in (False, True))
    np.testing.assert_allclose(logits(whole.model, images[0]), logits(split.model, images[0]), atol=1e-4)
    table = split.table
    assert table.status.tolist().count("factored") == 1
    assert table.parameters_after.sum() < table.parameters.sum()


@pytest.mark.parametrize("name", ["conv3", "fc1"])
def test_only_the_chosen_layers_change(digits: Path, name: str) -> None:
    result = smooth(digits, layers=name, method="svd", percent=0.3)
    before, after = matrices_of(digits), matrices_of(result.model)
    assert [row.name for row in result.layers] == [name]
    assert [layer for layer in before if not np.array_equal(before[layer], after[layer])] == [name]


def test_a_folded_model_says_so(shared: Path) -> None:
    folded = shared / "models" / "real" / "ultraface_rfb320_bn_folded.onnx"
    assert "BatchNormalization folded" in smooth(folded, method="svd", percent=0.5).note
    assert smooth(folded, method="svd", percent=1.0).note == ""


# --- sharpness ---


def trapped(seed: int = 0) -> Array:
    """A Gaussian weight with one entry far out, and a signal that is spread over all of them."""
    rng = np.random.default_rng(seed)
    signal = np.outer(rng.choice([-1, 1], 80), rng.choice([-1, 1], 60))
    weight = 0.1 * rng.standard_normal((80, 60)) + 0.3 * signal
    weight[11, 13] = 30.0
    return weight.astype(np.float32)


def test_a_trap_is_dropped_and_the_signal_is_not() -> None:
    weight = trapped()
    given = CASES["matmul"].build(weight)
    before = given.SerializeToString()
    result = sharpen(given, seed=3)
    assert given.SerializeToString() == before
    (row,) = result.layers
    assert (row.status, row.k, row.method) == ("sharpened", 1, "sharpen")
    sharp = numpy_helper.to_array(result.model.graph.initializer[0])
    assert abs(sharp[11, 13]) < 3.0
    signal = np.linalg.svd(np.where(np.arange(60) == 13, 0, weight), compute_uv=False)[0]
    assert np.linalg.svd(sharp, compute_uv=False)[0] == pytest.approx(signal, rel=0.05)
    assert row.change == pytest.approx(np.linalg.norm(weight - sharp) / np.linalg.norm(weight), rel=1e-5)
    np.testing.assert_array_equal(run(result.model, x=np.eye(80, dtype=np.float32)), sharp)


def test_sharpening_counts_the_traps_of_the_same_shuffle(digits: Path) -> None:
    result = sharpen(digits, seed=4)
    for row, layer in zip(result.layers, layers(digits).values(), strict=True):
        shuffle = spectrum(lambda layer=layer: permuted(layer.matrices(), 4, layer.layer_id), layer.eps).pooled
        assert row.k == fit_marchenko_pastur(shuffle, layer.N, layer.M).num_spikes
        assert row.status == ("sharpened" if row.k else "unchanged")
    assert {row.status for row in result.layers} == {"sharpened", "unchanged"}
    assert sharpen(digits, seed=4).model == result.model
    assert sharpen(digits, seed=5).model != result.model


def test_nothing_to_sharpen() -> None:
    for weight, reason in ((gaussian(80, 60), "no correlation traps"), (np.zeros((80, 60)), "every weight is zero")):
        (row,) = sharpen(CASES["matmul"].build(weight.astype(np.float32))).layers
        assert (row.status, row.reason, row.k) == ("unchanged", reason, 0)


# --- files ---


def digest(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file of a folder: what is in it, and when that was written."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in folder.iterdir()
    }


def chain(count: int, size: int = 40) -> onnx.ModelProto:
    names = ["x", *(f"h{index}" for index in range(1, count)), "y"]
    nodes = [node("MatMul", [names[i], f"layers.{i}.weight"], [names[i + 1]]) for i in range(count)]
    tensors = {f"layers.{i}.weight": gaussian(size, size, seed=i) / np.float32(size**0.5) for i in range(count)}
    return model(nodes, tensors, {"x": (FLOAT, ANY)})


def test_the_input_file_is_not_touched(digits: Path, tmp_path: Path, images: tuple[Array, Array]) -> None:
    copy = tmp_path / "in" / "digits.onnx"
    copy.parent.mkdir()
    copy.write_bytes(digits.read_bytes())
    before = digest(copy.parent)
    result = smooth(copy, method="svd", percent=0.5, output=tmp_path / "out.onnx")
    assert digest(copy.parent) == before
    assert result.model == tmp_path / "out.onnx"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.onnx"]
    np.testing.assert_array_equal(
        logits(tmp_path / "out.onnx", images[0]), logits(smooth(copy, method="svd", percent=0.5).model, images[0])
    )


def test_every_kind_of_model_is_opened_and_left_alone(digits: Path) -> None:
    proto, opened = onnx.load(digits), ir.load(digits)
    before = ir.to_proto(opened).SerializeToString(), proto.SerializeToString()
    expected = smooth(digits, method="svd", percent=0.5).model
    for given in (digits.read_bytes(), proto, opened, ww.graph.source.open_model(digits)):
        assert smooth(given, method="svd", percent=0.5).model == expected
    assert (ir.to_proto(opened).SerializeToString(), proto.SerializeToString()) == before


@pytest.mark.parametrize("factor", [False, True])
def test_external_data_stays_external(tmp_path: Path, factor: bool) -> None:
    inline = chain(4)
    given = tmp_path / "in" / "net.onnx"
    given.parent.mkdir()
    save(chain(4), given, external=True)
    before = digest(given.parent)
    expected = smooth(inline, layers=[2, 4], method="svd", percent=0.3, factor=factor)
    result = smooth(given, layers=[2, 4], method="svd", percent=0.3, factor=factor, output=tmp_path / "net.onnx")
    assert digest(given.parent) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "net.onnx", "net.onnx.data"]
    assert result.layers == expected.layers
    stored = onnx.load(result.model, load_external_data=False)
    for tensor in stored.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"] == "net.onnx.data"
        assert int(entries["offset"]) % 4096 == 0 or int(entries["length"]) < 4096
    if not factor:
        assert given.stat().st_size == pytest.approx((tmp_path / "net.onnx").stat().st_size, abs=200)
    found = onnx.load(result.model)
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in found.graph.initializer} == {
        t.name: numpy_helper.to_array(t).tobytes() for t in expected.model.graph.initializer
    }
    np.testing.assert_array_equal(logits(tmp_path / "net.onnx", ROWS), logits(expected.model, ROWS))
    in_memory = smooth(given, layers=[2, 4], method="svd", percent=0.3, factor=factor)
    assert not any(tensor.external_data for tensor in in_memory.model.graph.initializer)
    np.testing.assert_array_equal(run(in_memory.model, x=ROWS), run(expected.model, x=ROWS))


@pytest.mark.parametrize("name", ["lstm", "tied", "tied_copies", "scaled", "transposed", "copied", "experts"])
def test_external_weights_of_every_kind(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = built(case, gaussian(*case.shape))
    expected = smooth(given, method="svd", percent=0.3)
    save(built(case, gaussian(*case.shape)), tmp_path / "given.onnx", external=True)
    smooth(tmp_path / "given.onnx", method="svd", percent=0.3, output=tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx.data").exists()
    np.testing.assert_array_equal(
        logits(tmp_path / "new.onnx", case.feeds["x"]), logits(expected.model, case.feeds["x"])
    )


def test_tensors_that_share_bytes_go_on_sharing_them(tmp_path: Path) -> None:
    """Exporters write tied tensors once: two entries of one range."""
    given = chain(3)
    save(given, tmp_path / "given.onnx", external=True)
    proto = onnx.load(tmp_path / "given.onnx", load_external_data=False)
    del proto.graph.initializer[1].external_data[:]
    proto.graph.initializer[1].external_data.extend(proto.graph.initializer[0].external_data)
    (tmp_path / "given.onnx").write_bytes(proto.SerializeToString())
    result = smooth(tmp_path / "given.onnx", layers="layers.2", method="svd", percent=0.5, output=tmp_path / "new.onnx")
    first, second, third = onnx.load(result.model, load_external_data=False).graph.initializer
    assert list(first.external_data) == list(second.external_data) != list(third.external_data)


def test_a_large_model_is_written_tensor_by_tensor(tmp_path: Path) -> None:
    count, size = 48, 1024  # 192 MiB
    given = chain(1, size)
    weight = given.graph.initializer.pop()
    with (tmp_path / "given.data").open("wb") as file:
        for index in range(count):
            values = (numpy_helper.to_array(weight) * np.float32(1 + index / 100)).tobytes()
            tensor = given.graph.initializer.add(name=f"layers.{index}.weight", dims=[size, size], data_type=FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, entry in {"location": "given.data", "offset": index * len(values)}.items():
                tensor.external_data.add(key=key, value=str(entry))
            file.write(values)
    del given.graph.node[:]
    names = ["x", *(f"h{index}" for index in range(1, count)), "y"]
    given.graph.node.extend(node("MatMul", [names[i], f"layers.{i}.weight"], [names[i + 1]]) for i in range(count))
    (tmp_path / "given.onnx").write_bytes(given.SerializeToString())
    tracemalloc.start()
    try:
        smooth(tmp_path / "given.onnx", layers=1, method="svd", percent=0.1, output=tmp_path / "new.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert (tmp_path / "new.onnx.data").stat().st_size == count * size * size * 4
    found = matrices_of(tmp_path / "new.onnx")
    assert spectrum(lambda: found["layers.0"], float(np.finfo(np.float32).eps)).ranks == [102]
    np.testing.assert_array_equal(found["layers.47"], matrices_of(tmp_path / "given.onnx")["layers.47"])


def test_a_model_that_outgrows_one_file_gets_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_MOST_INLINE", 10_000)
    given = chain(3)
    with pytest.raises(OptionError, match="give a file, output="):
        smooth(given)
    result = smooth(given, method="svd", percent=0.5, output=tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx.data").stat().st_size > 3 * 40 * 40 * 4 - 1
    monkeypatch.undo()
    np.testing.assert_array_equal(
        logits(Path(result.model), ROWS), logits(smooth(given, method="svd", percent=0.5).model, ROWS)
    )


def test_no_file_of_the_input_is_overwritten(tmp_path: Path) -> None:
    given = save(chain(2), tmp_path / "net.onnx", external=True)
    (tmp_path / "link.onnx").symlink_to(given)
    os.link(given, tmp_path / "hard.onnx")
    (tmp_path / "b.onnx.data").symlink_to(tmp_path / "net.onnx.data")
    before = digest(tmp_path)
    for name in ("net.onnx", "link.onnx", "hard.onnx", "net.onnx.data", "b.onnx"):
        for function in (smooth, sharpen):
            with pytest.raises(OptionError, match="part of the given model; name another file"):
                function(given, output=tmp_path / name)
    assert digest(tmp_path) == before


def test_outputs_that_can_not_be_written(tmp_path: Path) -> None:
    given = chain(1)
    with pytest.raises(OptionError, match="there is no directory"):
        smooth(given, output=tmp_path / "nowhere" / "new.onnx")
    with pytest.raises(OptionError, match="is a directory"):
        smooth(given, output=tmp_path)
    with pytest.raises(OptionError, match="binary format"):
        smooth(given, output=tmp_path / "new.json")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = save(chain(2), tmp_path / "net.onnx", external=True)
    before = digest(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("append", "copy", "commit"):
        with monkeypatch.context() as patch:
            patch.setattr(saving.DataFile, place, full)
            with pytest.raises(OptionError, match=r"new\.onnx': can't be written \(No space left on device\)"):
                smooth(given, layers=1, method="svd", percent=0.5, output=tmp_path / "new.onnx")
        assert digest(tmp_path) == before


def test_an_older_result_is_replaced(tmp_path: Path) -> None:
    for percent in (0.2, 0.5):
        smooth(chain(1), method="svd", percent=percent, output=tmp_path / "new.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["new.onnx"]
    assert np.linalg.matrix_rank(matrices_of(tmp_path / "new.onnx")["layers.0"][0], tol=1e-4) == 20


@pytest.mark.parametrize("cut", [True, False])
def test_missing_data_leaves_nothing_behind(tmp_path: Path, cut: bool) -> None:
    given = save(chain(2), tmp_path / "net.onnx", external=True)
    proto = onnx.load(given, load_external_data=False)
    if cut:
        (tmp_path / "net.onnx.data").write_bytes((tmp_path / "net.onnx.data").read_bytes()[:-100])
    else:
        proto.graph.initializer[1].external_data[0].value = "gone.data"
        given.write_bytes(proto.SerializeToString())
    before = digest(tmp_path)
    with pytest.raises(ModelError, match="a new model needs all of it"):
        smooth(given, layers=1, method="svd", percent=0.5, output=tmp_path / "new.onnx")
    with pytest.raises(ModelError, match="a new model needs all of it"):
        smooth(given, layers=1, method="svd", percent=0.5)
    assert digest(tmp_path) == before


def test_the_table(digits: Path) -> None:
    result = smooth(digits, method="rmt")
    table = result.table
    assert list(table.columns) == list(smoothing.COLUMNS)
    assert table.layer_id.tolist() == [1, 2, 3, 4, 5]
    assert table.longname.tolist()[0] == "conv1.weight"
    assert table["rank"].isna().tolist() == [row.k == 0 for row in result.layers]
    with pytest.raises(AttributeError):
        replace(result, note="").note = "frozen"  # type: ignore[misc]


# --- the command ---


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = command_line.main(["smooth", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_writes_a_model_and_says_what_it_did(
    command: Callable[..., tuple[int, str, str]], digits: Path, tmp_path: Path, images: tuple[Array, Array]
) -> None:
    output = tmp_path / "new.onnx"
    code, out, err = command(
        digits, "-o", output, "--method", "svd", "--percent", "0.3", "--layers", "conv2,fc1", "--factor"
    )
    assert (code, err) == (0, "")
    expected = smooth(digits, layers=["conv2", "fc1"], method="svd", percent=0.3, factor=True)
    np.testing.assert_array_equal(logits(output, images[0]), logits(expected.model, images[0]))
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["id", "name", "status"]
    assert [line.split()[:3] for line in lines if line.split()[0].isdigit()] == [
        ["2", "conv2", "smoothed"],
        ["4", "fc1", "factored"],
    ]
    assert "2 of 2 layers" in out
    assert str(output) in out


def test_the_command_in_other_formats(
    command: Callable[..., tuple[int, str, str]], digits: Path, tmp_path: Path
) -> None:
    import json

    code, out, _ = command(digits, "-o", tmp_path / "new.onnx", "--format", "json", "--method", "detX")
    document = json.loads(out)
    assert code == 0
    assert document["options"]["method"] == "detX"
    (entry,) = document["models"]
    assert entry["output"] == str(tmp_path / "new.onnx")
    assert [row["k"] for row in entry["rows"]] == [row.k for row in smooth(digits).layers]
    code, out, _ = command(digits, "-o", tmp_path / "new.onnx", "--format", "csv")
    assert out.splitlines()[0].startswith("layer_id,name,")


def test_the_command_sharpens(command: Callable[..., tuple[int, str, str]], digits: Path, tmp_path: Path) -> None:
    code, out, err = command(digits, "-o", tmp_path / "new.onnx", "--sharpen", "--seed", "4")
    assert (code, err) == (0, "")
    assert "sharpened" in out
    np.testing.assert_array_equal(
        matrices_of(tmp_path / "new.onnx")["fc1"], matrices_of(sharpen(digits, seed=4).model)["fc1"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "svd", "--percent", "80"], "give 0.8"),
        (["--percent", "0.5"], "--percent belongs to --method svd"),
        (["--sharpen", "--factor"], "--factor does not go with --sharpen"),
        (["--sharpen", "--method", "rmt"], "--method does not go with --sharpen"),
        (["--seed", "3"], "--seed belongs to --sharpen"),
        (["--layers", "nowhere"], "no layer has that name"),
        (["--method", "what"], "is not one of"),
    ],
)
def test_the_command_refuses(
    command: Callable[..., tuple[int, str, str]], digits: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    code, out, err = command(digits, "-o", tmp_path / "new.onnx", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_does_not_overwrite_its_input(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    given = save(chain(2), tmp_path / "net.onnx", external=True)
    before = digest(tmp_path)
    for name in ("net.onnx", "net.onnx.data"):
        code, out, err = command(given, "-o", tmp_path / name)
        assert (code, out) == (2, "")
        assert "part of the given model" in err
    assert command(given)[0] == 2
    assert command(tmp_path / "none.onnx", "-o", tmp_path / "new.onnx")[0] == 2
    assert digest(tmp_path) == before

"""Constant expressions: the same values as onnxruntime's, wherever they are stored, and at a bounded cost."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

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
    applied,
    constant,
    find,
    gaussian,
    integers,
    layer,
    layers,
    matrix,
    model,
    node,
    run,
    scales,
    subgraph,
    tensor,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from onnx import TensorProto, helper

from wwonnx.errors import WeightError
from wwonnx.graph.constants import Constant, Opaque
from wwonnx.graph.inventory import inventory
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk

Nodes: TypeAlias = list[onnx.NodeProto]
Cone: TypeAlias = tuple[Nodes, dict[str, Array], int]

HIGHEST, LOWEST = 2**63 - 1, -(2**63)
X = {"x": (FLOAT, [None, None])}


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail, rather than hang, where something takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"this took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ints(*numbers: int) -> Array:
    return np.array(numbers, dtype=np.int64)


# Each cone makes `w` of tensors whose sizes grow with k.

CONES: dict[str, Callable[[int], Cone]] = {}


def cone(name: str, opset: int = 20) -> Callable[[Callable[[int], tuple[Nodes, dict[str, Array]]]], None]:
    def register(make: Callable[[int], tuple[Nodes, dict[str, Array]]]) -> None:
        CONES[name] = lambda k: (*make(k), opset)

    return register


def one(
    name: str, op_type: str, *shapes: tuple[int, ...], opset: int = 20, extra: tuple[Any, ...] = (), **given: Any
) -> None:
    """A cone of one node: float operands of these shapes, whose sizes grow, then other inputs; None for none there."""

    def make(k: int) -> Cone:
        tensors = {f"v{index}": gaussian(*(n * k if n > 1 else n for n in shape)) for index, shape in enumerate(shapes)}
        names = list(tensors)
        for index, values in enumerate(extra):
            names.append("" if values is None else f"e{index}")
            if values is not None:
                tensors[f"e{index}"] = np.asarray(values)
        return [node(op_type, names, ["w"], **given)], tensors, opset

    CONES[name] = make


one("identity", "Identity", (6, 4))
one("transpose", "Transpose", (6, 4))
one("transpose_perm", "Transpose", (2, 3, 4), perm=[1, 2, 0])
one("reshape_minus_one", "Reshape", (6, 4), extra=(ints(2, -1),))
one("reshape_zero", "Reshape", (6, 4), extra=(ints(0, 2, -1),))
one("reshape_all", "Reshape", (6, 4), extra=(ints(-1),))
one("flatten", "Flatten", (2, 3, 4))
one("flatten_0", "Flatten", (2, 3, 4), axis=0)
one("flatten_negative", "Flatten", (2, 3, 4), axis=-1)
one("slice", "Slice", (6, 4), extra=(ints(1), ints(5)))
one("slice_all", "Slice", (6, 4), extra=(ints(0, 0), ints(HIGHEST, HIGHEST)))
one("slice_axes", "Slice", (6, 4), extra=(ints(1, -3), ints(HIGHEST, -1), ints(1, 0)))
one("slice_int32", "Slice", (6, 4), extra=(np.int32([1]), np.int32([3]), np.int32([1]), np.int32([1])))
one("slice_steps", "Slice", (6, 4), extra=(ints(0, 1), ints(100, 100), ints(0, 1), ints(2, 2)))
one("slice_backwards", "Slice", (6, 4), extra=(ints(-1, HIGHEST), ints(LOWEST, 0), ints(0, -1), ints(-1, -2)))
one("slice_past_the_front", "Slice", (6, 4), extra=(ints(-1), ints(-121), ints(0), ints(-1)))
one("slice_backwards_from_before_the_front", "Slice", (6, 4), extra=(ints(-1000), ints(LOWEST), ints(0), ints(-1)))
one("slice_attributes", "Slice", (6, 4), opset=9, starts=[1, 0], ends=[HIGHEST, -1], axes=[0, 1])
one("slice_attributes_without_axes", "Slice", (6, 4), opset=9, starts=[1], ends=[3])
one("slice_to_nothing", "Slice", (6, 4), extra=(ints(3), ints(1)))
one("concat_0", "Concat", (6, 4), (2, 4), (1, 4), axis=0)
one("concat_1", "Concat", (6, 4), (6, 1), axis=1)
one("concat_last", "Concat", (6, 4), (6, 1), axis=-1)
one("gather_rows", "Gather", (6, 4), extra=(ints(3, 0, -1, 3),))
one("gather_scalar", "Gather", (3, 6, 4), extra=(np.int64(1),))
one("gather_columns", "Gather", (6, 4), extra=(np.int32([[3, 0], [1, -2]]),), axis=1)
one("cast_wider", "Cast", (6, 4), to=TensorProto.DOUBLE)
one("cast_narrower", "Cast", (6, 4), to=TensorProto.FLOAT16)
one("cast_like", "CastLike", (6, 4), extra=(np.float16(0),))
one("add_scalar", "Add", (6, 4), extra=(np.float32(2),))
one("sub", "Sub", (6, 4), (1, 4))
one("mul_rows", "Mul", (6, 4), (6, 1))
one("mul_first_smaller", "Mul", (6, 1), (6, 4))
one("div", "Div", (6, 4), (6, 4))
one("pow", "Pow", (6, 4), extra=(np.float32(2),))
one("max", "Max", (6, 4), (6, 1), (6, 4))
one("min", "Min", (6, 4), (4,))
one("sum", "Sum", (6, 4), (6, 4), (4,))
for unary in ("Neg", "Abs", "Exp", "Reciprocal", "Tanh", "Sigmoid", "Relu", "Softplus", "Erf", "Sign", "Floor"):
    one(unary.lower(), unary, (6, 4))
one("softmax", "Softmax", (6, 4), axis=0)
one("clip", "Clip", (6, 4), extra=(np.float32(-0.5), np.float32(0.5)))
one("clip_above", "Clip", (6, 4), extra=(None, np.float32(0.5)))
one("clip_attributes", "Clip", (6, 4), opset=7, min=-0.5, max=0.5)
one("trilu", "Trilu", (6, 6), upper=0)
one("lp_normalization", "LpNormalization", (6, 4), axis=0, p=2)
one("matmul", "MatMul", (6, 4), (4, 5))
one("matmul_stacks", "MatMul", (2, 6, 4), (4, 5))
one("gemm", "Gemm", (6, 4), (6, 5), transA=1, alpha=0.5)
one("gemm_bias", "Gemm", (6, 4), (5, 4), (5,), transB=1, beta=2.0)
for reduced in ("ReduceL1", "ReduceL2", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare"):
    one(reduced.lower(), reduced, (6, 4), opset=18, extra=(ints(1),))
    one(f"{reduced.lower()}_attributes", reduced, (6, 4), opset=13, axes=[-2], keepdims=0)
one("reduce_sum_13", "ReduceSum", (6, 4), opset=13, extra=(ints(0),))
one("reduce_all", "ReduceSum", (6, 4))
one("reduce_nothing", "ReduceSum", (6, 4), noop_with_empty_axes=1)
one("reduce_several", "ReduceMean", (2, 3, 4), opset=18, extra=(ints(0, -1),), keepdims=0)


@cone("cast_through_bfloat16")
def _(k: int) -> Any:
    nodes = [node("Cast", ["v"], ["h"], to=TensorProto.BFLOAT16), node("Cast", ["h"], ["w"], to=FLOAT)]
    return nodes, {"v": gaussian(6 * k, 4 * k)}


@cone("half_precision_merged_in_float")
def _(k: int) -> Any:
    """The cast says in which precision to multiply: products of these sums have no room in float16."""
    nodes = [
        node("Cast", ["b"], ["b32"], to=FLOAT),
        node("Cast", ["a"], ["a32"], to=FLOAT),
        node("MatMul", ["b32", "a32"], ["w"]),
    ]
    return nodes, {name: (300 * gaussian(6 * k, 6 * k)).astype(np.float16) for name in "ab"}


@cone("half_precision_scaled_in_float")
def _(k: int) -> Any:
    nodes = [node("Cast", ["v"], ["v32"], to=FLOAT), node("Mul", ["v32", "s"], ["w"])]
    return nodes, {"v": gaussian(6 * k, 4 * k).astype(np.float16), "s": scales(6 * k, 1)}


@cone("eight_bits_scaled_in_float")
def _(k: int) -> Any:
    nodes = [node("Cast", ["v"], ["v32"], to=FLOAT), node("Mul", ["v32", "s"], ["w"])]
    return nodes, {"v": gaussian(6 * k, 4 * k).astype(ml_dtypes.float8_e4m3fn), "s": scales(6 * k, 1)}


@cone("bfloat16_and_float_side_by_side")
def _(k: int) -> Any:
    nodes = [node("Cast", ["v"], ["v32"], to=FLOAT), node("Concat", ["v32", "u"], ["w"], axis=0)]
    return nodes, {"v": gaussian(6 * k, 4 * k).astype(ml_dtypes.bfloat16), "u": gaussian(2, 4 * k)}


@cone("integers_centred_and_scaled")
def _(k: int) -> Any:
    nodes = [
        node("Cast", ["q"], ["floats"], to=FLOAT),
        node("Sub", ["floats", "z"], ["centred"]),
        node("Mul", ["centred", "s"], ["w"]),
    ]
    return nodes, {"q": integers(6 * k, 4 * k, dtype=np.uint8), "z": np.float32([128]), "s": scales(6 * k, 1)}


@cone("squeeze_all")
def _(k: int) -> Any:
    return [node("Squeeze", ["v"], ["w"])], {"v": gaussian(1, 6 * k, 1, 4 * k)}


@cone("squeeze_input")
def _(k: int) -> Any:
    return [node("Squeeze", ["v", "a"], ["w"])], {"v": gaussian(1, 6 * k, 1, 4 * k), "a": ints(-2)}


@cone("squeeze_attribute", 11)
def _(k: int) -> Any:
    return [node("Squeeze", ["v"], ["w"], axes=[0, 2])], {"v": gaussian(1, 6 * k, 1, 4 * k)}


@cone("unsqueeze_input")
def _(k: int) -> Any:
    return [node("Unsqueeze", ["v", "a"], ["w"])], {"v": gaussian(6 * k, 4 * k), "a": ints(-1, 0)}


@cone("unsqueeze_attribute", 11)
def _(k: int) -> Any:
    return [node("Unsqueeze", ["v"], ["w"], axes=[1, 3])], {"v": gaussian(6 * k, 4 * k)}


@cone("split_sizes")
def _(k: int) -> Any:
    return [node("Split", ["v", "n"], ["u", "w", "t"], axis=1)], {
        "v": gaussian(6, 9 * k),
        "n": ints(2, 7 * k, 2 * k - 2),
    }


@cone("split_sizes_attribute", 11)
def _(k: int) -> Any:
    return [node("Split", ["v"], ["u", "w"], axis=-1, split=[2, 9 * k - 2])], {"v": gaussian(6, 9 * k)}


@cone("split_evenly", 13)
def _(k: int) -> Any:
    return [node("Split", ["v"], ["u", "w", "t"])], {"v": gaussian(6 * k, 4 * k)}


@cone("split_num_outputs")
def _(k: int) -> Any:
    return [node("Split", ["v"], ["u", "t", "w"], num_outputs=3)], {"v": gaussian(6 * k + 1, 4 * k)}


@cone("split_into_very_many")
def _(k: int) -> Any:
    names = ["u", "w", *(f"t{index}" for index in range(98))]
    return [node("Split", ["v", "n"], names)], {"v": gaussian(98 + 6 * k, 4), "n": ints(2, 6 * k - 2, *[1] * 98)}


@cone("expand")
def _(k: int) -> Any:
    return [node("Expand", ["v", "n"], ["w"])], {"v": gaussian(6 * k, 1), "n": ints(2, 1, 4 * k)}


@cone("where_pruned")
def _(k: int) -> Any:
    v = gaussian(6 * k, 4 * k)
    return [node("Where", ["mask", "v", "zero"], ["w"])], {"mask": v > 0, "v": v, "zero": np.zeros((), np.float32)}


@cone("mul_mask")
def _(k: int) -> Any:
    v = gaussian(6 * k, 4 * k)
    return [node("Mul", ["layer.weight", "mask"], ["w"])], {"layer.weight": v, "mask": (v > 0).astype(np.float32)}


@cone("lora_merge")
def _(k: int) -> Any:
    nodes = [
        node("MatMul", ["b", "a"], ["ba"]),
        node("Mul", ["ba", "scale"], ["delta"]),
        node("Add", ["base", "delta"], ["merged"]),
        node("Transpose", ["merged"], ["w"], perm=[1, 0]),
    ]
    tensors = {"base": gaussian(6 * k, 4 * k), "a": gaussian(2, 4 * k), "b": gaussian(6 * k, 2)}
    return nodes, tensors | {"scale": np.float32(0.5) + np.zeros((), np.float32)}


@cone("weight_norm", 18)
def _(k: int) -> Any:
    nodes = [
        node("ReduceL2", ["v", "axes"], ["norm"]),
        node("Div", ["v", "norm"], ["direction"]),
        node("Mul", ["direction", "g"], ["w"]),
    ]
    return nodes, {"v": gaussian(6 * k, 4 * k), "g": gaussian(6 * k, 1), "axes": ints(1)}


@cone("standardised_by_torch_13", 13)
def _(k: int) -> Any:
    nodes = [
        node("ReduceMean", ["v"], ["mean"], axes=[1]),
        node("Sub", ["v", "mean"], ["centred"]),
        node("Mul", ["centred", "centred"], ["squares"]),
        node("ReduceMean", ["squares"], ["variance"], axes=[1]),
        node("Sqrt", ["variance"], ["deviation"]),
        node("Div", ["centred", "deviation"], ["w"]),
    ]
    return nodes, {"v": gaussian(6 * k, 4 * k)}


@cone("gates_reordered")
def _(k: int) -> Any:
    """How dynamo leaves an LSTM's weight: i f g o -> i o f c, and a direction in front."""
    bounds = [ints(index * 2 * k) for index in range(5)]
    nodes = [node("Slice", ["v", f"n{index}", f"n{index + 1}", "zero"], [f"g{index}"]) for index in range(4)]
    nodes += [node("Concat", ["g0", "g3", "g1", "g2"], ["c"], axis=0), node("Unsqueeze", ["c", "zero"], ["w"])]
    return nodes, {"v": gaussian(8 * k, 5 * k), "zero": ints(0)} | {f"n{i}": bound for i, bound in enumerate(bounds)}


@cone("shapes_computed")
def _(k: int) -> Any:
    nodes = [
        node("Shape", ["v"], ["all"]),
        node("Gather", ["all", "first"], ["rows"]),
        node("Concat", ["rows", "rest"], ["shape"], axis=0),
        node("Reshape", ["v", "shape"], ["w"]),
    ]
    return nodes, {"v": gaussian(6 * k, 2, 2 * k), "first": ints(0), "rest": ints(-1)}


@cone("shape_of_a_part")
def _(k: int) -> Any:
    nodes = [node("Shape", ["v"], ["part"], start=-2, end=-1), node("Expand", ["u", "part"], ["w"])]
    return nodes, {"v": gaussian(6 * k, 2, 2 * k), "u": gaussian(3, 1)}


@cone("one_operand_twice")
def _(k: int) -> Any:
    nodes = [node("Mul", ["v", "v"], ["s"]), node("Transpose", ["v"], ["t"]), node("MatMul", ["s", "t"], ["w"])]
    return nodes, {"v": gaussian(6 * k, 4 * k)}


@cone("constant_nodes")
def _(k: int) -> Any:
    nodes = [
        node("Constant", [], ["v"], value=tensor("anything", gaussian(6 * k, 4 * k))),
        node("Constant", [], ["shape"], value_ints=[4 * k, 6 * k]),
        node("Constant", [], ["factor"], value_float=0.5),
        node("Reshape", ["v", "shape"], ["r"]),
        node("Mul", ["r", "factor"], ["w"]),
    ]
    return nodes, {}


@cone("constant_nodes_of_lists")
def _(k: int) -> Any:
    nodes = [
        node("Constant", [], ["v"], value_floats=gaussian(24 * k).tolist()),
        node("Constant", [], ["n"], value_int=6),
        node("Constant", [], ["zero"], value_ints=[0]),
        node("Constant", [], ["rest"], value_ints=[-1]),
        node("Unsqueeze", ["n", "zero"], ["rows"]),
        node("Concat", ["rows", "rest"], ["shape"], axis=0),
        node("Reshape", ["v", "shape"], ["w"]),
    ]
    return nodes, {}


@pytest.mark.parametrize("k", [1, 20], ids=["tiny", "large"])
@pytest.mark.parametrize("name", CONES)
def test_a_constant_expression(name: str, k: int) -> None:
    nodes, tensors, opset = CONES[name](k)
    proto = model(nodes, tensors, outputs=("w",), opset=opset)
    found = constant(proto)
    assert isinstance(found, Constant), found
    expected, values = run(proto), found.read()
    assert found.shape == values.shape == expected.shape
    close = 1e-6 * float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(values.astype(np.float64), expected.astype(np.float64), rtol=1e-5, atol=close)
    stored = {each.name for each in proto.graph.initializer} | {
        o for n in nodes if n.op_type == "Constant" for o in n.output
    }
    assert {leaf.name for leaf in found.leaves} <= stored


@pytest.mark.parametrize("name", ["where_pruned", "mul_mask", "lora_merge", "weight_norm", "expand", "squeeze_all"])
def test_a_computed_weight_is_a_layer(name: str) -> None:
    nodes, tensors, opset = CONES[name](20)
    flat = [node("Reshape", ["w", "two"], ["flat"])]
    proto = applied([*nodes, *flat], tensors | {"two": ints(0, -1)}, "flat", opset)
    found = layer(proto)
    expected = run(model(nodes, tensors, outputs=("w",), opset=opset))
    np.testing.assert_allclose(found.matrices()[0].T, expected.reshape(len(expected), -1), rtol=1e-5, atol=1e-6)
    named = {"mul_mask": "layer", "lora_merge": "base"}.get(name, "v")
    assert (found.name, found.dtype) == (named, "float")


def test_rows_gathered_more_often_than_there_are() -> None:
    """The table is the weight, however many indices there are."""
    tensors = {"v": gaussian(3, 5), "i": np.arange(60) % 3}
    found = layer(applied([node("Gather", ["v", "i"], ["w"])], tensors))
    assert (found.longname, found.dtype, found.shape) == ("v", "float", (60, 5))


def test_half_precision_on_the_way_is_remembered() -> None:
    nodes = [node("Cast", ["v"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["w"], to=FLOAT)]
    found = layer(applied(nodes, {"v": gaussian(6, 4)}))
    assert found.eps == np.finfo(np.float16).eps
    assert_array_equal(found.matrices()[0].T, gaussian(6, 4).astype(np.float16).astype(np.float32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", [TensorProto.FLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT8])
def test_casts_that_overflow_say_nothing_on_the_side(target: int) -> None:
    nodes = [node("Cast", ["v"], ["h"], to=target), node("Cast", ["h"], ["w"], to=FLOAT)]
    tensors = {"v": gaussian(6, 4) * np.float32(1e6)}
    found = constant(model(nodes, tensors, outputs=("w",)))
    assert isinstance(found, Constant)
    values = found.read()
    if target != TensorProto.INT8:
        assert_array_equal(values, run(model(nodes, tensors, outputs=("w",))))


@pytest.mark.filterwarnings("error")
def test_a_division_by_zero_says_nothing_on_the_side() -> None:
    nodes, tensors = [node("Div", ["v", "z"], ["w"])], {"v": gaussian(6, 4), "z": np.zeros((6, 1), np.float32)}
    proto = model(nodes, tensors, outputs=("w",))
    found = constant(proto)
    assert isinstance(found, Constant)
    assert_array_equal(found.read(), run(proto))


# Chains of random operators

SIZES = st.integers(1, 4)
OFFSETS = st.integers(-6, 6) | st.sampled_from([LOWEST, HIGHEST])


#: The operator, its inputs after the first one, its attributes, and what numpy makes of the value.
Drawn: TypeAlias = tuple[str, list[Array], dict[str, Any], Array]


def drawn_transpose(draw: st.DrawFn, value: Array) -> Drawn:
    axes = draw(st.permutations(range(value.ndim)))
    return "Transpose", [], {"perm": axes}, value.transpose(axes)


def drawn_reshape(draw: st.DrawFn, value: Array) -> Drawn:
    if not value.size:
        return "Reshape", [np.zeros(value.ndim, np.int64)], {}, value  # each dimension stays
    split = draw(st.sampled_from([n for n in range(1, value.size + 1) if value.size % n == 0]))
    shape = draw(st.permutations([split, value.size // split]))
    if draw(st.booleans()):
        shape[draw(st.integers(0, 1))] = -1
    return "Reshape", [ints(*shape)], {}, value.reshape(shape)


def drawn_slice(draw: st.DrawFn, value: Array) -> Drawn:
    axes = draw(st.lists(st.integers(0, value.ndim - 1), unique=True, min_size=1, max_size=value.ndim))
    region = [slice(None)] * value.ndim
    parts = []
    for axis in axes:
        n, step = value.shape[axis], draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        start, end = draw(OFFSETS), draw(OFFSETS)
        if step < 0:  # from before the front ONNX and numpy differ (tested above), to INT_MAX runtimes do
            start, end = max(start, -n), LOWEST if end == HIGHEST else end
        region[axis] = slice(start, None if step < 0 and end < -n else end, step)
        parts.append((start, end, axis - value.ndim if draw(st.booleans()) else axis, step))
    return "Slice", [ints(*numbers) for numbers in zip(*parts, strict=True)], {}, value[tuple(region)]


def drawn_unsqueeze(draw: st.DrawFn, value: Array) -> Drawn:
    axes = draw(st.lists(st.integers(0, value.ndim), unique=True, min_size=1, max_size=2))
    return "Unsqueeze", [ints(*axes)], {}, np.expand_dims(value, tuple(axes))


def drawn_squeeze(draw: st.DrawFn, value: Array) -> Drawn:
    axes = [axis for axis, n in enumerate(value.shape) if n == 1 and draw(st.booleans())]
    return ("Squeeze", [ints(*axes)], {}, value.squeeze(tuple(axes))) if axes else ("Identity", [], {}, value)


def drawn_concat(draw: st.DrawFn, value: Array) -> Drawn:
    axis, other = draw(st.integers(-value.ndim, value.ndim - 1)), value[::-1]
    return "Concat", [other], {"axis": axis}, np.concatenate([value, other], axis)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Nodes, dict[str, Array]]:
    value = gaussian(*draw(st.lists(SIZES, min_size=1, max_size=4)))
    tensors, nodes = {"v0": value}, []
    every = [drawn_transpose, drawn_reshape, drawn_slice, drawn_unsqueeze, drawn_squeeze, drawn_concat]
    for index in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from(every if value.ndim else [drawn_unsqueeze, drawn_reshape]))
        op_type, operands, attributes, value = step(draw, value)
        assume(value.size <= 4096 and value.ndim <= 8)
        names = {f"e{index}_{number}": operand for number, operand in enumerate(operands)}
        tensors |= names
        nodes.append(node(op_type, [f"v{index}", *names], [f"v{index + 1}"], **attributes))
    nodes.append(node("Identity", [f"v{len(nodes)}"], ["w"]))
    return nodes, tensors


@settings(max_examples=150, deadline=None)
@given(chains())
def test_any_chain_of_rearrangements(case: tuple[Nodes, dict[str, Array]]) -> None:
    nodes, tensors = case
    proto = model(nodes, tensors, outputs=("w",))
    found = constant(proto)
    assert isinstance(found, Constant)
    expected = run(proto)
    assert found.shape == expected.shape
    assert_array_equal(found.read(), expected)


# Constants inside and outside of subgraphs


STATE = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, [])}
LOOPED = {"n": ints(3).reshape(()), "yes": np.array(True)}


def looped(
    nodes: Nodes,
    carried: list[str],
    carried_on: list[str],
    outer: list[str],
    tensors: dict[str, Array],
    **inside: Array,
) -> onnx.ModelProto:
    """A loop over these nodes, with the state `h` and others carried from iteration to iteration."""
    kinds = dict.fromkeys(("h", *carried), (FLOAT, None))
    body = subgraph([*nodes, node("Identity", ["go"], ["on"])], ["on", "next", *carried_on], STATE | kinds, inside)
    loop = node("Loop", ["n", "yes", "x", *outer], ["y", *(f"{name}_end" for name in carried)], body=body)
    return model([loop], LOOPED | tensors, X)


def test_a_weight_captured_by_a_loop() -> None:
    proto = looped([node("MatMul", ["h", "w"], ["next"])], [], [], [], {"w": gaussian(5, 5)})
    assert_array_equal(matrix(proto).T, gaussian(5, 5))


def test_weights_inside_a_loop() -> None:
    nodes = [
        node("Constant", [], ["c"], value=tensor("", gaussian(5, 5, seed=1))),
        node("MatMul", ["h", "w"], ["m"]),
        node("Gemm", ["m", "c"], ["next"], transB=1),
    ]
    found = layers(looped(nodes, [], [], [], {}, w=gaussian(5, 5)))
    assert_array_equal(found["w"].matrices()[0].T, gaussian(5, 5))
    assert_array_equal(found["c"].matrices()[0], gaussian(5, 5, seed=1))


@pytest.mark.parametrize("identities", [0, 1, 3])
def test_a_weight_that_a_loop_passes_on(identities: int) -> None:
    """How Keras' recurrent layers arrive."""
    names = ["s", *(f"s{index}" for index in range(identities))]
    passed = [node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    proto = looped([node("MatMul", ["h", "s"], ["next"]), *passed], ["s"], [names[-1]], ["w"], {"w": gaussian(5, 5)})
    found = layer(proto)
    assert found.longname == "w"
    assert_array_equal(found.matrices()[0].T, gaussian(5, 5))


def test_a_constant_expression_that_a_loop_passes_on() -> None:
    nodes = [node("Transpose", ["s"], ["t"]), node("MatMul", ["h", "t"], ["next"])]
    proto = looped(nodes, ["s"], ["s"], ["w"], {"w": gaussian(5, 5)})
    assert_array_equal(matrix(proto), gaussian(5, 5))


@pytest.mark.parametrize("change", ["computed", "swapped", "replaced", "from_x"])
def test_a_weight_that_a_loop_changes_is_none(change: str) -> None:
    w, v = gaussian(5, 5), gaussian(5, 5, seed=1)
    nodes = [node("MatMul", ["h", "s"], ["next"])]
    if change == "swapped":
        proto = looped(nodes, ["s", "t"], ["t", "s"], ["w", "v"], {"w": w, "v": v})
    else:
        operands = {"computed": ["s", "half"], "replaced": ["v", "half"], "from_x": ["x", "half"]}[change]
        nodes.append(node("Mul", operands, ["s2"]))
        proto = looped(nodes, ["s"], ["s2"], ["w"], {"w": w, "v": v, "half": np.float32(0.5).reshape(1)})
    assert not find(proto).layers


def test_a_loop_whose_identities_go_in_circles() -> None:
    nodes = [node("MatMul", ["h", "s"], ["next"]), node("Identity", ["b"], ["a"]), node("Identity", ["a"], ["b"])]
    with at_most(3):
        assert not find(looped(nodes, ["s"], ["a"], ["w"], {"w": gaussian(5, 5)})).layers


@pytest.mark.parametrize("changes", [False, True])
def test_the_state_of_a_scan(changes: bool) -> None:
    nodes = [node("MatMul", ["row", "s"], ["out"])]
    if changes:
        nodes.append(node("Add", ["s", "s"], ["s2"]))
    body = subgraph(nodes, ["s2" if changes else "s", "out"], {"s": (FLOAT, [5, 5]), "row": (FLOAT, [1, 5])})
    scan = node("Scan", ["w", "x"], ["end", "y"], body=body, num_scan_inputs=1)
    found = find(model([scan], {"w": gaussian(5, 5)}, {"x": (FLOAT, [3, 1, 5])}, ("y",)))
    assert len(found.layers) == (0 if changes else 1)


def test_what_a_scan_goes_through_is_no_weight() -> None:
    body = subgraph([node("MatMul", ["x", "row"], ["out"])], ["out"], {"row": (FLOAT, [5, 5])})
    scan = node("Scan", ["w"], ["y"], body=body, num_scan_inputs=1)
    found = find(model([scan], {"w": gaussian(3, 5, 5)}, X))
    assert not found.layers


def test_branches_inside_branches() -> None:
    inner = [
        subgraph([node("MatMul", ["x", "outer"], ["a"])], ["a"]),
        subgraph([node("MatMul", ["x", "middle"], ["b"])], ["b"]),
    ]
    outer = [
        subgraph(
            [node("If", ["c"], ["d"], then_branch=inner[0], else_branch=inner[1])],
            ["d"],
            tensors={"middle": gaussian(7, 5, seed=1)},
        ),
        subgraph([node("Transpose", ["turned"], ["t"]), node("MatMul", ["x", "t"], ["e"])], ["e"]),
    ]
    proto = model(
        [node("If", ["c"], ["y"], then_branch=outer[0], else_branch=outer[1])],
        {"outer": gaussian(7, 5), "turned": gaussian(5, 7, seed=2)},
        X | {"c": (TensorProto.BOOL, [])},
    )
    found = layers(proto)
    assert set(found) == {"outer", "middle", "turned"}
    assert_array_equal(found["turned"].matrices()[0], gaussian(5, 7, seed=2))


def test_weights_between_which_a_condition_chooses_say_why_not() -> None:
    branches = [subgraph([], [name], tensors={name: gaussian(7, 5, seed=index)}) for index, name in enumerate("ab")]
    choice = node("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1])
    proto = model([choice, node("MatMul", ["x", "w"], ["y"])], {}, X | {"c": (TensorProto.BOOL, [])})
    opened = open_model(proto).model
    for entry in inventory(opened, walk(opened)).entries:
        assert entry.layer_ids or (entry.reason and entry.reason != "an output of the model")


def test_two_subgraphs_that_use_one_name() -> None:
    """Names are local to a graph: these are two weights."""
    branches = [
        subgraph([node("MatMul", ["x", "w"], [out])], [out], tensors={"w": gaussian(7, 5, seed=index)})
        for index, out in enumerate("ab")
    ]
    proto = model(
        [node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])],
        {},
        X | {"c": (TensorProto.BOOL, [])},
    )
    found = layers(proto)
    assert set(found) == {"w", "w_2"}
    assert sorted(each.matrices()[0][0, 0] for each in found.values()) == sorted(
        gaussian(7, 5, seed=index)[0, 0] for index in range(2)
    )


# Functions


def function(name: str, inputs: list[str], nodes: Nodes, attributes: list[str] | None = None) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, ["out"], nodes, imports, attributes or [])


def test_local_functions_are_inlined() -> None:
    linear = function(
        "Linear",
        ["x", "weight"],
        [node("Transpose", ["weight"], ["t"]), node("MatMul", ["x", "t"], ["out"])],
    )
    block = function(
        "Block",
        ["x", "weight"],
        [
            node("Constant", [], ["c"], value=tensor("", gaussian(5, 6))),
            node("Linear", ["x", "weight"], ["h"], "local"),
            node("MatMul", ["h", "c"], ["out"]),
        ],
    )
    proto = model(
        [node("Block", ["x", "fc.weight"], ["y"], "local")], {"fc.weight": gaussian(5, 7)}, X, functions=[linear, block]
    )
    first, second = find(proto).layers
    assert first.name == "fc"
    assert_array_equal(first.matrices()[0], gaussian(5, 7))
    assert_array_equal(second.matrices()[0].T, gaussian(5, 6))
    assert len(proto.functions) == 2  # the user's model stays as it is


def test_a_function_called_twice() -> None:
    linear = function("Linear", ["x", "weight"], [node("MatMul", ["x", "weight"], ["out"])])
    nodes = [node("Linear", ["x", "a"], ["h"], "local"), node("Linear", ["h", "b"], ["y"], "local")]
    found = layers(model(nodes, {"a": gaussian(7, 5), "b": gaussian(5, 6)}, X, functions=[linear]))
    assert list(found) == ["a", "b"]


def test_attributes_of_a_function_reach_its_nodes() -> None:
    gemm = node("Gemm", ["x", "weight"], ["out"])
    gemm.attribute.add(name="transB", ref_attr_name="transposed", type=onnx.AttributeProto.INT)
    linear = function("Linear", ["x", "weight"], [gemm], ["transposed"])
    proto = model(
        [node("Linear", ["x", "w"], ["y"], "local", transposed=1)], {"w": gaussian(5, 7)}, X, functions=[linear]
    )
    assert layer(proto).matrix_shape == (1, 5, 7)


# Sparse tensors


def sparse(name: str, dense: Array, linear: bool) -> onnx.SparseTensorProto:
    places = np.argwhere(dense)
    indices = np.ravel_multi_index(tuple(places.T), dense.shape) if linear else places
    values = tensor(name, dense[tuple(places.T)])
    return helper.make_sparse_tensor(values, tensor(f"{name}_indices", indices.astype(np.int64)), dense.shape)


def mostly_zero(rows: int, columns: int) -> Array:
    values = gaussian(rows, columns)
    return np.where(np.abs(values) > 1, values, 0).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (101, 96)])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("where", ["initializer", "constant", "in_a_branch"])
def test_sparse_weights(where: str, linear: bool, rows: int, columns: int) -> None:
    dense = mostly_zero(rows, columns)
    product = node("MatMul", ["x", "w"], ["y"])
    constant_node = node("Constant", [], ["w"], sparse_value=sparse("w", dense, linear))
    if where == "initializer":
        proto = model([product], {}, X)
        proto.graph.sparse_initializer.append(sparse("w", dense, linear))
    elif where == "constant":
        proto = model([constant_node, product], {}, X)
    else:
        branches = [subgraph([constant_node, product], ["y"]), subgraph([node("Identity", ["x"], ["z"])], ["z"])]
        branch = node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
        proto = model([branch], {}, X | {"c": (TensorProto.BOOL, [])})
    before = proto.SerializeToString()
    found = layer(proto)
    assert (found.name, found.dtype, found.shape) == ("w", "float", (rows, columns))
    assert_array_equal(found.matrices()[0].T, dense)
    assert proto.SerializeToString() == before
    assert_array_equal(matrix(before).T, dense)


def test_a_sparse_constant_inside_a_function() -> None:
    nodes = [
        node("Constant", [], ["w"], sparse_value=sparse("w", mostly_zero(7, 5), linear=True)),
        node("MatMul", ["x", "w"], ["out"]),
    ]
    proto = model([node("Linear", ["x"], ["y"], "local")], {}, X, functions=[function("Linear", ["x"], nodes)])
    assert_array_equal(matrix(proto).T, mostly_zero(7, 5))


# Files of old and odd kinds


@pytest.mark.parametrize("version", range(3, onnx.IR_VERSION + 1))
@pytest.mark.parametrize("also_input", [False, True])
def test_every_version_of_the_format(version: int, also_input: bool) -> None:
    """Up to version 3 every initializer is an input too; later one that is may be fed, but holds the weight."""
    inputs = X | ({"w": (FLOAT, [7, 5])} if also_input else {})
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"w": gaussian(7, 5)}, inputs, ir_version=version, opset=8)
    assert_array_equal(matrix(proto).T, gaussian(7, 5))
    assert_array_equal(matrix(proto.SerializeToString()).T, gaussian(7, 5))


def test_no_operator_set_is_imported() -> None:
    nodes = [node("ReduceL2", ["v", "axes"], ["n"]), node("Div", ["v", "n"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, {"v": gaussian(7, 5), "axes": ints(0)}, X)
    del proto.opset_import[:]
    values = gaussian(7, 5)
    np.testing.assert_allclose(matrix(proto).T, values / np.linalg.norm(values, axis=0), rtol=1e-5)


def test_the_other_name_of_the_standard_domain() -> None:
    nodes = [node("Transpose", ["v"], ["w"], "ai.onnx"), node("MatMul", ["x", "w"], ["y"], "ai.onnx")]
    assert_array_equal(matrix(model(nodes, {"v": gaussian(5, 7)}, X)), gaussian(5, 7))


def test_computed_in_the_other_name_of_the_standard_domain() -> None:
    nodes = [node("Mul", ["v", "two"], ["w"], "ai.onnx"), node("MatMul", ["x", "w"], ["y"], "ai.onnx")]
    proto = model(nodes, {"v": gaussian(7, 5), "two": np.float32([2])}, X)
    assert_array_equal(matrix(proto).T, 2 * gaussian(7, 5))


@pytest.mark.parametrize("sequence", [True, False])
def test_outputs_of_maps(sequence: bool) -> None:
    """What skl2onnx writes for a classifier."""
    map_type = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    kind = helper.make_sequence_type_proto(map_type) if sequence else map_type
    attributes = {"coefficients": gaussian(21).tolist(), "classlabels_ints": [0, 1, 2], "intercepts": [0.0, 0.0, 0.0]}
    proto = model(
        [
            node("LinearClassifier", ["x"], ["label", "scores"], ML, **attributes),
            node("ZipMap", ["scores"], ["maps"], ML, classlabels_int64s=[0, 1, 2]),
        ],
        {},
        {"x": (FLOAT, [None, 7])},
        ("label",),
    )
    proto.graph.output.append(helper.make_value_info("maps", kind))
    before = proto.SerializeToString()
    assert_array_equal(matrix(proto), gaussian(21).reshape(3, 7))
    assert_array_equal(matrix(before), gaussian(21).reshape(3, 7))
    assert proto.SerializeToString() == before


FLOATS = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
]
LABELS = {"float32": "float", "float64": "double"}


def stored(name: str, values: Array, raw: bool) -> TensorProto:
    """The values in bytes, or in the field that their type has for lists."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    if raw:
        return tensor(name, values)
    numbers = values.astype(np.float32).reshape(-1) if values.dtype.kind == "V" else values.reshape(-1)
    proto = helper.make_tensor(name, kind, values.shape, numbers)
    assert not proto.raw_data
    return proto


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize(("rows", "columns"), [(7, 5), (101, 96)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_element_types(dtype: str, rows: int, columns: int, raw: bool) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    values = gaussian(rows, columns).astype(kind)
    found = layer(applied([], {"w": stored("w", values, raw)}, opset=21))
    assert found.dtype == LABELS.get(dtype, dtype.replace("_", ""))
    assert found.eps == float(ml_dtypes.finfo(kind).eps)
    assert found.matrices().dtype == kind
    assert_array_equal(found.matrices()[0].T.astype(np.float64), values.astype(np.float64))


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("shape", [(7, 5), (6, 4), (101, 96)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"])
def test_codes_of_every_type(dtype: str, shape: tuple[int, int], raw: bool) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    codes = integers(*shape, dtype=kind)
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"])]
    if dtype == "int32":
        codes = codes % 1000
    numbers = codes.astype(np.int64) if dtype in ("int4", "uint4") else codes
    proto = helper.make_tensor("q", helper.np_dtype_to_tensor_dtype(kind), shape, numbers.reshape(-1))
    found = layer(applied(nodes, {"q": tensor("q", codes) if raw else proto, "s": scales()}, opset=21))
    assert found.dtype == dtype
    np.testing.assert_allclose(found.matrices()[0].T, codes.astype(np.float32) * scales(), rtol=1e-6)


# Expressions that can't be, or would cost too much


def test_a_chain_of_a_hundred_thousand() -> None:
    first = last = ir.Value(name="v0", const_value=ir.tensor(gaussian(7, 5)))
    x, nodes = ir.Value(name="x"), []
    for _ in range(100_000):
        nodes.append(ir.Node("", "Identity", [last]))
        last = nodes[-1].outputs[0]
    nodes.append(ir.Node("", "MatMul", [x, last]))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=[first], opset_imports={"": 20})
    opened = open_model(ir.Model(graph, ir_version=10)).model
    start = time.perf_counter()
    with at_most(60):
        (found,) = walk(opened).layers
    assert time.perf_counter() - start < 30  # one or two seconds on an idle machine
    assert_array_equal(found.matrices()[0].T, gaussian(7, 5))


def bomb(kind: str) -> onnx.ModelProto:
    v = {"v0": gaussian(100, 100)}

    def chain(op_type: str, count: int, **given: Any) -> onnx.ModelProto:
        nodes = [node(op_type, [f"v{index}"] * 2, [f"v{index + 1}"], **given) for index in range(count)]
        return applied(nodes, v, f"v{count}")

    if kind == "doubled":
        return chain("Concat", 40, axis=0)
    if kind == "added":
        return chain("Add", 60)
    if kind == "multiplied":
        return chain("MatMul", 60)
    if kind == "expanded":
        return applied([node("Expand", ["v0", "n"], ["w"])], {"v0": gaussian(1, 1), "n": ints(10**6, 10**6)})
    if kind == "outer_product":
        tensors = {"a": gaussian(100_000, 1), "b": gaussian(1, 100_000)}
        return applied([node("Mul", ["a", "b"], ["w"])], tensors)
    if kind == "repeated":  # 4 GB out of 40 kB
        return applied([node("Concat", ["v0"] * 100_000, ["w"], axis=0)], v)
    if kind == "repeated_twice":
        nodes = [node("Concat", ["v0"] * 4000, ["u"], axis=0), node("Concat", ["u"] * 4000, ["w"], axis=0)]
        return applied(nodes, v)
    if kind == "gathered":
        return applied(
            [node("Gather", ["v0", "i"], ["w"])], {"v0": gaussian(2, 10_000), "i": np.zeros(10**6, np.int64)}
        )
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind", ["doubled", "added", "multiplied", "expanded", "outer_product", "repeated", "repeated_twice", "gathered"]
)
def test_bombs_are_refused(kind: str) -> None:
    proto = bomb(kind)
    with at_most(20):
        found = find(proto)
    assert any("too long" in skip.reason or "out of" in skip.reason for skip in found.skipped)
    assert all(each.parameters <= 10**6 for each in found.layers)


def test_a_long_sum_takes_little_memory() -> None:
    """No step of a chain needs a list of all the tensors before it: for 100,000 steps these would be 40 GB."""
    count = 3000
    nodes = [node("Add", [f"v{index}", f"c{index}"], [f"v{index + 1}"]) for index in range(count)]
    tensors = {f"c{index}": gaussian(5) for index in range(count)}
    opened = open_model(applied(nodes, tensors | {"v0": gaussian(7, 5)}, f"v{count}")).model
    tracemalloc.start()
    try:
        found = walk(opened)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "too long" in found.skipped[0].reason
    assert peak < 20 << 20


@pytest.mark.parametrize("shape", ["cycle", "self", "through_a_loop"])
def test_graphs_that_go_in_circles(shape: str) -> None:
    if shape == "cycle":
        nodes = [node("Add", ["b", "w"], ["a"]), node("Identity", ["a"], ["b"]), node("MatMul", ["x", "b"], ["y"])]
        proto = model(nodes, {"w": gaussian(7, 5)}, X)
    elif shape == "self":
        nodes = [node("Add", ["a", "w"], ["a"]), node("MatMul", ["x", "a"], ["y"])]
        proto = model(nodes, {"w": gaussian(7, 5)}, X)
    else:
        nodes = [node("Add", ["s", "t"], ["t"]), node("MatMul", ["h", "t"], ["next"])]
        proto = looped(nodes, ["s"], ["t"], ["w"], {"w": gaussian(5, 5)})
    with at_most(10):
        assert not find(proto).layers


@pytest.mark.parametrize(
    ("op_type", "operands", "attributes"),
    [
        *(
            (op_type, ["v", ""], {})
            for op_type in ("Add", "MatMul", "Gather", "Concat", "CastLike", "Expand", "Reshape")
        ),
        ("Where", ["", "v", "v"], {}),
        ("Where", ["v", "", "v"], {}),
        ("Sum", ["v", "", "v"], {}),
        ("Gemm", ["v", "", "v"], {}),
        ("Cast", ["v"], {}),
        ("Cast", ["v"], {"to": 999}),
        ("Cast", ["v"], {"to": TensorProto.STRING}),
        ("Cast", ["v"], {"to": TensorProto.COMPLEX64}),
        ("Transpose", ["v"], {"perm": [0, 0]}),
        ("Transpose", ["v"], {"perm": [5, 7]}),
        ("Reshape", ["v", "n"], {}),
        ("Reshape", ["v", "v"], {}),
        ("Squeeze", ["v", "n"], {}),
        ("Unsqueeze", ["v", "n"], {}),
        ("Slice", ["v", "n"], {}),
        ("Slice", ["v", "n", "n", "n", "zero"], {}),
        ("Split", ["v", "n"], {}),
        ("Split", ["v"], {"axis": 7}),
        ("Concat", ["v", "n"], {"axis": 9}),
        ("Gather", ["v", "n"], {"axis": 9}),
        ("Flatten", ["v"], {"axis": 9}),
        ("ReduceSum", ["v", "n"], {}),
        ("DequantizeLinear", ["v", ""], {}),
        ("DequantizeLinear", ["q", "v"], {}),
        ("DequantizeLinear", ["q", "v"], {"axis": 9}),
        ("DequantizeLinear", ["q", "v"], {"block_size": -1}),
        ("QuantizeLinear", ["v", ""], {}),
        ("Quant", ["v", "n"], {"domain": "qonnx.custom_op.general"}),
        ("BipolarQuant", ["v", ""], {"domain": "qonnx.custom_op.general"}),
    ],
)
def test_arguments_that_cannot_be_cost_no_other_layer(
    op_type: str, operands: list[str], attributes: dict[str, Any]
) -> None:
    """A node that no runtime would take makes at most its own layer fail."""
    nodes = [node(op_type, operands, ["w"], **attributes), node("MatMul", ["x", "w"], ["h"])]
    tensors = {
        "v": gaussian(7, 5),
        "n": ints(9, 9, 9),
        "q": integers(7, 5),
        "zero": ints(0, 0, 0),
        "good": gaussian(5, 6),
    }
    found = find(model([*nodes, node("MatMul", ["h", "good"], ["y"])], tensors, X))
    assert found.layers[-1].name == "good"
    for each in found.layers[:-1]:
        with contextlib.suppress(WeightError):
            each.matrices()


@pytest.mark.parametrize(
    "nodes",
    [
        [node("MatMul", ["x", "w"], [])],
        [node("Add", ["w", "w"], [])],
        [node("LinearRegressor", ["x"], [], ML, coefficients=[1.0, 2.0])],
        [node("MatMulInteger", ["x", "w"], ["h"]), node("Mul", ["h"], ["y"])],
        [node("ConvInteger", ["x", "w"], ["h"]), node("Mul", ["h"], ["y"])],
        [node("MatMul", [], ["y"]), node("Conv", [], ["c"]), node("Einsum", [], ["e"]), node("LSTM", [], ["l"])],
        [node("Gather", [], ["y"]), node("MatMulInteger", [], ["c"]), node("QLinearConv", [], ["e"])],
        [node("MatMulNBits", ["x", "w"], ["y"], MICROSOFT), node("GatherBlockQuantized", ["w"], ["c"], MICROSOFT)],
    ],
    ids=["no_output", "no_result", "no_prediction", "odd_mul", "odd_mul_conv", "no_inputs", "no_codes", "no_scales"],
)
def test_nodes_that_lack_inputs_or_outputs_cost_no_other_layer(nodes: Nodes) -> None:
    proto = model(
        [*nodes, node("MatMul", ["x", "good"], ["z"])], {"w": integers(7, 5), "good": gaussian(7, 6)}, X, ("z",)
    )
    found = find(proto)
    assert found.layers[-1].name == "good"
    inventory(open_model(proto).model, found)


# What is not computed


def test_nothing_is_read_to_describe_an_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, tensors, opset = CONES["lora_merge"](20)
    opened = open_model(model(nodes, tensors, outputs=("w",), opset=opset)).model
    monkeypatch.setattr("wwonnx.graph.constants.read_tensor", lambda _: pytest.fail("a tensor was read"))
    found = walk(opened).finder.find(opened.graph.outputs[0])
    assert isinstance(found, Constant)
    assert (found.shape, found.root.name, found.elements) == ((80, 120), "base", 9600 + 2 * 80 + 2 * 120 + 1)


def test_random_values_are_not_constant() -> None:
    nodes = [node("RandomNormal", [], ["w"], shape=[7, 5]), node("MatMul", ["x", "w"], ["y"])]
    found = find(model(nodes, {}, X))
    assert not found.layers
    assert not found.skipped


@pytest.mark.parametrize(("side", "allowed"), [(5000, True), (40_000, False)])
def test_a_product_of_thin_factors_may_be_large_and_what_follows_it_as_large(side: int, allowed: bool) -> None:
    """Few numbers make many: a low-rank update does, up to a bound that no weight comes near."""
    nodes = [node("MatMul", ["b", "a"], ["ba"]), node("Mul", ["ba", "s"], ["w"])]
    tensors = {"b": gaussian(side, 1), "a": gaussian(1, side), "s": np.float32(2)}
    found = constant(model(nodes, tensors, outputs=("w",)))
    assert isinstance(found, Constant) == allowed
    if isinstance(found, Opaque):
        assert "would make 1,600,000,000 values out of 80,000 that are stored" in found.reason


def test_the_name_of_a_sum_is_that_of_its_largest_tensor() -> None:
    """Factors hold more numbers together than a base of nearly their rank does."""
    nodes = [node("MatMul", ["b", "a"], ["ba"]), node("Add", ["base", "ba"], ["w"])]
    tensors = {"b": gaussian(16, 8), "a": gaussian(8, 12), "base": gaussian(16, 12)}
    found = constant(model(nodes, tensors, outputs=("w",)))
    assert isinstance(found, Constant)
    assert found.root.name == "base"


@pytest.mark.parametrize("op_type", ["Tile", "Pad", "CumSum", "ScatterND", "Resize"])
def test_what_is_not_evaluated_says_so(op_type: str) -> None:
    found = constant(model([node(op_type, ["v", "n"], ["w"])], {"v": gaussian(7, 5), "n": ints(1, 2)}, outputs=("w",)))
    assert isinstance(found, Opaque)
    assert op_type in found.reason


def test_math_is_exact_enough() -> None:
    """The reference implementation works in the operands' own type."""
    tensors = {"v": gaussian(7, 5).astype(np.float16), "s": np.float16([3])}
    found = constant(proto := model([node("Mul", ["v", "s"], ["w"])], tensors, outputs=("w",)))
    assert isinstance(found, Constant)
    assert found.read().dtype == np.float16
    assert_array_equal(found.read(), run(proto))
    assert math.isclose(found.eps, 2**-10)


def test_slices_at_different_places_are_different_weights() -> None:
    """A packed projection taken apart by Slice nodes whose starts and ends are inputs."""
    nodes, tensors = [], {"packed": gaussian(18, 7)}
    for index, part in enumerate("qkv"):
        tensors |= {f"s{part}": np.array([6 * index]), f"e{part}": np.array([6 * index + 6])}
        nodes.append(node("Slice", ["packed", f"s{part}", f"e{part}"], [f"w{part}"]))
        nodes.append(node("Gemm", ["x", f"w{part}"], [f"y{part}"], transB=1))
    found = find(model(nodes, tensors, X)).layers
    assert [each.shape for each in found] == [(6, 7)] * 3
    for index, each in enumerate(found):
        assert_array_equal(each.matrices()[0], gaussian(18, 7)[6 * index : 6 * index + 6])

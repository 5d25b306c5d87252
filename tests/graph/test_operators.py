"""Each operator's weight is the map that onnxruntime applies: same numbers out of the matrix as out of the node."""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import pytest
from build_models import (
    FLOAT,
    MICROSOFT,
    ML,
    QONNX,
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
    refusal,
    run,
    run_all,
    scales,
    short_integers,
    singular_values,
    subgraph,
    tensor,
)
from onnx import TensorProto

from wwonnx.graph.constants import Constant
from wwonnx.graph.inventory import inventory
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk
from wwonnx.layer import LAYER_TYPE

Attributes: TypeAlias = dict[str, Any]

#: (outputs, inputs) below and above the 8,192 elements from which exporters leave initializers alone.
SIZES = pytest.mark.parametrize(("outputs", "inputs"), [(5, 7), (96, 101)])
BATCH = 4
UNKNOWN = [None, None]


def close(found: Array, expected: Array, tolerance: float = 2e-5) -> None:
    expected = np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=tolerance * (1 + np.abs(expected).max()))


# Matrix products

RIGHT, LEFT, X_TRANSPOSED = "x from the left", "x from the right", "x transposed"
PRODUCTS: dict[str, tuple[str, str, Attributes, bool, str]] = {
    # operator, domain, attributes, whether the weight is (outputs, inputs), where x goes
    "gemm": ("Gemm", "", {}, False, RIGHT),
    "gemm_transB": ("Gemm", "", {"transB": 1}, True, RIGHT),
    "gemm_both": ("Gemm", "", {"transA": 1, "transB": 1}, True, X_TRANSPOSED),
    "gemm_left": ("Gemm", "", {}, True, LEFT),
    "gemm_left_transA": ("Gemm", "", {"transA": 1}, False, LEFT),
    "matmul": ("MatMul", "", {}, False, RIGHT),
    "matmul_left": ("MatMul", "", {}, True, LEFT),
    "fused_matmul": ("FusedMatMul", MICROSOFT, {}, False, RIGHT),
    "fused_matmul_transB": ("FusedMatMul", MICROSOFT, {"transB": 1}, True, RIGHT),
    "fused_matmul_left_transA": ("FusedMatMul", MICROSOFT, {"transA": 1}, False, LEFT),
    "fused_gemm": ("FusedGemm", MICROSOFT, {"activation": "LeakyRelu", "activation_alpha": 1.0}, False, RIGHT),
    "fused_gemm_transB": (
        "FusedGemm",
        MICROSOFT,
        {"transB": 1, "activation": "LeakyRelu", "activation_alpha": 1.0},
        True,
        RIGHT,
    ),
}


@SIZES
@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product_with_a_matrix(case: str, outputs: int, inputs: int) -> None:
    op_type, domain, attributes, outputs_first, place = PRODUCTS[case]
    weight = gaussian(outputs, inputs) if outputs_first else gaussian(inputs, outputs)
    operands = ["w", "x"] if place == LEFT else ["x", "w"]
    proto = model([node(op_type, operands, ["y"], domain, **attributes)], {"w": weight}, {"x": (FLOAT, UNKNOWN)})
    x = gaussian(inputs, BATCH) if place in (LEFT, X_TRANSPOSED) else gaussian(BATCH, inputs)
    found = layer(proto)
    (w,) = found.matrices()
    close(w @ x if place == LEFT else (x.T if place == X_TRANSPOSED else x) @ w.T, run(proto, x=x))
    assert (found.N, found.M, found.rf) == (max(outputs, inputs), min(outputs, inputs), 1)
    assert (found.layer_type, found.dtype, found.name) == (LAYER_TYPE.DENSE, "float", "w")
    assert found.uses[0].input == operands.index("w")


@pytest.mark.parametrize("lead", [(1,), (1, 1)])
def test_a_matrix_under_dimensions_of_one(lead: tuple[int, ...]) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"w": gaussian(*lead, 7, 5)}, {"x": (FLOAT, [2, BATCH, 7])})
    x = gaussian(2, BATCH, 7)
    close((x @ matrix(proto).T).reshape(*lead[1:], 2, BATCH, 5), run(proto, x=x))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(5, 7), (48, 70)])
def test_a_stack_of_matrices_is_a_layer_each(left: bool, outputs: int, inputs: int) -> None:
    weight = gaussian(3, outputs, inputs) if left else gaussian(3, inputs, outputs)
    proto = model(
        [node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"])],
        {"w": weight},
        {"x": (FLOAT, [3, None, None])},
    )
    found = layers(proto)
    assert list(found) == ["w.0", "w.1", "w.2"]
    x = gaussian(3, inputs, BATCH) if left else gaussian(3, BATCH, inputs)
    for index, y in enumerate(run(proto, x=x)):
        (w,) = found[f"w.{index}"].matrices()
        close(w @ x[index] if left else x[index] @ w.T, y)


EINSUMS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    # equation (the weight second), shapes of x and of the weight, shape of the matrices
    "matrix": ("ij,jk->ik", (4, 7), (7, 5), (1, 5, 7)),
    "transposed": ("ij,kj->ik", (4, 7), (5, 7), (1, 5, 7)),
    "large": ("ij,jk->ik", (4, 101), (101, 96), (1, 96, 101)),
    "spaces": (" i j , j k -> i k ", (4, 7), (7, 5), (1, 5, 7)),
    "capitals": ("iJ,JK->iK", (4, 7), (7, 5), (1, 5, 7)),
    "to_heads": ("abc,cde->abde", (2, 3, 7), (7, 4, 5), (1, 20, 7)),
    "from_heads": ("abcd,cde->abe", (2, 3, 4, 5), (4, 5, 6), (1, 6, 20)),
    "heads_first": ("abd,hdk->abhk", (2, 3, 7), (4, 7, 5), (1, 20, 7)),
    "to_heads_large": ("abc,cde->abde", (2, 3, 96), (96, 8, 12), (1, 96, 96)),
    "ellipsis": ("...ij,jk->...ik", (2, 3, 7), (7, 5), (1, 5, 7)),
    "a_matrix_each": ("bij,bjk->bik", (3, 4, 7), (3, 7, 5), (3, 5, 7)),
    "implicit": ("ij,jk", (4, 7), (7, 5), (1, 5, 7)),
}


@pytest.mark.parametrize("first", [False, True], ids=["weight_second", "weight_first"])
@pytest.mark.parametrize("case", EINSUMS)
def test_einsum(case: str, first: bool) -> None:
    equation, of_x, of_weight, expected = EINSUMS[case]
    if first:
        sources, arrow, result = equation.partition("->")
        x_term, weight_term = sources.split(",")
        equation = f"{weight_term},{x_term}{arrow}{result}"
        if not arrow:  # the letters that occur once, in alphabetical order, are the result all the same
            assert case == "implicit"
    weight, x = gaussian(*of_weight), gaussian(*of_x)
    proto = model(
        [node("Einsum", ["w", "x"] if first else ["x", "w"], ["y"], equation=equation)],
        {"w": weight},
        {"x": (FLOAT, of_x)},
    )
    found = layer(proto)
    stack = found.matrices()
    assert stack.shape == found.matrix_shape == expected
    flat = x.reshape(expected[0], -1, expected[2])  # what is contracted comes last in all of the equations
    close(np.matmul(flat, stack.transpose(0, 2, 1)).reshape(-1), run(proto, x=x).reshape(-1))


@pytest.mark.parametrize(
    "equation",
    ["ij,j->i", "ij,ij->ij", "bhqd,bhkd->bhqk", "ii,ij->ij", "ij,jk->"],
    ids=["vector", "elementwise", "both_activations", "diagonal", "sum"],
)
def test_einsums_that_are_no_map(equation: str) -> None:
    terms = equation.split("->", maxsplit=1)[0].split(",")
    proto = model(
        [node("Einsum", ["x", "w"], ["y"], equation=equation)],
        {"w": gaussian(*[4] * len(terms[1]))},
        {"x": (FLOAT, [4] * len(terms[0]))},
    )
    if equation != "bhqd,bhkd->bhqk":
        assert not find(proto).layers


def test_three_factors_of_an_einsum_are_layers_or_say_why_not() -> None:
    proto = model(
        [node("Einsum", ["x", "w", "v"], ["y"], equation="ij,jk,kl->il")],
        {"w": gaussian(7, 5), "v": gaussian(5, 6)},
        {"x": (FLOAT, [4, 7])},
    )
    found = find(proto)
    assert {each.longname for each in (*found.layers, *found.skipped)} == {"w", "v"}


# Biases


BIASES: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], tuple[int, ...]]] = {
    "gemm": ([node("Gemm", ["x", "w", "b"], ["y"])], (7, 5), (5,)),
    "matmul_add": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])], (7, 5), (5,)),
    "add_matmul": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["b", "h"], ["y"])], (7, 5), (5,)),
    "conv": ([node("Conv", ["x", "w", "b"], ["y"])], (5, 7, 3), (5,)),
    "conv_transpose": ([node("ConvTranspose", ["x", "w", "b"], ["y"])], (7, 5, 3), (5,)),
}


@pytest.mark.parametrize("case", BIASES)
def test_the_bias_that_goes_with_a_weight(case: str) -> None:
    nodes, of_weight, of_bias = BIASES[case]
    bias = gaussian(*of_bias)
    found = layer(model(nodes, {"w": gaussian(*of_weight), "b": bias}, {"x": (FLOAT, [None] * len(of_weight))}))
    assert found.read_bias is not None
    np.testing.assert_array_equal(found.read_bias(), bias)


@pytest.mark.parametrize(
    ("nodes", "of_weight", "of_bias"),
    [
        pytest.param([node("Gemm", ["x", "w", "b"], ["y"])], (7, 18), (1, 18), id="a_row"),
        pytest.param([node("Gemm", ["x", "w", "b"], ["y"])], (7, 18), (), id="a_scalar"),
        pytest.param([node("Gemm", ["w", "x", "b"], ["y"])], (18, 7), (3,), id="along_the_columns_of_x"),
        pytest.param([node("Gemm", ["w", "x", "b"], ["y"])], (18, 7), (18, 1), id="a_column"),
        pytest.param(
            [node("MatMul", ["w", "x"], ["h"]), node("Add", ["h", "b"], ["y"])], (18, 7), (3,), id="added_to_columns"
        ),
        pytest.param(
            [
                node("MatMul", ["x", "w"], ["h"]),
                node("Add", ["h", "b"], ["a"]),
                node("Split", ["a"], [*"qkv"], axis=-1),
            ],
            (7, 18),
            (18,),
            id="packed",
        ),
        pytest.param([node("Conv", ["x", "w", "b"], ["y"], group=3)], (18, 2, 3), (18,), id="in_groups"),
    ],
)
def test_a_bias_has_one_value_per_output_or_there_is_none(
    nodes: list[onnx.NodeProto], of_weight: tuple[int, ...], of_bias: tuple[int, ...]
) -> None:
    bias = gaussian(*of_bias) if of_bias else np.array(0.5, np.float32)
    tensors = {"w": gaussian(*of_weight), "b": bias}
    proto = model(nodes, tensors, {"x": (FLOAT, [None] * len(of_weight))}, (nodes[-1].output[0],), opset=17)
    for each in find(proto, qkv=True).layers:
        if each.read_bias is not None:
            assert each.read_bias().shape == (each.matrix_shape[1],)


def test_a_weight_without_a_bias() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "x"], ["y"])]
    assert layer(model(nodes, {"w": gaussian(5, 5)}, {"x": (FLOAT, UNKNOWN)})).read_bias is None


# Convolutions


def correlated(x: Array, matrices: Array, kernel: tuple[int, ...]) -> Array:
    """A convolution without padding: the sum over kernel positions of matrix times shifted input."""
    axes = tuple(range(2, 2 + len(kernel)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axes)
    windows = windows.reshape(*windows.shape[: 2 + len(kernel)], -1)
    return np.einsum("bi...p,poi->bo...", windows, matrices)


def blocks(matrices: Array, groups: int) -> Array:
    """(groups x positions, a, b) as block-diagonal matrices, (positions, groups a, groups b)."""
    parts = matrices.reshape(groups, -1, *matrices.shape[1:])
    rows, columns = parts.shape[2:]
    whole = np.zeros((parts.shape[1], groups * rows, groups * columns), parts.dtype)
    for group, part in enumerate(parts):
        whole[:, group * rows : (group + 1) * rows, group * columns : (group + 1) * columns] = part
    return whole


CONVOLUTIONS = [
    pytest.param(shape, group, id=f"{'x'.join(map(str, shape))}_in_{group}")
    for shape, group in [
        ((5, 4, 3), 1),
        ((40, 48, 5), 1),
        ((6, 4, 1, 1), 1),
        ((6, 4, 3, 2), 1),
        ((6, 2, 3, 2), 3),
        ((64, 16, 3, 3), 4),
        ((4, 3, 2, 2, 2), 1),
        ((4, 3, 2, 1, 2), 2),
    ]
]


def convolution(op_type: str, shape: tuple[int, ...], group: int) -> onnx.ModelProto:
    kind = (FLOAT, [None] * len(shape))
    return model([node(op_type, ["x", "w"], ["y"], group=group)], {"w": gaussian(*shape)}, {"x": kind})


@pytest.mark.parametrize(("shape", "group"), CONVOLUTIONS)
def test_convolutions(shape: tuple[int, ...], group: int) -> None:
    proto, kernel = convolution("Conv", shape, group), shape[2:]
    stacked, split = layer(proto), layer(proto, groups=True)
    assert stacked.layer_type.label == f"conv{len(kernel)}d"
    assert (stacked.N, stacked.M, stacked.rf) == (max(shape[:2]), min(shape[:2]), np.prod(kernel))
    assert not stacked.depthwise
    np.testing.assert_array_equal(stacked.matrices(), gaussian(*shape).reshape(*shape[:2], -1).transpose(2, 0, 1))

    x = gaussian(2, shape[1] * group, *(n + 3 for n in kernel))
    close(correlated(x, blocks(split.matrices(), group), kernel), run(proto, x=x))
    whole = singular_values(blocks(split.matrices(), group))
    np.testing.assert_allclose(singular_values(split.matrices()), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("shape", "group"), CONVOLUTIONS)
def test_transposed_convolutions(shape: tuple[int, ...], group: int) -> None:
    """Here the weight is (inputs, outputs / group, ...); with stride 1 it correlates with the kernel turned round."""
    proto, kernel = convolution("ConvTranspose", shape, group), shape[2:]
    stacked, split = layer(proto), layer(proto, groups=True)
    assert stacked.layer_type.label == "conv_transpose"
    assert (stacked.N, stacked.M, stacked.rf) == (max(shape[:2]), min(shape[:2]), np.prod(kernel))
    np.testing.assert_array_equal(stacked.matrices(), gaussian(*shape).reshape(*shape[:2], -1).transpose(2, 1, 0))

    x = gaussian(2, shape[0], *(n + 3 for n in kernel))
    padded = np.pad(x, [(0, 0), (0, 0), *((n - 1, n - 1) for n in kernel)])
    turned = blocks(split.matrices(), group)[::-1]
    close(correlated(padded, turned, kernel), run(proto, x=x))


@pytest.mark.parametrize(
    ("op_type", "shape", "group"),
    [
        ("Conv", (6, 1, 3, 3), 6),
        ("Conv", (12, 1, 3), 6),
        ("Conv", (1024, 1, 3, 3), 1024),
        ("ConvTranspose", (6, 1, 3, 3), 6),
        ("ConvTranspose", (1024, 1, 3, 3), 1024),
    ],
)
@pytest.mark.parametrize("groups", [False, True])
def test_depthwise_convolutions(op_type: str, shape: tuple[int, ...], group: int, groups: bool) -> None:
    found = layer(convolution(op_type, shape, group), groups=groups)
    assert found.depthwise
    assert (found.N, found.M, found.rf) == (shape[0], 1, np.prod(shape[2:]))


def test_one_channel_is_not_depthwise() -> None:
    assert not layer(convolution("Conv", (6, 1, 3, 3), 1)).depthwise


def test_fused_convolution() -> None:
    fused = node("FusedConv", ["x", "w"], ["y"], MICROSOFT, activation="Relu")
    proto = model([fused], {"w": gaussian(6, 4, 3, 3)}, {"x": (FLOAT, [None] * 4)})
    x = gaussian(1, 4, 5, 5)
    close(np.maximum(correlated(x, layer(proto).matrices(), (3, 3)), 0), run(proto, x=x))


@pytest.mark.parametrize(
    ("op_type", "domain", "axes"),
    [("NhwcConv", MICROSOFT, (1, 2, 0, 3)), ("DeformConv", "", (2, 3, 0, 1))],
)
def test_convolutions_that_the_runtime_lacks(op_type: str, domain: str, axes: tuple[int, ...]) -> None:
    weight = gaussian(6, 3, 2, 4)
    found = layer(model([node(op_type, ["x", "w"], ["y"], domain)], {"w": weight}, {"x": (FLOAT, [None] * 4)}))
    moved = weight.transpose(axes)
    np.testing.assert_array_equal(found.matrices(), moved.reshape(-1, *moved.shape[2:]))


# Recurrent layers

CELLS = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
RECURRENT_SIZES = pytest.mark.parametrize(("hidden", "inputs"), [(3, 4), (40, 60)])


def recurrent(op_type: str, directions: int, hidden: int, inputs: int, **attributes: Any) -> onnx.ModelProto:
    rows = len(CELLS[op_type]) * hidden
    tensors = {"w": gaussian(directions, rows, inputs), "r": gaussian(directions, rows, hidden)}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    cell = node(op_type, ["x", "w", "r", "", "", "h"], ["", "y"], hidden_size=hidden, **attributes)
    return model(
        [cell], tensors, {"x": (FLOAT, [1, BATCH, inputs]), "h": (FLOAT, [directions, BATCH, hidden])}, opset=17
    )


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def step(op_type: str, w: dict[str, Array], r: dict[str, Array], x: Array, h: Array, linear_before_reset: int) -> Array:
    """One step of a cell without bias, from the matrices of its gates."""
    sums = {gate: x @ w[gate].T + h @ r[gate].T for gate in w}
    if op_type == "RNN":
        return np.tanh(sums["h"])
    if op_type == "LSTM":  # the cell's state starts at zero, so that what the forget gate does is not seen
        return sigmoid(sums["o"]) * np.tanh(sigmoid(sums["i"]) * np.tanh(sums["c"]))
    update, reset = sigmoid(sums["z"]), sigmoid(sums["r"])
    hidden = reset * (h @ r["h"].T) if linear_before_reset else (reset * h) @ r["h"].T
    return (1 - update) * np.tanh(x @ w["h"].T + hidden) + update * h


@RECURRENT_SIZES
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op_type", CELLS)
def test_recurrent_layers(op_type: str, directions: int, hidden: int, inputs: int) -> None:
    proto = recurrent(op_type, directions, hidden, inputs)
    found = layers(proto)
    suffixes = ["", "_reverse"][:directions]
    assert list(found) == [f"{name}{suffix}" for name in "wr" for suffix in suffixes]
    assert {each.layer_type for each in found.values()} == {LAYER_TYPE.RECURRENT}
    for name, columns in (("w", inputs), ("r", hidden)):
        stored = gaussian(directions, len(CELLS[op_type]) * hidden, columns)
        for index, suffix in enumerate(suffixes):
            np.testing.assert_array_equal(found[name + suffix].matrices()[0], stored[index])


@RECURRENT_SIZES
@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}), ("RNN", {})],
    ids=["lstm", "gru", "gru_keras", "rnn"],
)
def test_gates_are_what_they_are_called(op_type: str, attributes: Attributes, hidden: int, inputs: int) -> None:
    proto = recurrent(op_type, 2, hidden, inputs, **attributes)
    found = layers(proto, gates=True)
    gates = CELLS[op_type]
    x, h = gaussian(1, BATCH, inputs), gaussian(2, BATCH, hidden)
    y = run(proto, x=x, h=h)
    for direction, suffix in enumerate(("", "_reverse")):
        parts = [
            {gate: found[f"{name}{suffix}" + (f".{gate}" if len(gates) > 1 else "")].matrices()[0] for gate in gates}
            for name in "wr"
        ]
        one = step(op_type, *parts, x[0], h[direction], attributes.get("linear_before_reset", 0))
        close(one, y[direction])
    assert len(found) == 4 * len(gates)


def test_the_forget_gate_too() -> None:
    hidden, inputs = 3, 4
    proto = model(
        [node("LSTM", ["x", "w", "r", "", "", "", "c"], ["", "y"], hidden_size=hidden)],
        {"w": gaussian(1, 4 * hidden, inputs), "r": gaussian(1, 4 * hidden, hidden)},
        {"x": (FLOAT, [1, BATCH, inputs]), "c": (FLOAT, [1, BATCH, hidden])},
        opset=17,
    )
    x, c = gaussian(1, BATCH, inputs), gaussian(1, BATCH, hidden)
    found = layers(proto, gates=True)
    i, o, f, g = (x[0] @ found[f"w.{gate}"].matrices()[0].T for gate in "iofc")
    close(sigmoid(o) * np.tanh(sigmoid(f) * c[0] + sigmoid(i) * np.tanh(g)), run(proto, x=x, c=c)[0])


# Attention and embeddings of com.microsoft


def attention(sizes: tuple[int, int, int], inputs: int, given: bool) -> onnx.ModelProto:
    attributes: Attributes = {"num_heads": 1} | ({"qkv_hidden_sizes": list(sizes)} if given else {})
    return model(
        [node("Attention", ["x", "w", "b"], ["y"], MICROSOFT, **attributes)],
        {"w": gaussian(inputs, sum(sizes)), "b": np.zeros(sum(sizes), np.float32)},
        {"x": (FLOAT, [1, None, inputs])},
    )


@pytest.mark.parametrize("sizes", [(6, 6, 6), (6, 6, 4), (64, 64, 64)])
def test_packed_attention(sizes: tuple[int, int, int]) -> None:
    inputs = 160 if sizes[0] > 6 else 7
    proto = attention(sizes, inputs, given=sizes[2] != sizes[0])
    whole = layer(proto)
    assert (whole.layer_type, whole.matrix_shape) == (LAYER_TYPE.ATTENTION, (1, sum(sizes), inputs))
    parts = layers(proto, qkv=True)
    assert list(parts) == ["w.q", "w.k", "w.v"]
    x = gaussian(1, 3, inputs) / 8
    q, k, v = (x[0] @ part.matrices()[0].T for part in parts.values())
    weights = np.exp(q @ k.T / np.sqrt(sizes[0]))
    close(weights / weights.sum(1, keepdims=True) @ v, run(proto, x=x)[0], 1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_projection_that_a_split_takes_apart(transposed: int) -> None:
    weight = gaussian(18, 7)
    proto = model(
        [
            node("Gemm", ["x", "w"], ["h"], transB=1) if transposed else node("MatMul", ["x", "w"], ["h"]),
            node("Add", ["h", "b"], ["biased"]),
            node("Split", ["biased", "sizes"], ["q", "k", "v"], axis=-1),
        ],
        {"w": weight if transposed else weight.T, "b": gaussian(18), "sizes": np.array([8, 6, 4])},
        {"x": (FLOAT, UNKNOWN)},
        ("q", "k", "v"),
    )
    assert list(layers(proto)) == ["w"]
    found = layers(proto, qkv=True)
    for name, expected in zip("qkv", np.split(weight, [8, 14]), strict=True):
        np.testing.assert_array_equal(found[f"w.{name}"].matrices()[0], expected)


@pytest.mark.parametrize("name", ["attn.in_proj_weight", "h.0.attn.c_attn.weight", "qkv.weight"])
def test_a_packed_projection_is_known_by_its_name(name: str) -> None:
    weight = gaussian(7, 18)
    parts = layers(applied([], {name: weight}, name), qkv=True)
    assert [each.rpartition(".")[2] for each in parts] == list("qkv")
    found = np.concatenate([part.matrices()[0] for part in parts.values()])
    np.testing.assert_array_equal(found, weight.T)


def test_other_products_are_not_split() -> None:
    assert list(layers(applied([], {"w": gaussian(7, 18)}), qkv=True)) == ["w"]


def test_decoder_and_longformer_attention() -> None:
    columns = {"q": 6, "kv": 12, "w": 18, "g": 18}
    tensors = {name: gaussian(6, count, seed=index) for index, (name, count) in enumerate(columns.items())}
    decoder = node("DecoderAttention", ["x", "x", "q", "kv", "b"], ["h"], MICROSOFT, num_heads=1)
    longformer = node("LongformerAttention", ["h", "w", "b", "m", "g"], ["y"], MICROSOFT, num_heads=1)
    found = layers(model([decoder, longformer], tensors, dict.fromkeys("xbm", (FLOAT, UNKNOWN))))
    for name, weight in tensors.items():
        np.testing.assert_array_equal(found[name].matrices()[0], weight.T)


def test_embedding_tables_of_one_node() -> None:
    tables = {"word": gaussian(50, 6), "position": gaussian(9, 6), "segment": gaussian(2, 6)}
    ids = (TensorProto.INT32, UNKNOWN)
    embed = node("EmbedLayerNormalization", ["i", "s", *tables, "gamma", "beta"], ["y", "m"], MICROSOFT)
    proto = model([embed], tables | {"gamma": gaussian(6), "beta": gaussian(6)}, {"i": ids, "s": ids})
    found = layers(proto)
    assert list(found) == list(tables)
    for name, table in tables.items():
        assert found[name].layer_type == LAYER_TYPE.EMBEDDING
        np.testing.assert_array_equal(found[name].matrices()[0], table)


def test_quantised_embedding_tables_of_one_node() -> None:
    tables = {"word": 50, "position": 9, "segment": 2}
    tensors: dict[str, Array] = {name: integers(rows, 6, dtype=np.uint8) for name, rows in tables.items()}
    names = [*tables, "gamma", "beta"]
    tensors |= {name: integers(6, dtype=np.uint8) for name in ("gamma", "beta")}
    tensors |= {f"{name}_scale": scales(seed=index) for index, name in enumerate(names)}
    tensors |= {f"{name}_zero": np.uint8(100 + index) + np.zeros((), np.uint8) for index, name in enumerate(names)}
    inputs = ["i", "s", *names, "", *(f"{name}_scale" for name in names), *(f"{name}_zero" for name in names)]
    ids = (TensorProto.INT32, UNKNOWN)
    proto = model([node("QEmbedLayerNormalization", inputs, ["y", "m"], MICROSOFT)], tensors, {"i": ids, "s": ids})
    found = layers(proto)
    assert list(found) == list(tables)
    for index, name in enumerate(tables):
        expected = (tensors[name].astype(np.float32) - (100 + index)) * tensors[f"{name}_scale"]
        np.testing.assert_allclose(found[name].matrices()[0], expected, rtol=1e-6)


def test_experts_are_a_layer_each() -> None:
    tensors = {"fc1": gaussian(3, 8, 5), "fc2": gaussian(3, 5, 8), "fc3": gaussian(3, 8, 5, seed=1)}
    moe = node("MoE", ["x", "router", "fc1", "", "fc2", "", "fc3"], ["y"], MICROSOFT, k=1)
    found = layers(model([moe], tensors, {"x": (FLOAT, UNKNOWN), "router": (FLOAT, UNKNOWN)}))
    assert list(found) == [f"{name}.{expert}" for name in tensors for expert in range(3)]
    for name, stack in tensors.items():
        for expert in range(3):
            np.testing.assert_array_equal(found[f"{name}.{expert}"].matrices()[0], stack[expert])


@pytest.mark.parametrize("rows", [50, 500])
def test_embeddings(rows: int) -> None:
    table, ids = gaussian(rows, 20), np.array([[3, 1], [rows - 1, 0]])
    indices = {"i": (TensorProto.INT64, UNKNOWN)}
    found = layer(proto := model([node("Gather", ["w", "i"], ["y"])], {"w": table}, indices))
    assert (found.layer_type, found.N, found.M) == (LAYER_TYPE.EMBEDDING, rows, 20)
    close(found.matrices()[0][ids], run(proto, i=ids))


def test_a_table_looked_up_by_columns() -> None:
    proto = model([node("Gather", ["w", "i"], ["y"], axis=1)], {"w": gaussian(20, 50)}, {"i": (TensorProto.INT64, [2])})
    found = layer(proto)
    assert (found.layer_type, found.N, found.M) == (LAYER_TYPE.EMBEDDING, 50, 20)


@pytest.mark.parametrize("rows", [9, 2])
def test_positions_looked_up_at_constant_indices(rows: int) -> None:
    """An embedding all the same: its result is added to activations, it is no part of another weight."""
    nodes = [node("Gather", ["positions", "i"], ["p"]), node("Add", ["x", "p"], ["h"])]
    proto = model(
        [*nodes, node("MatMul", ["h", "w"], ["y"])],
        {"positions": gaussian(rows, 6), "i": np.arange(rows), "w": gaussian(6, 5)},
        {"x": (FLOAT, UNKNOWN)},
    )
    assert {name: each.layer_type for name, each in layers(proto).items()} == {
        "positions": LAYER_TYPE.EMBEDDING,
        "w": LAYER_TYPE.DENSE,
    }


# Operators that hold codes


def spread(parameter: Array | None, codes: Array, axis: int) -> Array | float:
    if parameter is None:
        return 0.0
    if parameter.size == 1:
        return float(parameter.reshape(()))
    return parameter.astype(np.float64).reshape(
        [-1 if index == axis % codes.ndim else 1 for index in range(codes.ndim)]
    )


def values_of(codes: Array, scale: Array, zero: Array | None = None, axis: int = 0) -> Array:
    """What codes stand for, in float64."""
    values = (codes.astype(np.float64) - spread(zero, codes, axis)) * spread(scale, codes, axis)
    return np.asarray(values)


def step_for(y: Array) -> Array:
    """A scale with which all of y fits into int8."""
    return np.array(np.abs(y).max() / 120, dtype=np.float32)


def as_constants(**given: Array | float) -> dict[str, Array]:
    return {name: np.asarray(values) for name, values in given.items()}


@SIZES
@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul(per_column: bool, outputs: int, inputs: int) -> None:
    codes, x = short_integers(inputs, outputs), integers(BATCH, inputs, dtype=np.uint8, seed=1)
    scale = scales(outputs) if per_column else scales()
    zero = integers(outputs, seed=3) if per_column else np.array(5, np.int8)
    expected = values_of(x, np.array(0.02), np.array(128.0)) @ values_of(codes, scale, zero, axis=1)
    tensors = as_constants(w=codes, ws=scale, wz=zero, xs=np.float32(0.02), xz=np.uint8(128), yz=np.uint8(128))
    tensors["ys"] = step_for(expected)
    inputs_of = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    proto = model([node("QLinearMatMul", inputs_of, ["y"])], tensors, {"x": (TensorProto.UINT8, UNKNOWN)})
    found = layer(proto)
    close(found.matrices()[0], values_of(codes, scale, zero, axis=1).T, 1e-6)
    assert (found.dtype, found.layer_type) == ("int8", LAYER_TYPE.DENSE)
    y = values_of(run(proto, x=x), tensors["ys"], tensors["yz"])
    np.testing.assert_allclose(y, expected, atol=0.51 * float(tensors["ys"]))


@SIZES
@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_q_gemm(transposed: int, per_output: bool, outputs: int, inputs: int) -> None:
    codes = short_integers(outputs, inputs) if transposed else short_integers(inputs, outputs)
    scale = scales(outputs) if per_output else scales()
    zero = np.zeros(outputs, np.int8) if per_output else np.array(-3, np.int8)
    tensors = as_constants(w=codes, ws=scale, wz=zero, xs=np.float32(0.02), xz=np.uint8(128))
    proto = model(
        [node("QGemm", ["x", "xs", "xz", "w", "ws", "wz"], ["y"], MICROSOFT, transB=transposed)],
        tensors,
        {"x": (TensorProto.UINT8, UNKNOWN)},
    )
    x = integers(BATCH, inputs, dtype=np.uint8, seed=1)
    close(values_of(x, tensors["xs"], tensors["xz"]) @ matrix(proto).T, run(proto, x=x))


@SIZES
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("order", ["activation_first", "weight_first", "weight_alone"])
def test_matmul_integer(order: str, per_column: bool, outputs: int, inputs: int) -> None:
    """The scale of the weight is in a later Mul, by the product of both scales."""
    scale = scales(outputs) if per_column else scales()
    tensors = as_constants(w=short_integers(inputs, outputs), ws=scale, xz=np.uint8(128))
    tensors["wz"] = integers(outputs, seed=3) if per_column else np.array(5, np.int8)
    nodes = [
        node("MatMulInteger", ["x", "w", "xz", "wz"], ["sums"]),
        node("Cast", ["sums"], ["floats"], to=FLOAT),
    ]
    factor = "ws"
    if order != "weight_alone":
        nodes.append(node("Mul", ["xs", "ws"] if order == "activation_first" else ["ws", "xs"], ["both"]))
        factor = "both"
    nodes.append(node("Mul", ["floats", factor], ["y"]))
    kinds = {"x": (TensorProto.UINT8, UNKNOWN), "xs": (FLOAT, [])}
    proto = model(nodes, tensors, kinds)
    x = integers(BATCH, inputs, dtype=np.uint8, seed=1)
    xs = np.array(1.0 if order == "weight_alone" else 0.02, np.float32)
    close(values_of(x, xs, tensors["xz"]) @ matrix(proto).T, run(proto, x=x, xs=xs))


def test_matmul_integer_from_the_left() -> None:
    tensors = as_constants(w=integers(5, 7), ws=scales(), wz=np.int8(5), xz=np.uint8(128))
    nodes = [
        node("MatMulInteger", ["w", "x", "wz", "xz"], ["sums"]),
        node("Cast", ["sums"], ["floats"], to=FLOAT),
        node("Mul", ["ws", "xs"], ["both"]),
        node("Mul", ["floats", "both"], ["y"]),
    ]
    proto = model(nodes, tensors, {"x": (TensorProto.UINT8, UNKNOWN), "xs": (FLOAT, [])})
    close(matrix(proto), values_of(tensors["w"], tensors["ws"], tensors["wz"]), 1e-6)


@SIZES
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("op_type", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_integer_products_that_give_floats(op_type: str, per_column: bool, outputs: int, inputs: int) -> None:
    tensors = as_constants(w=short_integers(inputs, outputs), xs=np.float32(1), xz=np.uint8(0))
    tensors["ws"] = scales(outputs) if per_column else scales()
    tensors["wz"] = np.full(outputs, 3, np.int8) if per_column else np.array(3, np.int8)
    dynamic = op_type == "DynamicQuantizeMatMul"
    operands = ["x", "w", "ws", "wz"] if dynamic else ["x", "w", "xs", "ws", "xz", "wz"]
    kind = FLOAT if dynamic else TensorProto.UINT8
    proto = model([node(op_type, operands, ["y"], MICROSOFT)], tensors, {"x": (kind, UNKNOWN)})
    x = integers(BATCH, inputs, dtype=np.uint8, seed=1).astype(np.float32 if dynamic else np.uint8)
    x.flat[:2] = 0, 255  # then dynamic quantisation finds scale 1 and zero point 0, and is exact
    close(x.astype(np.float32) @ matrix(proto).T, run(proto, x=x))


@pytest.mark.parametrize("shape", [(6, 4, 3), (6, 4, 3, 3), (40, 24, 3, 3)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_convolution(per_channel: bool, shape: tuple[int, ...]) -> None:
    codes, kernel = short_integers(*shape), shape[2:]
    x = integers(1, shape[1], *(n + 2 for n in kernel), dtype=np.uint8, seed=1)
    scale = scales(shape[0]) if per_channel else scales()
    zero = np.zeros(shape[0], np.int8) if per_channel else np.array(0, np.int8)
    stacked = values_of(codes, scale, zero, axis=0).reshape(*shape[:2], -1).transpose(2, 0, 1)
    expected = correlated(values_of(x, np.array(0.02), np.array(128.0)), stacked, kernel)
    tensors = as_constants(w=codes, ws=scale, wz=zero, xs=np.float32(0.02), xz=np.uint8(128), yz=np.uint8(128))
    tensors["ys"] = step_for(expected)
    operands = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    proto = model([node("QLinearConv", operands, ["y"])], tensors, {"x": (TensorProto.UINT8, [None] * len(shape))})
    found = layer(proto)
    close(found.matrices(), stacked, 1e-6)
    assert found.layer_type.label == f"conv{len(kernel)}d"
    y = values_of(run(proto, x=x), tensors["ys"], tensors["yz"])
    np.testing.assert_allclose(y, expected, atol=0.51 * float(tensors["ys"]))


@pytest.mark.parametrize("scale_shape", [(), (1,), (1, 6, 1, 1), (6, 1, 1)])
def test_conv_integer(scale_shape: tuple[int, ...]) -> None:
    tensors = as_constants(w=integers(6, 4, 3, 3), ws=scales(*scale_shape), xz=np.uint8(128), wz=np.int8(0))
    nodes = [
        node("ConvInteger", ["x", "w", "xz", "wz"], ["sums"]),
        node("Cast", ["sums"], ["floats"], to=FLOAT),
        node("Mul", ["xs", "ws"], ["both"]),
        node("Mul", ["floats", "both"], ["y"]),
    ]
    proto = model(nodes, tensors, {"x": (TensorProto.UINT8, [None] * 4), "xs": (FLOAT, [])})
    x = integers(1, 4, 5, 5, dtype=np.uint8, seed=1)
    xs = np.array(0.02, np.float32)
    found = layer(proto)
    assert (found.layer_type, found.rf, found.dtype) == (LAYER_TYPE.CONV2D, 9, "int8")
    close(correlated(values_of(x, xs, tensors["xz"]), found.matrices(), (3, 3)), run(proto, x=x, xs=xs))


def test_quantised_attention() -> None:
    """At a length of one the softmax is 1, and what comes out is the value projection."""
    tensors = as_constants(w=short_integers(8, 24), ws=scales(), wz=np.int8(4), xs=np.float32(0.02), xz=np.uint8(128))
    tensors["b"] = np.zeros(24, np.float32)
    operands = ["x", "w", "b", "xs", "ws", "", "xz", "wz"]
    proto = model(
        [node("QAttention", operands, ["y"], MICROSOFT, num_heads=2)],
        tensors,
        {"x": (TensorProto.UINT8, [1, 1, 8])},
    )
    assert layer(proto).layer_type == LAYER_TYPE.ATTENTION
    parts = layers(proto, qkv=True)
    whole = np.concatenate([part.matrices()[0] for part in parts.values()])
    close(whole, values_of(tensors["w"], tensors["ws"], tensors["wz"]).T, 1e-6)
    x = integers(1, 1, 8, dtype=np.uint8, seed=1)
    close(values_of(x, tensors["xs"], tensors["xz"]) @ parts["w.v"].matrices()[0].T, run(proto, x=x))


@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
def test_dynamically_quantised_lstm(directions: int, per_gate: bool) -> None:
    """Against a float LSTM with the weights that were found; activations are quantised by the node, hence the slack."""
    hidden, inputs = 6, 10
    columns = 4 * hidden
    tensors: dict[str, Array] = {}
    for name, rows in (("w", inputs), ("r", hidden)):
        tensors[name] = short_integers(directions, rows, columns)
        tensors[f"{name}s"] = scales(*((directions, columns) if per_gate else (directions,)), seed=rows) / 10
        tensors[f"{name}z"] = np.zeros_like(tensors[f"{name}s"], dtype=np.int8)
    attributes = {"hidden_size": hidden, "direction": ["forward", "bidirectional"][directions - 1]}
    operands = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    kind = {"x": (FLOAT, [3, BATCH, inputs])}
    proto = model([node("DynamicQuantizeLSTM", operands, ["y"], MICROSOFT, **attributes)], tensors, kind)
    found = layers(proto)
    assert len(found) == 2 * directions
    suffixes = ["", "_reverse"][:directions]
    floats = {name: np.stack([found[f"{name}{suffix}"].matrices()[0] for suffix in suffixes]) for name in "wr"}
    same = model([node("LSTM", ["x", "w", "r"], ["y"], **attributes)], floats, kind)
    x = gaussian(3, BATCH, inputs)
    np.testing.assert_allclose(run(proto, x=x), run(same, x=x), atol=0.02)
    parts = layers(proto, gates=True)
    for suffix in suffixes:
        joined = np.concatenate([parts[f"w{suffix}.{gate}"].matrices()[0] for gate in "iofc"])
        np.testing.assert_array_equal(joined, found[f"w{suffix}"].matrices()[0])


# Weights of a few bits


def n_bits(
    bits: int, block: int, zeros: str, *, flat: bool = False, dtype: Any = np.float32, depth: int = 64, columns: int = 6
) -> onnx.ModelProto:
    count = -(-depth // block)
    tensors = {
        "w": integers(columns, count, block * bits // 8, dtype=np.uint8),
        "s": scales(columns, count).astype(dtype),
    }
    if zeros == "packed":
        tensors["z"] = integers(columns, -(-count * bits // 8), dtype=np.uint8, seed=1)
    elif zeros == "floats":
        tensors["z"] = (scales(columns, count, seed=2) * 100).astype(dtype)
    if flat:
        tensors |= {name: tensors[name].reshape(-1) for name in ("s", "z") if name in tensors}
    kind = helper_type(dtype)
    operands = ["x", "w", "s", *(["z"] if "z" in tensors else [])]
    attributes = {"K": depth, "N": columns, "bits": bits, "block_size": block}
    return model([node("MatMulNBits", operands, ["y"], MICROSOFT, **attributes)], tensors, {"x": (kind, UNKNOWN)})


def helper_type(dtype: Any) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


@pytest.mark.parametrize("depth", [64, 100])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("zeros", ["absent", "packed", "floats"])
@pytest.mark.parametrize(("bits", "block"), [(2, 16), (4, 16), (4, 32), (8, 32)])
def test_matmul_of_few_bits(bits: int, block: int, zeros: str, flat: bool, depth: int) -> None:
    proto = n_bits(bits, block, zeros, flat=flat, depth=depth)
    found = layer(proto)
    assert (found.name, found.dtype, found.layer_type) == ("w", "uint8", LAYER_TYPE.DENSE)
    assert (depth, 6) == (found.N, found.M)
    if bits == 8 and zeros == "floats":
        assert np.isfinite(found.matrices()).all()  # the runtime has no kernel for these
    else:
        close(found.matrices()[0].T, run(proto, x=np.eye(depth, dtype=np.float32)))


@pytest.mark.parametrize("zeros", ["absent", "packed", "floats"])
def test_matmul_of_few_bits_of_real_size(zeros: str) -> None:
    proto = n_bits(4, 32, zeros, depth=320, columns=48)
    close(matrix(proto).T, run(proto, x=np.eye(320, dtype=np.float32)))


def test_matmul_of_few_bits_with_half_precision_scales() -> None:
    proto = n_bits(4, 32, "packed", dtype=np.float16)
    assert layer(proto).eps == np.finfo(np.float16).eps
    close(matrix(proto).T, run(proto, x=np.eye(64, dtype=np.float16)), 1e-3)


def test_matmul_of_few_bits_with_groups_in_any_order() -> None:
    """GPTQ's act-order: input 4 says which block each row belongs to."""
    proto = n_bits(4, 16, "absent")
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 16)).astype(np.int32)
    proto.graph.node[0].input.extend(["", "g"])
    proto.graph.initializer.append(tensor("g", groups))
    found = find(proto)
    if found.layers:  # or it says why not
        close(found.layers[0].matrices()[0].T, run(proto, x=np.eye(64, dtype=np.float32)))
    else:
        assert found.skipped


@pytest.mark.parametrize("columns", [64, 100])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("dtype", "bits", "axis"),
    [("uint4", 4, 1), ("uint4", 4, 0), ("int4", 4, 1), ("uint8", 2, 1), ("uint8", 4, 1), ("uint8", 8, 1)],
)
def test_lookup_of_few_bits(dtype: str, bits: int, axis: int, zeros: bool, columns: int) -> None:
    rows, block = 48, 16
    shape = tuple(-(-n // block) if index == axis else n for index, n in enumerate((rows, columns)))
    per_byte = 8 // bits if dtype == "uint8" else 1
    kind = np.dtype(dtype) if dtype == "uint8" else np.dtype(getattr(ml_dtypes, dtype))
    tensors = {"w": integers(rows, columns // per_byte, dtype=kind), "s": scales(*shape)}
    if zeros:
        tensors["z"] = integers(shape[0], -(-shape[1] // per_byte), dtype=kind, seed=1)
    operands = ["w", "i", "s", *(["z"] if zeros else [])]
    lookup = node("GatherBlockQuantized", operands, ["y"], MICROSOFT, bits=bits, block_size=block, quantize_axis=axis)
    proto = model([lookup], tensors, {"i": (TensorProto.INT64, [None])}, opset=21)
    found = layer(proto)
    assert (found.layer_type, found.shape, found.dtype) == (LAYER_TYPE.EMBEDDING, (rows, columns), dtype)
    close(found.matrices()[0], run(proto, i=np.arange(rows)))


@pytest.mark.parametrize(
    ("dtype", "shape", "of_scale", "attributes"),
    [
        ("uint8", (7, 5), (), {}),
        ("int8", (7, 5), (1,), {}),
        ("int8", (7, 5), (5,), {}),
        ("int8", (7, 5), (7,), {"axis": 0}),
        ("uint8", (7, 5), (5,), {"axis": -1}),
        ("int8", (101, 96), (96,), {}),
        ("int16", (7, 5), (5,), {}),
        ("uint16", (7, 5), (), {}),
        ("int4", (7, 5), (5,), {}),
        ("uint4", (7, 5), (), {}),
        ("uint4", (64, 6), (4, 6), {"axis": 0, "block_size": 16}),
        ("int4", (6, 64), (6, 2), {"axis": 1, "block_size": 32}),
        ("int4", (6, 60), (6, 4), {"axis": -1, "block_size": 16}),
        ("uint4", (256, 48), (8, 48), {"axis": 0, "block_size": 32}),
        ("int8", (64, 6), (4, 6), {"axis": 0, "block_size": 16}),
        ("float8_e4m3fn", (7, 5), (), {}),
        ("float8_e5m2", (7, 5), (5,), {}),
    ],
)
@pytest.mark.parametrize("zeros", [False, True])
def test_dequantised_weights(
    dtype: str, shape: tuple[int, ...], of_scale: tuple[int, ...], attributes: Attributes, zeros: bool
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    is_float = dtype.startswith("float")
    codes = gaussian(*shape).astype(kind) if is_float else integers(*shape, dtype=kind)
    tensors = {"q": codes, "s": scales(*of_scale)}
    if zeros:
        tensors["z"] = np.zeros(of_scale, kind) if is_float else integers(*of_scale, dtype=kind, seed=1)
    operands = ["q", "s", *(["z"] if zeros else [])]
    dequantize = node("DequantizeLinear", operands, ["w"], **attributes)
    found = layer(applied([dequantize], tensors, opset=21))
    assert (found.name, found.dtype, found.shape) == ("q", dtype.replace("_", ""), shape)
    expected = run(model([dequantize], tensors, outputs={"w": (FLOAT, shape)}, opset=21))
    close(found.matrices()[0].T, expected, 1e-7)


def test_dequantised_by_the_older_operator() -> None:
    tensors = {"q": integers(7, 5, dtype=np.int16), "s": scales(5), "z": integers(5, dtype=np.int16, seed=1)}
    dequantize = node("DequantizeLinear", ["q", "s", "z"], ["w"], MICROSOFT)
    expected = run(model([dequantize], tensors, outputs={"w": (FLOAT, (7, 5))}))
    close(matrix(applied([dequantize], tensors)).T, expected)


def test_a_fake_quantised_weight() -> None:
    """QuantizeLinear -> DequantizeLinear over a float weight, as quantisation-aware training leaves it."""
    tensors = as_constants(v=gaussian(7, 5), s=scales(), z=np.int8(3))
    pair = [node("QuantizeLinear", ["v", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["w"])]
    expected = run(model(pair, tensors, outputs={"w": (FLOAT, (7, 5))}))
    found = layer(applied(pair, tensors))
    assert found.name == "v"
    close(found.matrices()[0].T, expected, 1e-7)


@pytest.mark.parametrize("via", ["DequantizeLinear", "QLinearMatMul", "MatMulInteger"])
def test_a_table_of_codes(via: str) -> None:
    tensors = as_constants(q=integers(50, 6, dtype=np.uint8), s=scales(), z=np.uint8(100))
    expected = values_of(tensors["q"], tensors["s"], tensors["z"])
    tensors |= as_constants(v=integers(6, 5), vs=scales(seed=1), vz=np.int8(0), ys=np.float32(1), yz=np.uint8(0))
    nodes = [node("Gather", ["q", "i"], ["rows"])]
    if via == "DequantizeLinear":
        nodes.append(node("DequantizeLinear", ["rows", "s", "z"], ["y"]))
    elif via == "QLinearMatMul":
        nodes.append(node("QLinearMatMul", ["rows", "s", "z", "v", "vs", "vz", "ys", "yz"], ["y"]))
    else:
        nodes += [
            node("MatMulInteger", ["rows", "v", "z", "vz"], ["sums"]),
            node("Cast", ["sums"], ["floats"], to=FLOAT),
            node("Mul", ["s", "vs"], ["both"]),
            node("Mul", ["floats", "both"], ["y"]),
        ]
    found = layers(model(nodes, tensors, {"i": (TensorProto.INT64, [2])}))
    close(found["q"].matrices()[0], expected, 1e-6)
    if via != "DequantizeLinear":
        close(found["v"].matrices()[0], values_of(tensors["v"], tensors["vs"]).T, 1e-6)


# Linear models


@pytest.mark.parametrize("intercepts", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
def test_linear_regressor(targets: int, intercepts: bool) -> None:
    coefficients = gaussian(targets, 7)
    attributes: Attributes = {"coefficients": coefficients.reshape(-1).tolist(), "targets": targets}
    offsets = gaussian(targets) if intercepts else np.zeros(targets, np.float32)
    if intercepts:
        attributes["intercepts"] = offsets.tolist()
    proto = model([node("LinearRegressor", ["x"], ["y"], ML, **attributes)], {}, {"x": (FLOAT, [None, 7])})
    x = gaussian(BATCH, 7)
    found = layer(proto)
    assert found.matrix_shape == (1, targets, 7)
    close(x @ found.matrices()[0].T + offsets, run(proto, x=x))


@pytest.mark.parametrize("labels", ["classlabels_ints", "classlabels_strings"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_classifier(labels: str, classes: int) -> None:
    coefficients, offsets = gaussian(classes, 7), gaussian(classes)
    names = list(range(classes)) if labels.endswith("ints") else [f"class {index}" for index in range(classes)]
    attributes: Attributes = {"coefficients": coefficients.reshape(-1).tolist(), "intercepts": offsets.tolist()}
    proto = model(
        [node("LinearClassifier", ["x"], ["label", "y"], ML, post_transform="NONE", **attributes, **{labels: names})],
        {},
        {"x": (FLOAT, [None, 7])},
        ("label", "y"),
    )
    x = gaussian(BATCH, 7)
    close(x @ matrix(proto).T + offsets, run_all(proto, x=x)[1])


@pytest.mark.parametrize("op_type", ["LinearClassifier", "LinearRegressor"])
def test_a_linear_model_is_not_named_after_its_prediction(op_type: str) -> None:
    prediction = node(op_type, ["x"], ["label"], ML, coefficients=gaussian(21).tolist(), name="classifier")
    assert layer(model([prediction], {}, {"x": (FLOAT, [None, 21])}, ("label",))).name == "classifier"


def test_a_linear_classifier_without_intercepts() -> None:
    attributes = {"coefficients": gaussian(21).tolist(), "classlabels_ints": [0, 1, 2]}
    proto = model([node("LinearClassifier", ["x"], ["label", "y"], ML, **attributes)], {}, {"x": (FLOAT, [None, 7])})
    assert layer(proto).matrix_shape == (1, 3, 7)


# QONNX


@pytest.mark.parametrize("domain", [QONNX, "finn.custom_op.general"])
@pytest.mark.parametrize("rounding", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO"])
@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "low", "high"), [(4, 1, 0, -8, 7), (4, 1, 1, -7, 7), (3, 0, 0, 0, 7), (3, 0, 1, 0, 6)]
)
def test_qonnx_quant(rounding: str, bits: int, signed: int, narrow: int, low: int, high: int, domain: str) -> None:
    tensors = as_constants(v=gaussian(7, 5) * 2, s=np.float32(0.25), z=np.float32(0), b=np.float32(bits))
    quant = node("Quant", ["v", "s", "z", "b"], ["w"], domain, signed=signed, narrow=narrow, rounding_mode=rounding)
    round_ = {"ROUND": np.round, "FLOOR": np.floor, "CEIL": np.ceil, "ROUND_TO_ZERO": np.trunc}[rounding]
    expected = round_(np.clip(tensors["v"] / 0.25, low, high)) * 0.25
    found = layer(applied([quant], tensors))
    assert found.name == "v"
    np.testing.assert_array_equal(found.matrices()[0].T, expected)
    assert len(np.unique(expected)) > 2


def test_qonnx_bipolar_quant() -> None:
    tensors = as_constants(v=gaussian(7, 5), s=np.float32(0.25))
    tensors["v"][0, 0] = 0
    found = matrix(applied([node("BipolarQuant", ["v", "s"], ["w"], QONNX)], tensors))
    np.testing.assert_array_equal(found.T, np.where(tensors["v"] >= 0, 0.25, -0.25))


def test_qonnx_quant_with_a_scale_per_row() -> None:
    tensors = as_constants(v=gaussian(5, 7), s=scales(5, 1) * 10, z=np.float32(0), b=np.float32(8))
    quant = node("Quant", ["v", "s", "z", "b"], ["w"], QONNX, signed=1, narrow=1, rounding_mode="ROUND")
    found = matrix(applied([quant], tensors)).T
    np.testing.assert_allclose(
        found, np.rint(np.clip(tensors["v"] / tensors["s"], -127, 127)) * tensors["s"], rtol=1e-6
    )


# What is no layer, and why


def reason_cases() -> dict[str, tuple[onnx.ModelProto, str]]:
    x = {"x": (FLOAT, UNKNOWN)}
    i = {"i": (TensorProto.INT64, [2])}
    matrix_ = {"w": gaussian(7, 5)}
    return {
        "int64_table": (model([node("Gather", ["w", "i"], ["y"])], {"w": integers(9, 5, dtype=np.int64)}, i), "int64"),
        "int32_table": (model([node("Gather", ["w", "i"], ["y"])], {"w": integers(9, 5, dtype=np.int32)}, i), "int32"),
        "cube": (model([node("Gather", ["w", "i"], ["y"])], {"w": gaussian(4, 3, 2)}, i), "[4, 3, 2]"),
        "no_scale": (
            model(
                [node("MatMulInteger", ["x", "w"], ["y"])], {"w": integers(7, 5)}, {"x": (TensorProto.INT8, UNKNOWN)}
            ),
            "no scale",
        ),
        "deep_stack": (model([node("MatMul", ["x", "w"], ["y"])], {"w": gaussian(2, 3, 7, 5)}, x), "[2, 3, 7, 5]"),
        "flat_kernel": (model([node("Conv", ["x", "w"], ["y"])], matrix_, x), "[7, 5]"),
        "odd_gates": (
            model([node("LSTM", ["x", "w", "r"], ["y"])], {"w": gaussian(1, 7, 5), "r": gaussian(1, 7, 5)}, x),
            "[1, 7, 5]",
        ),
        "unknown_domain": (model([node("Linear", ["x", "w"], ["y"], "my.ops")], matrix_, x), "my.ops.Linear"),
        "unknown_in_microsofts": (model([node("NewMatMul", ["x", "w"], ["y"], MICROSOFT)], matrix_, x), "NewMatMul"),
        "unknown_in_the_standard_domain": (
            model([node("StatefulPartitionedCall", ["w", "x"], ["y"])], matrix_, x),
            "StatefulPartitionedCall",
        ),
        "unknown_with_a_1x1_kernel": (
            model([node("Conv", ["x", "w"], ["y"], "my.ops")], {"w": gaussian(7, 5, 1, 1)}, x),
            "my.ops.Conv",
        ),
        "unknown_with_codes": (
            model([node("Linear", ["x", "w"], ["y"], "my.ops")], {"w": integers(7, 5)}, x),
            "my.ops.Linear",
        ),
        "bnb4": (
            model([node("MatMulBnb4", ["x", "w", "s"], ["y"], MICROSOFT)], {"w": integers(7, 5), "s": scales(7)}, x),
            "MatMulBnb4",
        ),
        "three_bits": (
            model(
                [node("MatMulNBits", ["x", "w", "s"], ["y"], MICROSOFT, K=8, N=5, bits=3, block_size=16)],
                {"w": integers(5, 1, 6, dtype=np.uint8), "s": scales(5, 1)},
                x,
            ),
            "3 bits",
        ),
        "not_evaluated": (
            applied([node("Tile", ["v", "n"], ["w"])], {"v": gaussian(7, 5), "n": np.array([1, 2])}),
            "Tile",
        ),
        "made_of_nothing": (
            applied([node("ConstantOfShape", ["n"], ["w"])], {"n": np.array([7, 5])}),
            "ConstantOfShape",
        ),
        "strings": (
            model(
                [node("Gather", ["w", "i"], ["y"])],
                {"w": onnx.helper.make_tensor("w", TensorProto.STRING, [2, 1], [b"a", b"b"])},
                i,
            ),
            "string",
        ),
    }


REASONS = reason_cases()


@pytest.mark.parametrize("case", REASONS)
def test_what_is_left_out_says_why(case: str) -> None:
    proto, words = REASONS[case]
    found = find(proto)
    assert not found.layers
    assert any(words in skip.reason for skip in found.skipped), found.skipped


def test_several_nodes_that_read_one_refused_weight_are_one_entry() -> None:
    nodes = [node("Linear", ["x", "w"], ["h"], "my.ops"), node("Linear", ["h", "w"], ["y"], "my.ops")]
    assert "my.ops.Linear" in refusal(model(nodes, {"w": gaussian(5, 5)}, {"x": (FLOAT, UNKNOWN)}))


@pytest.mark.parametrize(
    ("op_type", "domain", "shape"),
    [("Add", "", (7, 5)), ("Mul", "", (1, 7, 1, 1)), ("MatMul", "", (7,)), ("BiasGelu", MICROSOFT, (7,))],
)
def test_biases_and_vectors_are_no_layers(op_type: str, domain: str, shape: tuple[int, ...]) -> None:
    found = find(model([node(op_type, ["x", "w"], ["y"], domain)], {"w": gaussian(*shape)}, {"x": (FLOAT, UNKNOWN)}))
    assert not found.layers
    assert not found.skipped


def test_a_weight_used_by_a_known_and_an_unknown_operator_is_a_layer() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Linear", ["h", "w"], ["y"], "my.ops")]
    assert layer(model(nodes, {"w": gaussian(5, 5)}, {"x": (FLOAT, UNKNOWN)})).name == "w"


def test_activations_alone_are_no_layers() -> None:
    found = find(model([node("MatMul", ["x", "x"], ["y"])], {}, {"x": (FLOAT, UNKNOWN)}))
    assert not found.layers
    assert not found.skipped


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_empty_weights(shape: tuple[int, int]) -> None:
    found = layer(applied([], {"w": gaussian(*shape)}))
    assert found.parameters == 0
    assert found.M == 0


# Layers behind a subgraph


def test_layers_after_a_loop_whose_own_inputs_are_constant() -> None:
    """What its body captures from outside is an input too: here the loop depends on x."""
    body = subgraph(
        [
            node("MatMul", ["x", "inside"], ["h"]),
            node("Add", ["state", "h"], ["next"]),
            node("Identity", ["go"], ["on"]),
        ],
        {"on": (TensorProto.BOOL, []), "next": (FLOAT, [2, 4])},
        {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "state": (FLOAT, [2, 4])},
    )
    nodes = [
        node("Loop", ["n", "yes", "zeros"], ["looped"], body=body),
        node("MatMul", ["looped", "after"], ["h2"]),
        node("Gemm", ["h2", "last"], ["y"]),
    ]
    tensors = {"n": np.array(3), "yes": np.array(True), "zeros": np.zeros((2, 4), np.float32)}
    weights = {"inside": gaussian(3, 4), "after": gaussian(4, 5), "last": gaussian(5, 6)}
    proto = model(nodes, tensors | weights, {"x": (FLOAT, [2, 3])})
    x = gaussian(2, 3)
    close(run(proto, x=x), 3 * x @ weights["inside"] @ weights["after"] @ weights["last"])
    assert list(layers(proto)) == list(weights)


def test_layers_after_a_branch_whose_condition_is_constant() -> None:
    branches = [
        subgraph([node("MatMul", ["x", name], [f"{name}_out"])], {f"{name}_out": (FLOAT, [2, 4])})
        for name in ("a", "b")
    ]
    nodes = [
        node("If", ["yes"], ["h"], then_branch=branches[0], else_branch=branches[1]),
        node("MatMul", ["h", "after"], ["y"]),
    ]
    tensors = {"yes": np.array(True), "a": gaussian(3, 4), "b": gaussian(3, 4, seed=1), "after": gaussian(4, 5)}
    assert set(layers(model(nodes, tensors, {"x": (FLOAT, [2, 3])}))) == {"a", "b", "after"}


def test_a_constant_query_does_not_hide_its_projection() -> None:
    """Learned queries (DETR, Perceiver) are projected by a weight although both factors are constant."""
    nodes = [
        node("MatMul", ["queries", "q_proj"], ["q"]),
        node("MatMul", ["x", "k_proj"], ["k"]),
        node("Transpose", ["k"], ["kt"], perm=[1, 0]),
        node("MatMul", ["q", "kt"], ["y"]),
    ]
    tensors = {"queries": gaussian(9, 6), "q_proj": gaussian(6, 5), "k_proj": gaussian(7, 5)}
    opened = open_model(model(nodes, tensors, {"x": (FLOAT, [None, 7])})).model
    became = {entry.name: entry.layer_ids for entry in inventory(opened, walk(opened)).entries}
    assert became["queries"] == became["q_proj"] != ()
    assert became["k_proj"] not in ((), became["q_proj"])


def test_an_operand_is_read_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = applied([node("DequantizeLinear", ["q", "s"], ["w"])], {"q": integers(50, 40), "s": scales()})
    found = constant(model(list(proto.graph.node[:1]), {"q": integers(50, 40), "s": scales()}, outputs=("w",)))
    assert isinstance(found, Constant)
    monkeypatch.setattr("wwonnx.graph.constants.read_tensor", lambda _: pytest.fail("the tensor was read"))
    assert layer(proto).shape == (50, 40)


def test_a_part_that_is_taken_out_of_a_bias_is_no_embedding() -> None:
    """PyTorch's graphs of Keras' GRUs take the two rows of a bias apart by a scalar index."""
    weight, bias = gaussian(5, 6), gaussian(2, 6)
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Gather", ["bias", "first"], ["row"], axis=0),
        node("Add", ["h", "row"], ["y"]),
    ]
    proto = model(nodes, {"w": weight, "bias": bias, "first": np.array(0)}, {"x": (FLOAT, [None, 5])})
    assert [each.layer_type for each in layers(proto).values()] == [LAYER_TYPE.DENSE]

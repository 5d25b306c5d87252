"""Weights-only models: valid, runnable, each weight found under its name as the right layer, every bit as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from build_models import Array, find, gaussian, layers
from hypothesis import given, settings
from hypothesis import strategies as st

from wwonnx.converters.weights_graph import (
    BatchNormalization,
    Computed,
    Convolution,
    Dense,
    Embedding,
    Module,
    Recurrent,
    Scaling,
    Stored,
    Weight,
    build,
)
from wwonnx.errors import ConversionError
from wwonnx.layer import LAYER_TYPE


def weight(name: str, array: Array, **given: Any) -> Weight:
    return Weight(ir.Tensor(array, name=name), **given)


def run(model: ir.Model, inputs: dict[str, Array] | None = None) -> dict[str, Array]:
    """What onnxruntime makes of inputs of the declared shapes; ones where none are given."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    feeds = {each.name: np.zeros(each.shape, types[each.type]) for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    results = dict(zip(names, session.run(names, feeds | (inputs or {})), strict=True))
    for each in session.get_outputs():
        assert results[each.name].shape == tuple(each.shape), each.name
    return results


def only(model: ir.Model, name: str, x: Array) -> Array:
    (result,) = run(model, {name: x}).values()
    return result


def test_dense_outputs_first() -> None:
    w, b, x = gaussian(7, 5), gaussian(7), gaussian(1, 5)
    model = build([Dense("fc", weight("fc.weight", w), weight("fc.bias", b))])
    assert np.allclose(only(model, "fc/input", x), x @ w.T + b, atol=1e-5)
    (found,) = find(model).layers
    assert (found.name, found.longname, found.layer_type) == ("fc", "fc.weight", LAYER_TYPE.DENSE)
    assert np.array_equal(found.matrices(), w[None])
    assert found.read_bias is not None
    assert np.array_equal(found.read_bias(), b)


def test_dense_inputs_first() -> None:
    w, b, x = gaussian(5, 7), gaussian(7), gaussian(1, 5)
    model = build([Dense("dense", weight("dense/kernel", w), weight("dense/bias", b), inputs_first=True)])
    assert np.allclose(only(model, "dense/input", x), x @ w + b, atol=1e-5)
    (found,) = find(model).layers
    assert (found.name, found.longname, found.shape) == ("dense", "dense/kernel", (5, 7))
    assert np.array_equal(found.matrices(), w.T[None])


@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_stack_of_dense_maps(inputs_first: bool) -> None:
    w, b, x = (
        gaussian(3, 7, 5),
        gaussian(5 if inputs_first else 7),
        gaussian(3, 1, 7) if inputs_first else gaussian(3, 5, 1),
    )
    model = build([Dense("experts", weight("experts.up", w), weight("experts.b", b), inputs_first=inputs_first)])
    expected = x @ w + b if inputs_first else w @ x + b[:, None]
    assert np.allclose(only(model, "experts/input", x), expected, atol=1e-5)
    assert [each.name for each in find(model).layers] == ["experts.up.0", "experts.up.1", "experts.up.2"]


@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_packed_projection(inputs_first: bool) -> None:
    """Of parts of unequal widths, as grouped queries have them; not by its name alone."""
    w = gaussian(6, 10) if inputs_first else gaussian(10, 6)
    model = build([Dense("attn", weight("attn.all.weight", w), inputs_first=inputs_first, packed=(6, 2, 2))])
    assert [value.shape for value in run(model).values()] == [(1, 6), (1, 2), (1, 2)]
    assert [each.name for each in find(model).layers] == ["attn.all"]
    parts = find(model, qkv=True).layers
    assert [(each.name, each.matrix_shape) for each in parts] == [
        ("attn.all.q", (1, 6, 6)),
        ("attn.all.k", (1, 2, 6)),
        ("attn.all.v", (1, 2, 6)),
    ]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions(dimensions: int, groups: int) -> None:
    w, b = gaussian(12, 6 // groups, *(3,) * dimensions), gaussian(12)
    model = build([Convolution("conv", weight("conv.weight", w), weight("conv.bias", b), groups)])
    x = gaussian(1, 6, *(3,) * dimensions)
    parts = x.reshape(groups, -1), w.reshape(groups, 12 // groups, -1)
    expected = np.einsum("gi,goi->go", *parts).reshape(12) + b
    assert np.allclose(only(model, "conv/input", x).reshape(12), expected, atol=1e-4)
    (found,) = find(model).layers
    assert found.layer_type == (LAYER_TYPE.CONV1D, LAYER_TYPE.CONV2D, LAYER_TYPE.CONV3D)[dimensions - 1]
    assert (found.name, found.rf, found.depthwise) == ("conv", 3**dimensions, groups == 6)
    assert np.array_equal(found.read(), w)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups: int) -> None:
    w, x = gaussian(6, 4, 3, 2), gaussian(1, 6, 1, 1)
    model = build([Convolution("up", weight("up.weight", w), None, groups, transposed=True)])
    expected = np.einsum("gi,gioxy->goxy", x.reshape(groups, -1), w.reshape(groups, 6 // groups, 4, 3, 2))
    assert np.allclose(only(model, "up/input", x), expected.reshape(1, 4 * groups, 3, 2), atol=1e-5)
    (found,) = find(model).layers
    assert (found.name, found.layer_type, found.matrix_shape) == ("up", LAYER_TYPE.CONV_TRANSPOSE, (6, 4, 6))


def test_kernels_in_another_order() -> None:
    """Channels last, (k1, k2, inputs, outputs), and a depthwise one, (k1, k2, channels, multiplier)."""
    w, deep, x = gaussian(3, 3, 4, 8), gaussian(3, 3, 4, 2), gaussian(1, 4, 3, 3)
    model = build(
        [
            Convolution("conv", weight("conv/kernel", w, permutation=(3, 2, 0, 1))),
            Convolution("deep", weight("deep/kernel", deep, permutation=(2, 3, 0, 1), shape=(8, 1, 3, 3)), groups=4),
        ]
    )
    results = run(model, {"conv/input": x, "deep/input": x})
    assert np.allclose(results["conv/Conv_output"].reshape(8), np.einsum("nixy,xyio->o", x, w), atol=1e-4)
    expected = np.einsum("nixy,xyim->im", x, deep).reshape(8)
    assert np.allclose(results["deep/Conv_output"].reshape(8), expected, atol=1e-4)
    first, second = find(model).layers
    assert (first.name, first.longname, first.matrix_shape) == ("conv", "conv/kernel", (9, 8, 4))
    assert (second.name, second.longname, second.depthwise) == ("deep", "deep/kernel", True)
    assert np.array_equal(model.graph.initializers["conv/kernel"].const_value.numpy(), w)


def test_embedding() -> None:
    table = gaussian(11, 4)
    model = build([Embedding("embed", weight("embed.weight", table))])
    assert np.array_equal(only(model, "embed/input", np.array([7])), table[7:8])
    (found,) = find(model).layers
    assert (found.name, found.layer_type) == ("embed", LAYER_TYPE.EMBEDDING)


def test_tied_weights_are_stored_once() -> None:
    table = weight("embed.weight", gaussian(11, 4))
    model = build([Embedding("embed", table), Dense("head", table, weight("head.bias", gaussian(11)))])
    run(model)
    assert list(model.graph.initializers) == ["embed.weight", "head.bias"]
    (found,) = find(model).layers
    assert found.layer_types == LAYER_TYPE.EMBEDDING | LAYER_TYPE.DENSE


def lstm(name: str, inputs: int, hidden: int, end: str = "", **given: Any) -> Recurrent:
    rows, seed = 4 * hidden, len(end)
    return Recurrent(
        name,
        "LSTM",
        weight(f"{name}.weight_ih_l0{end}", gaussian(rows, inputs, seed=seed)),
        weight(f"{name}.weight_hh_l0{end}", gaussian(rows, hidden, seed=seed)),
        tuple(weight(f"{name}.bias_{of}_l0{end}", gaussian(rows, seed=seed + ord(of[0]))) for of in ("ih", "hh")),
        gates="ifco",
        **given,
    )


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def test_lstm_with_gates_in_another_order() -> None:
    module = lstm("rnn", 5, 3)
    model = build([module, lstm("rnn", 5, 3, "_reverse", reverse=True)])
    x = gaussian(1, 1, 5)
    w, r, *biases = (one.tensor.numpy() for one in (module.input_weight, module.recurrent_weight, *module.biases))
    i, _, c, o = np.split(w @ x.reshape(5) + sum(biases), 4)  # the hidden state begins at zero
    result = run(model, {"rnn/input": x})["rnn/LSTM_output"].reshape(3)
    assert np.allclose(result, sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(c)), atol=1e-5)
    found = layers(model)
    ends = ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"]
    assert list(found) == [f"rnn.{end}" for end in ends]
    assert {each.longname for each in found.values()} == set(found)
    assert {each.layer_type for each in found.values()} == {LAYER_TYPE.RECURRENT}
    gates = layers(model, gates=True)
    for position, gate in enumerate("ifco"):
        assert np.array_equal(gates[f"rnn.weight_hh_l0.{gate}"].matrices()[0], r[3 * position : 3 * position + 3])


@pytest.mark.parametrize("biases", [0, 1, 2, "both in one"])
@pytest.mark.parametrize(("cell", "gates"), [("GRU", "rzh"), ("GRU", ""), ("RNN", ""), ("LSTM", "")])
def test_recurrent_cells(cell: Any, gates: str, biases: int | str) -> None:
    count = {"GRU": 3, "RNN": 1, "LSTM": 4}[cell] * 4
    vectors = [gaussian(2, count)] if biases == "both in one" else [gaussian(count, seed=n) for n in range(int(biases))]
    module = Recurrent(
        "rnn",
        cell,
        weight("rnn/kernel", gaussian(6, count), permutation=(1, 0), layer="rnn.kernel"),
        weight("rnn/recurrent_kernel", gaussian(4, count), permutation=(1, 0), layer="rnn.recurrent_kernel"),
        tuple(weight(f"rnn/bias{n}", vector) for n, vector in enumerate(vectors)),
        gates=gates,
    )
    model = build([module])
    run(model)
    found = layers(model)
    assert [(name, each.matrix_shape) for name, each in found.items()] == [
        ("rnn.kernel", (1, count, 6)),
        ("rnn.recurrent_kernel", (1, count, 4)),
    ]


def test_gru_against_its_equations() -> None:
    w, r = gaussian(12, 6), gaussian(12, 4)
    b, x = gaussian(2, 12), gaussian(1, 1, 6)
    module = Recurrent("rnn", "GRU", weight("w", w), weight("r", r), (weight("b", b),), gates="rzh")
    reset, update, new = np.split(w @ x.reshape(6) + b[0], 3)
    r_reset, r_update, r_new = np.split(b[1], 3)
    expected = (1 - sigmoid(update + r_update)) * np.tanh(new + sigmoid(reset + r_reset) * r_new)
    assert np.allclose(only(build([module]), "rnn/input", x).reshape(4), expected, atol=1e-5)


def test_batch_normalisation_and_scaling() -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [np.abs(gaussian(6, seed=n)) for n in range(4)]
    scale, shift = gaussian(3, 4, 4), gaussian(3, 4, 4, seed=1)
    model = build(
        [
            BatchNormalization("bn", *(weight(f"bn.{name}", v) for name, v in zip(names, vectors, strict=True))),
            Scaling("norm", weight("norm.weight", scale), weight("norm.bias", shift)),
            Scaling("shift", bias=weight("shift.bias", shift)),
        ]
    )
    x, y = gaussian(1, 6), gaussian(3, 4, 4, seed=2)
    results = list(run(model, {"bn/input": x, "norm/input": y, "shift/input": y}).values())
    expected = (x - vectors[2]) / np.sqrt(vectors[3] + 1e-5) * vectors[0] + vectors[1]
    for result, reference in zip(results, (expected, y * scale + shift, y + shift), strict=True):
        assert np.allclose(result, reference, atol=1e-4)
    assert not find(model).layers


def test_what_is_no_weight_is_kept() -> None:
    model = build(
        [
            Stored("pos", weight("pos.index", np.arange(12).reshape(3, 4))),
            Dense("codes", weight("codes.weight", gaussian(4, 4).astype(np.int8))),
            Dense("none", weight("none.weight", np.zeros((0, 4), np.float32))),
            Dense("fc", weight("fc.weight", gaussian(4, 4))),
        ]
    )
    run(model)
    assert list(model.graph.initializers) == ["pos.index", "codes.weight", "none.weight", "fc.weight"]
    assert [each.name for each in find(model).layers] == ["fc"]


NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("dtype", [*NARROW, "float64"])
def test_element_types(dtype: str) -> None:
    numpy_type = np.dtype(getattr(ml_dtypes, dtype, dtype))
    w, table = gaussian(7, 5).astype(numpy_type), gaussian(4, 5, seed=1).astype(numpy_type)
    kernel = gaussian(3, 2, 2).astype(numpy_type)
    modules: list[Module] = [Dense("fc", weight("fc.weight", w)), Embedding("e", weight("e.weight", table))]
    if dtype != "float64":  # onnxruntime has no such convolution
        modules.append(Convolution("conv", weight("conv.weight", kernel)))
    model = build(modules)
    x = gaussian(1, 5).astype(np.float64 if dtype == "float64" else np.float32)
    result = next(iter(run(model, {"fc/input": x}).values()))
    assert np.allclose(result, x @ w.astype(np.float64).T, atol=1e-4)
    for array, found in zip((w, table, kernel), find(model).layers, strict=dtype != "float64"):
        assert found.dtype == ir.DataType.from_numpy(numpy_type).name.lower()
        assert found.read().astype(np.float64).tobytes() == array.astype(np.float64).tobytes()
        assert found.eps == float(ml_dtypes.finfo(numpy_type).eps)


def test_computed_weights() -> None:
    """A base plus a scaled low-rank update, codes with their scale, and a weight of one length per output."""
    base, up, down, codes = (
        gaussian(7, 5),
        gaussian(7, 2),
        gaussian(2, 5),
        np.arange(-10, 11, dtype=np.int8).reshape(7, 3),
    )
    product = Computed("MatMul", (weight("fc.B", up), weight("fc.A", down)), (7, 5))
    update = Computed("Mul", (product, 2.0), (7, 5))
    narrow = weight("norm.weight_v", base.astype(np.float16))
    length = Computed("ReduceL2", (narrow, (1,)), (7, 1), (("keepdims", 1),))
    modules: list[Module] = [
        Dense("fc", Computed("Add", (weight("fc.weight", base), update), (7, 5))),
        Dense("int", Computed("DequantizeLinear", (weight("int.weight", codes), 0.5), (7, 3))),
        Dense("norm", Computed("Div", (narrow, length), (7, 5))),
        Embedding("table", product),
    ]
    model = build(modules)
    run(model)
    found = layers(model)
    assert list(found) == ["fc", "int", "norm", "fc.B"]
    rounded = base.astype(np.float16).astype(np.float32)
    expected = [base + 2 * up @ down, codes * 0.5, rounded / np.linalg.norm(rounded, axis=1, keepdims=True), up @ down]
    for each, values in zip(found.values(), expected, strict=True):
        assert np.allclose(each.read(), values, atol=1e-5)
    assert (found["fc"].longname, found["norm"].dtype) == ("fc.weight", "float16")


def test_float64_convolutions_stay_exact() -> None:
    w = gaussian(3, 2, 3, 3, dtype=np.float64)
    model = build([Convolution("conv", weight("conv.weight", w))])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    (found,) = find(model).layers
    assert np.array_equal(found.read(), w)


def test_external_tensors_are_not_read(tmp_path: Path) -> None:
    w = gaussian(7, 5)
    (tmp_path / "weights.bin").write_bytes(b"\1\2\3\4" + w.tobytes())
    here = ir.ExternalTensor(
        "weights.bin", 4, w.nbytes, ir.DataType.FLOAT, shape=ir.Shape((7, 5)), name="fc.weight", base_dir=str(tmp_path)
    )
    missing = ir.ExternalTensor(
        "absent.bin", 0, 80, ir.DataType.FLOAT, shape=ir.Shape((4, 5)), name="gone.weight", base_dir=str(tmp_path)
    )
    model = build([Dense("fc", Weight(here)), Dense("gone", Weight(missing))])
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    assert path.stat().st_size < 2000
    found = layers(path)
    assert np.array_equal(found["fc"].read(), w)
    assert found["gone"].shape == (4, 5)


def test_names_never_collide() -> None:
    """Tensors may bear the very names that the builder would give to its values."""
    taken = ["fc/input", "fc/Gemm_output", "fc/Gemm", "fc/input_1"]
    modules: list[Module] = [
        Dense("fc", weight("fc.weight", gaussian(4, 4))),
        Dense("fc", weight("fc.w2", gaussian(4, 5))),
    ]
    model = build([*modules, *(Dense(name, weight(name, gaussian(3, n + 2))) for n, name in enumerate(taken))])
    run(model)
    assert set(taken) <= set(model.graph.initializers)
    assert len(find(model).layers) == 6


@pytest.mark.parametrize(
    "modules",
    [
        [Dense("fc", weight("fc.weight", gaussian(4)))],
        [Dense("fc", weight("fc.weight", gaussian(4, 3)), weight("fc.bias", gaussian(3)))],
        [Dense("fc", weight("fc.weight", gaussian(9, 3)), packed=(3, 3, 2))],
        [Dense("fc", weight("fc.weight", gaussian(4, 3), shape=(5, 3)))],
        [Dense("fc", weight("fc.weight", gaussian(4, 3), permutation=(0, 0)))],
        [Convolution("conv", weight("conv.weight", gaussian(4, 3)))],
        [Convolution("conv", weight("conv.weight", gaussian(4, 3, 3)), groups=3)],
        [Embedding("embed", weight("embed.weight", gaussian(4, 3, 3)))],
        [Recurrent("rnn", "LSTM", weight("rnn.w", gaussian(8, 3)), weight("rnn.r", gaussian(8, 3)))],
        [Recurrent("rnn", "RNN", weight("rnn.w", gaussian(3, 3)), weight("rnn.r", gaussian(3, 3)), gates="x")],
        [Dense("a", weight("same", gaussian(4, 3))), Dense("b", weight("same", gaussian(4, 3)))],
        [Dense("a", Weight(ir.Tensor(gaussian(4, 3))))],
    ],
)
def test_what_does_not_fit_is_refused(modules: list[Module]) -> None:
    with pytest.raises(ConversionError) as refused:
        build(modules)
    assert "\n" not in str(refused.value)


SIDE = st.integers(1, 6)


@st.composite
def some_module(draw: st.DrawFn) -> tuple[Module, Array]:
    """A module of any kind and shape, and its main weight; named `m`."""
    kind = draw(st.sampled_from(["dense", "dense_inputs", "conv", "transposed", "embedding", "LSTM", "GRU", "RNN"]))
    a, b, groups = draw(SIDE), draw(SIDE), draw(st.integers(1, 3))
    if kind.startswith("dense"):
        array = gaussian(*draw(st.sampled_from([(), (1,), (2,)])), a, b)
        return Dense("m", weight("m.weight", array), inputs_first=kind == "dense_inputs"), array
    if kind == "embedding":
        array = gaussian(a, b)
        return Embedding("m", weight("m.weight", array)), array
    if kind in ("conv", "transposed"):
        kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
        array = gaussian(a * groups, b, *kernel)
        order = draw(st.permutations(range(array.ndim)))
        stored = np.ascontiguousarray(array.transpose(order))
        back = tuple(int(n) for n in np.argsort(order))
        return Convolution("m", weight("m.weight", stored, permutation=back), None, groups, kind == "transposed"), array
    count = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    array = gaussian(count * a, b)
    return Recurrent("m", kind, weight("m.weight", array), weight("m.r", gaussian(count * a, a, seed=1))), array


@settings(max_examples=60, deadline=None)
@given(some_module())
def test_any_shape(made: tuple[Module, Array]) -> None:
    module, array = made
    model = build([module])
    run(model)
    walk = find(model)
    assert not walk.skipped
    values = np.concatenate([each.read().reshape(-1) for each in walk.layers if each.longname == "m.weight"])
    assert np.array_equal(values, array.reshape(-1))
    # A table of one row can equal nothing else; all weights have names that begin with the module's.
    assert all(each.name.startswith("m") for each in walk.layers)

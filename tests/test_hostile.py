"""Files made to do harm: each ends in rows or in a WwonnxError, soon and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from building import (
    Sandbox,
    Sandboxed,
    as_tensor,
    claimed,
    command_line,
    dense,
    external,
    model_of,
    random_matrix,
    save,
)
from onnx import AttributeProto, TensorProto, helper

import wwonnx as ww

SECONDS, MEGABYTES = 5.0, 500.0
GOOD = random_matrix(16, 16)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    box = Sandbox(save(dense({"w": random_matrix(64, 64)}), tmp_path_factory.mktemp("sandbox") / "healthy.onnx"))
    yield box
    box.close()


def harmless(result: Sandboxed) -> Sandboxed:
    """It ended as it should, in time and in bounds."""
    assert not result.died, result.died
    assert result.seconds < SECONDS
    assert result.megabytes < MEGABYTES
    assert "\n" not in result.error
    assert len(result.error) < 1000
    for status, reason in result.rows.values():
        assert status == "success" or (reason and len(reason) < 1000)
    return result


def costs_one_layer(result: Sandboxed, word: str = "") -> None:
    """The layer `bad` alone could not be analysed, and a reason is given."""
    harmless(result)
    assert result.error == ""
    assert result.rows["good"] == ("success", "")
    status, reason = result.rows.get("bad", ("failed", result.skipped.get("bad") or result.inventory.get("bad", "")))
    assert status == "failed"
    assert reason
    assert word in reason


def beside_good(bad: TensorProto) -> onnx.ModelProto:
    return dense({"good": GOOD, "bad": bad})


# --- more claimed than held ---

DIMS = {
    "10^9x10^9": [10**9, 10**9],
    "product_is_0_mod_2^64": [2**32, 2**32],
    "2^62x4": [2**62, 4],
    "max": [2**63 - 1, 2**63 - 1],
    "wide": [1, 10**12],
    "tall": [10**12, 2],
    "cube": [10**6, 10**6, 10**6],
    "negative": [-16, -16],
    "one_negative": [16, -1],
    "min": [-(2**63), 2],
    "zero_by_huge": [0, 2**62],
    "64_axes": [2] * 64,
    "100_axes": [1] * 100,
}
HOLDS: dict[str, Callable[[list[int]], TensorProto]] = {
    "raw": lambda dims: claimed(dims, raw=bytes(1024)),
    "typed": lambda dims: claimed(dims, typed=[0.5] * 256),
    "nothing": claimed,
    "external": lambda dims: external(dims, "data.bin"),
    "int4": lambda dims: claimed(dims, TensorProto.INT4, bytes(1024)),
    "int8": lambda dims: claimed(dims, TensorProto.INT8, bytes(1024)),
    "float4": lambda dims: claimed(dims, TensorProto.FLOAT4E2M1, bytes(1024)),
    "double": lambda dims: claimed(dims, TensorProto.DOUBLE, bytes(1024)),
    "text": lambda dims: claimed(dims, TensorProto.STRING),
}


@pytest.mark.parametrize("holds", HOLDS)
@pytest.mark.parametrize("dims", DIMS)
def test_claimed_shapes(dims: str, holds: str, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(1024))
    costs_one_layer(sandbox.run(save(beside_good(HOLDS[holds](DIMS[dims])), tmp_path / "m.onnx")))


@pytest.mark.parametrize("data_type", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT2])
def test_claimed_codes(data_type: int, tmp_path: Path, sandbox: Sandbox) -> None:
    codes = claimed([10**6, 10**6], data_type, bytes(1024))
    model = beside_good(codes)
    model.graph.initializer[1].name = "bad"
    model.graph.initializer.append(as_tensor("scale", np.float32(0.5)))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["bad", "scale"], ["dequantised"]))
    model.graph.node[-1].input[1] = "dequantised"
    costs_one_layer(sandbox.run(save(model, tmp_path / "m.onnx")))


@pytest.mark.parametrize("dims", [[10**6, 10**6], [2**40, 2], [-1, 16], [2**62, 4], []], ids=str)
def test_claimed_sparse_tensors(dims: list[int], tmp_path: Path, sandbox: Sandbox) -> None:
    model = dense({"good": GOOD, "bad": GOOD})
    del model.graph.initializer[1:]
    values = helper.make_tensor("bad", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 5])
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=dims)
    model.graph.sparse_initializer.append(sparse)
    result = harmless(sandbox.run(save(model, tmp_path / "m.onnx")))
    assert result.rows["good"] == ("success", "")


@pytest.mark.parametrize("count", [0, 1, 3, 10**6])
def test_sparse_tensors_whose_parts_disagree(count: int, tmp_path: Path, sandbox: Sandbox) -> None:
    model = dense({"good": GOOD, "bad": GOOD})
    del model.graph.initializer[1:]
    sparse = model.graph.sparse_initializer.add()
    sparse.dims.extend([16, 16])
    sparse.values.CopyFrom(helper.make_tensor("bad", TensorProto.FLOAT, [2], [1.0, 2.0]))
    sparse.indices.CopyFrom(TensorProto(data_type=TensorProto.INT64, dims=[count], raw_data=bytes(8)))
    costs_one_layer(sandbox.run(save(model, tmp_path / "m.onnx")))


# --- graphs without an end ---


def _itself() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["loop", "good"], ["loop"]), helper.make_node("MatMul", ["x", "loop"], ["h"])]
    return model_of([*nodes, helper.make_node("MatMul", ["h", "good"], ["y"])], {"good": GOOD})


def _two_nodes() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["b", "good"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("MatMul", ["x", "b"], ["h"]),
    ]
    return model_of([*nodes, helper.make_node("MatMul", ["h", "good"], ["y"])], {"good": GOOD})


def _long_cycle() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"c{index}"], [f"c{(index + 1) % 5000}"]) for index in range(5000)]
    nodes += [helper.make_node("MatMul", ["x", "c7"], ["h"]), helper.make_node("MatMul", ["h", "good"], ["y"])]
    return model_of(nodes, {"good": GOOD})


def _loop_state() -> onnx.ModelProto:
    """A loop whose states pass their values round in a circle."""
    names = ["s0", "s1"]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("i", "c", *names)]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("c", "t1", "t0")]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["t1"], ["t0"]),
            helper.make_node("Identity", ["t0"], ["t1"]),
            helper.make_node("MatMul", ["s0", "s1"], ["m"]),
        ],
        "body",
        infos,
        outputs,
    )
    loop = helper.make_node("Loop", ["n", "c0", "good", "good"], ["p", "q"], body=body)
    return model_of([loop, helper.make_node("MatMul", ["x", "good"], ["y"])], {"good": GOOD})


def _wrong_order() -> onnx.ModelProto:
    return model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Identity", ["good"], ["w"])], {"good": GOOD}
    )


@pytest.mark.parametrize("make", [_itself, _two_nodes, _long_cycle, _loop_state, _wrong_order])
def test_cycles(make: Callable[[], onnx.ModelProto], tmp_path: Path, sandbox: Sandbox) -> None:
    result = harmless(sandbox.run(save(make(), tmp_path / "m.onnx")))
    assert result.error or result.rows["good"] == ("success", "")


def _nested_bytes(depth: int) -> bytes:
    """A file of Ifs in Ifs, written by hand: protobuf writes what it would not read, but takes long."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = helper.make_graph([helper.make_node("MatMul", ["x", "good"], ["deep"])], "g", [], []).SerializeToString()
    for _ in range(depth):
        attribute = field(1, b"then_branch") + bytes([20 << 3 & 127 | 128, 1, AttributeProto.GRAPH]) + field(6, graph)
        graph = field(1, field(2, b"y") + field(4, b"If") + field(5, attribute))
    return onnx.ModelProto(ir_version=8).SerializeToString() + field(7, graph)


@pytest.mark.parametrize("depth", [5, 30, 60, 100, 1000, 20000])
def test_subgraphs_in_subgraphs(depth: int, tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_nested_bytes(depth))
    result = harmless(sandbox.run(path))
    assert not result.error or (depth >= 30 and result.error.startswith("ModelError"))


@pytest.mark.parametrize("depth", [20, 150, 1000])
def test_subgraphs_in_subgraphs_in_memory(depth: int, tmp_path: Path, sandbox: Sandbox) -> None:
    """Protobuf refuses such files, but not such objects."""
    build = f"""
proto = onnx.load(path)
graph = proto.graph
for _ in range({depth}):
    node = graph.node.add(op_type="If", input=["x"], output=["deep"])
    graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
graph.node.add(op_type="MatMul", input=["x", "good"], output=["deep"])
watcher = ww.WeightWatcher(proto)
"""
    result = harmless(sandbox.run(save(dense({"good": GOOD}), tmp_path / "m.onnx"), prepare=build))
    if depth > 100 and result.error:
        assert "nested" in result.error
    else:
        assert result.rows["good"] == ("success", "")


def _functions(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    """Local functions by name, each a chain of calls of others; `MatMul` is the operator."""
    functions = []
    for name, calls in bodies.items():
        values = ["a", *(f"v{index}" for index in range(len(calls) - 1)), "c"]
        nodes = [
            helper.make_node("MatMul", [values[i], "b"], [values[i + 1]])
            if call == "MatMul"
            else helper.make_node(call, [values[i], "b"], [values[i + 1]], domain="local")
            for i, call in enumerate(calls)
        ]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
        functions.append(helper.make_function("local", name, ["a", "b"], ["c"], nodes, imports))
    last = list(bodies)[-1]
    model = model_of(
        [helper.make_node(last, ["x", "good"], ["y"], domain="local")], {"good": GOOD}, functions=functions
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    return model


def _doubling(levels: int) -> dict[str, list[str]]:
    return {"f0": ["MatMul"], **{f"f{n}": [f"f{n - 1}"] * 2 for n in range(1, levels)}}


@pytest.mark.parametrize(
    ("bodies", "fine"),
    [
        ({"f0": ["f0"]}, False),
        ({"f0": ["f1"], "f1": ["f0"]}, False),
        ({"f0": ["MatMul", "f2"], "f1": ["f0"], "f2": ["f1"]}, False),
        (_doubling(3), True),
        (_doubling(8), True),
        (_doubling(20), False),
        (_doubling(41), False),
        (_doubling(400), False),
        ({"f0": ["MatMul"], **{f"f{n}": [f"f{n - 1}"] for n in range(1, 150)}}, None),
        ({"f0": ["MatMul"], **{f"f{n}": [f"f{n - 1}"] for n in range(1, 3000)}}, False),
        ({f"f{n}": [f"f{n - 1}"] if n else ["MatMul"] for n in reversed(range(3000))}, False),
        ({"f0": ["MatMul"], "f1": ["f0"] * 1000, "f2": ["f1"] * 1000}, False),
    ],
    ids=[
        "itself",
        "pair",
        "triple",
        "double3",
        "double8",
        "double20",
        "double41",
        "double400",
        "chain150",
        "chain3000",
        "chain3000reversed",
        "thousands",
    ],
)
def test_local_functions(bodies: dict[str, list[str]], fine: bool | None, tmp_path: Path, sandbox: Sandbox) -> None:
    result = harmless(sandbox.run(save(_functions(bodies), tmp_path / "m.onnx")))
    if fine or (fine is None and not result.error):
        assert result.rows["good"] == ("success", "")
    else:
        assert result.error.startswith("ModelError")
        assert "function" in result.error


# --- many and long ---


def test_a_million_nodes_are_refused_at_once(tmp_path: Path, sandbox: Sandbox) -> None:
    model = model_of([], {"good": GOOD})
    one = helper.make_node("Identity", ["a"], ["b"])
    model.graph.node.extend([one] * 1_000_000)
    path = save(model, tmp_path / "m.onnx")
    del model
    result = sandbox.run(path)
    assert not result.died, result.died
    assert "1,000,000 nodes" in result.error
    assert result.megabytes < MEGABYTES


def test_fifty_thousand_nodes_in_a_chain_are_walked(tmp_path: Path, sandbox: Sandbox) -> None:
    """A chain from a weight and a chain from the input."""
    model = model_of([], {"good": GOOD, "long": random_matrix(16, 16, 1)})
    for start, op_type in (("long", "Identity"), ("x", "Relu")):
        previous = start
        for index in range(25_000):
            model.graph.node.add(op_type=op_type, input=[previous], output=[f"{op_type}{index}"])
            previous = f"{op_type}{index}"
        model.graph.node.add(op_type="MatMul", input=[previous, "good"], output=[f"y{op_type}"])
    model.graph.node.add(op_type="MatMul", input=["x", "Identity24999"], output=["y"])
    result = sandbox.run(save(model, tmp_path / "m.onnx"))
    assert not result.died, result.died
    assert result.megabytes < MEGABYTES
    assert sorted(result.rows) == ["good", "long"]


def test_a_weight_that_a_hundred_thousand_nodes_read(tmp_path: Path, sandbox: Sandbox) -> None:
    model = model_of([], {"good": GOOD})
    for index in range(50_000):
        model.graph.node.add(op_type="MatMul", input=["x", "good"], output=[f"y{index}"], name=f"n{index}")
        model.graph.node.add(op_type="Mystery", domain="strange", input=["x", "good"], output=[f"z{index}"])
    result = sandbox.run(save(model, tmp_path / "m.onnx"))
    assert not result.died, result.died
    assert result.megabytes < MEGABYTES
    assert list(result.rows) == ["good"]


def test_a_chain_of_sums(tmp_path: Path, sandbox: Sandbox) -> None:
    """Each reads all before it: what an expression comes from must not be copied at every step."""
    nodes = [helper.make_node("Sum", [f"w{index}" for index in range(3000)], ["s0"])]
    nodes += [helper.make_node("Add", [f"s{index}", "w0"], [f"s{index + 1}"]) for index in range(3000)]
    nodes += [helper.make_node("MatMul", ["x", f"s{index}"], [f"y{index}"]) for index in range(0, 3000, 100)]
    weights: dict[str, Any] = {f"w{index}": GOOD[:2, :2] for index in range(3000)}
    harmless(sandbox.run(save(model_of(nodes, weights), tmp_path / "m.onnx")))


def test_names_of_a_megabyte(tmp_path: Path, sandbox: Sandbox) -> None:
    long = ["w" * 10**6, "layer.\n[bold]\x1b[31m" + "v" * 10**6 + ".weight", "é" * 10**6]
    model = dense({name: random_matrix(16, 16, index) for index, name in enumerate(long)})
    for node in model.graph.node:
        node.name = "n" * 10**6
    path = save(model, tmp_path / "m.onnx")
    result = harmless(sandbox.run(path))
    assert [status for status, _ in result.rows.values()] == ["success"] * 3
    assert ww.describe(path)["name"].str.len().max() <= 1000
    for command in ("analyze", "describe", "inventory"):
        run = command_line(command, path)
        assert run.code == 0, run.err
        assert len(run.out) < 20_000
        assert "\x1b" not in run.out


def test_operators_and_reasons_of_a_megabyte(tmp_path: Path) -> None:
    model = dense({"good": GOOD, "bad": GOOD.T.copy()})
    model.graph.node[1].op_type, model.graph.node[1].domain = "O" * 10**6, "d" * 10**6
    path = save(model, tmp_path / "m.onnx")
    for command in ("analyze", "inventory"):
        run = command_line(command, path)
        assert run.code == 0, run.err
        assert len(run.out) < 20_000


@pytest.mark.parametrize("name", ["", "w", "layer.weight"])
def test_thousands_of_equal_names(name: str, tmp_path: Path, sandbox: Sandbox) -> None:
    """Initializers of one name and nodes of one name and one output."""
    model = model_of([], {})
    for index in range(3000):
        model.graph.initializer.append(as_tensor(name, random_matrix(8, 8, index)))
        model.graph.node.append(helper.make_node("MatMul", ["x", name], ["y"], name="node"))
    result = harmless(sandbox.run(save(model, tmp_path / "m.onnx")))
    assert result.error.startswith("ModelError") or len(result.rows) <= 1


def test_thousands_of_names_that_shorten_to_one(tmp_path: Path) -> None:
    model = model_of([], {})
    for index in range(3000):
        model.graph.initializer.append(as_tensor(str(index), random_matrix(8, 8, index)))
        model.graph.node.append(helper.make_node("MatMul", ["x", str(index)], [f"y{index}"], name="a/MatMul"))
    start = time.perf_counter()
    names = ww.describe(save(model, tmp_path / "m.onnx"))["name"]
    assert time.perf_counter() - start < SECONDS
    assert names.is_unique
    assert len(names) == 3000


# --- expressions that explode ---


def _bomb(nodes: list[onnx.NodeProto], **tensors: Any) -> onnx.ModelProto:
    """Nodes that end in the value `bad`, which a MatMul reads."""
    last = [helper.make_node("MatMul", ["x", "bad"], ["h"]), helper.make_node("MatMul", ["h", "good"], ["y"])]
    return model_of([*nodes, *last], {"good": GOOD, "w": random_matrix(16, 16, 3), **tensors})


def _doubled(op_type: str, times: int, **attributes: Any) -> onnx.ModelProto:
    names = ["w", *(f"v{index}" for index in range(times - 1)), "bad"]
    return _bomb([helper.make_node(op_type, [names[i], names[i]], [names[i + 1]], **attributes) for i in range(times)])


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


BOMBS: dict[str, Callable[[], onnx.ModelProto]] = {
    "concat40": lambda: _doubled("Concat", 40, axis=0),
    "concat5000": lambda: _doubled("Concat", 5000, axis=0),
    "add60": lambda: _doubled("Add", 60),
    "add5000": lambda: _doubled("Add", 5000),
    "mul60": lambda: _doubled("Mul", 60),
    "matmul60": lambda: _doubled("MatMul", 60),
    "gather60": lambda: _bomb(
        [
            helper.make_node("Gather", ["w" if i == 0 else f"g{i}", "i"], [f"g{i + 1}" if i < 59 else "bad"])
            for i in range(60)
        ],
        i=np.zeros((100, 100), np.int64),
    ),
    "expand": lambda: _bomb([helper.make_node("Expand", ["w", "s"], ["bad"])], s=_ints(10**12, 16, 16)),
    "expand_matrix": lambda: _bomb(
        [helper.make_node("Expand", ["v", "s"], ["bad"])], s=_ints(10**6, 10**6), v=GOOD[:1, :1]
    ),
    "expand_overflow": lambda: _bomb(
        [helper.make_node("Expand", ["v", "s"], ["bad"])], s=_ints(2**62, 4), v=GOOD[:1, :1]
    ),
    "expand_negative": lambda: _bomb(
        [helper.make_node("Expand", ["v", "s"], ["bad"])], s=_ints(-5, -1), v=GOOD[:1, :1]
    ),
    "constant_of_shape": lambda: _bomb([helper.make_node("ConstantOfShape", ["s"], ["bad"])], s=_ints(10**6, 10**6)),
    "tile": lambda: _bomb([helper.make_node("Tile", ["w", "s"], ["bad"])], s=_ints(10**6, 10**6)),
    "range": lambda: _bomb(
        [helper.make_node("Range", ["a", "b", "c"], ["bad"])], a=_ints(0), b=_ints(10**12), c=_ints(1)
    ),
    "pad": lambda: _bomb([helper.make_node("Pad", ["w", "s"], ["bad"])], s=_ints(10**6, 10**6, 10**6, 10**6)),
    "resize": lambda: _bomb([helper.make_node("Resize", ["w", "", "", "s"], ["bad"])], s=_ints(10**6, 10**6)),
    "one_hot": lambda: _bomb(
        [helper.make_node("OneHot", ["i", "d", "v"], ["bad"])], i=_ints(1, 2), d=_ints(10**12), v=GOOD[0, :2]
    ),
    "eye": lambda: _bomb(
        [helper.make_node("Expand", ["v", "s"], ["e"]), helper.make_node("EyeLike", ["e"], ["bad"])],
        s=_ints(10**6, 10**6),
        v=GOOD[:1, :1],
    ),
    "outer": lambda: _bomb(
        [helper.make_node("MatMul", ["a", "b"], ["bad"])],
        a=np.ones((10**5, 1), np.float32),
        b=np.ones((1, 10**5), np.float32),
    ),
    "outer_mul": lambda: _bomb(
        [helper.make_node("Mul", ["a", "b"], ["bad"])],
        a=np.ones((10**5, 1), np.float32),
        b=np.ones((1, 10**5), np.float32),
    ),
    "outer_gemm": lambda: _bomb(
        [helper.make_node("Gemm", ["a", "b"], ["bad"])],
        a=np.ones((10**5, 1), np.float32),
        b=np.ones((1, 10**5), np.float32),
    ),
    "reshape": lambda: _bomb([helper.make_node("Reshape", ["w", "s"], ["bad"])], s=_ints(-1, 0, 2**40)),
    "reshape_zero": lambda: _bomb([helper.make_node("Reshape", ["e", "s"], ["bad"])], s=_ints(2**40, 0), e=GOOD[:0]),
    "unsqueeze": lambda: _bomb([helper.make_node("Unsqueeze", ["w", "s"], ["bad"])], s=_ints(*range(60))),
    "squeeze": lambda: _bomb([helper.make_node("Squeeze", ["w", "s"], ["bad"])], s=_ints(2**62)),
    "slice": lambda: _bomb(
        [helper.make_node("Slice", ["w", "a", "b", "c", "d"], ["bad"])],
        **{"a": _ints(-(2**63)), "b": _ints(2**63 - 1), "c": _ints(0), "d": _ints(2**63 - 1)},
    ),
    "slice_step0": lambda: _bomb(
        [helper.make_node("Slice", ["w", "a", "b", "c", "a"], ["bad"])], a=_ints(0), b=_ints(9), c=_ints(0)
    ),
    "slice_axis": lambda: _bomb(
        [helper.make_node("Slice", ["w", "a", "b", "c"], ["bad"])], a=_ints(0), b=_ints(9), c=_ints(77)
    ),
    "split": lambda: _bomb([helper.make_node("Split", ["w", "s"], ["bad", "z"])], s=_ints(2**62, -(2**62))),
    "concat_axis": lambda: _bomb([helper.make_node("Concat", ["w", "w"], ["bad"], axis=2**62)]),
    "transpose": lambda: _bomb([helper.make_node("Transpose", ["w"], ["bad"], perm=[0, 0])]),
    "gather_far": lambda: _bomb([helper.make_node("Gather", ["w", "i"], ["bad"])], i=_ints(*range(10**6, 10**6 + 16))),
    "pow": lambda: _bomb([helper.make_node("Pow", ["w", "p"], ["bad"])], p=np.float32(1e30)),
    "divide_by_zero": lambda: _bomb([helper.make_node("Div", ["w", "p"], ["bad"])], p=np.float32(0)),
    "log": lambda: _bomb([helper.make_node("Log", ["w"], ["bad"])]),
    "cast_nothing": lambda: _bomb([helper.make_node("Cast", ["w"], ["bad"], to=0)]),
    "cast_unknown": lambda: _bomb([helper.make_node("Cast", ["w"], ["bad"], to=99)]),
    "cast_text": lambda: _bomb([helper.make_node("Cast", ["w"], ["bad"], to=TensorProto.STRING)]),
    "n_bits": lambda: _bomb(
        [
            helper.make_node(
                "MatMulNBits", ["x", "w8", "w"], ["bad"], domain="com.microsoft", K=10**9, N=10**9, block_size=16
            )
        ],
        w8=np.zeros((16, 1, 8), np.uint8),
    ),
    "n_bits_block": lambda: _bomb(
        [
            helper.make_node(
                "MatMulNBits", ["x", "w8", "w"], ["bad"], domain="com.microsoft", K=16, N=16, block_size=2**62
            )
        ],
        w8=np.zeros((16, 1, 8), np.uint8),
    ),
    "gather_block": lambda: _bomb(
        [
            helper.make_node(
                "GatherBlockQuantized", ["w8", "x", "w"], ["bad"], domain="com.microsoft", block_size=0, bits=0
            )
        ],
        w8=np.zeros((16, 8), np.uint8),
    ),
    "dequantize_axis": lambda: _bomb(
        [helper.make_node("DequantizeLinear", ["w8", "s"], ["bad"], axis=2**62, block_size=2**62)],
        w8=np.zeros((16, 8), np.int8),
        s=np.ones(8, np.float32),
    ),
    "quant_bits": lambda: _bomb(
        [
            helper.make_node(
                "Quant", ["w", "s", "z", "b"], ["bad"], domain="qonnx.custom_op.general", rounding_mode="NONE"
            )
        ],
        **{"s": np.float32(0), "z": np.float32(0), "b": np.float32(1e9)},
    ),
    "einsum": lambda: _bomb([helper.make_node("Einsum", ["x", "w"], ["bad"], equation="a" * 10**6 + ",ij->")]),
    "stack": lambda: _bomb([helper.make_node("Identity", ["s"], ["bad"])], s=np.zeros((4096, 2, 2), np.float32)),
    "stack_too_many": lambda: _bomb(
        [helper.make_node("Identity", ["s"], ["bad"])], s=np.zeros((10**5, 2, 2), np.float32)
    ),
    "lstm": lambda: _bomb([helper.make_node("LSTM", ["x", "w", "w"], ["bad"], hidden_size=2**62)]),
    "conv_group": lambda: _bomb(
        [helper.make_node("Conv", ["x", "k"], ["bad"], group=-(2**63))], k=np.ones((4, 4, 3, 3), np.float32)
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_expressions_that_explode(bomb: str, tmp_path: Path, sandbox: Sandbox) -> None:
    result = harmless(sandbox.run(save(BOMBS[bomb](), tmp_path / "m.onnx")))
    assert result.error == ""
    assert result.rows["good"] == ("success", "")


# --- files under the hand ---


def test_external_data_that_overlaps(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "data.bin").write_bytes(random_matrix(64, 16).tobytes())
    tensors = {f"w{index}": external([16, 16], "data.bin", offset=64 * index) for index in range(20)}
    result = harmless(sandbox.run(save(dense(tensors), tmp_path / "m.onnx")))
    assert [status for status, _ in result.rows.values()] == ["success"] * 20


def test_hard_links(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "data.bin").write_bytes(GOOD.tobytes())
    os.link(tmp_path / "data.bin", tmp_path / "same.bin")
    model = dense({"w": external([16, 16], "data.bin"), "v": external([16, 16], "same.bin")})
    result = harmless(sandbox.run(save(model, tmp_path / "m.onnx")))
    assert set(result.rows.values()) == {("success", "")}


@pytest.mark.parametrize("size", [0, 100, 16 * 16 * 4, 5000])
def test_external_data_that_shrinks_after_opening(size: int, tmp_path: Path, sandbox: Sandbox) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(random_matrix(64, 64).tobytes())
    model = dense({"good": GOOD, "bad": external([64, 64], "data.bin")})
    shrink = f"watcher.describe(); import os; os.truncate({str(data)!r}, {size})"
    costs_one_layer(sandbox.run(save(model, tmp_path / "m.onnx"), prepare=shrink), "data.bin")


@pytest.mark.parametrize(
    "change", ["os.unlink({0!r})", "os.unlink({0!r}); os.mkfifo({0!r})", "os.unlink({0!r}); os.mkdir({0!r})"]
)
def test_external_data_that_goes_after_opening(change: str, tmp_path: Path, sandbox: Sandbox) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(random_matrix(64, 64).tobytes())
    model = dense({"good": GOOD, "bad": external([64, 64], "data.bin")})
    costs_one_layer(sandbox.run(save(model, tmp_path / "m.onnx"), prepare="import os; " + change.format(str(data))))


def test_external_data_that_becomes_a_link_out_after_opening(tmp_path: Path, sandbox: Sandbox) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    secret, data = tmp_path / "secret.bin", folder / "data.bin"
    secret.write_bytes(random_matrix(64, 64).tobytes())
    data.write_bytes(secret.read_bytes())
    model = dense({"good": GOOD, "bad": external([64, 64], "data.bin")})
    swap = f"import os; os.unlink({str(data)!r}); os.symlink({str(secret)!r}, {str(data)!r})"
    result = harmless(sandbox.run(save(model, folder / "m.onnx"), prepare=swap))
    assert result.error.startswith("UnsafeModelError") or result.rows["bad"][0] == "failed"


def test_a_model_of_12_gigabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 matrices of 4096 x 3840 in a file with holes: opened and listed without being read."""
    size = 4096 * 3840 * 4
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(200 * size)
    tensors = {f"w{i}": external([4096, 3840], "data.bin", offset=i * size, length=size) for i in range(200)}
    path = save(dense(tensors), tmp_path / "m.onnx")
    code = (
        "import sys, time, onnx, onnx_ir, pandas\nimport wwonnx as ww, wwonnx.graph.source\n"
        "start = time.perf_counter()\nwatcher = ww.WeightWatcher(sys.argv[1])\nopened = time.perf_counter()\n"
        "found = watcher.inventory()\nend = time.perf_counter()\n"
        "assert found.attrs['parameters'] == 200 * 4096 * 3840\nassert found['analyzed'].all()\n"
        "peak = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) >> 10\n"
        "print(opened - start, end - opened, peak)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    opened, listed, peak = map(float, done.stdout.split())
    with capsys.disabled():
        print(f"\n12 GB: opened in {opened:.3f} s, listed in {listed:.2f} s, {peak:.0f} MB at the peak")  # noqa: T201
    assert opened < 1.0
    assert listed < SECONDS
    assert peak < 300

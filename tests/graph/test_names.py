"""Module names out of what each exporter leaves behind, unique and the same every time."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from build_models import (
    EXPORTERS,
    FLOAT,
    Array,
    applied,
    exported,
    find,
    gaussian,
    integers,
    layer,
    layers,
    model,
    node,
    scales,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from wwonnx.graph.names import Namer

X = {"x": (FLOAT, [None, None])}

# Real exports: layers below the 8,192 elements that exporters fold, and above

SIZES = {"tiny": (8, 20), "large": (96, 100)}


def network(width: int, words: int) -> Any:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(width, 2 * width)
            self.fc2 = nn.Linear(2 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            return x + self.fc2(torch.relu(self.fc1(x)))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(words, width)
            self.blocks = nn.ModuleList([Block(), Block()])
            self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
            self.conv = nn.Conv1d(width, width, 3, padding=1)
            self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
            self.lstm = nn.LSTM(2 * width, width, num_layers=2, batch_first=True)
            self.matrix = nn.Parameter(torch.randn(width, width))
            self.head = nn.Linear(width, words + 1)

        def forward(self, indices: Any) -> Any:
            x = self.embed(indices)
            for block in self.blocks:
                x = block(x)
            x = self.attention(x, x, x, need_weights=False)[0]
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
            x = self.lstm(self.gru(x)[0])[0] @ self.matrix
            return self.head(x.mean(1))

    torch.manual_seed(0)
    return Network()


BEFORE = ["embed", "blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"]
AFTER = ["matrix", "head"]
#: Under their names in the state_dict; the second direction is a part of the same tensor.
PARAMETERS = [
    *("attention.in_proj_weight", "attention.out_proj", "conv"),
    *("gru.weight_ih_l0", "gru.weight_ih_l0_reverse", "gru.weight_hh_l0", "gru.weight_hh_l0_reverse"),
    *("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1"),
]
#: TorchScript folds recurrent weights into new tensors, and leaves no trace of which parameter they were.
FOLDED_PARAMETERS = [
    *("attention", "attention.out_proj", "conv"),
    *("gru.W", "gru.W_reverse", "gru.R", "gru.R_reverse"),
    *("lstm.W", "lstm.R", "lstm.W_2", "lstm.R_2"),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_network_of_many_kinds(exporter: str, size: str) -> None:
    width, words = SIZES[size]
    module = network(width, words)
    torch = pytest.importorskip("torch")
    proto = exported(module, (torch.randint(0, words, (2, 6)),), exporter)
    middle = FOLDED_PARAMETERS if exporter == "torchscript" else PARAMETERS
    found = layers(proto)
    assert list(found) == BEFORE + middle + AFTER
    shapes = {name.removesuffix(".weight"): tuple(p.shape) for name, p in module.state_dict().items()}
    for name, each in found.items():
        if name in shapes:
            assert sorted(each.shape) == sorted(shapes[name])


@cache
def nested(exporter: str) -> tuple[onnx.ModelProto, Any]:
    """Modules in Sequentials, one called twice, and one whose weight is computed from its parameters."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False))
            self.first = nn.Sequential(inner, nn.Linear(8, 100))
            self.shared = nn.Linear(100, 100)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(100, 8))
            self.layer1 = nn.Sequential(nn.Sequential(nn.Conv1d(8, 8, 1, bias=False), nn.BatchNorm1d(8)))

        def forward(self, x: Any) -> Any:
            x = self.shared(torch.relu(self.shared(self.first(x))))
            return self.layer1(self.normed(x).transpose(1, 2))

    torch.manual_seed(0)
    module = Network()
    return exported(module, (torch.randn(2, 5, 8),), exporter), module


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_modules_inside_sequentials(exporter: str) -> None:
    """TorchScript repeats a Sequential's path in its children's: /first/first.0/first.0.0/MatMul is first.0.0."""
    found = list(layers(nested(exporter)[0]))
    assert found[:3] == ["first.0.0", "first.0.2", "first.1"]
    assert found[-1] == "layer1.0.0"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_one_layer_called_twice(exporter: str) -> None:
    found = layers(nested(exporter)[0])
    assert len(found) == 6
    assert {name: len(each.uses) for name, each in found.items() if len(each.uses) > 1} == {"shared": 2}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_normalised_weight_is_its_modules(exporter: str) -> None:
    """weight_norm keeps a weight as direction and magnitude; neither is the layer."""
    proto, module = nested(exporter)
    (found,) = (each for name, each in layers(proto).items() if name.startswith("normed"))
    assert abs(found.matrices()[0] - module.normed.weight.detach().numpy()).max() < 1e-6
    assert found.name == "normed"


# Names as exporters write them


CONV = gaussian(6, 4, 3, 3)
DENSE = gaussian(7, 5)
WRITTEN: dict[str, tuple[str, str, Array, str]] = {
    # tensor, node, weight, name
    "parameter": ("layer1.0.conv1.weight", "", CONV, "layer1.0.conv1"),
    "parameter_of_the_whole": ("weight", "", DENSE, "weight"),
    "other_parameter": ("attn.in_proj_weight", "node_MatMul_1", DENSE, "attn.in_proj_weight"),
    "torchscript": ("onnx::MatMul_107", "/enc/layers.0/linear1/MatMul", DENSE, "enc.layers.0.linear1"),
    "torchscript_top": ("onnx::MatMul_107", "/MatMul", DENSE, "MatMul"),
    "torchscript_sequential": ("onnx::Conv_40", "/features/features.0/features.0.1/Conv", CONV, "features.0.1"),
    "torchscript_inside": ("onnx::Conv_40", "/net/layer1/layer1.0/conv1/Conv", CONV, "net.layer1.0.conv1"),
    "torch_1_11": ("onnx::MatMul_3414", "MatMul_26", DENSE, "MatMul_26"),
    "torch_1_2": ("487", "", CONV, "Conv_487"),
    "tf2onnx_dense": ("m/dense/MatMul/ReadVariableOp:0", "m/dense/MatMul", DENSE, "m.dense"),
    "tf2onnx_cast": ("m/dense/Cast/ReadVariableOp:0", "m/dense/MatMul", DENSE, "m.dense"),
    "tf2onnx_tensordot": ("m/ff1/Cast/ReadVariableOp:0", "m/ff1/Tensordot/MatMul", DENSE, "m.ff1"),
    "tf2onnx_conv": ("m/conv/convolution/ReadVariableOp:0", "m/conv/BiasAdd", CONV, "m.conv"),
    "tf2onnx_folded": ("m/conv/convolution/merged_input:0", "Conv__77", CONV, "m.conv"),
    "tf2onnx_const_fold": ("const_fold_opt__99", "m/sep/separable_conv2d/depthwise", CONV, "m.sep"),
    "tf2onnx_renamed": ("m/attention/query/Reshape:0", "m/attention/query/MatMul", DENSE, "m.attention.query"),
    "keras2onnx": ("dense_2/kernel:0", "dense_2", DENSE, "dense_2"),
    "plain": ("W1", "", DENSE, "W1"),
    "quantised": ("fc1.weight_quantized", "fc1_quant", DENSE, "fc1"),
    "quantised_torchscript": ("onnx::MatMul_13_quantized", "/fc1/MatMul_quant", DENSE, "fc1"),
    "four_bits": ("model.layers.0.mlp.up_proj.weight_Q4", "", DENSE, "model.layers.0.mlp.up_proj"),
    "four_bits_qdq": ("W_DQ_Q4", "", DENSE, "W"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_names_as_they_are_written(case: str) -> None:
    tensor, path, weight, expected = WRITTEN[case]
    op_type = "Conv" if weight.ndim == 4 else "MatMul"
    proto = model([node(op_type, ["x", tensor], ["y"], name=path)], {tensor: weight}, {"x": (FLOAT, None)})
    found = layer(proto)
    assert (found.name, found.longname) == (expected, tensor)


def test_the_metadata_of_dynamo() -> None:
    """A folded weight is named by its module: by the parameter among the traced call's arguments, or by its scope."""
    proto = applied([], {"val_0": DENSE}, "val_0")
    (product,) = proto.graph.node
    product.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'enc', 'enc.linear1', 'linear_2']")
    assert layer(proto).name == "enc.linear1"
    product.metadata_props.add(
        key="pkg.torch.onnx.fx_node",
        value="%linear_2 : [num_users=1] = call_function[target=aten.linear](args = (%x, %p_enc_q_proj_weight))",
    )
    proto.graph.metadata_props.add(
        key="pkg.torch.export.ExportedProgram.graph_signature",
        value="\n# inputs\np_enc_q_proj_weight: PARAMETER target='enc.q_proj_weight'\nx: USER_INPUT\n",
    )
    assert layer(proto).name == "enc.q_proj_weight"


@pytest.mark.parametrize("scopes", ["", "[", "{}", "['']", "[1, 2]", "__import__('os')", "[" * 500])
def test_metadata_that_says_nothing(scopes: str) -> None:
    proto = applied([], {"fc.weight": DENSE}, "fc.weight")
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    assert layer(proto).name == "fc"
    proto = applied([], {"val_0": DENSE}, "val_0")
    proto.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    assert layer(proto).name


def test_roles_tell_the_weights_of_one_node_apart() -> None:
    tensors = {"onnx::LSTM_1": gaussian(2, 12, 5), "onnx::LSTM_2": gaussian(2, 12, 3)}
    cell = node("LSTM", ["x", *tensors], ["y"], name="/enc/rnn/LSTM", direction="bidirectional", hidden_size=3)
    proto = model([cell], tensors, {"x": (FLOAT, [None] * 3)})
    assert list(layers(proto)) == ["enc.rnn.W", "enc.rnn.W_reverse", "enc.rnn.R", "enc.rnn.R_reverse"]
    assert list(layers(proto, gates=True))[:5] == [*(f"enc.rnn.W.{gate}" for gate in "iofc"), "enc.rnn.W_reverse.i"]


def test_the_skipped_have_names_too() -> None:
    proto = model([node("Linear", ["x", "fc.weight"], ["y"], "my.ops")], {"fc.weight": DENSE}, X)
    (skip,) = find(proto).skipped
    assert (skip.name, skip.longname, skip.shape, skip.dtype) == ("fc", "fc.weight", (7, 5), "float")
    assert skip.op_type == "my.ops.Linear"


def test_codes_are_named_like_the_weights_they_stand_for() -> None:
    nodes = [node("DequantizeLinear", ["fc.weight_quantized", "fc.weight_scale"], ["w"])]
    proto = applied(nodes, {"fc.weight_quantized": integers(7, 5), "fc.weight_scale": scales()})
    assert layer(proto).name == "fc"


# Uniqueness


PIECES = st.sampled_from(
    ["a", "a_2", "a_2_2", "a_3", "b", "A", "", "weight", "val_1", "onnx::MatMul_1", "487", "é", "·"]
)
TENSORS = st.one_of(
    PIECES,
    st.builds("{}.weight".format, PIECES),
    st.builds("{}.{}.weight".format, PIECES, PIECES),
    st.builds("{}/{}/ReadVariableOp:0".format, PIECES, PIECES),
    st.text(max_size=6),
)
NODES = st.one_of(st.just(""), st.builds("/{}/MatMul".format, PIECES), st.builds("/{}/{}/Conv".format, PIECES, PIECES))
SUFFIXES = st.sampled_from(["", "", "_reverse", ".q", ".0", "_2"])
ROLES = st.sampled_from(["", "", "W", "R"])


def name_all(wanted: list[tuple[str, str, str, str]]) -> list[str]:
    namer = Namer(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))
    return [
        namer.name(ir.Value(name=tensor), ir.Node("", "MatMul", [], name=path), role, suffix)
        for tensor, path, role, suffix in wanted
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(TENSORS, NODES, ROLES, SUFFIXES), max_size=12))
def test_names_are_unique_and_the_same_every_time(wanted: list[tuple[str, str, str, str]]) -> None:
    names = name_all(wanted)
    assert len(set(names)) == len(names)
    assert all(names)
    assert names == name_all(wanted)
    assert names[: len(names) // 2] == name_all(wanted[: len(names) // 2])  # later layers change no earlier name


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (["a", "a", "a_2"], ["a", "a_2", "a_2_2"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a.weight", "a", "a/kernel:0"], ["a", "a_2", "a_3"]),
    ],
)
def test_collisions(tensors: list[str], expected: list[str]) -> None:
    assert name_all([(tensor, "", "", "") for tensor in tensors]) == expected


def test_many_of_one_name() -> None:
    names = name_all([("a", "", "", "")] * 20_000)
    assert len(set(names)) == 20_000
    assert names[-1] == "a_20000"


@pytest.mark.parametrize("name", ["silero_vad", "torch_rnn_ts", "q_dynamic", "keras_tensorflow_cnn_export"])
def test_two_walks_give_the_same_names(shared: Path, name: str) -> None:
    (path,) = (shared / "models").glob(f"*/{name}.onnx")
    assert list(layers(path)) == list(layers(path)) == list(layers(onnx.load(path)))


def test_names_in_subgraphs_are_unique_too(digits: Path) -> None:
    assert len(layers(digits)) == len(find(digits).layers)


def test_names_of_other_alphabets() -> None:
    found = layer(applied([], {"слой.1.weight": DENSE}, "слой.1.weight"))
    assert found.name == "слой.1"
    assert found.uses[0].op_type == "MatMul"
    assert TensorProto.FLOAT == FLOAT

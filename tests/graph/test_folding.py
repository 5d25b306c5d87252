"""A BatchNormalization that was folded into a weight is reported, and nothing else is."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from build_models import EXPORTERS, FLOAT, exported, find, gaussian, integers, layers, model, node, scales

import wwonnx as ww

#: Channels and width below and above the 8,192 elements from which exporters leave initializers alone.
SIZES = {"tiny": (4, 8), "large": (40, 256)}


def network(kind: str, channels: int, width: int) -> Any:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Mixed(nn.Module):
        """Every map that a normalisation can follow, and one that none follows."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bn = nn.Conv2d(3, channels, 3, bias=False), nn.BatchNorm2d(channels)
            self.plain = nn.Conv2d(channels, channels, 3)
            self.up, self.up_bn = nn.ConvTranspose2d(channels, channels, 2, 2), nn.BatchNorm2d(channels)
            self.fc, self.fc_bn = nn.Linear(channels, width), nn.BatchNorm1d(width)
            self.head = nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.plain(torch.relu(self.bn(self.stem(x)))))
            x = torch.relu(self.up_bn(self.up(x)))
            return self.head(torch.relu(self.fc_bn(self.fc(x.mean((2, 3))))))

    class Convolutions(nn.Module):
        """As most networks are: every convolution is followed by a normalisation."""

        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(n, channels, 3, bias=False) for n in (3, channels, channels))
            self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))
            self.head = nn.Linear(channels, 10)

        def forward(self, x: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = torch.relu(norm(conv(x)))
            return self.head(x.mean((2, 3)))

    class Free(nn.Module):
        """No BatchNormalization, although names and biases might tell so."""

        def __init__(self) -> None:
            super().__init__()
            self.bn_conv = nn.Conv2d(3, channels, 3)
            self.norm = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, channels, 3))
            self.group, self.instance = nn.GroupNorm(2, channels), nn.InstanceNorm2d(channels, affine=True)
            self.last = nn.Conv2d(channels, channels, 1)
            self.layer_norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.group(self.norm(torch.relu(self.bn_conv(x)))))
            return self.head(self.layer_norm(self.instance(self.last(x)).mean((2, 3))))

    torch.manual_seed(0)
    made = {"mixed": Mixed, "convolutions": Convolutions, "free": Free}[kind]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 3)
            module.weight.data.uniform_(0.2, 3)
    return made


@cache
def export(kind: str, size: str, exporter: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    torch = pytest.importorskip("torch")
    module = network(kind, *SIZES[size])
    proto = exported(module, (torch.randn(2, 3, 12, 12),), exporter)
    weights = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    return proto, weights


EACH = pytest.mark.parametrize("exporter", EXPORTERS)


@EACH
@pytest.mark.parametrize(("kind", "size"), [("mixed", "tiny"), ("mixed", "large"), ("convolutions", "large")])
def test_folded_are_those_whose_values_changed(kind: str, exporter: str, size: str) -> None:
    proto, weights = export(kind, size, exporter)
    found = layers(proto)
    changed = set()
    for name, layer in found.items():
        true = weights[f"{name}.weight"]
        matrices = np.moveaxis(true.reshape(*true.shape[:2], -1), 2, 0)
        matrices = matrices.transpose(0, 2, 1) if name == "up" else matrices
        if not np.array_equal(layer.matrices(), matrices):
            changed.add(name)
    assert {name for name, layer in found.items() if layer.folded} == changed
    folded = {
        ("mixed", "dynamo"): {"stem", "up", "fc"},
        ("mixed", "torchscript"): {"stem"},
        ("convolutions", "dynamo"): {"convs.0", "convs.1", "convs.2"},
        ("convolutions", "torchscript"): {"convs.0", "convs.1", "convs.2"},
    }
    assert changed == folded.get((kind, exporter), set())


@EACH
def test_nothing_is_folded_where_nothing_was(exporter: str) -> None:
    proto, _ = export("free", "tiny", exporter)
    found = find(proto).layers
    assert len(found) == 4
    assert not [layer.name for layer in found if layer.folded]


def test_the_note_counts_the_folded() -> None:
    watcher = ww.WeightWatcher(export("convolutions", "large", "dynamo")[0])
    details = watcher.analyze(min_evals=0)
    assert list(details["folded"]) == [True, True, True, False]
    assert "3 of 4" in watcher.get_note()
    assert "optimize=False" in watcher.get_note()
    watcher = ww.WeightWatcher(export("convolutions", "large", "dynamo_unoptimised")[0])
    assert not watcher.analyze(min_evals=0)["folded"].any()
    assert watcher.get_note() == ""


# Signs, one by one

KERNEL = gaussian(6, 6, 3, 3)


def convolutions(
    weights: list[str], biases: list[str], *, normalised: bool = False, op_type: str = "Conv"
) -> onnx.ModelProto:
    """A chain of convolutions with weights and biases of these names; no bias where the name is empty."""
    nodes, value = [], "x"
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        operands = [value, weight, *([bias] if bias else [])]
        value = f"h{index}"
        nodes.append(node(op_type, operands, [value], name=f"Conv_{index}"))
    if normalised:
        nodes.append(node("BatchNormalization", [value, "g", "g", "g", "g"], ["normed"]))
    tensors = {weight: KERNEL + index for index, weight in enumerate(weights)}
    tensors |= {bias: gaussian(6) for bias in biases if bias} | {"g": gaussian(6)}
    return model(nodes, tensors, {"x": (FLOAT, [None] * 4)}, ("normed" if normalised else value,))


def folded_in(proto: onnx.ModelProto) -> list[bool]:
    return [layer.folded for layer in find(proto).layers]


NUMBERED = [f"onnx::Conv_{number}" for number in (10, 20, 30)]
NUMBERED_BIASES = [f"onnx::Conv_{number}" for number in (11, 21, 31)]
NAMED = ["a.weight", "b.weight", "c.weight"]
NAMED_BIASES = ["a.bias", "b.bias", "c.bias"]


@pytest.mark.parametrize(
    ("weights", "biases", "normalised", "expected"),
    [
        pytest.param(NUMBERED, NUMBERED_BIASES, False, [True] * 3, id="renamed"),
        pytest.param(["10", "20", "30"], ["11", "21", "31"], False, [True] * 3, id="numbers"),
        pytest.param(NAMED, NAMED_BIASES, False, [False] * 3, id="named"),
        pytest.param(NAMED, NAMED_BIASES, True, [False] * 3, id="kept"),
        pytest.param(NUMBERED, ["", "", ""], False, [False] * 3, id="no_bias"),
        pytest.param(
            [*NUMBERED, *NAMED], [*NUMBERED_BIASES, *NAMED_BIASES], True, [True] * 3 + [False] * 3, id="some_of_both"
        ),
        pytest.param(
            [NUMBERED[0], *NAMED], [NUMBERED_BIASES[0], *NAMED_BIASES], False, [True] + [False] * 3, id="one_of_many"
        ),
        pytest.param(
            ["m/c/convolution/merged_input:0", "m/d/convolution/ReadVariableOp:0"],
            ["m/bn/batchnorm/sub:0", "m/d/BiasAdd/ReadVariableOp:0"],
            False,
            [True, False],
            id="tensorflow",
        ),
        pytest.param(
            ["m/c/convolution/ReadVariableOp/resource:0", "m/d/convolution/ReadVariableOp/resource:0"],
            ["m/bn/batchnorm/sub__89", "m/d/Squeeze__83"],
            False,
            [True, False],
            id="tf2onnx",
        ),
    ],
)
def test_signs_in_names(weights: list[str], biases: list[str], normalised: bool, expected: list[bool]) -> None:
    assert folded_in(convolutions(weights, biases, normalised=normalised)) == expected


@pytest.mark.parametrize("form", ["DequantizeLinear", "QLinearConv", "ConvInteger"])
@pytest.mark.parametrize("names", [NUMBERED, NAMED], ids=["renamed", "named"])
def test_a_quantised_network_was_folded_before(names: list[str], form: str) -> None:
    """onnxruntime's quantiser keeps the names of weights and biases, with a suffix."""
    nodes, tensors, value = [], {"s": scales(), "z": np.zeros((), np.int8), "xz": np.zeros((), np.uint8)}, "x"
    biases = NUMBERED_BIASES if names is NUMBERED else NAMED_BIASES
    for index, (name, bias) in enumerate(zip(names, biases, strict=True)):
        codes, offsets = f"{name}_quantized", f"{bias}_quantized"
        tensors |= {codes: integers(6, 6, 3, 3, seed=index), offsets: integers(6, dtype=np.int32, seed=index)}
        if form == "DequantizeLinear":
            nodes.append(node(form, [codes, "s", "z"], [f"w{index}"]))
            nodes.append(node(form, [offsets, "s"], [bias]))
            nodes.append(node("Conv", [value, f"w{index}", bias], [f"h{index}"]))
        elif form == "QLinearConv":
            nodes.append(node(form, [value, "s", "xz", codes, "s", "z", "s", "xz", offsets], [f"h{index}"]))
        else:
            tensors[bias] = gaussian(1, 6, 1, 1)
            nodes += [
                node(form, [value, codes, "xz", "z"], [f"sums{index}"]),
                node("Cast", [f"sums{index}"], [f"floats{index}"], to=FLOAT),
                node("Mul", [f"floats{index}", "s"], [f"scaled{index}"]),
                node("Add", [f"scaled{index}", bias], [f"h{index}"]),
            ]
        value = f"h{index}"
    proto = model(nodes, tensors, {"x": (FLOAT, [None] * 4)}, (value,))
    assert folded_in(proto) == [names is NUMBERED] * 3


@pytest.mark.parametrize(
    ("op_type", "rule"),
    [
        ("Conv", "FuseBatchNormIntoConv"),
        ("Conv", "FuseBatchNormIntoConv, RemoveOptionalBiasFromConv"),
        ("ConvTranspose", "FuseBatchNormIntoConvTranspose"),
        ("Gemm", "FuseBatchNormIntoGemm"),
    ],
)
def test_signs_in_the_rewriters_metadata(op_type: str, rule: str) -> None:
    weight = gaussian(6, 6) if op_type == "Gemm" else KERNEL
    rank = weight.ndim
    nodes = [node(op_type, ["x", "a.weight", "a.bias"], ["h"]), node(op_type, ["h", "b.weight", "b.bias"], ["y"])]
    tensors = {"a.weight": weight, "b.weight": weight + 1, "a.bias": gaussian(6), "b.bias": gaussian(6)}
    proto = model(nodes, tensors, {"x": (FLOAT, [None] * rank)})
    proto.graph.node[0].metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value=rule)
    proto.graph.node[1].metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="RemoveOptionalBiasFromConv")
    assert folded_in(proto) == [True, False]


@pytest.mark.parametrize(("module", "expected"), [("BatchNorm2d", [True, False]), ("Conv2d", [False, False])])
def test_signs_in_dynamos_metadata(module: str, expected: list[bool]) -> None:
    """A replaced tensor lacks the signature, and the convolution is said to come from the normalisation."""
    proto = convolutions(NAMED[:2], NAMED_BIASES[:2])
    kept = proto.graph.value_info.add(name="b.weight")
    kept.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value="InputKind.PARAMETER")
    first, second = proto.graph.node
    for each, kind in ((first, module), (second, "Conv2d")):
        each.metadata_props.add(
            key="pkg.torch.onnx.class_hierarchy", value=f"['Net', 'torch.nn.modules.{kind}', 'aten.op.default']"
        )
    assert folded_in(proto) == expected

"""Sets of weights with a seed, and the same arrays as an ONNX file and as a torch model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """One weight as torch keeps it.

    Attributes:
        kind: what reads it.
        array: shape (out, in, k, k) of a conv, (out, in) of a linear layer, (entries, width) of an embedding.
    """

    kind: Literal["conv", "linear", "embedding"]
    array: Array32

    def matrices(self) -> list[Array32]:
        """The matrices whose spectra are taken: one, or one (out x in) per kernel position."""
        if self.kind == "conv":
            out, into = self.array.shape[:2]
            return list(np.moveaxis(self.array.reshape(out, into, -1), -1, 0))
        return [self.array]


class _Maker:
    """Draws weights one after the other from one seeded stream."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def conv(self, out: int, into: int, kernel: int = 3) -> Weight:
        return Weight("conv", self._draw((out, into, kernel, kernel)))

    def linear(self, out: int, into: int) -> Weight:
        return Weight("linear", self._draw((out, into)))

    def embedding(self, entries: int, width: int) -> Weight:
        return Weight("embedding", self._draw((entries, width)))

    def _draw(self, shape: tuple[int, ...]) -> Array32:
        """Gaussian entries times a scale per input (axis 1), 1 + Pareto(3): bulk and a heavy tail, in float32."""
        scales = 1.0 + self._rng.pareto(3.0, shape[1])
        gaussian = self._rng.standard_normal(shape)
        scaled = gaussian * scales.reshape(-1, *[1] * (len(shape) - 2)) / np.sqrt(np.prod(shape[1:]))
        single: Array32 = scaled.astype(np.float32)
        return single


def _resnet(make: _Maker, depth: int) -> list[Weight]:
    """A ResNet for CIFAR-10: depth - 1 convolutions of 16, 32 and 64 channels, and the classifier."""
    weights = [make.conv(16, 3)]
    into = 16
    for out in (16, 32, 64):
        for _ in range((depth - 2) // 3):
            weights.append(make.conv(out, into))
            into = out
    return [*weights, make.linear(10, 64)]


def _minilm(make: _Maker) -> list[Weight]:
    """MiniLM of 6 blocks: query, key, value, output, the two of the MLP, after the word embedding."""
    weights = [make.embedding(30522, 384)]
    for _ in range(6):
        weights += [make.linear(384, 384) for _ in range(4)]
        weights += [make.linear(1536, 384), make.linear(384, 1536)]
    return weights


SETS: dict[str, Callable[[_Maker], list[Weight]]] = {
    "tiny": lambda make: [make.conv(8, 8), make.linear(64, 32)],
    "resnet20": lambda make: _resnet(make, 20),
    "resnet56": lambda make: _resnet(make, 56),
    "minilm": _minilm,
    "square4096": lambda make: [make.linear(4096, 4096)],
    "square768": lambda make: [make.linear(768, 768) for _ in range(24)],
    "mlp768": lambda make: [make.linear(3072, 768) for _ in range(24)],
}


def weight_set(name: str, seed: int = 0) -> list[Weight]:
    """The weights of one of SETS, the same for the same seed."""
    return SETS[name](_Maker(seed))


def model_weights(path: Path) -> list[Weight]:
    """The weights of the convolutions and linear layers of an ONNX file, in graph order.

    Raises:
        ValueError: it has other layers too.
    """
    from wwonnx.graph.source import open_model
    from wwonnx.graph.walk import walk
    from wwonnx.layer import LAYER_TYPE

    weights = []
    for layer in walk(open_model(path).model).layers:
        if layer.layer_type is LAYER_TYPE.CONV2D:
            weights.append(Weight("conv", np.array(layer.read(), dtype=np.float32)))
        elif layer.layer_type is LAYER_TYPE.DENSE:
            weights.append(Weight("linear", np.array(layer.matrices()[0], dtype=np.float32)))
        else:
            raise ValueError(f"{path}: {layer.name} is neither a convolution nor a linear layer")
    return weights


def write_onnx(weights: list[Weight], path: Path) -> None:
    """Write an ONNX model with a Conv, MatMul, Gemm (the last linear one) or Gather node per weight, in one chain."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    last = len(weights) - 1
    nodes, initializers, flow = [], [], "input"
    for index, weight in enumerate(weights):
        name, result = f"layers.{index}.weight", f"hidden.{index}"
        array = weight.array
        if weight.kind == "conv":
            nodes.append(helper.make_node("Conv", [flow, name], [result], pads=[1, 1, 1, 1]))
        elif weight.kind == "embedding":
            nodes.append(helper.make_node("Gather", [name, flow], [result]))
        elif index == last:
            nodes.append(helper.make_node("Gemm", [flow, name], [result], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [flow, name], [result]))
            array = array.T  # MatMul computes x W with W of shape (in, out)
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        flow = result
    element = TensorProto.INT64 if weights[0].kind == "embedding" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "benchmark",
        [helper.make_tensor_value_info("input", element, None)],
        [helper.make_tensor_value_info(flow, TensorProto.FLOAT, None)],
        initializers,
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def torch_model(weights: list[Weight]) -> torch.nn.Module:
    """A torch.nn.Sequential over the same arrays: a module per weight, no biases. It is never run."""
    import torch

    modules: list[torch.nn.Module] = []
    for weight in weights:
        shape = weight.array.shape
        module: torch.nn.Module
        if weight.kind == "conv":
            module = torch.nn.Conv2d(shape[1], shape[0], shape[2], bias=False)
        elif weight.kind == "embedding":
            module = torch.nn.Embedding(*shape)
        else:
            module = torch.nn.Linear(shape[1], shape[0], bias=False)
        module.weight = torch.nn.Parameter(torch.from_numpy(weight.array), requires_grad=False)
        modules.append(module)
    return torch.nn.Sequential(*modules)

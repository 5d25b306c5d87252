"""Small ONNX models for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def dense_model(weights: Mapping[str, NDArray[np.generic]], opset: int = 17) -> onnx.ModelProto:
    """One MatMul per weight, `x @ W`, each with an input and an output of its own; weights are named `NAME.weight`."""
    nodes, initializers, inputs, outputs = [], [], [], []
    for name, array in weights.items():
        initializers.append(numpy_helper.from_array(np.asarray(array), f"{name}.weight"))
        nodes.append(helper.make_node("MatMul", [f"x_{name}", f"{name}.weight"], [f"y_{name}"], name=f"/{name}/MatMul"))
        inputs.append(helper.make_tensor_value_info(f"x_{name}", TensorProto.FLOAT, None))
        outputs.append(helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "dense", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def conv_model(weights: Mapping[str, NDArray[np.generic]], groups: Mapping[str, int] | None = None) -> onnx.ModelProto:
    """One Conv per weight; weights are named `NAME.weight`."""
    nodes, initializers, inputs, outputs = [], [], [], []
    for name, array in weights.items():
        initializers.append(numpy_helper.from_array(np.asarray(array), f"{name}.weight"))
        group = (groups or {}).get(name, 1)
        nodes.append(helper.make_node("Conv", [f"x_{name}", f"{name}.weight"], [f"y_{name}"], group=group))
        inputs.append(helper.make_tensor_value_info(f"x_{name}", TensorProto.FLOAT, None))
        outputs.append(helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "conv", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def gaussian(*shape: int, seed: int = 0, dtype: str = "f4") -> NDArray[np.generic]:
    """Independent normal entries."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> Path:
    """Write a model, its weights into `PATH.data` where asked."""
    if external:
        onnx.save(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)
    else:
        onnx.save(model, path)
    return path

"""Live Keras models on the backend of this process. `test_keras.py` runs this file once for each backend."""

from __future__ import annotations

import logging
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import wwonnx as ww
from wwonnx.analysis import analyze_layer
from wwonnx.converters import keras_files
from wwonnx.converters.keras import NOTE, to_onnx
from wwonnx.layer import LAYER_TYPE, TRANSPOSED, Layout, Use, WeightLayer
from wwonnx.options import Options

L = keras.layers
BACKEND = keras.backend.backend()
EXPORTS = BACKEND in ("tensorflow", "torch")
SIZES = {"tiny": 4, "real": 100}


def cnn(width: int) -> keras.Model:
    """Every kind of convolution."""
    image = keras.Input((14, 14, 3), name="image")
    x = L.Conv2D(width, 3, use_bias=False, name="stem")(image)
    x = L.ReLU()(L.BatchNormalization(name="stem_bn")(x))
    x = L.SeparableConv2D(width, 3, name="separable")(x)
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    x = L.Conv2D(width, 3, groups=2, name="grouped")(x)
    x = L.Conv2DTranspose(width + 1, 2, name="transposed")(x)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(10, activation="gelu", name="head")(x), name="cnn")


def resnet(width: int) -> keras.Model:
    """Normalisations behind convolutions without bias, which exporters fold; blocks are models of their own."""
    image = keras.Input((8, 8, width))
    x = image
    for number in range(2):
        inside = keras.Input((8, 8, width))
        y = inside
        for name in ("a", "b"):
            y = L.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{name}")(y)
            y = L.BatchNormalization(name=f"bn_{name}")(y)
        block = keras.Model(inside, L.ReLU()(L.Add()([inside, y])), name=f"block{number}")
        x = block(x)
    return keras.Model(image, L.Dense(5, name="head")(L.GlobalAveragePooling2D()(x)), name="resnet")


def transformer(width: int) -> keras.Model:
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = L.Embedding(2 * width, width, name="embedding")(tokens)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, width // 2, name="attention")(x, x))
    x = L.Dense(2 * width, activation="gelu", name="up")(x)
    x = L.EinsumDense("abc,cd->abd", (None, width), bias_axes="d", name="down")(x)
    x = L.Conv1D(width, 2, name="conv")(x)
    return keras.Model(tokens, L.Dense(3, name="head")(x), name="transformer")


def recurrent(width: int) -> keras.Model:
    sequence = keras.Input((5, width), name="sequence")
    x = L.LSTM(width, return_sequences=True, name="lstm")(sequence)
    x = L.Bidirectional(L.GRU(width, return_sequences=True), name="both")(x)
    x = L.SimpleRNN(width + 1, return_sequences=True, name="simple")(x)
    x = L.TimeDistributed(L.Dense(width + 2, name="inner"), name="each")(x)
    return keras.Model(sequence, x, name="recurrent")


def tied(width: int) -> keras.Model:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    table = L.ReversibleEmbedding(2 * width, width, name="table")
    shared = L.Dense(width, name="shared")
    return keras.Model(tokens, table(shared(shared(table(tokens))), reverse=True), name="tied")


def lora(width: int) -> keras.Model:
    given = keras.Input((width,))
    model = keras.Model(given, L.Dense(3, name="head")(L.Dense(width + 1, name="dense")(given)), name="lora")
    model.get_layer("dense").enable_lora(2, lora_alpha=3)
    return model


MODELS: dict[str, Callable[[int], keras.Model]] = {
    make.__name__: make for make in (cnn, resnet, transformer, recurrent, tied, lora)
}


def made(make: Callable[[int], keras.Model], size: str) -> keras.Model:
    """The model with random weights, those that begin as zeros or ones too."""
    model = make(SIZES[size])
    rng = np.random.default_rng(3)
    for variable in model.weights:
        values = rng.standard_normal(tuple(variable.shape)) / np.sqrt(max(variable.shape))
        variable.assign((np.abs(values) + 0.5 if "variance" in variable.name else values).astype("float32"))
    return model


def arrays(model: keras.Model) -> dict[str, Any]:
    """The weights under Keras' own paths, those of a model within a model behind its name."""
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found |= {f"{layer.name}/{path}": array for path, array in arrays(layer).items()}
            continue
        for variable in layer.weights:
            parts = variable.path.split("/")
            found["/".join(parts[parts.index(layer.name) :])] = keras.ops.convert_to_numpy(variable)
    return found


def expected_layers(model: keras.Model) -> dict[str, tuple[Any, Layout, LAYER_TYPE]]:
    """Each weight that has a spectrum, how it reads as matrices and its kind, from Keras' documentation."""
    found = {}
    for path, array in arrays(model).items():
        *owner, name = path.split("/")
        if array.ndim < 2 or name == "bias" or name.startswith("lora_"):
            continue
        several = owner[-1].endswith("_cell") or name.startswith(("depthwise_", "pointwise_"))
        label = ".".join([*owner, name] if several else owner)
        layout, kind = TRANSPOSED, LAYER_TYPE.DENSE
        if name == "embeddings":
            layout, kind = Layout((), (0,), (1,)), LAYER_TYPE.EMBEDDING
        elif "depthwise" in (owner[-1], name.partition("_")[0]):
            continue  # single columns have no spectrum
        elif owner[-1] == "attention_output":
            layout = Layout((), (2,), (0, 1))
        elif "attention" in owner:
            layout = Layout((), (1, 2), (0,))
        elif array.ndim == 4:
            layout, kind = Layout((0, 1), (3,), (2,)), LAYER_TYPE.CONV2D
            kind = LAYER_TYPE.CONV_TRANSPOSE if owner[-1] == "transposed" else kind
        elif array.ndim == 3:
            layout, kind = Layout((0,), (2,), (1,)), LAYER_TYPE.CONV1D
        if name == "kernel" and f"{'/'.join(owner)}/lora_kernel_a" in arrays(model):
            a, b = (arrays(model)[f"{'/'.join(owner)}/lora_kernel_{part}"] for part in "ab")
            array = array + np.float32(1.5) * (a @ b)
        if owner[-1].endswith("_cell"):
            kind = LAYER_TYPE.RECURRENT
        found[label] = (array, layout, kind)
    return found


def rows_by_engine(layers: dict[str, tuple[Any, Layout, LAYER_TYPE]]) -> dict[str, dict[str, Any]]:
    rows = {}
    for number, (name, (array, layout, kind)) in enumerate(layers.items(), start=1):
        layer = WeightLayer(
            number, name, name, array.shape, "float", (Use("", "", 0, kind),), layout, float(np.finfo("f4").eps),
            folded=False, depthwise=False, read=lambda array=array: array,
        )  # fmt: skip
        (rows[name],) = analyze_layer(layer, Options.make(min_evals=0))
    return rows


def assert_same_details(converted: ir.Model, model: keras.Model, types: bool) -> None:
    expected = expected_layers(model)
    details = ww.WeightWatcher(converted).analyze(min_evals=0).set_index("name")
    assert sorted(details.index) == sorted(expected)
    assert not details["folded"].any()
    for name, row in rows_by_engine(expected).items():
        for column, value in row.items():
            if isinstance(value, float):
                np.testing.assert_allclose(details.loc[name, column], value, rtol=1e-4, err_msg=f"{name} {column}")
        assert details.loc[name, "M"] == row["M"]
        if types:
            assert details.loc[name, "layer_type"] == row["layer_type"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_weight_is_the_source_s_under_its_name(
    make: Callable[[int], keras.Model], size: str, tmp_path: Path
) -> None:
    model = made(make, size)
    before = {name: array.copy() for name, array in arrays(model).items()}
    path = tmp_path / "model.onnx"
    graph = to_onnx(model, path, verify=True)
    only = to_onnx(model, weights_only=True, verify=True)
    onnx.checker.check_model(str(path))
    for converted in (graph, only):
        found = converted.graph.initializers
        for name, array in before.items():
            tensor = found[name].const_value
            assert tensor.numpy().dtype == array.dtype
            assert tuple(tensor.shape) == array.shape
            assert tensor.numpy().tobytes() == array.tobytes(), name
    assert int(only.metadata_props["wwonnx.verify.weights"]) == sum(array.size for array in before.values())
    if EXPORTS:
        assert NOTE not in graph.metadata_props
        assert float(graph.metadata_props["wwonnx.verify.max_abs_diff"]) < 1e-3
    else:
        assert "no exporter" in graph.metadata_props[NOTE]
    assert_same_details(graph, model, types=False)
    assert_same_details(only, model, types=True)
    for name, array in arrays(model).items():
        assert array.tobytes() == before[name].tobytes(), name


def test_nothing_of_the_process_changes() -> None:
    model = made(cnn, "tiny")

    def state() -> list[Any]:
        loggers = [(name, logging.getLogger(name).level, logging.getLogger(name).propagate, logging.getLogger(name).filters,
                    logging.getLogger(name).handlers) for name in ("", "tf2onnx", "torch", "torch.onnx", "tensorflow", "absl")]  # fmt: skip
        names = keras.src.backend.common.global_state.get_global_attribute("object_name_uids", {})
        return [
            dict(os.environ), random.getstate(), [repr(one) for one in np.random.get_state()], loggers,
            keras.config.floatx(), keras.config.backend(), dict(names), [one.trainable for one in model.layers],
        ]  # fmt: skip

    before = state()
    to_onnx(model, verify=True)
    assert state() == before
    if BACKEND == "tensorflow":
        import tensorflow as tf

        assert tf.executing_eagerly()
        assert not tf.compat.v1.get_default_graph().get_operations()


class Custom(keras.Model):
    """Weights of its own, a layer that is never used, two arguments."""

    def __init__(self) -> None:
        super().__init__(name="custom")
        self.blocks = [L.Dense(6, name=f"block{number}") for number in range(2)]
        self.matrix = self.add_weight(shape=(6, 4), name="matrix")

    def call(self, x: Any, factor: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return (x * factor) @ self.matrix


def test_a_subclassed_model_is_called_with_args() -> None:
    model = Custom()
    with pytest.raises(ww.WwonnxError, match=r"^Keras model 'custom' was never called and has no weights yet: call it"):
        to_onnx(model)
    args = (np.ones((3, 5), "float32"), np.ones((3, 6), "float32"))
    converted = to_onnx(model, args=args, verify=True)
    assert {"block0/kernel", "block1/bias", "matrix"} <= set(converted.graph.initializers)
    assert sorted(ww.WeightWatcher(converted).describe(min_evals=0)["name"]) == ["block0", "block1", "matrix"]
    if EXPORTS:
        assert float(converted.metadata_props["wwonnx.verify.max_abs_diff"]) < 1e-4


def test_an_uncalled_sequential_model_says_so_in_one_line() -> None:
    with pytest.raises(ww.WwonnxError, match="was never called and has no weights yet") as caught:
        to_onnx(keras.Sequential([L.Dense(3)], name="empty"))
    assert "\n" not in str(caught.value)


class Strange(L.Layer):
    """What no exporter knows: TensorFlow's and PyTorch's own random permutation."""

    def call(self, x: Any) -> Any:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            return tf.linalg.expm(x)
        if BACKEND == "torch":
            import torch

            return torch.linalg.eigvals(x).real
        return x


def test_what_the_backend_can_t_export_becomes_weights_only(caplog: pytest.LogCaptureFixture) -> None:
    given = keras.Input((4, 4))
    model = keras.Sequential([given, L.Dense(4, name="dense"), Strange()], name="strange")
    with caplog.at_level("WARNING", logger="wwonnx"):
        converted = to_onnx(model, verify=True)
    assert converted.metadata_props[NOTE].startswith("weights only: ")
    assert "\n" not in converted.metadata_props[NOTE]
    assert any("weights only" in record.getMessage() for record in caplog.records)
    assert list(ww.WeightWatcher(converted).describe(min_evals=0)["name"]) == ["dense"]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
def test_files_without_keras_and_with_it(ending: str, make: Callable[[int], keras.Model], tmp_path: Path) -> None:
    model = made(make, "tiny")
    lora_merged = make is lora and ending != ".h5"  # Keras saves the sum, and the factors nowhere
    path = tmp_path / f"model{ending}"
    if ending == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    read = to_onnx(path, weights_only=True, verify=True)
    onnxruntime.InferenceSession(ir.to_proto(read).SerializeToString())
    if not lora_merged:
        for name, array in arrays(model).items():
            if array.ndim > 1 and not name.endswith("bias"):
                assert read.graph.initializers[name].const_value.numpy().tobytes() == array.tobytes(), name
    if make is not lora:
        assert_same_details(read, model, types=make is not tied or ending != ".weights.h5")
        loaded = to_onnx(path, verify=True)
        # Keras itself can't load the operations of such a model from its older format.
        unloadable = ending == ".weights.h5" or (ending == ".h5" and make is transformer)
        assert (NOTE in loaded.metadata_props) == (unloadable or not EXPORTS)
        assert_same_details(loaded, model, types=False)


def test_code_in_files_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    name = str(marker)
    keras.config.enable_unsafe_deserialization()
    model = keras.Sequential(
        [keras.Input((3,)), L.Dense(4, name="dense"), L.Lambda(lambda x: (open(name, "w"), x)[1], (4,))]
    )
    for ending in (".keras", ".h5"):
        path = tmp_path / f"model{ending}"
        model.save(path)
        marker.unlink(missing_ok=True)
        converted = to_onnx(path)
        assert not marker.exists()
        assert "weights only" in converted.metadata_props[NOTE]
        assert list(ww.WeightWatcher(converted).describe(min_evals=0)["name"]) == ["dense"]


def test_broken_archives_end_in_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.keras"
    made(cnn, "tiny").save(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.keras"
    cut.write_bytes(content[: len(content) // 2])
    empty = tmp_path / "empty.keras"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("config.json", "{}")
    for path in (cut, empty, tmp_path / "none.keras"):
        with pytest.raises(ww.WwonnxError) as caught:
            to_onnx(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unpacked_archive(tmp_path: Path) -> None:
    model = made(resnet, "tiny")
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(tmp_path / "folder")
    names = [layer.path for layer in keras_files.read_layers(tmp_path / "folder")]
    assert names[0] == "block0/conv_a"
    assert_same_details(to_onnx(tmp_path / "folder", weights_only=True), model, types=True)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own formats")
def test_saved_models_and_frozen_graphs(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = made(cnn, "real")
    model.export(tmp_path / "saved", verbose=False)
    frozen = convert_variables_to_constants_v2(
        tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 14, 14, 3)))
    )
    (tmp_path / "frozen.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    kernels = {name: array for name, array in arrays(model).items() if array.ndim > 1}
    for name in ("saved", "frozen.pb"):
        converted = to_onnx(tmp_path / name, verify=True)
        assert float(converted.metadata_props["wwonnx.verify.max_abs_diff"]) < 1e-3
        stored = [value.const_value.numpy() for value in converted.graph.initializers.values()]
        for path, array in kernels.items():
            assert any(one.shape == array.shape and one.tobytes() == array.tobytes() for one in stored), path
        assert not ww.WeightWatcher(converted).describe(min_evals=0)["folded"].any()
    assert_same_details(to_onnx(tmp_path / "saved"), model, types=False)
    (tmp_path / "cut.pb").write_bytes(b"\x0a\xff\xff" * 10)
    with pytest.raises(ww.WwonnxError, match="frozen"):
        to_onnx(tmp_path / "cut.pb")

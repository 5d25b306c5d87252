"""Keras' files, read without Keras: old ones, broken ones, and such as nobody should trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wwonnx as ww
from wwonnx.converters.keras import to_onnx

h5py = pytest.importorskip("h5py")


def array(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def legacy(path: Path, layers: Mapping[str, Mapping[str, Any]], config: object = None) -> Path:
    """A file of Keras 1 or 2: weights alone, or under a configuration."""
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for name, weights in layers.items():
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, values in weights.items():
                layer.create_dataset(weight, data=values)
    return path


def described(model: Any) -> dict[str, str]:
    return dict(ww.WeightWatcher(model).describe(min_evals=0)[["name", "layer_type"]].itertuples(index=False))


def test_weights_alone_tell_their_kinds(tmp_path: Path) -> None:
    layers = {
        "dense_1": {"dense_1_3/kernel:0": array(4, 5), "dense_1_3/bias:0": array(5)},
        "conv": {"conv/kernel:0": array(3, 3, 4, 6), "conv/bias:0": array(6)},
        "lstm": {
            "lstm/lstm_cell_7/kernel:0": array(4, 12),
            "lstm/lstm_cell_7/recurrent_kernel:0": array(3, 12),
            "lstm/lstm_cell_7/bias:0": array(12),
        },
        "table": {"table/embeddings:0": array(9, 4)},
    }
    converted = to_onnx(legacy(tmp_path / "weights.h5", layers), weights_only=True, verify=True)
    assert described(converted) == {
        "dense_1": "dense",
        "conv": "conv2d",
        "lstm.lstm_cell_7.kernel": "recurrent",
        "lstm.lstm_cell_7.recurrent_kernel": "recurrent",
        "table": "embedding",
    }
    stored = {name: value.const_value.numpy() for name, value in converted.graph.initializers.items()}
    np.testing.assert_array_equal(stored["conv/kernel"], layers["conv"]["conv/kernel:0"])
    np.testing.assert_array_equal(stored["dense_1/kernel"], layers["dense_1"]["dense_1_3/kernel:0"])


def test_keras_1_with_theano_s_order_of_axes(tmp_path: Path) -> None:
    config = {
        "class_name": "Sequential",
        "config": [
            {"class_name": "Convolution2D", "config": {"name": "convolution2d_1", "dim_ordering": "th"}},
            {"class_name": "Dense", "config": {"name": "dense_1"}},
        ],
    }
    kernel, matrix = array(6, 3, 5, 5), array(8, 4)
    layers = {
        "convolution2d_1": {"convolution2d_1_W": kernel, "convolution2d_1_b": array(6)},
        "dense_1": {"dense_1_W": matrix, "dense_1_b": array(4)},
    }
    watcher = ww.WeightWatcher(to_onnx(legacy(tmp_path / "old.h5", layers, config), weights_only=True))
    rows = watcher.describe(min_evals=0).set_index("name")
    assert rows.loc["convolution2d_1", ["layer_type", "N", "M", "rf"]].tolist() == ["conv2d", 6, 3, 25]
    assert rows.loc["dense_1", ["layer_type", "N", "M"]].tolist() == ["dense", 8, 4]


def test_links_and_false_promises_are_refused(tmp_path: Path) -> None:
    outside = legacy(tmp_path / "outside.h5", {"secret": {"secret/kernel:0": array(4, 4)}})
    linked = legacy(tmp_path / "linked.h5", {"dense": {"dense/kernel:0": array(4, 4)}})
    with h5py.File(linked, "a") as file:
        del file["dense"]["dense/kernel:0"]
        file["dense"]["dense"]["kernel:0"] = h5py.ExternalLink(outside.name, "secret/secret/kernel:0")
    bomb = legacy(tmp_path / "bomb.h5", {"dense": {"dense/kernel:0": array(4, 4)}})
    with h5py.File(bomb, "a") as file:
        del file["dense"]["dense/kernel:0"]
        file["dense"].create_dataset("dense/kernel:0", (1 << 20, 1 << 14), "f4", chunks=(1024, 1024))
    aside = legacy(tmp_path / "aside.h5", {"dense": {"dense/kernel:0": array(4, 4)}})
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(aside, "a") as file:
        del file["dense"]["dense/kernel:0"]
        file["dense"].create_dataset("dense/kernel:0", (4, 4), "f4", external=[(str(tmp_path / "raw"), 0, 64)])
    for path, reason in ((linked, "is a link"), (bomb, "that are not there"), (aside, "does not hold its values")):
        with pytest.raises(ww.WwonnxError, match=reason) as caught:
            to_onnx(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 1500, 3000])
@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".keras"])
def test_files_that_are_cut_short(kept: int, ending: str, tmp_path: Path) -> None:
    whole = legacy(tmp_path / "whole.h5", {"dense": {"dense/kernel:0": array(30, 30)}})
    cut = tmp_path / f"cut{ending}"
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(ww.WwonnxError) as caught:
        to_onnx(cut)
    assert str(cut) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = array(3, 3)
    (tmp_path / "folder").mkdir()
    for source, reason in (
        (tmp_path / "other.h5", "holds no weights of Keras layers"),
        (tmp_path / "none.h5", "no such file"),
        (tmp_path / "folder", "neither a SavedModel nor"),
        (object(), "can't convert a builtins.object"),
    ):
        with pytest.raises(ww.WwonnxError, match=reason):
            to_onnx(source)


def test_the_checkpoints_of_a_real_run(shared: Path) -> None:
    files = sorted((shared / "models" / "real").glob("fer2013_*.hdf5"))
    assert len(files) == 3
    for path in files:
        with h5py.File(path) as file:
            groups = file["model_weights"]
            kernels = {
                f"{name}/{weight.decode().split('/')[-1].removesuffix(':0')}": groups[name][weight][()]
                for name in groups
                for weight in groups[name].attrs["weight_names"]
                if b"kernel" in bytes(weight)
            }
        converted = to_onnx(path, weights_only=True, verify=True)
        for name, values in kernels.items():
            assert converted.graph.initializers[name].const_value.numpy().tobytes() == values.tobytes()
        watcher = ww.WeightWatcher(converted)
        details = watcher.analyze(min_evals=0)
        assert set(details["status"]) == {"success"}
        found = [*details["name"], *watcher.get_skipped()["name"]]
        names = {f"conv2d_{n}" for n in range(1, 8)} | {
            f"separable_conv2d_{n}.{part}_kernel" for n in range(1, 9) for part in ("depthwise", "pointwise")
        }
        assert sorted(found) == sorted(names)
        assert len(kernels) == len(names)

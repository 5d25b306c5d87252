"""PyTorch checkpoints: their weights under their names, and nothing in them run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from build_models import find, layers

import wwonnx as ww
from wwonnx.errors import ConversionError, UnsafeModelError

torch = pytest.importorskip("torch")
import torch_models  # noqa: E402
from torch import nn  # noqa: E402

from wwonnx.converters import verify  # noqa: E402
from wwonnx.converters.state_dict import to_onnx  # noqa: E402
from wwonnx.converters.torch import to_onnx as from_module  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")


def saved(value: Any, path: Path, **given: Any) -> Path:
    torch.save(value, path, **given)
    return path


@pytest.mark.parametrize("size", ["tiny", "real"])
@pytest.mark.parametrize("kind", ["cnn", "resnet", "transformer", "recurrent"])
def test_as_the_module_itself(kind: str, size: str, tmp_path: Path) -> None:
    module, _ = torch_models.model(kind, size)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    model = to_onnx(saved(module.state_dict(), tmp_path / "model.pt"), verify=True)
    names = module.state_dict()
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert set(names) - set(stored) == ({"head.weight"} if kind == "transformer" else set())  # the tied one
    for name, tensor in stored.items():
        assert tensor.numpy().tobytes() == names[name].numpy().tobytes()
    assert int(model.metadata_props[verify.WEIGHTS]) == sum(tensor.size for tensor in stored.values())
    expected, found = layers(from_module(module)), layers(model)
    assert set(found) == set(expected)
    for name, layer in found.items():
        assert (layer.layer_types, layer.matrix_shape) == (expected[name].layer_types, expected[name].matrix_shape)
        assert np.array_equal(layer.matrices(), expected[name].matrices())


def test_effective_weights() -> None:
    """weight_norm, spectral_norm and pruning from a checkpoint equal what the modules compute."""
    module, args = torch_models.model("computed", "real")
    module.eval()
    with torch.no_grad():
        module(*args)
    expected, found = layers(from_module(module)), layers(to_onnx(module.state_dict()))
    assert set(found) == set(expected) | {"orthogonal.parametrizations.weight.0.base"}
    for name in set(expected) - {"orthogonal"}:  # which only the module's own code computes
        assert np.allclose(found[name].read(), expected[name].read(), rtol=1e-4, atol=1e-6), name


TENSORS = {"fc.weight": torch.randn(7, 5), "fc.bias": torch.randn(7)}
WRAPPED: dict[str, tuple[Any, list[str]]] = {
    "lightning": (
        {
            "epoch": 3,
            "global_step": 10,
            "pytorch-lightning_version": "2.0",
            "state_dict": {f"net.{name}": value for name, value in TENSORS.items()},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(7, 5)}}}],
            "hyper_parameters": {"weight": torch.randn(3, 3)},
        },
        ["net.fc"],
    ),
    "model_state_dict": (
        {"model_state_dict": TENSORS, "optimizer_state_dict": {"state": {0: torch.ones(3, 3)}}},
        ["fc"],
    ),
    "model": ({"model": TENSORS, "ema": TENSORS, "args": {"lr": 1.0}}, ["fc"]),
    "nested": ({"model": {"state_dict": TENSORS}}, ["fc"]),
    "data_parallel": ({f"module.{name}": value for name, value in TENSORS.items()}, ["fc"]),
    "compiled": ({"state_dict": {f"module._orig_mod.{name}": value for name, value in TENSORS.items()}}, ["fc"]),
    "two_networks": ({"encoder": TENSORS, "decoder": {"out.weight": torch.randn(4, 7)}}, ["encoder.fc", "decoder.out"]),
    "part_named_model": (
        {"model.fc.weight": torch.randn(7, 5), "lm_head.weight": torch.randn(9, 7)},
        ["model.fc", "lm_head"],
    ),
    "one_tensor": (torch.randn(7, 5), ["tensor"]),
    "beside_numbers": (OrderedDict(TENSORS) | {"version": 3, "fc._extra_state": None}, ["fc"]),
}


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("case", WRAPPED)
def test_wrappers(case: str, ending: str, tmp_path: Path) -> None:
    value, names = WRAPPED[case]
    assert list(layers(to_onnx(saved(value, tmp_path / f"model{ending}")))) == names


def test_formats(tmp_path: Path) -> None:
    """The format before zip archives, and a state_dict in memory."""
    old = saved(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for source in (old, str(old), TENSORS):
        (layer,) = find(to_onnx(source)).layers
        assert np.array_equal(layer.read(), TENSORS["fc.weight"].numpy())


def test_element_types(tmp_path: Path) -> None:
    every = {
        f"{name}.weight": torch.randn(6, 4).to(getattr(torch, name)) for name in ("float16", "bfloat16", "float64")
    }
    every["float8.weight"] = torch.randn(6, 4).to(torch.float8_e4m3fn)
    every["index"] = torch.arange(12).reshape(3, 4)
    model = to_onnx(saved(every, tmp_path / "m.pt"), verify=True)
    for name, layer in layers(model).items():
        assert np.array_equal(layer.read().astype(np.float64), every[f"{name}.weight"].double().numpy())
    assert len(find(model).layers) == 4
    assert "index" in model.graph.initializers


def test_a_large_checkpoint_is_mapped(tmp_path: Path) -> None:
    """Its tensors are the file's own pages, and to a file they go beside the model."""
    path = saved({"fc.weight": torch.ones(5000, 4096)}, tmp_path / "large.pt")
    code = (
        "import sys, torch, onnx_ir, onnx; from wwonnx.converters.state_dict import to_onnx\n"
        "peak = lambda: int(open('/proc/self/status').read().split('RssAnon:')[1].split()[0])\n"
        "before = peak(); model = to_onnx(sys.argv[1]); print(peak() - before)\n"
        "to_onnx(sys.argv[1], sys.argv[2])"
    )
    out = tmp_path / "large.onnx"
    done = subprocess.run([sys.executable, "-c", code, path, out], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000, "kB; the weights are 80 MB"
    assert out.stat().st_size < 10_000
    assert np.array_equal(layers(out)["fc"].read(), np.ones((5000, 4096), np.float32))


def test_shards(tmp_path: Path) -> None:
    names = {"a.weight": "m-1.bin", "b.weight": "m-2.bin"}
    for name, file in names.items():
        saved({name: torch.randn(7, 5)}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert list(layers(to_onnx(index))) == ["a", "b"]
    (tmp_path / "m-2.bin").unlink()
    with pytest.raises(ConversionError, match=r"'m-2\.bin' is missing"):
        to_onnx(index)
    index.write_text(json.dumps({"weight_map": {"a": "../m-1.bin"}}))
    with pytest.raises(UnsafeModelError, match="not in its own folder"):
        to_onnx(index)
    index.write_text("[]")
    with pytest.raises(ConversionError, match="is no index"):
        to_onnx(index)


# What is refused


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_nothing_runs(zipped: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    value = {"fc.weight": torch.randn(3, 4), "more": Malicious(mark)}
    path = saved(value, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConversionError, match=r"needs (posix|nt)\.system to be run .*: refused") as refused:
        to_onnx(path)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have
    assert mark.exists()


def broken(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Files, and what is said of them."""
    whole = saved(TENSORS, tmp_path / "whole.pt").read_bytes()
    files = {
        "cut.pt": (whole[:700], "can't be loaded"),
        "empty.pt": (b"", "can't be loaded"),
        "text.pt": (b"version https://git-lfs", "no PyTorch checkpoint"),
        "plain.pt": (pickle.dumps({"w": 1}, protocol=2), "can't be loaded|no PyTorch checkpoint|no weights"),
        "nothing.pt": (None, "no such file"),
    }
    found = {}
    for name, (content, reason) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        found[name] = tmp_path / name, reason
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    found["other.pt"] = tmp_path / "other.pt", "is a zip archive, but no PyTorch checkpoint"
    found["empty_dict.pt"] = saved({"epoch": 3}, tmp_path / "empty_dict.pt"), "holds no weights"
    found["module.pt"] = (
        saved(nn.Linear(3, 4), tmp_path / "module.pt"),
        r"needs torch\.nn\.modules\.linear\.Linear to be run",
    )
    options = {"model": TENSORS, "args": argparse.Namespace(lr=1)}
    found["options.pt"] = saved(options, tmp_path / "options.pt"), r"needs argparse\.Namespace to be run"
    sparse = {"fc.weight": torch.eye(4).to_sparse()}
    found["sparse.pt"] = saved(sparse, tmp_path / "sparse.pt"), "'fc.weight' is stored as torch.sparse_coo"
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")  # of sparse tensors
def test_broken_files(tmp_path: Path) -> None:
    for name, (path, reason) in broken(tmp_path).items():
        with pytest.raises(ConversionError, match=reason) as refused:
            to_onnx(path)
        assert "\n" not in str(refused.value), name
        assert name in str(refused.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript's own
def test_archives_that_are_programs(tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    torch.jit.script(nn.Linear(3, 4)).save(script)
    with pytest.raises(ConversionError, match=r"TorchScript archive.*torch\.jit\.load"):
        to_onnx(script)
    exported = tmp_path / "exported.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 4), (torch.randn(2, 3),)), exported)
    with pytest.raises(ConversionError, match=r"torch\.export archive"):
        to_onnx(exported)


def test_it_is_analysed(tmp_path: Path) -> None:
    module, _ = torch_models.model("resnet", "real")
    path = saved({"state_dict": module.state_dict()}, tmp_path / "m.ckpt")
    details = [
        ww.WeightWatcher(model=model).analyze() for model in (to_onnx(path, tmp_path / "m.onnx"), from_module(module))
    ]
    assert isinstance(to_onnx(path), ir.Model)
    assert list(details[0].name) == list(details[1].name)
    assert np.array_equal(details[0].alpha, details[1].alpha, equal_nan=True)

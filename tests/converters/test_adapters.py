"""LoRA adapters as PEFT saves them, against what PEFT itself computes of them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from build_models import Array, find, gaussian
from building_safetensors import write

import wwonnx as ww
from wwonnx.converters.safetensors import to_onnx
from wwonnx.errors import ConversionError, OptionError
from wwonnx.layer import LAYER_TYPE, WeightLayer

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers_utils = pytest.importorskip("transformers.pytorch_utils")

TARGETS = ["emb", "fc", "c_fc", "conv", "pointwise", "temporal"]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"fc": 3, "conv": 2}, "alpha_pattern": {"fc": 5, "^c.*": 9, r"emb": 7}},
    "whole": {"modules_to_save": ["head"], "bias": "all"},
    "dora": {"use_dora": True, "target_modules": ["emb", "fc", "c_fc", "conv"]},
}


class Net(torch.nn.Module):  # type: ignore[misc]
    """A module of every kind that LoRA updates."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(50, 24)
        self.fc = torch.nn.Linear(24, 40)
        self.c_fc = transformers_utils.Conv1D(24, 40)
        self.conv = torch.nn.Conv2d(3, 12, 3)
        self.pointwise = torch.nn.Conv2d(12, 16, 1)
        self.temporal = torch.nn.Conv1d(4, 8, 5)
        self.head = torch.nn.Linear(24, 10)


def saved(folder: Path, model: Any, **options: Any) -> Any:
    """Save a model's weights in `base`, a LoRA of it with weights at random in `lora`; the PEFT model."""
    write(folder / "base" / "model.safetensors", {key: value.numpy() for key, value in model.state_dict().items()})
    config = {"r": 8, "lora_alpha": 12, "init_lora_weights": False, "target_modules": TARGETS, **options}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        made = peft.get_peft_model(model, peft.LoraConfig(**config))
    for name, parameter in made.named_parameters():
        if "magnitude" in name:
            parameter.data *= torch.rand_like(parameter) + 0.5
        if parameter.requires_grad and "lora" not in name:  # what is trained as a whole
            parameter.data += torch.randn_like(parameter)
    made.save_pretrained(folder / "lora")
    return made


@pytest.fixture(scope="module", params=KINDS)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    made = saved(folder, Net(), **KINDS[request.param])
    updates = deltas(made)
    merged = {name: value.numpy() for name, value in made.merge_and_unload().state_dict().items()}
    return Adapter(folder, updates, merged, request.param == "whole")


@dataclass(frozen=True)
class Adapter:
    """A saved adapter and its base, the updates and the merged weights as PEFT computes them."""

    folder: Path
    deltas: dict[str, Array]
    merged: dict[str, Array]
    whole: bool


def by_name(model: Any) -> dict[str, WeightLayer]:
    return {layer.name: layer for layer in find(model).layers}


def deltas(made: Any) -> dict[str, Array]:
    """What PEFT itself makes of each pair of factors."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().numpy()
        for name, module in made.named_modules()
        if hasattr(module, "get_delta_weight") and name.startswith("base_model.model.")
    }


def close(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() <= 1e-6 * np.abs(other).max())


def test_updates_are_peft_s_own(adapter: Adapter) -> None:
    layers = by_name(to_onnx(adapter.folder / "lora", verify=True))
    assert layers.keys() == {f"{name}.lora_BA" for name in adapter.deltas} | ({"head"} if adapter.whole else set())
    for name, delta in adapter.deltas.items():
        layer = layers[f"{name}.lora_BA"]
        turned = delta.T if name == "c_fc" else delta  # its weight is (inputs, outputs)
        assert close(np.asarray(layer.read()), turned), name
    types = {name: layer.layer_type for name, layer in layers.items()}
    assert types["emb.lora_BA"] == LAYER_TYPE.EMBEDDING
    assert types["conv.lora_BA"] == LAYER_TYPE.CONV2D
    assert types["fc.lora_BA"] == LAYER_TYPE.DENSE


def test_with_the_base_they_are_the_merged_model(adapter: Adapter) -> None:
    folder, merged = adapter.folder, adapter.merged
    model = to_onnx(folder / "lora", folder / "merged.onnx", base=folder / "base", verify=True)
    assert (folder / "merged.onnx").stat().st_size < 40_000
    layers = find(folder / "merged.onnx").layers
    assert {layer.longname for layer in layers} == {name for name, value in merged.items() if value.ndim > 1}
    assert len(find(model).layers) == len(layers)
    for layer in layers:
        assert layer.name == layer.longname.removesuffix(".weight")
        assert close(np.asarray(layer.read()), merged[layer.longname]), layer.name


def test_rows_are_those_of_the_updates_as_plain_weights(adapter: Adapter, tmp_path: Path) -> None:
    details = ww.analyze(adapter.folder / "lora").set_index("name")
    plain = {f"{name}.weight": delta for name, delta in adapter.deltas.items()}
    expected = ww.analyze(write(tmp_path / "model.safetensors", plain)).set_index("name")
    for name in expected.index:
        row = details.loc[f"{name}.lora_BA"]
        assert (row.N, row.M, row.rf) == tuple(expected.loc[name, ["N", "M", "rf"]])
        np.testing.assert_allclose(row.log_norm, expected.loc[name, "log_norm"], rtol=1e-5)
        np.testing.assert_allclose(row.lambda_max, expected.loc[name, "lambda_max"], rtol=1e-5)


class TestPeftOption:
    """`peft=True` and `"with_base"` treat converted adapters as they treat factors in a graph."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        torch.manual_seed(1)
        saved(tmp_path, Net(), modules_to_save=["head"])
        return tmp_path

    def test_updates_alone(self, folder: Path) -> None:
        watcher = ww.WeightWatcher(folder / "lora")
        plain = watcher.analyze()
        updates = watcher.analyze(peft=True)
        pd.testing.assert_frame_equal(plain[plain.name != "head"], updates)
        skipped = watcher.get_skipped().set_index("name").reason
        assert skipped["head"] == "no factor of a low-rank update"

    def test_with_base(self, folder: Path) -> None:
        watcher = ww.WeightWatcher(folder / "lora")
        details = watcher.analyze(peft="with_base", base_model=folder / "base").set_index("name")
        merged = ww.analyze(to_onnx(folder / "lora", base=folder / "base")).set_index("name")
        assert not details.layer_id.duplicated().any()
        for name in TARGETS:
            one, other = details.loc[f"{name}.lora_W_plus_AB"], merged.loc[name]
            assert (one.layer_type, one.N, one.M, one.rf) == (other.layer_type, other.N, other.M, other.rf)
            np.testing.assert_allclose(one.log_norm, other.log_norm, rtol=1e-6)
            assert f"{name}.lora_BA" in details.index

    @pytest.mark.parametrize("place", ["beside", "named", "same"])
    def test_the_base_is_found_where_it_can_be(self, folder: Path, place: str) -> None:
        config = json.loads((folder / "lora" / "adapter_config.json").read_text())
        if place == "beside":
            (folder / "base").rename(folder / "Net-7B")
            config["base_model_name_or_path"] = "somebody/Net-7B"
        elif place == "named":
            config["base_model_name_or_path"] = str(folder / "base")
        else:
            (folder / "base" / "model.safetensors").rename(folder / "lora" / "model.safetensors")
        (folder / "lora" / "adapter_config.json").write_text(json.dumps(config))
        details = ww.analyze(folder / "lora", peft="with_base")
        assert "fc.lora_W_plus_AB" in set(details.name)
        assert len(find(to_onnx(folder / "lora", base=True)).layers) == 7

    def test_without_it_there_is_one_line(self, folder: Path) -> None:
        with pytest.raises(ConversionError, match=r"its base model is not on this machine; give its folder"):
            ww.analyze(folder / "lora", peft="with_base")
        with pytest.raises(ConversionError, match=r"not on this machine"):
            to_onnx(folder / "lora", base=True)

    def test_another_model_is_no_base(self, folder: Path, tmp_path: Path) -> None:
        other = write(tmp_path / "other.safetensors", {"fc.weight": gaussian(7, 7), "fc2.weight": gaussian(40, 24)})
        with pytest.raises(ConversionError, match=r"updates 'c_fc', of which the base .* has no weight"):
            to_onnx(folder / "lora", base=other)
        watcher = ww.WeightWatcher(folder / "lora")
        watcher.describe()
        watcher.analyze(peft="with_base", base_model=other)
        reasons = watcher.get_skipped().set_index("name").reason
        assert reasons["fc.lora_BA"] == "there is no weight fc, 40 x 24, to add its update to"

    def test_a_base_that_only_holds_another_shape(self, folder: Path, tmp_path: Path) -> None:
        names = {f"{name}.weight": gaussian(11, 13) for name in TARGETS}
        with pytest.raises(ConversionError, match=r"its update of 'c_fc' is .*, and the weight in .* \[11, 13\]"):
            to_onnx(folder / "lora", base=write(tmp_path / "other.safetensors", names))

    def test_dora_says_what_its_rows_are(self, tmp_path: Path) -> None:
        saved(tmp_path, Net(), **KINDS["dora"])
        watcher = ww.WeightWatcher(tmp_path / "lora")
        watcher.analyze()
        assert "is a DoRA adapter: its rows are the updates B A alone" in watcher.get_note()
        with pytest.raises(ConversionError, match=r"is a DoRA adapter, whose lengths no sum W \+ B A has"):
            watcher.analyze(peft="with_base", base_model=tmp_path / "base")

    def test_updates_and_a_base_to_subtract_contradict_each_other(self, folder: Path) -> None:
        with pytest.raises(OptionError, match="contradict"):
            ww.analyze(folder / "lora", peft=True, base_model=folder / "base")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_size(dtype: str, tmp_path: Path) -> None:
    """A projection of 21 million weights, more than a constant expression may otherwise make out of few numbers."""
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(4096, 5120, bias=False).to(getattr(torch, dtype)))
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["0"], init_lora_weights=False)
    made = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    made.save_pretrained(tmp_path)
    (layer,) = find(to_onnx(tmp_path)).layers
    assert layer.dtype == {"float32": "float", "bfloat16": "bfloat16"}[dtype]
    found, delta = np.asarray(layer.read()), made.base_model.model[0].get_delta_weight("default").detach()
    expected = delta.float().numpy()
    if dtype == "float32":
        assert close(found, expected)
    else:  # PEFT rounds the product to bfloat16
        rounded = found.astype(ml_dtypes.bfloat16).astype(np.float32)
        assert np.mean(rounded == expected) > 0.999
        assert np.abs(found - expected).max() <= 2**-8 * np.abs(expected).max()


CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
FACTORS = {
    "base_model.model.fc.lora_A.weight": gaussian(4, 24),
    "base_model.model.fc.lora_B.weight": gaussian(40, 4),
}


def handmade(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, Array] | None = None) -> Path:
    write(folder / "adapter_model.safetensors", FACTORS if tensors is None else tensors)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def test_by_hand(tmp_path: Path) -> None:
    (layer,) = find(to_onnx(handmade(tmp_path))).layers
    down, up = FACTORS.values()
    assert layer.name == "fc.lora_BA"
    assert np.array_equal(layer.read(), up @ down * np.float32(2.0))
    assert ww.describe(tmp_path / "adapter_model.safetensors").name.tolist() == ["fc.lora_BA"]


def test_names_that_the_base_shortens(tmp_path: Path) -> None:
    tensors = {name.replace(".fc.", ".transformer.h.0.fc."): value for name, value in FACTORS.items()}
    handmade(tmp_path / "lora", tensors=tensors)
    base = {"h.0.fc.weight": gaussian(40, 24, seed=5), "h.0.fc2.weight": gaussian(40, 24, seed=6)}
    write(tmp_path / "base.safetensors", base)
    layers = by_name(to_onnx(tmp_path / "lora", base=tmp_path / "base.safetensors"))
    down, up = FACTORS.values()
    assert close(np.asarray(layers["h.0.fc"].read()), base["h.0.fc.weight"] + 2 * up @ down)
    details = ww.analyze(tmp_path / "lora", peft="with_base", base_model=tmp_path / "base.safetensors")
    assert details.name.tolist() == ["transformer.h.0.fc.lora_BA", "transformer.h.0.fc.lora_W_plus_AB"]


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"alpha_pattern": {"fc": 3}}, 0.75),
        ({"alpha_pattern": {"other": 3, "layers.*": 4, "model.fc": 5}}, 2.0),
        ({"alpha_pattern": {"f[cd]": 1}}, 0.25),
        ({"alpha_pattern": {".*c": 6}}, 1.5),
        ({"alpha_pattern": None, "lora_alpha": 0.5}, 0.125),
    ],
)
def test_the_scale(given: dict[str, Any], scale: float, tmp_path: Path) -> None:
    (layer,) = find(to_onnx(handmade(tmp_path, CONFIG | given))).layers
    down, up = FACTORS.values()
    assert close(np.asarray(layer.read()), up @ down * np.float32(scale))
    assert math.isclose(scale, 8 / 4 if not given else scale)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another method": (
        lambda f: handmade(f, CONFIG | {"peft_type": "IA3"}),
        "adapter of type 'IA3'; wwonnx reads LORA",
    ),
    "no method": (lambda f: handmade(f, {}), "adapter of type 'None'"),
    "a variant": (lambda f: handmade(f, CONFIG | {"use_qalora": True}), "adapter of QA-LoRA (use_qalora)"),
    "parameters": (lambda f: handmade(f, CONFIG | {"target_parameters": ["w"]}), "(target_parameters)"),
    "no alpha": (lambda f: handmade(f, {"peft_type": "LORA"}), "lora_alpha is 'None', no number"),
    "alpha of words": (lambda f: handmade(f, CONFIG | {"lora_alpha": "8"}), "lora_alpha is '8', no number"),
    "no weights": (lambda f: (handmade(f) / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "a pickle": (
        lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin") if handmade(f) else None,
        "adapter_model.bin is a pickle: save it again as safetensors",
    ),
    "no factors": (lambda f: handmade(f, tensors={"a.weight": gaussian(8, 8)}), "holds no pair of lora_A and lora_B"),
    "half a pair": (
        lambda f: handmade(f, tensors=dict(list(FACTORS.items())[:1])),
        "module 'fc' has a lora_A without its partner",
    ),
    "factors of two ranks": (
        lambda f: handmade(f, tensors=FACTORS | {"base_model.model.fc.lora_B.weight": gaussian(40, 5)}),
        "the factors of 'fc', [40, 5] and [4, 24], don't fit each other",
    ),
    "no JSON": (lambda f: (handmade(f) / "adapter_config.json").write_text("{"), "is no JSON"),
    "a pattern that never ends": (
        lambda f: handmade(f, CONFIG | {"alpha_pattern": {"(f+)+x": 1}}),
        "the pattern '(f+)+x' may take for ever",
    ),
    "a pattern that is none": (lambda f: handmade(f, CONFIG | {"alpha_pattern": {"(f": 1}}), "'(f' is no pattern"),
    "weights cut short": (
        lambda f: (handmade(f) / "adapter_model.safetensors").write_bytes(b"\x10" + bytes(7) + b"{}"),
        "cut short",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_is_broken_is_one_line(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(ConversionError) as caught:
        ww.WeightWatcher(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_only_adapters_take_a_base(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {"fc.weight": gaussian(20, 20)})
    with pytest.raises(ConversionError, match="is no adapter, and takes no base"):
        to_onnx(path, base=path)

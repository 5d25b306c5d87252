"""Safetensors to ONNX: every bit in its place, nothing copied, and one clear line for what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pandas as pd
import pytest
from build_models import Array, find, gaussian
from building_safetensors import write, write_sharded, write_sparse

import wwonnx as ww
from wwonnx.converters import verify as verification
from wwonnx.converters.safetensors import to_onnx
from wwonnx.errors import ConversionError, UnsafeModelError
from wwonnx.layer import LAYER_TYPE
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.power_law import fit_power_law

pytest.importorskip("safetensors")
ROOT = Path(__file__).resolve().parents[2]
FLOATS = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)


def mixed(seed: int = 0) -> dict[str, Array]:
    """A small model of every kind of module."""
    return {
        "model.embed_tokens.weight": gaussian(120, 64, seed=seed).astype(ml_dtypes.bfloat16),
        "model.layers.0.fc.weight": gaussian(96, 64, seed=seed),
        "model.layers.0.fc.bias": gaussian(96, seed=seed),
        "model.layers.0.norm.weight": gaussian(64, seed=seed),
        "model.layers.1.conv.weight": gaussian(32, 16, 3, 3, seed=seed).astype(np.float16),
        "model.layers.1.gate.weight": gaussian(80, 64, seed=seed).astype(ml_dtypes.float8_e4m3fn),
        "model.layers.1.up.weight": gaussian(80, 64, seed=seed + 1).astype(ml_dtypes.float8_e5m2),
        "model.layers.10.fc.weight": gaussian(64, 96, seed=seed),
        "model.layers.2.fc.weight": gaussian(64, 96, seed=seed + 1, dtype=np.float64),
        "lm_head.weight": gaussian(120, 64, seed=seed + 2).astype(ml_dtypes.bfloat16),
    }


def same(one: Array, other: Array) -> bool:
    """Equal in every bit."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def test_every_weight_is_the_source_s_bit_for_bit_under_its_name(tmp_path: Path) -> None:
    arrays = mixed()
    model = to_onnx(write(tmp_path / "model.safetensors", arrays), verify=True)
    found = {layer.longname: layer for layer in find(model).layers}
    assert found.keys() == {name for name, array in arrays.items() if array.ndim > 1}
    for name, layer in found.items():
        assert same(np.asarray(layer.read()), arrays[name])
        assert layer.name == name.removesuffix(".weight")
        assert layer.dtype == ir.DataType.from_numpy(arrays[name].dtype).name.lower()
    kinds = {layer.name.rpartition(".")[2]: layer.layer_type for layer in found.values()}
    assert kinds["embed_tokens"] == LAYER_TYPE.EMBEDDING
    assert kinds["conv"] == LAYER_TYPE.CONV2D
    assert kinds["fc"] == kinds["lm_head"] == LAYER_TYPE.DENSE
    bias = found["model.layers.0.fc.weight"].read_bias
    assert bias is not None
    assert same(bias(), arrays["model.layers.0.fc.bias"])


def test_layers_come_as_people_count_and_the_head_last(tmp_path: Path) -> None:
    names = ww.describe(write(tmp_path / "model.safetensors", mixed())).name.tolist()
    numbered = [name.split(".")[2] for name in names if name.startswith("model.layers")]
    assert numbered == ["0", "1", "1", "1", "2", "10"]
    assert names[-1] == "lm_head"


def test_details_are_those_of_the_arrays_by_the_engine_alone(tmp_path: Path) -> None:
    arrays = {f"fc{n}.weight": gaussian(200, 90, seed=n).astype(kind) for n, kind in enumerate(FLOATS)}
    details = ww.analyze(write(tmp_path / "model.safetensors", arrays)).set_index("longname")
    assert (details.status == "success").all()
    for name, array in arrays.items():
        esd = spectrum(lambda array=array: array[None], float(ml_dtypes.finfo(array.dtype).eps)).pooled
        fit = fit_power_law(esd)
        row = details.loc[name]
        assert (row.alpha, row.D, row.xmin, row.lambda_max) == (fit.alpha, fit.D, fit.xmin, esd[-1])


def test_the_file_holds_no_weights_and_reads_the_same(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path, [mixed(), {f"b.{name}": array for name, array in mixed(7).items()}])
    to_onnx(folder, folder / "model.onnx", verify=True)
    assert (folder / "model.onnx").stat().st_size < 30_000
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    places = [{entry.key: entry.value for entry in each.external_data} for each in proto.graph.initializer]
    assert {place["location"] for place in places} == {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    pd.testing.assert_frame_equal(ww.analyze(folder), ww.analyze(folder / "model.onnx"))


def test_onnxruntime_reads_the_weights_where_they_are(tmp_path: Path) -> None:
    arrays = mixed()
    write(tmp_path / "model.safetensors", arrays)
    to_onnx(tmp_path, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    feeds = {each.name: np.ones(each.shape, types[each.type]) for each in session.get_inputs()}
    results = dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))
    fc = next(value for name, value in results.items() if name.startswith("model.layers.0.fc/"))
    expected = arrays["model.layers.0.fc.weight"].sum(axis=1) + arrays["model.layers.0.fc.bias"]
    np.testing.assert_allclose(fc[0], expected, atol=1e-4)


def test_a_model_of_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--m" / "blobs", tmp_path / "models--m" / "snapshots" / "1a2b"
    write(blobs / "c0ffee", mixed())
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/c0ffee")
    assert (ww.analyze(snapshot).status == "success").all()
    with pytest.raises(ConversionError, match=r"is a link, in .*blobs; write it into .*models--m, or analyse"):
        to_onnx(snapshot, snapshot / "model.onnx")
    assert list(snapshot.iterdir()) == [snapshot / "model.safetensors"]
    to_onnx(snapshot, tmp_path / "models--m" / "m.onnx", verify=True)
    assert len(ww.analyze(tmp_path / "models--m" / "m.onnx")) == 8


def test_an_onnx_file_elsewhere_is_refused_and_nothing_copied(tmp_path: Path) -> None:
    write(tmp_path / "a" / "model.safetensors", mixed())
    (tmp_path / "b").mkdir()
    with pytest.raises(ConversionError, match=r"can only name weights in its own folder and below"):
        to_onnx(tmp_path / "a", tmp_path / "b" / "model.onnx")
    assert not list((tmp_path / "b").iterdir())
    to_onnx(tmp_path / "a", tmp_path / "model.onnx")
    assert len(ww.analyze(tmp_path / "model.onnx")) == 8


def test_a_relative_path_means_the_same_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model.safetensors", mixed())
    monkeypatch.chdir(tmp_path)
    watcher = ww.WeightWatcher("model.safetensors")
    model = to_onnx("model.safetensors", "model.onnx")
    monkeypatch.chdir("/")
    assert (watcher.analyze().status == "success").all()
    assert (ww.analyze(model).status == "success").all()


def test_integers_and_empty_tensors_are_listed_with_the_reason(tmp_path: Path) -> None:
    arrays = {
        "fc.weight": gaussian(64, 32),
        "q.qweight": np.zeros((8, 32), np.int32),
        "mask": np.zeros((16, 16), np.bool_),
        "ids": np.zeros((1, 40), np.int64),
        "spin.weight": np.zeros((20, 20), np.complex64),
        "gone.weight": np.zeros((0, 64), np.float32),
        "scale": np.full((4, 4), 1.0).astype(ml_dtypes.float8_e8m0fnu),
        "steps": np.zeros((), np.int64),
    }
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Net"]}))
    write(tmp_path / "model.safetensors", arrays)
    watcher = ww.WeightWatcher(tmp_path)
    assert watcher.analyze().name.tolist() == ["fc"]
    reasons = dict(watcher.get_skipped()[["name", "reason"]].values)
    assert reasons == {
        "q.qweight": "elements are int32: quantised codes, not decoded; "
        "analyse the model as it was before quantisation",
        "mask": "elements are bool: no trained weight",
        "ids": "elements are int64: no trained weight",
        "spin.weight": "elements are complex64: no trained weight",
        "gone.weight": "empty: its shape is [0, 64]",
        "scale": "elements are float8e8m0: no trained weight",
    }
    inventory = watcher.inventory().set_index("name")
    assert inventory.loc["q.qweight", "reason"] == reasons["q.qweight"]
    to_onnx(tmp_path, tmp_path / "model.onnx", verify=True)
    again = ww.WeightWatcher(tmp_path / "model.onnx")
    again.analyze()
    assert dict(again.get_skipped()[["name", "reason"]].values) == reasons
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    watcher = ww.WeightWatcher(tmp_path)
    watcher.describe()
    assert "elements are int32: gptq codes" in watcher.get_skipped().set_index("name").reason["q.qweight"]


@pytest.mark.parametrize(
    ("shape", "blocks"), [((256, 384), (2, 3)), ((200, 300), (2, 3)), ((4224, 4096), (33, 32)), ((96, 64), (96, 1))]
)
def test_float8_weights_are_read_with_their_scales(
    shape: tuple[int, int], blocks: tuple[int, int], tmp_path: Path
) -> None:
    codes = gaussian(*shape).astype(ml_dtypes.float8_e4m3fn)
    scale = np.random.default_rng(0).uniform(0.5, 2.0, blocks).astype(np.float32)
    side = [-(-n // count) if count > 3 else (1 << 7) for n, count in zip(shape, blocks, strict=True)]
    side = [n if count == 1 else 1 if n == count else each for n, count, each in zip(shape, blocks, side, strict=True)]
    spread = scale.repeat(side[0], axis=0).repeat(side[1], axis=1)[: shape[0], : shape[1]]
    path = write(tmp_path / "model.safetensors", {"fc.weight": codes, "fc.weight_scale_inv": scale})
    (layer,) = find(to_onnx(path)).layers
    assert (layer.name, layer.dtype) == ("fc", "float8e4m3fn")
    np.testing.assert_array_equal(layer.read(), codes.astype(np.float32) * spread)


def huge(layers: int = 32) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of a model of 4 GB in bfloat16, in four shards."""
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64_000, 3072)}
    for index in range(layers):
        at = f"model.layers.{index}."
        names |= {f"{at}self_attn.{name}_proj.weight": (3072, 3072) for name in "qo"}
        names |= {f"{at}self_attn.{name}_proj.weight": (1024, 3072) for name in "kv"}
        names |= {f"{at}mlp.{name}_proj.weight": (3072, 3072) for name in ("gate", "up", "down")}
        names |= {f"{at}{name}_layernorm.weight": (3072,) for name in ("input", "post_attention")}
    names |= {"model.norm.weight": (3072,), "lm_head.weight": (64_000, 3072)}
    every = list(names.items())
    return [dict(every[start : start + len(every) // 4 + 1]) for start in range(0, len(every), len(every) // 4 + 1)]


def test_four_gigabytes_convert_in_a_moment_into_a_small_file(tmp_path: Path) -> None:
    write_sparse(tmp_path, huge())
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 4
    assert sum(path.stat().st_size for path in shards) > 4e9
    start = time.perf_counter()
    model = to_onnx(tmp_path, tmp_path / "model.onnx")
    assert time.perf_counter() - start < 2.0
    assert len(model.graph.outputs) == 32 * 9 + 3
    assert (tmp_path / "model.onnx").stat().st_size < 1_000_000


def test_an_analysis_stays_within_its_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.safetensors", "--gigabytes", "0.12", "--largest", "1024"]
    result = subprocess.run(
        [*command, "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "of the bound" in result.stdout


def broken(change: Callable[[Path], Any], of: str = "sharded") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        if of == "sharded":
            write_sharded(folder, [{"a.weight": gaussian(16, 16)}, {"b.weight": gaussian(16, 16)}])
        else:
            write(folder / "model.safetensors", {"a.weight": gaussian(16, 16)})
        result = change(folder)
        return result if isinstance(result, Path) else folder

    return make


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert old.encode() in content
        (folder / name).write_bytes(content.replace(old.encode(), new.encode()))

    return change


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a shard that is missing": (
        broken(lambda f: (f / SECOND).unlink()),
        f"shard {SECOND} of 2 is missing; download it",
    ),
    "shards that are missing": (
        broken(lambda f: ((f / FIRST).unlink(), (f / SECOND).unlink())),
        f"shard {FIRST} and 1 more of 2 is missing",
    ),
    "an index that is missing too": (
        broken(lambda f: ((f / SECOND).unlink(), (f / INDEX).unlink())),
        "holds 1 of 2 shards and no index",
    ),
    "a shard cut short": (broken(lambda f: os.truncate(f / SECOND, 700)), "cut short: its tensors end at byte"),
    "a header cut short": (broken(lambda f: os.truncate(f / SECOND, 40)), "cut short: its header takes"),
    "a missing dtype": (broken(edit("model.safetensors", '"dtype"', '"dtypo"'), "one"), "unknown 'dtypo'"),
    "an unknown dtype": (broken(edit("model.safetensors", '"F32"', '"F31"'), "one"), "unknown dtype 'F31'"),
    "a tensor in another shard": (
        broken(edit(FIRST, "a.weight", "c.weight")),
        f"tensor 'a.weight' is not in {FIRST}, where the index has it",
    ),
    "an index of something else": (broken(edit(INDEX, "weight_map", "weight_mop")), "has no weight_map"),
    "an index that is no JSON": (broken(lambda f: (f / INDEX).write_text("{")), "is no JSON"),
    "a configuration that is no JSON": (broken(lambda f: (f / "config.json").write_text("[")), "is no JSON"),
    "a configuration that is a list": (broken(lambda f: (f / "config.json").write_text("[]")), "is no JSON object"),
    "several models": (
        broken(
            lambda f: [(f / "model.safetensors").rename(f / "a.safetensors"), write(f / "b.safetensors", {})], "one"
        ),
        "holds several models (a.safetensors, b.safetensors); name one",
    ),
    "no tensors": (broken(lambda f: write(f / "model.safetensors", {}), "one"), "holds no tensors"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError) as caught:
        ww.WeightWatcher(make(tmp_path))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\\\x"])
def test_an_index_that_leads_out_of_its_folder_is_refused(shard: str, tmp_path: Path) -> None:
    write(tmp_path / "secret.safetensors", {"a.weight": gaussian(16, 16)})
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / INDEX).write_text('{"weight_map": {"a.weight": "' + shard + '"}}')
    with pytest.raises(UnsafeModelError, match="outside its own folder"):
        ww.WeightWatcher(folder)


def test_a_folder_that_can_t_be_written_to_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", mixed())
    with pytest.raises(ConversionError, match="no directory"):
        to_onnx(tmp_path, tmp_path / "no" / ".." / "model.onnx")
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(ConversionError, match="is a directory"):
        to_onnx(tmp_path, tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match="is part of the given model"):
        to_onnx(tmp_path, tmp_path / "model.safetensors")


def test_verifying_finds_what_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.safetensors", {"a.weight": gaussian(16, 16), "b.weight": gaussian(16, 16, seed=1)})
    assert to_onnx(path, verify=True).metadata_props[verification.WEIGHTS] == "512"

    def shifted(tensor: ir.ExternalTensor) -> Array:
        return read(tensor) * (1 + (tensor.name == "b.weight") * np.float32(2**-23))

    read = verification.read_tensor
    monkeypatch.setattr(verification, "read_tensor", shifted)
    with pytest.raises(ConversionError, match=r"b\.weight"):
        to_onnx(path, verify=True)


#: Folders as transformers saves them, at tiny size, against its own state_dict.


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def state(hub: Path) -> dict[str, dict[str, Array]]:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300, "hidden_size": 96}
    configs = {
        "llama": transformers.LlamaConfig(intermediate_size=160, num_key_value_heads=2, **sizes),
        "gpt2": transformers.GPT2Config(n_embd=96, n_layer=2, n_head=4, vocab_size=300, n_positions=64),
        "bert": transformers.BertConfig(intermediate_size=160, **sizes),
        "phi3": transformers.Phi3Config(intermediate_size=160, num_key_value_heads=2, pad_token_id=0, **sizes),
    }
    states = {}
    for name, config in configs.items():
        auto = transformers.AutoModelForMaskedLM if name == "bert" else transformers.AutoModelForCausalLM
        model = auto.from_config(config)
        model.save_pretrained(hub / name, max_shard_size="200kB")
        states[name] = {key: value.numpy() for key, value in model.state_dict().items()}
    return states


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "phi3"])
def test_weights_names_and_kinds(name: str, hub: Path, state: dict[str, dict[str, Array]]) -> None:
    assert (hub / name / INDEX).exists()
    model = to_onnx(hub / name, hub / name / "model.onnx", verify=True)
    onnx.checker.check_model(str(hub / name / "model.onnx"), full_check=True)
    assert model.graph.name in {"LlamaForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM", "Phi3ForCausalLM"}
    layers = find(model).layers
    for layer in layers:
        assert same(np.asarray(layer.read()), state[name][layer.longname]), layer.longname
        looked_up = "embed" in layer.name or layer.name.endswith(("wte", "wpe"))
        assert layer.layer_type == (LAYER_TYPE.EMBEDDING if looked_up else LAYER_TYPE.DENSE), layer.name
    stored = {layer.longname for layer in layers}
    tied = {"lm_head.weight", "cls.predictions.decoder.weight"}
    assert {key for key, value in state[name].items() if value.ndim > 1} - stored <= tied | {
        "bert.embeddings.position_ids",
        "bert.embeddings.token_type_ids",
    }


def test_gpt2_s_linear_layers_have_their_inputs_first(hub: Path, state: dict[str, dict[str, Array]]) -> None:
    shapes = {layer.name: layer.matrix_shape[1:] for layer in find(to_onnx(hub / "gpt2")).layers}
    assert shapes["transformer.h.0.mlp.c_fc"] == (384, 96)
    assert shapes["transformer.h.0.attn.c_attn"] == (288, 96)


def test_packed_projections_split_as_the_configuration_says(hub: Path, state: dict[str, dict[str, Array]]) -> None:
    watcher = ww.WeightWatcher(hub / "phi3")
    names = watcher.describe(layers="*layers.0*", split_qkv=True).name.tolist()
    start = "model.layers.0.self_attn.qkv_proj."
    assert [name for name in names if name.startswith(start)] == [f"{start}{part}" for part in "qkv"]
    weight = state["phi3"]["model.layers.0.self_attn.qkv_proj.weight"]
    (query,) = watcher.get_weights(layer=f"{start}q")
    (value,) = watcher.get_weights(layer=f"{start}v")
    assert same(query, weight[:96])
    assert same(value, weight[144:])

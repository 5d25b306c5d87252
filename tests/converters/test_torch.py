"""Live PyTorch models: exactly their weights, bit for bit under their names, and the models left as they were."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from build_models import find, layers

import wwonnx as ww
from wwonnx.errors import ConversionError, OptionError
from wwonnx.layer import LAYER_TYPE
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.power_law import fit_power_law

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
import torch_models  # noqa: E402
from torch import nn  # noqa: E402

from wwonnx.converters import verify  # noqa: E402
from wwonnx.converters.torch import to_onnx  # noqa: E402

#: The functions that weight_norm and spectral_norm were before parametrizations.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
MODES = ("weights", "graph")


def made(kind: str, size: str) -> tuple[Any, Any]:
    """A model with weights of its own in every module: TransformerEncoder copies one layer."""
    module, args = torch_models.model(kind, size)
    if kind == "transformer":
        torch.manual_seed(1)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module.eval(), args


def effective(module: Any) -> dict[str, Any]:
    """Each module's weights of two or more dimensions as attributes give them, tied ones under their first name."""
    found: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # kept alive, so that no id occurs twice
    owners = [(name, part) for name, part in module.named_modules() if "parametrizations" not in name]
    for owner, part in owners:
        names = [name for name, _ in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))]
        names = [name.removesuffix("_orig") for name in names if not name.endswith(("_g", "_v", "_u", "_mask"))]
        names += list(getattr(part, "parametrizations", {}))
        names += ["weight"] if hasattr(part, "weight_g") else []
        for name in dict.fromkeys(names):
            value = getattr(part, name)
            key = id(value)
            if value.ndim >= 2 and key not in seen:
                seen[key] = value
                found[f"{owner}.{name}".strip(".")] = value.detach().numpy().copy()
    return found


def state(module: Any) -> dict[str, Any]:
    """Everything of a model that a conversion might change."""
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "identity": [id(parameter) for parameter in module.parameters()],
        "gradients": [parameter.requires_grad for parameter in module.parameters()],
        "training": [part.training for part in module.modules()],
        "classes": [type(part) for part in module.modules()],
        "hooks": [list(part._forward_pre_hooks) + list(part._forward_hooks) for part in module.modules()],
        "attributes": [list(vars(part)) for part in module.modules()],
        "children": [list(part._modules) for part in module.modules()],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    values = one.pop("values"), other.pop("values")
    return one == other and all(torch.equal(value, values[1][name]) for name, value in values[0].items())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", ["tiny", "real"])
@pytest.mark.parametrize("kind", torch_models.KINDS)
def test_exactly_the_sources_weights(kind: str, size: str, mode: str) -> None:
    module, args = made(kind, size)
    with torch.no_grad():
        module(*args)  # the old functions compute their weight when they are called
    expected = effective(module)
    module.train()
    before, drawn = state(module), torch.random.get_rng_state()
    model = to_onnx(module, args if mode == "graph" else None, verify=True)
    assert same(before, state(module))
    assert torch.equal(drawn, torch.random.get_rng_state())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    for name, array in expected.items():
        assert stored[name].dtype == ir.DataType.FLOAT
        assert stored[name].numpy().tobytes() == array.tobytes(), name
    found = find(model)
    assert not found.skipped
    names = {name.removesuffix(".weight") for name in expected}
    assert {layer.name for layer in found.layers} == names - ({"positions"} if mode == "graph" else set())
    assert int(model.metadata_props[verify.WEIGHTS]) >= sum(array.size for array in expected.values())
    if mode == "graph":
        assert 0 <= float(model.metadata_props[verify.DIFFERENCE]) < 1e-3


def test_layer_types_without_inputs() -> None:
    expected = {
        "cnn": {"stem": "conv2d", "along": "conv1d", "volume": "conv3d", "up": "conv_transpose", "head": "dense"},
        "transformer": {"embed": "dense|embedding", "positions": "embedding", "matrix": "dense"},
        "recurrent": {"lstm.weight_ih_l1_reverse": "recurrent", "rnn.weight_hh_l0": "recurrent", "head": "dense"},
    }
    for kind, names in expected.items():
        found = layers(to_onnx(made(kind, "tiny")[0]))
        for name, kinds in names.items():
            assert "|".join(sorted(str(one.name).lower() for one in found[name].layer_types)) == kinds
    depthwise = layers(to_onnx(made("cnn", "tiny")[0]))["deep"]
    assert depthwise.depthwise


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["transformer", "cnn"])
def test_details_equal_those_of_the_arrays_alone(kind: str, mode: str) -> None:
    """The spectral engine on the source's arrays: no graph, no names, no kinds."""
    module, args = made(kind, "real")
    arrays = effective(module)
    details = ww.WeightWatcher(model=to_onnx(module, args if mode == "graph" else None)).analyze(min_evals=2)
    assert len(details) > 5
    for row in details.itertuples():
        array = arrays[row.longname].astype(np.float32)
        matrices = array.reshape(*array.shape[:2], -1).transpose(2, 0, 1)
        if array.ndim == 3 and array.shape[0] == 1:  # positions, (1, n, width)
            matrices = array
        # A convolution's kernel positions are scaled by sqrt(1/2) and pooled: WeightWatcher's rule.
        found = spectrum(lambda found=matrices: found, float(np.finfo(np.float32).eps))
        esd = found.pooled * (0.5 if "conv" in row.layer_type else 1.0)
        assert row.num_evals == esd.size
        assert np.isclose(row.lambda_max, esd[-1], rtol=1e-6)
        assert np.isclose(row.alpha, fit_power_law(esd).alpha, rtol=1e-4)


def test_a_resnet_equals_its_faithful_export(tmp_path: Path) -> None:
    """Not the default export, whose convolutions hold their BatchNormalizations."""
    module, args = made("resnet", "real")
    faithful = to_onnx(module, args, tmp_path / "resnet.onnx")
    details = [ww.WeightWatcher(model=model).analyze() for model in (module, faithful)]
    assert list(details[0].name) == list(details[1].name)
    assert not details[0].folded.any()
    numbers = details[0].select_dtypes("number").columns
    assert np.array_equal(details[0][numbers], details[1][numbers], equal_nan=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded = torch.onnx.export(module, args, dynamo=True, verbose=False).model_proto
    changed = ww.WeightWatcher(model=folded).analyze()
    assert changed.folded.any()
    assert abs(changed.alpha.mean() - details[0].alpha.mean()) > 0.01


# Recurrent weights compute what PyTorch's do: the gates are in the right places


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrent_modules_compute_the_same(cell: str, bias: bool) -> None:
    torch.manual_seed(0)
    module = getattr(nn, cell)(6, 4, bias=bias)
    x = torch.randn(1, 1, 6)
    model = to_onnx(module)
    (found,) = verify._run(model, [x.numpy()])
    assert np.allclose(found.reshape(-1), module(x)[0].detach().numpy().reshape(-1), atol=1e-6)


def test_a_projected_lstm_is_never_wrong(tmp_path: Path) -> None:
    module = nn.LSTM(6, 8, proj_size=3)
    with pytest.raises(ConversionError, match="proj_size"):
        to_onnx(module, (torch.randn(2, 1, 6),), tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())
    found = layers(to_onnx(module))
    expected = {name: value.detach().numpy() for name, value in module.named_parameters() if value.ndim == 2}
    assert set(found) == set(expected)
    for name, layer in found.items():
        assert np.array_equal(layer.read(), expected[name])


# Modules of other kinds


def test_hugging_face_conv1d() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    module = nn.Sequential(utils.Conv1D(12, 8), utils.Conv1D(8, 12))
    expected = {f"{index}.weight": part.weight.detach().numpy() for index, part in enumerate(module)}
    for args in (None, torch.randn(2, 8)):
        found = layers(to_onnx(module, args, verify=True))
        assert [layer.longname for layer in found.values()] == list(expected)
        for layer in found.values():
            assert layer.matrix_shape == (1, *expected[layer.longname].shape[::-1])  # outputs x inputs
            assert np.array_equal(layer.matrices()[0], expected[layer.longname].T)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")  # TorchScript's own
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["script", "trace"])
def test_script_modules(way: str, mode: str) -> None:
    module, args = made("resnet", "tiny")
    module = nn.Sequential(module, nn.LSTM(10, 6))
    scripted = torch.jit.script(module) if way == "script" else torch.jit.trace(module, args)
    scripted.train()
    model = to_onnx(scripted, args if mode == "graph" else None, verify=True)
    assert scripted.training
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    expected = {name: value.numpy() for name, value in module.state_dict().items() if value.ndim >= 2}
    for name, array in expected.items():
        assert stored[name].numpy().tobytes() == array.tobytes()
    assert {layer.longname for layer in find(model).layers} == set(expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_are_told_by_their_classes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(20, 8)
            self.embed = nn.Linear(8, 8, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.embed(self.words(x))

    found = layers(to_onnx(torch.jit.script(Net())))
    assert {name: layer.layer_type for name, layer in found.items()} == {
        "words": LAYER_TYPE.EMBEDDING,
        "embed": LAYER_TYPE.DENSE,
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("mode", MODES)
def test_element_types_are_kept(dtype: str, mode: str) -> None:
    module = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 100)).to(getattr(torch, dtype))
    args = torch.randn(2, 8, dtype=getattr(torch, dtype))
    model = to_onnx(module, args if mode == "graph" else None)
    wanted = ir.DataType[{"float64": "DOUBLE"}.get(dtype, dtype.upper())]
    assert {value.const_value.dtype for value in model.graph.initializers.values()} == {wanted}
    for index, layer in zip((0, 2), find(model).layers, strict=True):
        assert layer.dtype == wanted.name.lower()
        assert np.array_equal(layer.read().astype(np.float64), module[index].weight.detach().double().numpy())


def test_float8_weights() -> None:
    module = nn.Module()
    module.register_buffer("fc_weight", torch.randn(8, 12).to(torch.float8_e4m3fn))
    (layer,) = find(to_onnx(module)).layers
    assert layer.dtype == "float8e4m3fn"
    assert np.array_equal(layer.read().astype(np.float32), module.fc_weight.float().numpy())


def test_other_memory_formats() -> None:
    module = nn.Conv2d(8, 16, 3).to(memory_format=torch.channels_last)
    (layer,) = find(to_onnx(module, verify=True)).layers
    assert np.array_equal(layer.read(), module.weight.detach().numpy())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_keyword_arguments_and_wrappers() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * scale

    module = Net()
    given = {"scale": torch.randn(2, 1), "x": torch.randn(2, 8)}
    for wrapped in (module, nn.DataParallel(module), torch.compile(module)):
        for args in (None, given):
            (layer,) = find(to_onnx(wrapped, args, verify=True)).layers
            assert (layer.name, layer.longname) == ("fc", "fc.weight")


def test_integers_stay_in_their_range() -> None:
    module = nn.Sequential(nn.Embedding(3, 100), nn.Flatten(), nn.Linear(400, 5))
    model = to_onnx(module, torch.tensor([[0, 1, 2, 1]]), verify=True)
    assert verify.DIFFERENCE in model.metadata_props


def test_buffers_that_are_not_saved_are_no_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 5))
    module.register_buffer("mixing", torch.randn(6, 6))
    module.register_buffer("angles", torch.randn(6, 6), persistent=False)
    assert set(to_onnx(module, verify=True).graph.initializers) == set(module.state_dict())


def test_bilinear_has_a_matrix_for_each_output() -> None:
    found = find(to_onnx(nn.Bilinear(4, 5, 3))).layers
    assert [(layer.name, layer.matrix_shape) for layer in found] == [(f"weight.{n}", (1, 4, 5)) for n in range(3)]


def test_a_subclass_without_its_bases_weight() -> None:
    class Factored(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 5)
            del self.weight
            self.u, self.v = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 4))

    assert set(layers(to_onnx(nn.Sequential(Factored())))) == {"0.u", "0.v"}


@pytest.mark.filterwarnings("ignore")  # peft's and bitsandbytes' own
@pytest.mark.parametrize("mode", MODES)
def test_lora_updates(mode: str) -> None:
    """Factors of an adapter, under their names; analysed as the update that they make."""
    peft = pytest.importorskip("peft")
    module = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 100))
    adapted = peft.get_peft_model(module, peft.LoraConfig(r=8, lora_alpha=8, target_modules=["0", "2"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    expected = effective(adapted)
    model = to_onnx(adapted, torch.randn(2, 96) if mode == "graph" else None, verify=True)
    found = layers(model)
    assert {layer.longname for layer in found.values()} == set(expected)
    for layer in found.values():
        assert layer.matrices()[0].tobytes() in (
            expected[layer.longname].tobytes(),
            expected[layer.longname].T.tobytes(),
        )
    details = ww.WeightWatcher(model=model).analyze(peft=True, min_evals=2)
    assert len(details) == 2
    for row, index in zip(details.itertuples(), (0, 2), strict=True):
        parts = [expected[f"base_model.model.{index}.lora_{factor}.default.weight"] for factor in "BA"]
        update = parts[0].astype(np.float64) @ parts[1].astype(np.float64)
        assert np.isclose(row.lambda_max, np.linalg.norm(update, 2) ** 2, rtol=1e-4)


def test_hugging_face_caches_are_left_out() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    module = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=40, **sizes))
    model = to_onnx(module, {"input_ids": torch.randint(0, 40, (1, 6))}, verify=True)
    assert module.config.use_cache is True
    assert len(model.graph.outputs) == 1
    assert set(layers(model)) == set(layers(to_onnx(module)))


# Saving


def test_large_weights_go_beside_the_model(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4200, 4096), nn.Linear(4096, 10))
    path = tmp_path / "large.onnx"
    model = to_onnx(module, path=path, verify=True)
    assert path.stat().st_size < 10_000
    assert (tmp_path / "large.onnx.data").stat().st_size > 4 * 4200 * 4096
    assert isinstance(model.graph.initializers["0.weight"].const_value, ir.ExternalTensor)
    with torch.no_grad():
        expected = module[0].weight.numpy().copy()
        module[0].weight.zero_()
    assert np.array_equal(layers(path)["0"].read(), expected)
    assert int(onnx.load(path, load_external_data=False).metadata_props[-1].value) == 4200 * 4096 + 4096 * 11 + 10


def test_a_path_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no directory"):
        to_onnx(nn.Linear(3, 4), path=tmp_path / "none" / "m.onnx")


# What is refused


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(x)


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


@pytest.mark.filterwarnings("ignore")  # lazy and quantised modules warn that they are to change
def test_refusals() -> None:
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
    sparse = nn.Linear(4, 4)
    sparse.weight = nn.Parameter(sparse.weight.detach().to_sparse())
    lazy = nn.Sequential(nn.LazyLinear(4))
    with torch.device("meta"):
        empty = nn.Linear(4, 4)
    exotic = nn.Module()
    exotic.register_buffer("w", torch.empty(4, 4, dtype=torch.complex32))
    cases: list[tuple[Any, Any, str]] = [
        (exotic, None, "'w' is of type torch.complex32"),
        (lazy, None, "'0.weight' is not initialised"),
        (empty, None, "'weight' is on the meta device"),
        (quantised, None, "is quantised"),
        (sparse, None, "sparse"),
        ("model.pt", None, "is no torch.nn.Module"),
        (nn.Linear(4, 4), torch.randn(3, 5), "can't export the model"),
        (Branch(), torch.randn(3), "can't export the model"),
    ]
    for module, args, reason in cases:
        with pytest.raises(ConversionError, match=reason) as refused:
            to_onnx(module, args)
        assert "\n" not in str(refused.value)


def test_a_difference_is_an_error() -> None:
    with pytest.raises(ConversionError, match="differs by"):
        to_onnx(Random(), torch.randn(3, 4), verify=True)


def test_a_failed_export_leaves_the_model_as_it_was() -> None:
    module, _ = made("computed", "tiny")
    module.train()
    before = state(module)
    with pytest.raises(ConversionError, match="can't export"):
        to_onnx(module, torch.randn(3))
    assert same(before, state(module))


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    module, args = made("resnet", "tiny")
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            to_onnx(module, args)
        assert capfd.readouterr() == ("", "")
        logging.getLogger("onnxscript").warning("still heard")
    finally:
        logging.root.removeHandler(handler)
    assert [record.getMessage() for record in records] == ["still heard"]
    assert not warned
    assert not handler.filters

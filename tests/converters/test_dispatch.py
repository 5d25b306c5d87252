"""Any source finds its converter, imports nothing that it doesn't need, and says in one line what is missing."""

from __future__ import annotations

import collections
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from build_models import gaussian
from build_onnx import dense_model, save
from building_safetensors import write, write_sharded

import wwonnx as ww
from wwonnx.converters import to_onnx
from wwonnx.converters.dispatch import Origin, find_origin, open_source
from wwonnx.errors import ConversionError, ModelError

h5py = pytest.importorskip("h5py")
pytest.importorskip("safetensors")
WEIGHTS = {"fc1.weight": gaussian(60, 50), "fc2.weight": gaussian(20, 60, seed=1)}


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")
    return path


def written(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def hdf5(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.0"
    return path


class Malicious:
    """What runs code when a pickle that holds it is loaded."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


PICKLE = pickle.dumps({"a": 1}, protocol=2)
PATHS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "onnx": (lambda f: save(dense_model({"fc": gaussian(20, 20)}), f / "m.onnx"), "onnx"),
    "onnx without its ending": (lambda f: save(dense_model({"fc": gaussian(20, 20)}), f / "m"), "onnx"),
    "onnx under pb": (lambda f: save(dense_model({"fc": gaussian(20, 20)}), f / "m.pb"), "onnx"),
    "nothing there": (lambda f: f / "m.pt", "onnx"),
    "safetensors": (lambda f: write(f / "m.safetensors", WEIGHTS), "safetensors"),
    "safetensors under another name": (lambda f: write(f / "blob", WEIGHTS), "safetensors"),
    "an index": (lambda f: written(f / "model.safetensors.index.json"), "safetensors"),
    "a folder of safetensors": (lambda f: write(f / "m" / "x.safetensors", WEIGHTS).parent, "safetensors"),
    "an adapter": (lambda f: written(f / "m" / "adapter_config.json").parent, "safetensors"),
    "a checkpoint": (lambda f: zipped(f / "m.pt", "m/data.pkl", "m/data/0"), "state_dict"),
    "an old checkpoint": (lambda f: written(f / "m.pth", PICKLE), "state_dict"),
    "a checkpoint without its ending": (lambda f: written(f / "m", PICKLE), "state_dict"),
    "TorchScript": (lambda f: zipped(f / "m.pt", "m/data.pkl", "m/constants.pkl"), "state_dict"),
    "Lightning": (lambda f: zipped(f / "m.ckpt", "m/data.pkl"), "state_dict"),
    "shards of pickles": (lambda f: written(f / "pytorch_model.bin.index.json"), "state_dict"),
    "a folder of a pickle": (lambda f: written(f / "m" / "pytorch_model.bin").parent, "state_dict"),
    "keras": (lambda f: zipped(f / "m.keras", "config.json", "model.weights.h5"), "keras"),
    "keras under another name": (lambda f: zipped(f / "m.model", "config.json", "model.weights.h5"), "keras"),
    "h5": (lambda f: hdf5(f / "m.h5"), "keras"),
    "hdf5": (lambda f: hdf5(f / "m.hdf5"), "keras"),
    "h5 under another name": (lambda f: hdf5(f / "m.ckpt"), "keras"),
    "a SavedModel": (lambda f: written(f / "m" / "saved_model.pb").parent, "keras"),
    "what a SavedModel is in": (lambda f: written(f / "m" / "saved_model.pb", b"\x08\x01"), "keras"),
    "a frozen graph": (lambda f: written(f / "m.pb", b"\n\x10"), "keras"),
    "a folder of an onnx": (lambda f: save(dense_model({}), f / "m.onnx").parent, "onnx"),
    "a broken archive": (lambda f: written(f / "m.pt", b"PK\x03\x04broken"), "state_dict"),
    "an empty file": (lambda f: written(f / "m.keras"), "keras"),
}


@pytest.mark.parametrize(("make", "kind"), PATHS.values(), ids=PATHS)
def test_paths(make: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    assert find_origin(path).kind == kind
    assert find_origin(str(path)) == find_origin(path)


def test_folders_are_given_as_their_converter_takes_them(tmp_path: Path) -> None:
    saved = written(tmp_path / "m" / "saved_model.pb").parent
    assert find_origin(saved) == find_origin(saved / "saved_model.pb") == Origin("keras", saved)
    pickled = written(tmp_path / "n" / "pytorch_model.bin").parent
    assert find_origin(pickled) == Origin("state_dict", pickled / "pytorch_model.bin")


def test_a_folder_of_nothing_says_what_is_read(tmp_path: Path) -> None:
    written(tmp_path / "README.md")
    with pytest.raises(ModelError, match=r"holds no model of a kind that wwonnx reads: ONNX files; \.safetensors"):
        ww.WeightWatcher(tmp_path)


def test_a_folder_of_folders_says_which(tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        write(tmp_path / name / "diffusion_pytorch_model.safetensors", WEIGHTS)
    with pytest.raises(ModelError, match=r"holds models in the folders unet, vae; name one of them"):
        ww.WeightWatcher(tmp_path)
    assert len(ww.describe(tmp_path / "vae")) == 2


@pytest.mark.parametrize("name", ["m.pickled", "notes.txt", "m.npz"])
def test_an_unknown_ending_says_what_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"not an ONNX model.* wwonnx reads ONNX files; \.safetensors files") as caught:
        ww.WeightWatcher(written(tmp_path / name, b"some text"))
    assert str(caught.value).isprintable()


def test_an_object_of_no_kind_says_what_is_read() -> None:
    with pytest.raises(ModelError, match=r"can't read a builtins\.int: give an onnx\.ModelProto.*PyTorch modules"):
        ww.WeightWatcher(7)


def test_models_in_memory() -> None:
    proto = dense_model({"fc": gaussian(20, 20)})
    for model in (proto, ir.from_proto(proto), proto.SerializeToString()):
        assert find_origin(model).kind == "onnx"
        assert ww.describe(model).name.tolist() == ["fc"]
    assert find_origin(collections.OrderedDict(WEIGHTS)).kind == "state_dict"
    source = open_source(proto)
    assert open_source(source) is source


def test_onnx_is_not_converted(tmp_path: Path) -> None:
    path = save(dense_model({"fc": gaussian(20, 20)}), tmp_path / "m.onnx")
    with pytest.raises(ConversionError, match="is an ONNX model already"):
        to_onnx(path)
    with pytest.raises(ModelError, match="no such file"):
        to_onnx(tmp_path / "nothing.onnx")


def test_what_belongs_to_one_kind_is_refused_of_others(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", WEIGHTS)
    with pytest.raises(ConversionError, match="only torch and Keras models take example inputs"):
        to_onnx(path, args=(1,))
    with pytest.raises(ConversionError, match="is no adapter, and takes no base"):
        to_onnx(path, base=path)


class TestTorch:
    """Live modules, as they are."""

    @pytest.fixture
    def module(self) -> Any:
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        return torch.nn.Sequential(
            collections.OrderedDict(
                conv=torch.nn.Conv2d(3, 16, 3), norm=torch.nn.BatchNorm2d(16), fc=torch.nn.Linear(64, 40)
            )
        )

    def test_every_method_takes_a_module(self, module: Any) -> None:
        watcher = ww.WeightWatcher(module)
        assert watcher.describe().name.tolist() == ["conv", "fc"]
        assert repr(watcher) == "WeightWatcher(model='<Sequential>')"
        assert watcher.sha256() is None
        details = ww.WeightWatcher().analyze(model=module)
        assert details.name.tolist() == ["conv", "fc"]
        assert ww.analyze(module).equals(details)
        assert watcher.get_ESD(model=module, layer="fc").shape == (40,)
        (weight,) = watcher.get_weights(model=module, layer="fc")
        assert np.array_equal(weight, module.fc.weight.detach().numpy())
        mean, _, frame = watcher.distances(module, module)
        assert mean == 0.0
        assert frame.status.tolist() == ["success"] * 2
        delta = watcher.analyze(model=module, base_model=module, min_evals=1)
        assert (delta.log_norm.isna() | np.isneginf(delta.log_norm)).all() or (delta.norm == 0).all()
        smoothed = watcher.SVDSmoothing(model=module, method="svd", percent=0.5)
        assert isinstance(smoothed.model, onnx.ModelProto)
        assert set(watcher.SVDSharpness(model=module).table.name) == {"conv", "fc"}

    def test_a_module_and_its_checkpoint_are_the_same(self, module: Any, tmp_path: Path) -> None:
        state = {name: value.numpy() for name, value in module.state_dict().items() if value.ndim}
        path = write(tmp_path / "model.safetensors", state)
        _, _, frame = ww.WeightWatcher().distances(module, path)
        assert frame.delta_W.tolist() == [0.0, 0.0]
        alpha = ww.analyze(path).set_index("name").alpha
        assert ww.analyze(module).set_index("name").alpha.equals(alpha[["conv", "fc"]])

    @pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
    def test_a_script_module_and_its_archive(self, module: Any, tmp_path: Path) -> None:
        import torch

        scripted = torch.jit.script(module)
        scripted.save(tmp_path / "m.pt")
        with pytest.raises(ConversionError, match="TorchScript"):  # it is a program, and nothing in a file is run
            ww.describe(tmp_path / "m.pt")
        assert ww.describe(scripted).name.tolist() == ["conv", "fc"]

    def test_a_base_class_of_another_package_does_not_confuse(self, module: Any) -> None:
        class Own(type(module)):  # type: ignore[misc]
            pass

        assert find_origin(Own()).kind == "torch"


ISOLATED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from wwonnx.cli.main import main
code = main({arguments!r})
loaded = sorted({{name.partition(".")[0] for name, module in sys.modules.items() if module is not None}})
print("LOADED", *loaded)
sys.exit(code)
"""
FRAMEWORKS = ("torch", "tensorflow", "keras", "tf2onnx", "h5py", "transformers", "jax")


def isolated(*arguments: Any, blocked: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in which these packages are not installed."""
    code = ISOLATED.format(blocked=blocked, arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_safetensors_need_no_framework(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", WEIGHTS)
    result = isolated("analyze", path, blocked=(*FRAMEWORKS, "safetensors"))
    assert (result.returncode, result.stderr) == (0, "")
    loaded = result.stdout.splitlines()[-1].split()[1:]
    assert not set(loaded) & {*FRAMEWORKS, "safetensors"}


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [
        (lambda f: zipped(f / "m.pt", "m/data.pkl"), "torch", "torch"),
        (lambda f: write(f / "m.safetensors", WEIGHTS), "safetensors", "safetensors"),
    ],
)
def test_a_missing_package_is_one_line_with_the_command(
    make: Callable[[Path], Path], package: str, extra: str, tmp_path: Path
) -> None:
    arguments = ("convert", make(tmp_path), "--verify", "-o", tmp_path / "m.onnx")
    result = isolated(*arguments, blocked=(package,))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert f"pip install 'wwonnx[{extra}]'" in line


class TestCommands:
    """Every command takes sources as they are, under the user's own path."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        write(tmp_path / "net" / "model.safetensors", WEIGHTS)
        (tmp_path / "net" / "config.json").write_text(json.dumps({"architectures": ["Net"]}))
        return tmp_path / "net"

    def main(self, *arguments: Any) -> int:
        from wwonnx.cli.main import main

        return main([str(argument) for argument in arguments])

    def json(self, capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
        assert self.main(*arguments, "--format", "json") == 0
        return json.loads(capsys.readouterr().out)

    def test_analyze_describe_inventory(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for command in ("analyze", "describe", "inventory"):
            document = self.json(capsys, command, folder, folder / "model.safetensors")
            first, second = document["models"]
            assert [first["model"], second["model"]] == [str(folder), str(folder / "model.safetensors")]
            assert [row["name"].removesuffix(".weight") for row in first["rows"]] == ["fc1", "fc2"]
            assert first["rows"] == second["rows"]

    def test_hashes(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Of one file its own; of several that of the list that sha256sum prints."""
        lines = subprocess.run(
            ["sha256sum", "config.json", "model.safetensors"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
        whole = subprocess.run(["sha256sum"], input=lines, capture_output=True, text=True, check=True).stdout.split()[0]
        (entry,) = self.json(capsys, "describe", folder)["models"]
        assert entry["sha256"] == whole
        (folder / "config.json").unlink()
        (entry,) = self.json(capsys, "describe", folder)["models"]
        assert entry["sha256"] == lines.splitlines()[1].split()[0]

    def test_distances_and_smooth(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = tmp_path / "smooth.onnx"
        assert self.main("smooth", folder, "-o", output, "--method", "svd", "--percent", "0.5") == 0
        assert f"{output}: 2 of 2 layers changed" in capsys.readouterr().out
        document = self.json(capsys, "distances", folder, output)
        assert [row["status"] for row in document["models"][0]["rows"]] == ["success"] * 2
        assert all(0 < row["relative"] < 1 for row in document["models"][0]["rows"])
        ranks = ww.analyze(output).matrix_rank.tolist()
        assert ranks == [25, 10]

    def test_compare_and_base_model(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = write(tmp_path / "other.safetensors", {name: 2 * array for name, array in WEIGHTS.items()})
        assert self.main("compare", folder, other) == 0
        assert "other" in capsys.readouterr().out
        document = self.json(capsys, "analyze", other, "--base-model", folder)
        assert [row["name"] for row in document["models"][0]["rows"]] == ["fc1", "fc2"]

    def test_convert(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.main("convert", folder, "--verify") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{folder / 'model.onnx'}: 2 layers with 4,200 weights, 2 tensors, ")
        assert lines[1] == "The weights are in model.safetensors: keep them where they are to it."
        assert lines[2] == "Verified: 4,200 weights equal the source's bit for bit."
        assert self.main("convert", folder) == 2
        assert "is there already: name another file with -o, or this one to replace it" in capsys.readouterr().err
        assert self.main("convert", folder / "model.safetensors", "-o", folder / "model.onnx") == 0
        assert ww.describe(folder / "model.onnx").name.tolist() == ["fc1", "fc2"]

    @pytest.mark.parametrize("command", ["analyze", "describe", "inventory", "convert", "smooth", "distances"])
    def test_broken_sources_are_one_line_and_exit_code_2(
        self, command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = (folder / "model.safetensors").read_bytes()
        shards = write_sharded(tmp_path / "sharded", [{"a.weight": gaussian(20, 20)}, {"b.weight": gaussian(20, 20)}])
        (shards / "model-00002-of-00002.safetensors").unlink()
        lora = {"fc.lora_A.weight": gaussian(4, 20), "fc.lora_B.weight": gaussian(20, 4)}
        adapter = write(tmp_path / "lora" / "adapter_model.safetensors", lora).parent
        (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 4}')
        ran = tmp_path / "ran"
        (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Malicious(ran)}))
        broken = {
            written(tmp_path / "short.safetensors", content[:-8]): "is cut short",
            shards: "shard model-00002-of-00002.safetensors of 2 is missing",
            written(tmp_path / "type.safetensors", content.replace(b"F32", b"F33")): "unknown dtype 'F33'",
            written(tmp_path / "none.safetensors", content.replace(b'"dtype": "F32", ', b" " * 16, 1)): "has no dtype",
            tmp_path / "evil.pt": "refused",
            tmp_path / "nothing": "no such file",
        }
        more = {"smooth": ["-o", tmp_path / "x.onnx"], "distances": [folder], "convert": ["-o", tmp_path / "x.onnx"]}
        for path, message in broken.items():
            assert self.main(command, path, *more.get(command, [])) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line
            assert str(path) in line
        assert not ran.exists()
        assert self.main("analyze", adapter, "--peft", "with_base") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "its base model is not on this machine" in line

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("{f}", "-o", "{f}/model.pt"), "name a file that ends in .onnx"),
            (("{f}", "-o", "{f}/no/m.onnx"), "there is no directory"),
            (("{f}", "--base", "{f}", "-o", "{f}/m.onnx"), "is no adapter, and takes no base"),
            (("{f}", "--base", "{f}"), "--base: name the file to write with -o"),
            (("{f}/nothing.pt",), "no such file"),
            (("examples/digits_cnn.onnx",), "is an ONNX model already: there is nothing to convert"),
            (("{f}/config.json",), "is a text file, not an ONNX model"),
        ],
    )
    def test_what_can_t_be_converted(
        self, arguments: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = sorted(folder.iterdir())
        assert self.main("convert", *(argument.format(f=folder) for argument in arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert sorted(folder.iterdir()) == before

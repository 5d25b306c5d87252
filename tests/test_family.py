"""The family of networks that the project ships is what its table says."""

from __future__ import annotations

import csv
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import onnx
import pytest

import wwonnx as ww

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DEPTHS = {"depth2": 2, "depth3": 3, "depth4": 4, "depth8": 8}


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "accuracies.csv").open() as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def test_four_depths_small_unfolded_and_silent_about_the_machine() -> None:
    rows = table(EXAMPLES / "family")
    assert {name: int(row["depth"]) for name, row in rows.items()} == DEPTHS
    for name, depth in DEPTHS.items():
        path = EXAMPLES / "family" / f"{name}.onnx"
        assert path.stat().st_size <= 300_000
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == depth
        names = [f"convs.{index}" for index in range(depth)] + ["fc1", "fc2"]
        assert ww.describe(path, min_evals=0).name.tolist() == names
        content = path.read_bytes()
        assert not [word for word in (b"/home", b"/root", b"/tmp", b"/Users", b".py") if word in content]


def test_depth_helps_by_more_than_the_noise_between_trainings() -> None:
    rows = [table(EXAMPLES / "family")[name] for name in DEPTHS]
    for shallow, deep in pairwise(rows):
        gain = float(deep["mean"]) - float(shallow["mean"])
        spread = max(float(deep["std"]), float(shallow["std"]))
        assert gain > 2 * spread / 4**0.5  # two standard errors of a mean of four


def test_accuracies_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train_digits_family as family
    from train_digits_cnn import accuracy

    images, labels = family.load_test()
    for name, row in table(EXAMPLES / "family").items():
        correct, total = accuracy(EXAMPLES / "family" / f"{name}.onnx", images, labels)
        # Another CPU may round an image that lies on the border to the other side.
        assert 100 * correct / total == pytest.approx(float(row["accuracy"]), abs=0.1)
        assert total == 9000


def test_the_script_trains_exports_and_measures(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    script = EXAMPLES / "train_digits_family.py"
    chosen = ["--depths", "2", "--epochs", "2", "--seeds", "1", "--output", str(tmp_path / "family")]
    command = [sys.executable, str(script), *chosen]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = table(tmp_path / "family")
    assert list(rows) == ["depth2"]
    assert all(float(row["accuracy"]) > 10 for row in rows.values())
    assert all(row["mean"] == row["accuracy"] for row in rows.values())

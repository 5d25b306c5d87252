"""The network that the project ships is what the README says it is."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import wwonnx as ww

ROOT = Path(__file__).resolve().parent.parent


def test_accuracy_of_the_readme(digits: Path) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16.0).astype(np.float32)[:, None]
    _, test_x, _, test_y = train_test_split(images, data.target, test_size=0.25, random_state=0, stratify=data.target)
    session = onnxruntime.InferenceSession(str(digits))
    (scores,) = session.run(None, {session.get_inputs()[0].name: test_x})
    correct = int((scores.argmax(axis=1) == test_y).sum())
    readme = (ROOT / "README.md").read_text()
    stated = re.search(r"([\d.]+) % of the test images \((\d+) of (\d+)\)", readme)
    assert stated is not None
    assert (correct, len(test_y)) == (int(stated[2]), int(stated[3]))
    assert 100 * correct / len(test_y) == pytest.approx(float(stated[1]), abs=0.005)


def test_it_is_small_and_unfolded_and_tells_nothing_of_the_machine(digits: Path) -> None:
    assert digits.stat().st_size <= 400_000
    model = onnx.load(digits)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 3
    assert not ww.analyze(digits).folded.any()
    content = digits.read_bytes()
    assert not [word for word in (b"/home", b"/root", b"/tmp", b"/Users", b".py") if word in content]


def test_readme_shows_what_the_command_prints(digits: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    for row in ww.analyze(digits).to_dict("records"):
        line = next(line for line in readme.splitlines() if line.split()[1:2] == [row["name"]])
        assert f"{row['alpha']:.3f}" in line


def test_readme_holds_exactly_two_commands_of_set_up() -> None:
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("pip install")]
    assert commands == [
        "pip install . && wwonnx analyze examples/digits_cnn.onnx",
        "pip install '.[test]' && pytest",
    ]


def test_training_gives_a_network_as_good(tmp_path: Path) -> None:
    """Two epochs of the real script: it trains, exports, checks itself, and the file is analysed."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import subprocess
    import sys

    script = ROOT / "examples" / "train_digits_cnn.py"
    output = tmp_path / "short.onnx"
    command = [sys.executable, str(script), "--epochs", "2", "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert ww.analyze(output).name.tolist() == ["conv1", "conv2", "conv3", "fc1", "fc2"]

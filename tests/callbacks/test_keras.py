"""The monitor as a callback of the real Keras, on two backends, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_onnx import dense_model

import wwonnx as ww

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module", params=["tensorflow", "torch"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    for package in ("keras", request.param):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    output = tmp_path_factory.mktemp("keras") / "told.json"
    environment = {**os.environ, "KERAS_BACKEND": request.param, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(TESTS / "keras_training.py"), str(output)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    told = json.loads(output.read_text())
    assert told["backend"] == request.param
    return told | {"printed": result.stdout}


def test_training_is_the_same_bit_for_bit(told: dict[str, Any]) -> None:
    assert told["changed"] == []
    assert told["seeds"] == 1


def test_metrics_are_those_of_the_live_weights(told: dict[str, Any]) -> None:
    assert [epoch for epoch, _ in told["logged"]] == [1, 2, 3]
    kernels = {name: np.array(kernel, "f4") for name, kernel in told["kernels"].items()}
    details = ww.analyze(dense_model(kernels)).set_index("name")
    last = told["logged"][-1][1]
    for name in kernels:
        assert last[f"wwonnx/{name}/alpha"] == pytest.approx(details.alpha[name], rel=1e-9)
    assert len({metrics["wwonnx/head/alpha"] for _, metrics in told["logged"]}) == 3


def test_history_has_the_mean_alpha_beside_the_loss(told: dict[str, Any]) -> None:
    assert set(told["history"]) == {"loss", "wwonnx/alpha"}
    assert told["history"]["wwonnx/alpha"] == [metrics["wwonnx/alpha"] for _, metrics in told["logged"]]


def test_the_cost_is_printed(told: dict[str, Any]) -> None:
    lines = [line for line in told["printed"].splitlines() if line.startswith("wwonnx")]
    assert [line.split(":")[0] for line in lines] == ["wwonnx epoch 1", "wwonnx epoch 2", "wwonnx epoch 3"]
    assert all(line.endswith(" s") for line in lines)


def test_the_signal_stops_the_training(told: dict[str, Any]) -> None:
    assert told["stop"]
    assert told["ran"] == [1, 2]


def test_what_can_t_be_monitored_is_said_before_training(told: dict[str, Any]) -> None:
    assert "nosuch" in told["refused"]

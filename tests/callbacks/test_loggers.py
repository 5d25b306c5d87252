"""The numbers arrive at real loggers, by the loggers' own calls."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch_training as training

from wwonnx.callbacks import Monitor


def watch(log: Any) -> Monitor:
    """Two epochs of one net."""
    monitor = Monitor(log=log, threshold=None, verbose=False)
    net = training.Net()
    for epoch in (3, 4):
        monitor(net, epoch)
    return monitor


@pytest.mark.parametrize("method_alone", [False, True])
def test_tensorboard(tmp_path: Path, method_alone: bool) -> None:
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(tmp_path)) as writer:
            monitor = watch(writer.add_scalar if method_alone else writer)
        events = EventAccumulator(str(tmp_path))
        events.Reload()
    assert set(events.Tags()["scalars"]) == set(monitor.measurements[0].metrics)
    for tag in events.Tags()["scalars"]:
        for event, measured in zip(events.Scalars(tag), monitor.measurements, strict=True):
            assert event.step == measured.epoch
            assert event.value == pytest.approx(measured.metrics[tag], rel=1e-6)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is enough here
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
        with mlflow.start_run() as run:
            monitor = watch(mlflow)
        client = mlflow.MlflowClient()
        for name in ("wwonnx/alpha", "wwonnx/fc/alpha", "wwonnx/seconds"):
            kept = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
            assert kept == [(one.epoch, one.metrics[name]) for one in monitor.measurements]
        mlflow.set_tracking_uri(None)


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with wandb.init(mode="offline", dir=str(tmp_path), project="test") as run:
            for step in range(10):
                run.log({"loss": 1.0 / (step + 1)})  # its steps are batches, and ahead of our epochs
            monitor = watch(run)
            assert run.summary["wwonnx/alpha"] == pytest.approx(monitor.measurements[-1].metrics["wwonnx/alpha"])
            assert run.summary["wwonnx/epoch"] == 4


def test_functions_several_loggers_and_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[dict[str, float], int]] = []
    other: list[int] = []

    class Own:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            other.append(step)

    with caplog.at_level(logging.INFO, "mine"):
        monitor = watch([lambda metrics, epoch: seen.append((metrics, epoch)), Own(), logging.getLogger("mine")])
    assert seen == [(dict(one.metrics), one.epoch) for one in monitor.measurements]
    assert other == [3, 4]
    assert [message.split(":")[0] for message in caplog.messages] == ["epoch 3", "epoch 4"]


def test_a_logger_can_t_change_the_measurement() -> None:
    monitor = watch(lambda metrics, epoch: metrics.clear())
    assert "wwonnx/alpha" in monitor.measurements[0].metrics

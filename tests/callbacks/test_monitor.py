"""The monitor in a plain loop: what it measures, when it warns, and that it leaves no trace in the training."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_training as training  # noqa: E402
from build_onnx import dense_model  # noqa: E402
from torch import nn  # noqa: E402

import wwonnx as ww  # noqa: E402
from wwonnx.callbacks import Monitor  # noqa: E402


def heavy() -> nn.Sequential:
    """One over-trained layer of 80 eigenvalues, one good one, and one over-trained one that is too short to tell."""
    net = nn.Sequential(nn.Linear(80, 100), nn.Linear(100, 90), nn.Linear(20, 25))
    with torch.no_grad():
        net[0].weight.copy_(training.heavy_tailed())
        net[2].weight.copy_(training.heavy_tailed(25, 20))
        generator = torch.Generator().manual_seed(0)
        net[1].weight.copy_(torch.randn(90, 100, generator=generator))
    return net


def test_training_is_the_same_bit_for_bit() -> None:
    _, plain, _ = training.train()
    monitor = Monitor(threshold=None, verbose=False, randomize=True)
    _, watched, _ = training.train(monitor)
    assert len(monitor.measurements) == training.EPOCHS
    assert watched == plain


def test_metrics_are_those_of_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[dict[str, float], int]] = []
    monitor = Monitor(log=lambda metrics, epoch: seen.append((metrics, epoch)), threshold=None, metrics=["alpha", "D"])
    net, _, _ = training.train(monitor, epochs=2)
    metrics, epoch = seen[-1]
    assert epoch == 1
    weights = {name: getattr(net, name).weight.detach().numpy().T.copy() for name in ("frozen", "fc")}
    details = ww.analyze(dense_model(weights)).set_index("name")
    for name in weights:
        for metric in ("alpha", "D"):
            assert metrics[f"wwonnx/{name}/{metric}"] == pytest.approx(details.loc[name, metric], rel=1e-9)
    alphas = [value for name, value in metrics.items() if name.count("/") == 2 and name.endswith("/alpha")]
    assert len(alphas) == 3
    assert metrics["wwonnx/alpha"] == pytest.approx(np.mean(alphas))
    assert metrics["wwonnx/failed"] == 0
    assert {name.split("/")[0] for name in metrics} == {"wwonnx"}
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in metrics.values())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["wwonnx epoch 0", "wwonnx epoch 1"]
    assert lines[1].endswith(" s")
    assert 0.0 < metrics["wwonnx/seconds"] < 60.0
    assert float(lines[1].split()[-2]) == pytest.approx(metrics["wwonnx/seconds"], rel=0.01)


def test_the_weights_are_live_at_every_epoch() -> None:
    monitor = Monitor(threshold=None, verbose=False)
    training.train(monitor)
    history = monitor.history
    assert history.index.tolist() == [0, 1, 2, 3]
    assert history["wwonnx/fc/alpha"].nunique() == 4
    assert history["wwonnx/frozen/alpha"].nunique() == 1


@pytest.mark.parametrize(("every", "epochs"), [(1, [0, 1, 2, 3]), (2, [0, 2]), (3, [0, 3])])
def test_every(every: int, epochs: list[int]) -> None:
    monitor = Monitor(every=every, threshold=None, verbose=False)
    training.train(monitor)
    assert [one.epoch for one in monitor.measurements] == epochs


def test_calls_are_counted_where_no_epoch_is_given() -> None:
    monitor = Monitor(every=2, threshold=None, verbose=False)
    for _ in range(5):
        monitor(training.Net())
    assert [one.epoch for one in monitor.measurements] == [2, 4]


def test_an_alpha_below_two_raises_the_signal(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor()
    assert monitor(heavy(), 0)
    assert list(monitor.measurements[0].below) == ["0"]
    assert monitor.measurements[0].below["0"] == monitor.measurements[0].metrics["wwonnx/0/alpha"] < 2
    # The last layer's alpha is as low, but 20 eigenvalues are too few to stop a training for.
    assert monitor.measurements[0].metrics["wwonnx/2/alpha"] < 2
    assert "alpha below 2 (0 1." in capsys.readouterr().out
    assert monitor(heavy(), 1)
    assert "stop" not in capsys.readouterr().out  # said once


def test_no_signal_without_cause() -> None:
    assert not Monitor(verbose=False, layers="1")(heavy())
    assert not Monitor(verbose=False, threshold=None)(heavy())
    assert not Monitor(verbose=False, threshold=1.2)(heavy())
    assert not Monitor(verbose=False, layers="2")(heavy())


def test_criterion_mean() -> None:
    alpha = ww.analyze(ww.converters.torch.to_onnx(heavy())).alpha.mean()
    assert Monitor(verbose=False, criterion="mean", threshold=alpha + 0.01)(heavy())
    assert not Monitor(verbose=False, criterion="mean", threshold=alpha - 0.01)(heavy())


def test_patience_counts_analyses_in_a_row() -> None:
    monitor, good, bad = Monitor(patience=2, verbose=False), training.Net(), heavy()
    assert [monitor(net) for net in (bad, good, bad, bad, good)] == [False, False, False, True, True]


def test_a_new_training_takes_the_signal_back() -> None:
    monitor = Monitor(verbose=False)
    assert monitor(heavy())
    monitor.start(training.Net())
    assert not monitor.should_stop


def test_training_ends_when_told() -> None:
    monitor = Monitor(verbose=False, threshold=1000.0)
    _, _, ran = training.train(monitor)
    assert ran == 1


def test_broken_weights_are_counted_and_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    net = training.Net()
    with torch.no_grad():
        net.fc.weight[0, 0] = math.nan
    monitor = Monitor(threshold=None)
    assert not monitor(net)
    metrics = monitor.measurements[0].metrics
    assert metrics["wwonnx/failed"] == 1
    assert "wwonnx/fc/alpha" not in metrics
    assert "wwonnx/frozen/alpha" in metrics
    assert "1 of 3 layers failed" in capsys.readouterr().out


def test_a_model_that_can_no_longer_be_read_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(threshold=None, verbose=False)
    monitor(training.Net())
    with caplog.at_level(logging.WARNING, "wwonnx"):
        assert monitor.measure("no module", 7) is None
    assert caplog.messages[0].startswith("epoch 7 is not monitored: ")
    assert len(monitor.measurements) == 1


def test_what_can_t_be_monitored_is_said_at_the_start() -> None:
    with pytest.raises(ww.ModelError, match="no layer to monitor"):
        Monitor().start(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ww.OptionError, match="nosuch"):
        Monitor(layers="nosuch").start(training.Net())
    with pytest.raises(ww.ConversionError):
        Monitor()("no module")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0"),
        ({"patience": 0}, "patience=0"),
        ({"threshold": "two"}, "threshold='two'"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"criterion": "all"}, "criterion='all'"),
        ({"metrics": "alfa"}, "did you mean 'alpha'"),
        ({"metrics": ["detX_num"]}, "detX_num"),
        ({"min_eval": 5}, "min_eval: neither Monitor nor WeightWatcher.analyze"),
        ({"fit": "XYZ"}, "fit='XYZ'"),
        ({"log": 3}, "log=3"),
        ({"log": "file.csv"}, "log='file.csv'"),
    ],
)
def test_bad_options_are_refused_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ww.OptionError, match=message.replace("(", r"\(")):
        Monitor(**options)


def test_options_of_analyze() -> None:
    monitor = Monitor(threshold=None, verbose=False, layers=["fc"], detX=True, metrics=["detX_num"], prefix="spectra")
    monitor(training.Net())
    metrics = monitor.measurements[0].metrics
    assert [name for name in metrics if name.count("/") == 2] == ["spectra/fc/detX_num"]


def test_slices_have_names_of_their_own() -> None:
    monitor = Monitor(threshold=None, verbose=False, pool=False, min_evals=1, layers=["conv"], metrics=["log_norm"])
    monitor(training.Net())
    assert sum(name.startswith("wwonnx/conv.") for name in monitor.measurements[0].metrics) == 9

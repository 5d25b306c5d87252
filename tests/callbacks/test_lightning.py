"""The monitor as a callback of the real Lightning."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

import torch_training as training  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import wwonnx as ww  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers, logging intervals and its own imports
        level = logging.getLogger("lightning.pytorch").level
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        yield
        logging.getLogger("lightning.pytorch").setLevel(level)


def fit(folder: Path, *callbacks: Any, logger: Any = False, epochs: int = 3) -> tuple[Any, Any]:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = training.Net()

        def training_step(self, batch: Any, index: int) -> Any:
            images, labels = batch
            return nn.functional.cross_entropy(self.net(images + 0.1 * torch.randn_like(images)), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05, momentum=0.9)

    training.seed()
    module = Module()
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=logger,
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(*training.data()), batch_size=16, shuffle=True)
    trainer.fit(module, loader)
    return trainer, module


def test_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    from wwonnx.callbacks import LightningMonitor

    trainer, module = fit(tmp_path)
    plain = training.left_behind(module, trainer.optimizers[0])
    callback = LightningMonitor(threshold=None, verbose=False)
    trainer, module = fit(tmp_path, callback)
    assert training.left_behind(module, trainer.optimizers[0]) == plain
    assert [one.epoch for one in callback.monitor.measurements] == [1, 2, 3]


def test_numbers_reach_the_logger_and_the_callback_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning.pytorch.loggers import CSVLogger

    from wwonnx.callbacks import LightningMonitor

    callback = LightningMonitor(every=2, threshold=None)
    logger = CSVLogger(tmp_path)
    trainer, module = fit(tmp_path, callback, logger=logger, epochs=4)
    details = ww.analyze(ww.converters.torch.to_onnx(module)).set_index("name")
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 3]
    for name in details.index:
        assert float(rows[-1][f"wwonnx/{name}/alpha"]) == pytest.approx(details.alpha[name], rel=1e-6)
    assert float(trainer.callback_metrics["wwonnx/alpha"]) == pytest.approx(details.alpha.mean(), rel=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["wwonnx epoch 2", "wwonnx epoch 4"]
    assert all(line.endswith(" s") for line in lines)


def test_the_signal_stops_the_trainer(tmp_path: Path) -> None:
    from wwonnx.callbacks import LightningMonitor

    trainer, _ = fit(tmp_path, LightningMonitor(threshold=1000.0, patience=2, verbose=False), epochs=5)
    assert trainer.should_stop
    assert trainer.current_epoch == 2


def test_what_can_t_be_monitored_is_said_before_training(tmp_path: Path) -> None:
    from wwonnx.callbacks import LightningMonitor

    with pytest.raises(ww.OptionError, match="nosuch"):
        fit(tmp_path, LightningMonitor(layers="nosuch"))

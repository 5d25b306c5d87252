"""The monitor as a callback of Hugging Face's real Trainer, on a tiny model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch_training as training  # noqa: E402

import wwonnx as ww  # noqa: E402


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of accelerate and of the data loader's pinned memory
        yield


def make(folder: Path, epochs: float = 3, **arguments: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    training.seed()
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=80, num_labels=3
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 64, (24, 10), generator=generator)
    data = [{"input_ids": row, "labels": row[0] % 3} for row in ids]
    settings = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
        logging_strategy="no",
        **arguments,
    )
    return Trainer(BertForSequenceClassification(config), settings, train_dataset=data)


def test_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    from wwonnx.callbacks import TrainerMonitor

    trainer = make(tmp_path)
    trainer.train()
    plain = training.left_behind(trainer.model, trainer.optimizer)
    trainer = make(tmp_path)
    callback = TrainerMonitor(trainer, threshold=None, verbose=False)
    trainer.add_callback(callback)
    trainer.train()
    assert training.left_behind(trainer.model, trainer.optimizer) == plain
    assert [one.epoch for one in callback.monitor.measurements] == [1, 2, 3]


def test_numbers_go_through_the_trainer_s_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import TrainerCallback

    from wwonnx.callbacks import TrainerMonitor

    reported: list[dict[str, float]] = []

    class Reports(TrainerCallback):
        """Stands where the integrations of TensorBoard and others stand."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            reported.append(dict(logs))

    trainer = make(tmp_path, epochs=4)
    trainer.add_callback(Reports)
    trainer.add_callback(TrainerMonitor(trainer, every=2, threshold=None))
    trainer.train()
    kept = [entry for entry in trainer.state.log_history if "wwonnx/alpha" in entry]
    assert [entry["epoch"] for entry in kept] == [2.0, 4.0]
    assert [logs["wwonnx/alpha"] for logs in reported if "wwonnx/alpha" in logs] == [
        one["wwonnx/alpha"] for one in kept
    ]
    details = ww.analyze(ww.converters.torch.to_onnx(trainer.model))
    assert len(details) > 5
    for row in details.to_dict("records"):
        assert kept[-1][f"wwonnx/{row['name']}/alpha"] == pytest.approx(row["alpha"], rel=1e-9)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wwonnx")]
    assert [line.split(":")[0] for line in lines] == ["wwonnx epoch 2", "wwonnx epoch 4"]


def test_the_signal_stops_the_trainer(tmp_path: Path) -> None:
    from wwonnx.callbacks import TrainerMonitor

    trainer = make(tmp_path, epochs=5)
    trainer.add_callback(TrainerMonitor(threshold=1000.0, patience=2, criterion="mean", verbose=False))
    trainer.train()
    assert trainer.control.should_training_stop
    assert trainer.state.epoch == 2.0


def test_a_last_epoch_that_ends_early_counts(tmp_path: Path) -> None:
    from wwonnx.callbacks import TrainerMonitor

    trainer = make(tmp_path, max_steps=4)  # three steps are an epoch
    callback = TrainerMonitor(threshold=None, verbose=False)
    trainer.add_callback(callback)
    trainer.train()
    assert [one.epoch for one in callback.monitor.measurements] == [1, 2]

"""The monitor as a callback of Hugging Face's Trainer."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback

from .monitor import Monitor


class TrainerMonitor(TrainerCallback):
    """Analyses the model's weights every few epochs; an alpha below the threshold sets `control.should_training_stop`.

    With the trainer at hand, all numbers go through its `log`: to its history and to whatever it reports to.

    Where several processes train, each analyses the weights, which are equal in all of them, so that all stop together;
    the first one logs. Weights that are sharded over processes can't be monitored.

    Example:
        >>> trainer = Trainer(model, arguments, train_dataset=data)
        >>> trainer.add_callback(TrainerMonitor(trainer, every=2))

    Attributes:
        monitor: holds the measurements.
    """

    def __init__(self, trainer: Any = None, **options: Any) -> None:
        """Take the options of `Monitor`; epochs count from 1.

        Args:
            trainer: log through this one; a callback is not told whose it is.
            options: of `Monitor`.
        """
        self.trainer = trainer
        self.monitor = Monitor(**options)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """See whether the model can be monitored."""
        self.monitor.start(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Analyse the weights as they are now."""
        epoch = math.ceil(state.epoch - 1e-6)  # the last epoch may end before its data
        if not self.monitor.is_due(epoch):
            return
        first = state.is_world_process_zero
        measured = self.monitor.measure(model, epoch, log=first, say=self._say)
        if measured is not None and self.trainer is not None:
            self.trainer.log(dict(measured.metrics))
        if self.monitor.should_stop:
            control.should_training_stop = True

    def _say(self, line: str) -> None:
        from tqdm.auto import tqdm  # transformers shows its progress with it

        tqdm.write(line)

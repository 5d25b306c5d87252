"""The monitor as a callback of Keras 3, on any of its backends."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from ..converters.keras import to_onnx
from .monitor import Monitor


class KerasMonitor(keras.callbacks.Callback):
    """Analyses the model's weights every few epochs; an alpha below the threshold stops the training.

    The mean alpha joins the epoch's logs as `wwonnx/alpha`, where History, EarlyStopping and the loggers of Keras that
    come after this callback find it; all numbers go to the monitor's own loggers.

    Example:
        >>> model.fit(x, y, epochs=50, callbacks=[KerasMonitor(every=5, log=run)])

    Attributes:
        monitor: holds the measurements.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `Monitor`; epochs count from 1."""
        super().__init__()
        self.monitor = Monitor(convert=partial(to_onnx, weights_only=True), **options)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """See whether the model can be monitored."""
        self.monitor.start(self.model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Analyse the weights as they are now."""
        if not self.monitor.is_due(epoch + 1):
            return
        measured = self.monitor.measure(self.model, epoch + 1, say=self._say)
        name = f"{self.monitor.prefix}/alpha"
        if measured is not None and logs is not None and name in measured.metrics:
            logs[name] = measured.metrics[name]
        if self.monitor.should_stop:
            self.model.stop_training = True

    def _say(self, line: str) -> None:
        # The progress bar has not ended its line yet.
        bar = (self.params or {}).get("verbose") == 1
        print(f"\n{line}" if bar else line, flush=True)  # noqa: T201

"""The monitor as a callback of Lightning."""

from __future__ import annotations

from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:  # the older package of the same authors
    from pytorch_lightning import Callback

from .monitor import Monitor


class LightningMonitor(Callback):
    """Analyses the module's weights every few epochs; an alpha below the threshold sets `trainer.should_stop`.

    All numbers are logged by the module's own `log_dict`, so that the trainer's loggers, EarlyStopping and
    ModelCheckpoint find them.

    Where several processes train, each analyses the weights, which are equal in all of them, so that all stop together;
    the first one logs. Weights that are sharded over processes can't be monitored.

    Example:
        >>> trainer = Trainer(callbacks=[LightningMonitor(every=5)])

    Attributes:
        monitor: holds the measurements.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of `Monitor`; epochs count from 1."""
        super().__init__()
        self.monitor = Monitor(**options)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """See whether the module can be monitored."""
        self.monitor.start(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Analyse the weights as they are now."""
        epoch = trainer.current_epoch + 1
        if not self.monitor.is_due(epoch):
            return
        measured = self.monitor.measure(pl_module, epoch, log=trainer.is_global_zero, say=pl_module.print)
        if measured is not None:
            pl_module.log_dict(dict(measured.metrics))
        if self.monitor.should_stop:
            trainer.should_stop = True

"""Watches the weights of a model while it trains: a monitor for a plain loop, Keras, Lightning and Hugging Face.

    >>> from wwonnx.callbacks import Monitor
    >>> monitor = Monitor(every=5, log=writer)  # a SummaryWriter, a W&B run, mlflow, or any function
    >>> for epoch in range(100):
    ...     train_one_epoch(model)
    ...     if monitor(model, epoch):
    ...         break

`KerasMonitor`, `LightningMonitor` and `TrainerMonitor` are the same as callbacks of their frameworks. Each framework is
imported when its monitor is first asked for, not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .monitor import Measurement, Monitor

if TYPE_CHECKING:
    from .keras import KerasMonitor
    from .lightning import LightningMonitor
    from .transformers import TrainerMonitor

__all__ = ["KerasMonitor", "LightningMonitor", "Measurement", "Monitor", "TrainerMonitor"]

#: Where the monitors are that are classes of a framework.
_FRAMEWORKS = {"KerasMonitor": "keras", "LightningMonitor": "lightning", "TrainerMonitor": "transformers"}


def __getattr__(name: str) -> Any:
    if name not in _FRAMEWORKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    framework = _FRAMEWORKS[name]
    try:
        module = import_module(f".{framework}", __name__)
    except ModuleNotFoundError as error:
        if error.name not in (framework, f"pytorch_{framework}"):
            raise
        raise ImportError(f"{name} needs {framework}: pip install {framework}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__

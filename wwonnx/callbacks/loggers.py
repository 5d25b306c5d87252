"""Sends numbers to a logger by the logger's own call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from ..errors import OptionError

#: Takes a flat dict of numbers and the epoch that they belong to.
Send: TypeAlias = Callable[[dict[str, float], int], Any]


def senders(log: Any, prefix: str) -> tuple[Send, ...]:
    """How to send numbers to each of these loggers.

    Args:
        log: a logger, a function, or a list of them; None for nobody.
            A TensorBoard SummaryWriter (or its add_scalar) gets one scalar per number; a Weights & Biases run one dict,
            with the epoch as the axis of all names under the prefix; whatever has log_metrics (the module mlflow, the
            loggers of Lightning) one dict and the step; a logging.Logger one line; a function the dict and the epoch.
        prefix: what all names begin with.

    Raises:
        OptionError: something that can't log.
    """
    if log is None:
        return ()
    several = isinstance(log, Iterable) and not isinstance(log, (str, bytes, Mapping)) and not _can_log(log)
    return tuple(_sender(one, prefix) for one in (log if several else (log,)))


def _can_log(log: Any) -> bool:
    return callable(log) or any(hasattr(log, name) for name in ("log", "log_metrics", "add_scalar"))


def _sender(log: Any, prefix: str) -> Send:
    if isinstance(log, logging.Logger):
        return lambda metrics, epoch: log.info("epoch %s: %s", epoch, metrics)
    if getattr(log, "__name__", "") == "add_scalar":  # the method alone, of a writer
        return _one_by_one(log)
    if hasattr(log, "log_metrics"):
        return lambda metrics, epoch: log.log_metrics(metrics, step=epoch)
    if hasattr(log, "add_scalar"):
        return _one_by_one(log.add_scalar)
    if hasattr(log, "define_metric"):  # Weights & Biases
        return _wandb(log, prefix)
    if callable(log):
        function: Send = log
        return function
    raise OptionError(
        f"log={log!r}: give a SummaryWriter, a Weights & Biases run, mlflow, another object with log_metrics, "
        "or a function that takes a dict and the epoch"
    )


def _one_by_one(add_scalar: Callable[..., Any]) -> Send:
    def send(metrics: dict[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            add_scalar(name, value, epoch)

    return send


def _wandb(run: Any, prefix: str) -> Send:
    """A run drops what comes with a step before its last one, and other code may count its steps by batches.

    So no step is given: the epoch goes with the numbers, and is their axis.
    """
    axis = f"{prefix}/epoch"
    run.define_metric(axis)
    run.define_metric(f"{prefix}/*", step_metric=axis)
    return lambda metrics, epoch: run.log(metrics | {axis: epoch})

"""The monitor itself: what is measured, when it warns, what it costs. It knows no framework."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import columns
from ..converters.torch import to_onnx
from ..errors import ConversionError, ModelError, OptionError
from ..options import SHORT_ESD, Options, choice, nearest, whole
from ..watcher import WeightWatcher
from .loggers import senders

if TYPE_CHECKING:
    import pandas as pd

    from ..graph.source import ModelLike

logger = logging.getLogger("wwonnx")

CRITERIA = ("any", "mean")

Convert: TypeAlias = "Callable[[Any], ModelLike]"
Say: TypeAlias = Callable[[str], None]


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - what a training costs and finds is told where its other lines go


@dataclass(frozen=True)
class Measurement:
    """What one analysis of the live weights found.

    Attributes:
        epoch: as the training counts.
        metrics: the flat dict that loggers get.
        below: the layers that are over-trained by the monitor's criterion, and their alphas.
        seconds: what the analysis took.
    """

    epoch: int
    metrics: Mapping[str, float]
    below: Mapping[str, float]
    seconds: float


class Monitor:
    """Analyses the live weights of a model every few epochs, logs the metrics, and says when to stop.

    The model is read, never changed: its mode, its gradients and every random state stay as they are, and a training
    goes on bit for bit as it would have without the monitor.

    Example:
        >>> monitor = Monitor(every=5, log=writer)
        >>> for epoch in range(100):
        ...     train_one_epoch(model)
        ...     if monitor(model, epoch):
        ...         break
        >>> monitor.history.plot(y="wwonnx/alpha")

    Attributes:
        measurements: all of them, oldest first.
        should_stop: whether the signal to stop was raised.
    """

    def __init__(
        self,
        every: int = 1,
        log: Any = None,
        threshold: float | None = 2.0,
        patience: int = 1,
        criterion: str = "any",
        metrics: str | list[str] | tuple[str, ...] = ("alpha",),
        prefix: str = "wwonnx",
        verbose: bool = True,
        convert: Convert = to_onnx,
        **options: Any,
    ) -> None:
        """Choose what to measure and when to warn; nothing is analysed yet.

        Args:
            every: analyse the epochs whose number this divides.
            log: who gets the numbers: a TensorBoard SummaryWriter, a Weights & Biases run, mlflow, an object with
                log_metrics, a logging.Logger, a function that takes the dict and the epoch, or a list of them.
            threshold: an alpha below it is over-trained; None never to stop.
            patience: how many analyses in a row must find one before the signal is raised.
            criterion: whose alpha counts: "any", that of each layer with 50 eigenvalues or more; "mean", the mean over
                all layers.
            metrics: columns of the details that are logged for each layer, `wwonnx/<layer>/<column>`. The means of the
                summary are always logged, `wwonnx/<metric>`.
            prefix: what all names begin with.
            verbose: print a line per analysis: the mean alpha, the lowest, and the seconds that it took.
            convert: brings the live model to ONNX; as it stands, a PyTorch module.
            options: of `WeightWatcher.analyze`, such as layers or min_evals.

        Raises:
            OptionError: an option that can't be.
        """
        self.every = whole("every", every, minimum=1)
        self.patience = whole("patience", patience, minimum=1)
        self.criterion = choice("criterion", criterion, CRITERIA)
        self.threshold = _threshold(threshold)
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self.prefix = prefix
        self.verbose = verbose
        self.convert = convert
        self.options = options
        _check(options, self.metrics)
        self.measurements: list[Measurement] = []
        self.should_stop = False
        self._in_a_row = 0
        self._calls = 0
        self._started = False
        self._senders = senders(log, prefix)

    def __call__(self, model: Any, epoch: int | None = None) -> bool:
        """Analyse the model if it is the epoch's turn.

        Args:
            model: the live model.
            epoch: its number; None to count the calls from 1.

        Returns:
            Whether to stop training.

        Raises:
            ModelError: the model has no layer to analyse.
            ConversionError: it can't be converted.
            OptionError: an option that does not fit the model.
        """
        self._calls += 1
        number = self._calls if epoch is None else int(epoch)
        if self.is_due(number):
            if not self._started:
                self.start(model)
            self.measure(model, number)
        return self.should_stop

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch is analysed."""
        return epoch % self.every == 0

    def start(self, model: Any) -> None:
        """See, before the training rather than after an epoch, whether the model can be monitored; nothing is analysed.

        A signal to stop that an earlier training raised is taken back.

        Raises:
            ModelError: it has no layer to analyse.
            ConversionError: it can't be converted.
            OptionError: an option that does not fit it.
        """
        known = inspect.signature(WeightWatcher.describe).parameters
        options = {name: value for name, value in self.options.items() if name in known}
        if WeightWatcher(self.convert(model)).describe(**options).empty:
            raise ModelError(
                f"{type(model).__name__}: no layer to monitor; check layers and min_evals, which leave out all there is"
            )
        self._started, self.should_stop, self._in_a_row = True, False, 0

    def measure(self, model: Any, epoch: int, log: bool = True, say: Say = _print) -> Measurement | None:
        """Analyse the model now, whatever the epoch; a model that can't be read is a warning and ends no training.

        Args:
            model: as in a call.
            epoch: its number.
            log: print, and send the numbers to the loggers.
            say: prints a line.

        Returns:
            What was found; None where the model could not be read.
        """
        begin = time.perf_counter()
        try:
            watcher = WeightWatcher(self.convert(model))
            details = watcher.analyze(**self.options)
        except (ModelError, ConversionError) as error:
            logger.warning("epoch %s is not monitored: %s", epoch, error)
            return None
        summary = watcher.get_summary()
        seconds = time.perf_counter() - begin
        measurement = Measurement(
            epoch,
            MappingProxyType(self._flat(details, summary) | {f"{self.prefix}/seconds": seconds}),
            MappingProxyType(self._below(details, summary)),
            seconds,
        )
        self.measurements.append(measurement)
        self._in_a_row = self._in_a_row + 1 if measurement.below else 0
        raised = self._in_a_row >= self.patience and not self.should_stop
        self.should_stop = self.should_stop or raised
        if log:
            for send in self._senders:
                send(dict(measurement.metrics), epoch)
            if self.verbose:
                say(_line(measurement, details))
                if raised:
                    found = ", ".join(f"{name} {alpha:.3f}" for name, alpha in measurement.below.items())
                    say(f"wwonnx: alpha below {self.threshold:g} ({found}): stop training")
        return measurement

    @property
    def history(self) -> pd.DataFrame:
        """All measurements: a row per analysed epoch, a column per logged number."""
        import pandas as pd

        index = pd.Index([one.epoch for one in self.measurements], name="epoch")
        frame: pd.DataFrame = pd.DataFrame([dict(one.metrics) for one in self.measurements], index=index)
        return frame

    def _flat(self, details: pd.DataFrame, summary: Mapping[str, float]) -> dict[str, float]:
        """Numbers alone: what could not be computed is left out, and `failed` counts the layers."""
        flat = {f"{self.prefix}/{name}": float(value) for name, value in summary.items()}
        for row in details.to_dict("records"):
            name = f"{row['name']}.{row['slice_id']}" if "slice_id" in row else row["name"]
            flat |= {f"{self.prefix}/{name}/{metric}": float(row[metric]) for metric in self.metrics}
        failed = int((details["status"] == "failed").sum())
        return {name: value for name, value in flat.items() if math.isfinite(value)} | {f"{self.prefix}/failed": failed}

    def _below(self, details: pd.DataFrame, summary: Mapping[str, float]) -> dict[str, float]:
        """What is over-trained."""
        if self.threshold is None:
            return {}
        if self.criterion == "mean":
            return {"mean": summary["alpha"]} if summary["alpha"] < self.threshold else {}
        # An alpha from fewer eigenvalues says too little to stop a training for.
        low = details[(details["alpha"] < self.threshold) & (details["num_evals"] >= SHORT_ESD)]
        return {str(name): float(alpha) for name, alpha in zip(low["name"], low["alpha"], strict=True)}


def _line(measurement: Measurement, details: pd.DataFrame) -> str:
    """One analysis in words."""
    words = [f"wwonnx epoch {measurement.epoch}: alpha {details['alpha'].mean():.3f}"]
    fitted = details.dropna(subset="alpha").sort_values("alpha").to_dict("records")
    words += [f"lowest {fitted[0]['alpha']:.3f} ({fitted[0]['name']})"] if fitted else []
    failed = int((details["status"] == "failed").sum())
    words += [f"{failed} of {len(details)} layers failed"] if failed else []
    return ", ".join([*words, f"{measurement.seconds:.3g} s"])


def _threshold(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"threshold={value!r}: give a number, or None never to stop")
    return number


def _check(options: Mapping[str, Any], metrics: tuple[str, ...]) -> None:
    """Whether `analyze` takes these options and gives these columns, as far as can be told without a model."""
    known = inspect.signature(WeightWatcher.analyze).parameters
    for name in options:
        if name not in known or name in ("self", "model"):
            raise OptionError(f"{name}: neither Monitor nor WeightWatcher.analyze has such an option")
    own = {*(field.name for field in fields(Options)), "ww2x", "ERG", "channels"}
    given = columns.columns(Options.make(**{name: value for name, value in options.items() if name in own}))
    for name in metrics:
        if name not in given:
            raise OptionError(f"metrics={name!r}: with these options there is no such column; {nearest(name, given)}")

"""How far a run is, for those who want to know."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import OptionError
from ..layer import WeightLayer
from .tasks import Task


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        layers, all_layers: layers done and to do.
        work, all_work: the same in floating point operations.
        name: the layer that was finished last.
        bytes, all_bytes: the same in bytes of the weights as they are stored.
        reused: how many of the layers done were in the store already.
        seconds_left: from the work that this run itself has done so far, and how long it took; None until it has done
            any.
    """

    layers: int
    all_layers: int
    work: float
    all_work: float
    name: str
    bytes: float = 0.0
    all_bytes: float = 0.0
    reused: int = 0
    seconds_left: float | None = None


Listener: TypeAlias = Callable[[Progress], None]
ProgressOption: TypeAlias = bool | Listener


class Tracker:
    """Counts what is done, and tells the listener."""

    def __init__(self, listener: Listener, layers: Sequence[WeightLayer]) -> None:
        self._listener = listener
        tasks = [Task(index, layer) for index, layer in enumerate(layers)]
        self._all_layers, self._all_work = len(tasks), sum(task.work for task in tasks)
        self._all_bytes = sum(task.stored for task in tasks)
        self._layers = self._reused = 0
        self._work = self._own_work = self._bytes = 0.0
        self._start = time.monotonic()

    def finished(self, layer: WeightLayer, reused: bool = False) -> None:
        """A layer is done: computed, or found in the store."""
        task = Task(0, layer)
        self._layers += 1
        self._work += task.work
        self._bytes += task.stored
        self._reused += reused
        self._own_work += 0.0 if reused else task.work
        pace = (time.monotonic() - self._start) / self._own_work if self._own_work else None
        self._listener(
            Progress(
                layers=self._layers,
                all_layers=self._all_layers,
                work=self._work,
                all_work=self._all_work,
                name=task.layer.name,
                bytes=self._bytes,
                all_bytes=self._all_bytes,
                reused=self._reused,
                seconds_left=None if pace is None else pace * max(0.0, self._all_work - self._work),
            )
        )


@contextlib.contextmanager
def reporter(option: ProgressOption) -> Iterator[Listener | None]:
    """What to tell about progress: nothing, a bar on stderr (True), or the user's own function."""
    if callable(option):
        yield option
    elif not isinstance(option, bool):
        raise OptionError(f"progress={option!r}: give True, False or a function")
    elif not option:
        yield None
    else:
        with _bar() as listener:
            yield listener


@contextlib.contextmanager
def _bar() -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), TextColumn("{task.fields[done]}"), TextColumn("{task.description}"))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, done="")

        def listener(progress: Progress) -> None:
            name = progress.name.replace("[", r"\[")
            bar.update(
                task, total=progress.all_work, completed=progress.work, done=in_words(progress), description=name
            )

        yield listener


def in_words(progress: Progress) -> str:
    """Layers, bytes and time left on one line: `12/56 layers, 0.41/1.20 GB, 0:01:12 left`."""
    size, unit = (1e9, "GB") if progress.all_bytes >= 1e9 else (1e6, "MB")
    parts = [
        f"{progress.layers}/{progress.all_layers} layers" + (f" ({progress.reused} stored)" if progress.reused else ""),
        f"{progress.bytes / size:.2f}/{progress.all_bytes / size:.2f} {unit}",
    ]
    if progress.seconds_left is not None:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    return ", ".join(parts)

"""How far a run is, for those who want to know."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import OptionError


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        layers, all_layers: layers done and to do.
        work, all_work: the same in floating point operations, for the time left.
        name: the layer that was finished last.
    """

    layers: int
    all_layers: int
    work: float
    all_work: float
    name: str


Listener: TypeAlias = Callable[[Progress], None]
ProgressOption: TypeAlias = bool | Listener


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
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(),
        TextColumn("{task.fields[layers]}"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, layers="")

        def listener(progress: Progress) -> None:
            layers = f"{progress.layers}/{progress.all_layers} layers"
            name = progress.name.replace("[", r"\[")
            bar.update(task, total=progress.all_work, completed=progress.work, layers=layers, description=name)

        yield listener

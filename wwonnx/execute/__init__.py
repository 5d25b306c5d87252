"""Runs an analysis: layers in, rows out, in the order of the layers, wherever the work is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..analysis import Finding, Row
from ..errors import OptionError
from ..layer import WeightLayer
from ..options import Options, whole
from . import local, memory
from .job import Job
from .memory import MemoryOption
from .progress import Listener, Tracker
from .refusal import refuse

See: TypeAlias = Callable[[list[Row]], None]

#: Arguments of `analyze` that go to `Resources.make` as they are, in its order.
RESOURCES = ("jobs", "memory", "executor", "store")


@dataclass(frozen=True)
class Resources:
    """What an analysis may use.

    Attributes:
        jobs: at most so many layers at once on this machine; None for as many as there are cores.
        memory: bytes that this process may hold; None for a share of what is free.
        executor: where the work is done; None for this process.
        store: the file in which results survive; None for none.
    """

    jobs: int | None = None
    memory: int | None = None
    executor: Any = None
    store: Path | None = None

    @classmethod
    def make(cls, jobs: int | None, given: MemoryOption, executor: Any, store: Any) -> Resources:
        """Resources from the arguments of `analyze`.

        Raises:
            OptionError: a value that can't be, or two that contradict each other.
        """
        made = cls(
            jobs=None if jobs is None else whole("jobs", jobs, minimum=1),
            memory=memory.parse(given),
            executor=executor,
            store=None if store is None else Path(store),
        )
        if executor is not None and (jobs is not None or given is not None):
            name = "jobs" if jobs is not None else "memory"
            raise OptionError(f"{name} is for this process, and executor has its own workers: drop one of them")
        return made


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        rows: of each layer.
        notes: what to know of the run itself, such as workers that died.
    """

    rows: list[list[Row]]
    notes: tuple[str, ...] = ()


def run(
    layers: Sequence[WeightLayer],
    options: Options,
    resources: Resources,
    model: str = "",
    progress: Listener | None = None,
    see: See | None = None,
) -> Outcome:
    """Analyse layers.

    Args:
        layers: what to analyse.
        options: what to compute.
        resources: what may be used for it.
        model: what to call the model in a store.
        progress: called after each layer, in this thread.
        see: given the rows of each layer as soon as they are there, in this thread; it may change them.

    Raises:
        OptionError: the executor is none, or can't be reached.
        StoreError: the store can't be opened, read or written.
        Interrupted: Ctrl-C, where there is a store.
    """
    tracker = None if progress is None else Tracker(progress, layers, options.lanczos_above)
    notes: list[str] = []

    def engine(some: Sequence[WeightLayer], steps: local.Steps[Finding, list[Row]]) -> list[list[Row] | None]:
        if resources.executor is None:
            return local.run(some, steps, tracker, resources.jobs, resources.memory)
        from . import remote

        return remote.run(some, steps, resources.executor, tracker, notes)

    if resources.store is not None:
        from . import resume

        rows = resume.run(layers, options, resources.store, model, engine, tracker, resources.jobs, see)
        return Outcome(rows, tuple(notes))

    def seen(rows: list[Row]) -> list[Row]:
        if see is not None:
            see(rows)
        return rows

    steps = local.Steps(
        job=lambda some: Job(tuple(some), options),
        complete=lambda _, finding: seen(finding.rows),
        refuse=lambda layer, reason: seen(refuse(layer, reason, options)),
        lanczos_above=options.lanczos_above,
    )
    return Outcome([rows or [] for rows in engine(layers, steps)], tuple(notes))

"""Runs layers on this machine: huge ones one by one with all BLAS threads, the others side by side with one each.

Small eigenvalue problems gain nothing from a second BLAS thread, and two of them at once take both cores. How many
threads a layer gets follows from its size alone, so that every bit of its eigenvalues is the same whatever else runs,
in whichever order, and wherever a run was taken up again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..layer import WeightLayer
from ..spectral.esd import LARGE
from . import blas, memory
from .progress import Tracker
from .tasks import ALONE, Batch, Task, batches, memory_of, tasks

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Steps(Generic[Part, Result]):
    """What is done with a layer.

    Attributes:
        job: what computes some layers, and gives a part for each. It is called in another thread, or process, and
            should spend its time in calls that let other threads run.
        complete: makes the result of a layer out of its part. It is called in the caller's thread.
        refuse: the result of a layer that can't be computed, for the reason given. In the caller's thread.
        admit: asked in the caller's thread just before a layer is started; where it says no, the layer is left out and
            has no result.
    """

    job: Callable[[Sequence[WeightLayer]], Callable[[], list[Part]]]
    complete: Callable[[WeightLayer, Part], Result]
    refuse: Callable[[WeightLayer, str], Result]
    admit: Callable[[WeightLayer], bool] | None = None


def run(
    layers: Sequence[WeightLayer],
    steps: Steps[Part, Result],
    tracker: Tracker | None = None,
    jobs: int | None = None,
    memory_limit: int | None = None,
) -> list[Result | None]:
    """Compute every layer, largest first; results come back in the order of the layers.

    Args:
        layers: what to work on.
        steps: what to do.
        tracker: told of each layer in the caller's thread.
        jobs: at most so many layers at once; None for as many as there are cores. It changes no bit.
        memory_limit: bytes that the process may hold in all; None for 60 % of what is free beside what it holds.

    Returns:
        The result of each layer, None for those that were not admitted.
    """
    return _Run(layers, steps, tracker, jobs, memory_limit).results()


class _Run(Generic[Part, Result]):
    """One call of `run`."""

    def __init__(
        self,
        layers: Sequence[WeightLayer],
        steps: Steps[Part, Result],
        tracker: Tracker | None,
        jobs: int | None,
        memory_limit: int | None,
    ) -> None:
        self._steps = steps
        self._workers = min(cores(), jobs or cores())
        self._results: list[Result | None] = [None] * len(layers)
        self._tasks = tasks(layers)
        self._tracker = tracker
        most = sorted((task.memory for task in self._tasks), reverse=True)[: 2 * self._workers]
        # Whoever has only small layers does not wait for a look at the system's memory.
        unasked = memory_limit is None and sum(most) <= memory.SMALL
        self._budget = memory.UNASKED if unasked else memory.budget(memory_limit)

    def results(self) -> list[Result | None]:
        fitting = [task for task in self._tasks if not self._refused(task)]
        huge = [[task] for task in fitting if task.M >= ALONE]
        others = [task for task in fitting if task.M < ALONE]
        if huge:
            with blas.all_threads():
                self._side_by_side(huge, 1)
        if others:
            with blas.one_thread_each(with_scipy=any(task.M >= LARGE for task in others)):
                self._side_by_side(batches(others, self._workers, self._budget.together), self._workers)
        return self._results

    def _refused(self, task: Task) -> bool:
        reason = self._budget.refusal(task.memory)
        if reason:
            self._finish(task, self._steps.refuse(task.layer, reason))
        return bool(reason)

    def _side_by_side(self, waiting: list[Batch], workers: int) -> None:
        running: dict[Future[list[Part]], Batch] = {}
        pool = ThreadPoolExecutor(workers, thread_name_prefix="wwonnx")
        try:
            while waiting or running:
                if not self._start_next(pool, waiting, running, 2 * workers):
                    self._collect(running)
        finally:
            # Only an error or Ctrl-C leaves work behind. What a thread is at can't be stopped; nobody waits for it.
            pool.shutdown(wait=not running, cancel_futures=True)

    def _start_next(
        self, pool: ThreadPoolExecutor, waiting: list[Batch], running: dict[Future[list[Part]], Batch], most: int
    ) -> bool:
        """Start the first batch that fits beside what is running; whether there was one."""
        left = self._budget.together - sum(map(memory_of, running.values()))
        if len(running) >= most:
            return False
        chosen = next((index for index, batch in enumerate(waiting) if not running or memory_of(batch) <= left), None)
        if chosen is None:
            return False
        batch = waiting.pop(chosen)
        if self._steps.admit is not None:
            batch = [task for task in batch if self._steps.admit(task.layer)]
        if batch:
            running[pool.submit(self._steps.job([task.layer for task in batch]))] = batch
        return True

    def _collect(self, running: dict[Future[list[Part]], Batch]) -> None:
        """Wait for at least one batch and hand its results on."""
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            batch = running.pop(future)
            for task, part in zip(batch, future.result(), strict=True):
                self._finish(task, self._steps.complete(task.layer, part))

    def _finish(self, task: Task, result: Result) -> None:
        self._results[task.index] = result
        if self._tracker is not None:
            self._tracker.finished(task.layer)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

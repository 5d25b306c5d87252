"""Runs layers on this machine: large ones one by one with all BLAS threads, small ones side by side with one each.

Small eigenvalue problems gain nothing from a second BLAS thread, and two of them at once take both cores (measured:
two 384 x 384 at one thread each take 1.9 times less than one after the other at two). How many threads a layer gets
follows from its size alone, so that every bit of its eigenvalues is the same whatever else runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from ..layer import WeightLayer
from .progress import Progress

Result = TypeVar("Result")

#: From this M on a layer gets all BLAS threads and the machine for itself.
_LARGE = 2048
#: Small layers run side by side as long as their working memory stays within this, or within the largest layer's.
_SHARED_BYTES = 64 << 20


@dataclass(frozen=True)
class _Task:
    index: int
    layer: WeightLayer

    @property
    def work(self) -> float:
        """Floating point operations of the Gram matrices and their eigenvalues."""
        layer = self.layer
        return layer.rf * (layer.N * float(layer.M) ** 2 + 4 / 3 * float(layer.M) ** 3) + 1e6

    @property
    def memory(self) -> int:
        """Bytes at the peak: the float64 copy (2048 rows of it for a tall matrix) and two Gram matrices."""
        layer = self.layer
        rows = layer.N if max(4 * layer.M, 2048) >= layer.N else 2048
        return 8 * layer.rf * layer.M * (rows + 2 * layer.M)


def run(
    layers: Sequence[WeightLayer],
    work: Callable[[WeightLayer], Result],
    progress: Callable[[Progress], None] | None = None,
) -> list[Result]:
    """Apply `work` to every layer, largest first; results come back in the order of the layers.

    Args:
        layers: what to work on.
        work: computes one layer. It is called from several threads at once for small layers.
        progress: called in the caller's thread after each layer.
    """
    from threadpoolctl import ThreadpoolController

    tasks = sorted((_Task(index, layer) for index, layer in enumerate(layers)), key=lambda task: -task.work)
    results: dict[int, Result] = {}
    done_work, all_work = 0.0, sum(task.work for task in tasks)

    def finish(task: _Task, result: Result) -> None:
        nonlocal done_work
        results[task.index] = result
        done_work += task.work
        if progress is not None:
            progress(Progress(len(results), len(tasks), done_work, all_work, task.layer.name))

    small = [task for task in tasks if task.layer.M < _LARGE]
    for task in tasks:
        if task.layer.M >= _LARGE:
            finish(task, work(task.layer))
    if small:
        budget = max(_SHARED_BYTES, *(task.memory for task in tasks))
        with ThreadpoolController().limit(limits=1, user_api="blas"):
            _side_by_side(small, work, finish, budget)
    return [results[index] for index in range(len(tasks))]


def _side_by_side(
    tasks: list[_Task],
    work: Callable[[WeightLayer], Result],
    finish: Callable[[_Task, Result], None],
    budget: int,
) -> None:
    cores = _cores()
    running: dict[Future[Result], _Task] = {}
    with ThreadPoolExecutor(cores, thread_name_prefix="wwonnx") as pool:
        try:
            for task in tasks:
                while running and (
                    len(running) >= 2 * cores or sum(t.memory for t in running.values()) + task.memory > budget
                ):
                    _collect(running, finish)
                running[pool.submit(work, task.layer)] = task
            while running:
                _collect(running, finish)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(running: dict[Future[Result], _Task], finish: Callable[[_Task, Result], None]) -> None:
    """Wait for at least one future and hand its result on."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        finish(running.pop(future), future.result())


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

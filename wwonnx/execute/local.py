"""Runs layers on this machine: large ones one by one with all BLAS threads, small ones side by side with one each.

Small eigenvalue problems gain nothing from a second BLAS thread, and two of them at once take both cores. How many
threads a layer gets follows from its size alone, so that every bit of its eigenvalues is the same whatever else runs.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from ..layer import WeightLayer
from .progress import Progress

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Result = TypeVar("Result")

#: From this M on a layer gets all BLAS threads and the machine for itself.
_LARGE = 2048
#: Small layers run side by side as long as their working memory stays within this, or within the largest layer's.
_SHARED_BYTES = 64 << 20
#: Below this M layers of equal M are computed together, until they have so many eigenvalues (numpy lets other threads
#: run only during calls on more) and so much work that handing them to a thread is worth it.
_TOGETHER, _EIGENVALUES, _WORTH = 512, 512, 6e7


class _Task:
    """A layer, what it costs, and its place in the result."""

    def __init__(self, index: int, layer: WeightLayer) -> None:
        self.index, self.layer = index, layer
        self.rf, outputs, inputs = layer.matrix_shape
        N, M = max(outputs, inputs), min(outputs, inputs)
        self.M = M
        #: Floating point operations of the Gram matrices and their eigenvalues.
        self.work = self.rf * (N * float(M) ** 2 + 4 / 3 * float(M) ** 3) + 1e6
        rows = N if max(4 * M, 2048) >= N else 2048
        #: Bytes at the peak: the float64 copy (2048 rows of it for a tall matrix) and two Gram matrices.
        self.memory = 8 * self.rf * M * (rows + 2 * M)


def run(
    layers: Sequence[WeightLayer],
    work: Callable[[Sequence[WeightLayer]], list[Part]],
    complete: Callable[[WeightLayer, Part], Result],
    progress: Callable[[Progress], None] | None = None,
) -> list[Result]:
    """Apply `work` and then `complete` to every layer, largest first; results come back in the order of the layers.

    Args:
        layers: what to work on.
        work: computes some layers, and gives a result for each. It is called from several threads at once, and should
            spend its time in calls that let other threads run.
        complete: makes the final result of each layer. It is called in the caller's thread.
        progress: called in the caller's thread after each layer.
    """
    tasks = sorted((_Task(index, layer) for index, layer in enumerate(layers)), key=lambda task: -task.work)
    results: dict[int, Result] = {}
    done_work, all_work = 0.0, sum(task.work for task in tasks)

    def finish(batch: list[_Task], found: list[Part]) -> None:
        nonlocal done_work
        for task, part in zip(batch, found, strict=True):
            results[task.index] = complete(task.layer, part)
            done_work += task.work
            if progress is not None:
                progress(Progress(len(results), len(tasks), done_work, all_work, task.layer.name))

    for task in tasks:
        if task.M >= _LARGE:
            finish([task], work([task.layer]))
    small = [task for task in tasks if task.M < _LARGE]
    if small:
        budget = max(_SHARED_BYTES, *(task.memory for task in tasks))
        with _one_blas_thread():
            _side_by_side(_batches(small, budget), work, finish, budget)
    return [results[index] for index in range(len(tasks))]


def _one_blas_thread() -> AbstractContextManager[object]:
    """Each BLAS call runs on the thread that makes it, for as long as the context lasts."""
    limited: AbstractContextManager[object] = _controller(len(sys.modules)).limit(limits=1, user_api="blas")
    return limited


@functools.lru_cache(maxsize=1)
def _controller(modules: int) -> ThreadpoolController:
    """The BLAS libraries that are loaded; a look through the process's maps that is worth keeping until more are."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _batches(tasks: list[_Task], budget: int) -> list[list[_Task]]:
    """Layers that are computed in one go, most work first: a large one by itself, several small ones of equal M."""
    batches = [[task] for task in tasks if task.M >= _TOGETHER]
    cores = _cores()
    small = [task for task in tasks if task.M < _TOGETHER]
    worth = min(_WORTH, sum(task.work for task in small) / (2 * cores))
    for _, alike in groupby(sorted(small, key=lambda task: task.M), key=lambda task: task.M):
        batch: list[_Task] = []
        for task in alike:
            full = sum(t.rf for t in batch) * task.M > _EIGENVALUES and sum(t.work for t in batch) > worth
            if batch and (full or sum(t.memory for t in batch) + task.memory > budget // 2):
                batches.append(batch)
                batch = []
            batch.append(task)
        batches.append(batch)
    return sorted(batches, key=lambda batch: -sum(task.work for task in batch))


def _side_by_side(
    batches: list[list[_Task]],
    work: Callable[[Sequence[WeightLayer]], list[Part]],
    finish: Callable[[list[_Task], list[Part]], None],
    budget: int,
) -> None:
    cores = _cores()
    running: dict[Future[list[Part]], list[_Task]] = {}
    held = 0
    with ThreadPoolExecutor(cores, thread_name_prefix="wwonnx") as pool:
        try:
            for batch in batches:
                memory = sum(task.memory for task in batch)
                while running and (len(running) >= 2 * cores or held + memory > budget):
                    held -= _collect(running, finish)
                held += memory
                running[pool.submit(work, [task.layer for task in batch])] = batch
            while running:
                _collect(running, finish)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(running: dict[Future[list[Part]], list[_Task]], finish: Callable[[list[_Task], list[Part]], None]) -> int:
    """Wait for at least one future and hand its results on; how much memory that frees."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    freed = 0
    for future in done:
        batch = running.pop(future)
        freed += sum(task.memory for task in batch)
        finish(batch, future.result())
    return freed


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

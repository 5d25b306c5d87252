"""Runs layers on an executor that the user brings: other processes, other machines.

A worker gets (path, reference of the layer, options) and opens the model itself; only where it can't are the bytes of
that layer sent along. A worker that dies costs nothing but time: its layers are run elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..analysis import Finding, Row
from ..errors import OptionError, WwonnxError
from ..layer import WeightLayer
from ..spectral.esd import LARGE
from ..version import __version__
from . import blas, local, memory
from .carry import UnreachableError, carried
from .job import Job
from .local import Steps, cores
from .progress import Tracker
from .tasks import ALONE, Batch, batches, tasks

logger = logging.getLogger("wwonnx")

Rows: TypeAlias = "list[Row]"

#: Batches that are with the executor at once, where it doesn't tell how many workers it has.
_UNKNOWN_WORKERS = 16
#: Seconds between two looks at which workers are still there.
_LOOK = 1.0


def run(
    layers: Sequence[WeightLayer], steps: Steps[Finding, Rows], executor: Any, tracker: Tracker | None, notes: list[str]
) -> list[Rows | None]:
    """Compute every layer, largest first; results come back in the order of the layers.

    Args:
        layers: what to work on, as `carry.portable` made them.
        steps: what to do; jobs are `Job`s.
        executor: a concurrent.futures.Executor, a dask.distributed.Client, or "dask://host:port".
        tracker: told of each layer.
        notes: collects what the user should know of the run.

    Returns:
        The result of each layer, None for those that were not admitted.

    Raises:
        OptionError: the executor is none, or can't be reached.
        WwonnxError: the workers can't do the work at all: another version, or no wwonnx.
    """
    with opened(executor) as pool:
        return _Run(layers, steps, pool, tracker, notes).results()


def compute(job: Job, threads: int | None, version: str) -> list[Finding]:
    """The work of a worker: the layers of a job with their rows.

    Args:
        job: what to do.
        threads: how many BLAS threads a huge layer gets; None for as many as the worker's process has.
        version: of the wwonnx that asks.

    Raises:
        UnreachableError: the model is not to be had here.
        WwonnxError: another version is installed here.
    """
    if version != __version__:
        raise WwonnxError(f"a worker has wwonnx {__version__}, not {version}: install the same version everywhere")
    huge = any(layer.M >= ALONE for layer in job.layers)
    large = any(layer.M >= LARGE for layer in job.layers)
    with blas.all_threads(threads) if huge else blas.one_thread_each(with_scipy=large):
        return job()


@dataclass(frozen=True)
class Pool:
    """An executor, and what is known of its workers.

    Attributes:
        executor: where jobs are submitted.
        workers: how many jobs it works on at once, now.
        threads: how many BLAS threads each worker gets for a huge layer; None for as many as its process has.
        lost: what there is to say of workers that went since the last look.
        deaths: what a job ends in when it was given up because its workers died.
    """

    executor: Executor
    workers: Callable[[], int]
    threads: int | None = None
    lost: Callable[[], list[str]] = list
    deaths: tuple[type[Exception], ...] = ()


@contextlib.contextmanager
def opened(executor: Any) -> Iterator[Pool]:
    """The pool behind what the user gave; what was opened here is closed again.

    Raises:
        OptionError: it is no executor, or can't be reached.
    """
    if isinstance(executor, str):
        from . import dask

        with dask.connected(executor) as client:
            yield dask.pool(client)
    elif type(executor).__module__.partition(".")[0] == "distributed":
        from . import dask

        yield dask.pool(executor)
    elif isinstance(executor, Executor):
        # How many workers it has is nowhere public; those of the standard library and of loky know.
        own = getattr(executor, "_max_workers", None)
        workers = own if isinstance(own, int) and own > 0 else _UNKNOWN_WORKERS
        shared = max(1, cores() // workers) if isinstance(executor, ProcessPoolExecutor) else None
        yield Pool(executor, lambda: workers, shared)
    else:
        raise OptionError(
            f"executor={executor!r}: give a concurrent.futures.Executor, a dask.distributed.Client or 'dask://host:port'"
        )


class _Run:
    """One call of `run`."""

    def __init__(
        self,
        layers: Sequence[WeightLayer],
        steps: Steps[Finding, Rows],
        pool: Pool,
        tracker: Tracker | None,
        notes: list[str],
    ) -> None:
        self._layers, self._steps, self._pool, self._tracker, self._notes = layers, steps, pool, tracker, notes
        self._results: list[Rows | None] = [None] * len(layers)
        self._shipped = 0

    def results(self) -> list[Rows | None]:
        every = tasks(self._layers, self._steps.lanczos_above)
        workers = self._pool.workers()
        small = batches([task for task in every if task.M < ALONE], workers, memory.SMALL)
        waiting = [[task] for task in every if task.M >= ALONE] + small
        running: dict[Future[Any], tuple[Batch, Job]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self._pool.workers():
                    self._start(waiting.pop(0), running)
                done, _ = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
                self._notes += self._pool.lost()
                for future in done:
                    self._collect(future, *running.pop(future), running)
        except BrokenExecutor as error:
            return self._here(error)
        finally:
            for future in running:
                future.cancel()
        self._notes += self._pool.lost()
        if self._shipped:
            self._notes.append(
                f"{self._shipped} layers were sent to workers that don't find the model at its path (the same file, of "
                "the same time); put it there, to send none"
            )
        return self._results

    def _start(self, batch: Batch, running: dict[Future[Any], tuple[Batch, Job]]) -> None:
        admit = self._steps.admit
        batch = [task for task in batch if admit is None or admit(task.layer)]
        if batch:
            job = self._steps.job([task.layer for task in batch])
            assert isinstance(job, Job)
            running[self._submit(job)] = batch, job

    def _submit(self, job: Job) -> Future[Any]:
        future: Future[Any] = self._pool.executor.submit(compute, job, self._pool.threads, __version__)
        return future

    def _collect(
        self, future: Future[Any], batch: Batch, job: Job, running: dict[Future[Any], tuple[Batch, Job]]
    ) -> None:
        try:
            found = future.result()
        except UnreachableError:
            self._shipped += len(batch)
            sent = replace(job, layers=tuple(carried(layer) for layer in job.layers))
            running[self._submit(sent)] = batch, sent
            return
        except BrokenExecutor:
            raise
        except (ImportError, AttributeError) as error:
            raise WwonnxError(
                f"the executor's workers can't run wwonnx {__version__} ({type(error).__name__}: {error}); "
                "install it there"
            ) from None
        except self._pool.deaths as error:
            for task in batch:
                reason = f"was given up after the workers that computed it died ({error}): too little memory there?"
                self._finish(task.index, task.layer, self._steps.refuse(task.layer, reason))
            return
        for task, finding in zip(batch, found, strict=True):
            self._finish(task.index, task.layer, self._steps.complete(task.layer, finding))

    def _finish(self, index: int, layer: WeightLayer, rows: Rows) -> None:
        self._results[index] = rows
        if self._tracker is not None:
            self._tracker.finished(layer)

    def _here(self, error: BrokenExecutor) -> list[Rows | None]:
        """The rest in this process: an executor of concurrent.futures ends when one of its processes is killed."""
        left = [index for index, rows in enumerate(self._results) if rows is None]
        note = f"a worker died and the executor with it ({error}): {len(left)} layers were computed in this process"
        logger.warning(note)
        self._notes.append(note)
        found = local.run([self._layers[index] for index in left], self._steps, self._tracker)
        for index, rows in zip(left, found, strict=True):
            self._results[index] = rows
        return self._results

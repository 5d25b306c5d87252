"""What a layer costs, and which layers are computed in one go: the same for every way to run them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import TypeAlias

from ..layer import WeightLayer
from ..spectral.esd import LARGE
from ..spectral.lanczos import PROBES, REPLICATES, STEPS

#: From this M on a layer gets all BLAS threads, and the machine for itself. Below, as many layers side by side as there
#: are cores do at least as much with one thread each.
ALONE = 4096
#: Below this M layers of equal M are computed together, until they have so many eigenvalues (numpy lets other threads
#: run only during calls on more) and so much work that handing them to a thread is worth it.
_TOGETHER, _EIGENVALUES, _WORTH = 512, 512, 6e7
#: Rows that are brought to float64 at once where a matrix is tall or small.
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Task:
    """A layer, its place in the result, and what it costs.

    Attributes:
        index: its place.
        layer: the layer.
        lanczos_above: layers of larger M are approximated.
    """

    index: int
    layer: WeightLayer
    lanczos_above: int | None = None

    @cached_property
    def M(self) -> int:
        """Eigenvalues of each matrix."""
        return self.layer.M

    @cached_property
    def work(self) -> float:
        """Floating point operations of the Gram matrices and their eigenvalues, or of the Krylov space."""
        N, M = float(self.layer.N), float(self.M)
        if self._approximated:
            d = float(self._dimensions)
            return self.layer.rf * (4 * N * M * d + 4 * M * d**2 + 10 * d**3) + 1e6
        return self.layer.rf * (N * M**2 + 4 / 3 * M**3) + 1e6

    @cached_property
    def stored(self) -> float:
        """Bytes of the weight as it is stored."""
        return self.layer.parameters * stored_bits(self.layer.dtype) / 8

    @cached_property
    def memory(self) -> int:
        """Bytes at the peak, beyond what the process holds before and after.

        The float64 copy (a block of it for a tall matrix) beside the Gram matrix; numpy, which decomposes small ones,
        makes copies of them. Weights that are computed from others are whole arrays of their own before that. An
        approximation takes the Krylov space and its projection, the likely spectra twice, and a copy of one matrix
        where that is not read as it lies.
        """
        N, M, rf = self.layer.N, self.M, self.layer.rf
        computed = (24 if self.layer.parts else 12) if is_computed(self.layer) else 0
        if self._approximated:
            d = self._dimensions
            copied = 0 if rf == 1 and stored_bits(self.layer.dtype) >= 32 else 8 * N * M
            return (
                8 * (M * (d + 8 * PROBES + 2 * rf * REPLICATES) + N * PROBES + 5 * d * d)
                + copied
                + (computed * self.layer.parameters)
            )
        small = M < LARGE
        rows = min(N, _BLOCK_ROWS) if small or N > 4 * M else N
        matrices = rf if small else 1
        working = 8 * M * matrices * (rows + (3 if small else 1) * M)
        return working + computed * self.layer.parameters

    @property
    def _approximated(self) -> bool:
        return self.lanczos_above is not None and self.lanczos_above < self.M

    @property
    def _dimensions(self) -> int:
        """Of the Krylov space."""
        return min(self.M, PROBES * STEPS)


Batch: TypeAlias = "list[Task]"


def tasks(layers: Sequence[WeightLayer], lanczos_above: int | None = None) -> list[Task]:
    """One task per layer, most work first."""
    return sorted((Task(index, one, lanczos_above) for index, one in enumerate(layers)), key=lambda task: -task.work)


def batches(some: Sequence[Task], workers: int, budget: float) -> list[Batch]:
    """Layers that are computed in one go, in the order of their start: large ones alone, small ones by equal M.

    Most work comes first. But of the small ones the workers start with some of different length: those of equal length
    would all want the interpreter, which is one's at a time, for their rows at the same moment, and none in between.

    Args:
        some: below `ALONE`.
        workers: how many batches run at once: none is so large that another would wait for it.
        budget: bytes that all batches at once may take.
    """
    made = [[task] for task in some if task.M >= _TOGETHER]
    small = [task for task in some if task.M < _TOGETHER]
    worth = min(_WORTH, sum(task.work for task in small) / (1.5 * workers))
    shared: list[Batch] = []
    for _, alike in groupby(sorted(small, key=lambda task: task.M), key=lambda task: task.M):
        batch: Batch = []
        for task in alike:
            full = sum(t.layer.rf for t in batch) * task.M > _EIGENVALUES and sum(t.work for t in batch) > worth
            if batch and (full or memory_of(batch) + task.memory > budget // 2):
                shared.append(batch)
                batch = []
            batch.append(task)
        shared.append(batch)
    return sorted(made, key=_work_of, reverse=True) + _out_of_step(shared, workers)


def _out_of_step(some: list[Batch], workers: int) -> list[Batch]:
    """Most work first, but for the first of each worker: those are the largest and parts of it, evenly spaced."""
    waiting = sorted(some, key=_work_of, reverse=True)
    works = [_work_of(batch) for batch in waiting]
    first = []
    for share in [works[0] * (1.0 - worker / workers) for worker in range(min(workers, len(works)))]:
        nearest = min(range(len(works)), key=[abs(work - share) for work in works].__getitem__)
        first.append(waiting.pop(nearest))
        del works[nearest]
    return first + waiting


def _work_of(batch: Batch) -> float:
    return sum(task.work for task in batch)


def memory_of(batch: Batch) -> int:
    """Bytes at the peak of a batch."""
    return sum(task.memory for task in batch)


def is_computed(layer: WeightLayer) -> bool:
    """Whether a layer's values are made when it is read: out of codes, or of other layers."""
    return bool(layer.parts) or not ("float" in layer.dtype or layer.dtype == "double")


@cache
def stored_bits(dtype: str) -> int:
    """Bits of an element type as ONNX spells it in lower case: `float`, `bfloat16`, `int4`."""
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else {"double": 64, "bool": 8}.get(dtype, 32)

"""Two ways to do the same thing, timed in turn in one process; and what machine they ran on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: BLAS workers spin for 0.1 s after their last task (OpenBLAS's default): each run begins when they are asleep.
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of every run of one way, in the order in which they ran."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Largest over smallest: how much to trust the median."""
        return max(self.seconds) / min(self.seconds)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, after a pause that is not counted."""
    time.sleep(_PAUSE_SECONDS)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(repeats: int, *works: Callable[[], object]) -> list[Timings]:
    """Time functions in turn, A B A B ..., so that whatever slows the machine down slows all of them."""
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [Timings(tuple(times)) for times in zip(*rounds, strict=True)]


def machine() -> str:
    """One line: cores that this process may use, processor, Python, numpy and its BLAS."""
    import numpy as np

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"Python {platform.python_version()}"
    return f"{cores} cores, {_processor()}, {python}, numpy {np.__version__}, {_blas()}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _blas() -> str:
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "blas" and "numpy" in library["filepath"]:
            kernels = library.get("architecture", "?")
            return f"{library['internal_api']} {library['version']} ({kernels}), {library['num_threads']} threads"
    return "unknown BLAS"

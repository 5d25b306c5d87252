"""Arrays that are maps of files: what to tell the system about their pages."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


def expect_few_reads(array: NDArray[np.generic]) -> None:
    """Tell the system that a map is read here and there: it would read ahead around each sample otherwise."""
    _advise(array, "MADV_RANDOM")


def let_go(array: NDArray[np.generic]) -> None:
    """Give the pages of a map back that were read: the process no longer holds them, the file still does."""
    _advise(array, "MADV_DONTNEED")


def _advise(array: NDArray[np.generic], advice: str) -> None:
    """Nothing for arrays that are no maps, and for those that may hold more than their file does."""
    base: object = array
    outermost = array
    while isinstance(base, np.ndarray):
        outermost, base = base, base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, advice) and not outermost.flags.writeable:
        base.madvise(getattr(mmap, advice))

"""The power law fit of many samples of equal size side by side, for bootstraps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .power_law import closest_starts, exponents

#: Values of the samples that are fitted together, so that a temporary holds 1 MiB.
_BLOCK = 1 << 17


@dataclass(frozen=True)
class Fits:
    """One power law per sample.

    Attributes:
        alphas: exponents, shape (samples,); NaN where a sample has no tail.
        distances: Kolmogorov-Smirnov distance D of each, shape (samples,).
        tails: number of values in each tail, shape (samples,); 0 where a sample has no tail.
    """

    alphas: Array
    distances: Array
    tails: NDArray[np.intp]


def fit_samples(samples: Array) -> Fits:
    """Fit a power law to each row as `fit_power_law` does, with no threshold.

    Args:
        samples: shape (samples, n), each row ascending and above zero, n >= 2.
    """
    count, n = samples.shape
    alphas, distances, tails = np.empty(count), np.empty(count), np.empty(count, dtype=np.intp)
    rows = max(1, _BLOCK // n)
    for first in range(0, count, rows):
        block = slice(first, first + rows)
        logs, every = exponents(samples[block])
        starts, smallest = closest_starts(logs, every)
        chosen = np.minimum(starts, n - 2)[:, None]
        alphas[block] = np.where(starts < n, np.take_along_axis(every, chosen, axis=1)[:, 0], np.nan)
        distances[block] = np.where(starts < n, smallest, np.nan)
        tails[block] = n - starts
    return Fits(alphas, distances, tails)

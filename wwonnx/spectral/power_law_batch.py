"""The power law fit of many samples of equal size side by side, for bootstraps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array

#: Positions in a tail at which a first, lower bound of every D is taken. Few do: each D computed sharpens the bounds.
_PROBES = (0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
#: A tail whose ends differ by less than this (in the logarithm) has no slope: what differs is rounding.
_FLAT = 1e-10
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


def fit_power_laws(samples: Array) -> Fits:
    """Fit a power law to each row as `fit_power_law` does, with no threshold.

    The answer is that of the full search. D at one position of a tail is a lower bound of the tail's D. The start with
    the lowest bound is computed in full, and the position of its D, which is nearly that of its neighbours, bounds all
    other starts anew: 4 to 8 starts of a sample are computed, where one set of bounds leaves hundreds.

    Args:
        samples: shape (samples, n), each row ascending and above zero, n >= 2.
    """
    count, n = samples.shape
    alphas, distances, tails = np.empty(count), np.empty(count), np.empty(count, dtype=np.intp)
    rows = max(1, _BLOCK // n)
    for first in range(0, count, rows):
        block = slice(first, first + rows)
        alphas[block], distances[block], tails[block] = _fit(samples[block])
    return Fits(alphas, distances, tails)


def _fit(samples: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    count, n = samples.shape
    gaps = np.log1p(np.diff(samples, axis=1) / samples[:, :-1])
    logs = np.concatenate([-np.cumsum(gaps[:, ::-1], axis=1)[:, ::-1], np.zeros((count, 1))], axis=1)
    slopes = _slopes(gaps, logs)
    bounds = np.where(np.isnan(slopes), np.inf, 0.0)
    for probe in _PROBES:
        positions = np.arange(n - 1) + (probe * np.arange(n - 1, 0, -1)).astype(np.intp)
        _raise_bounds(bounds, slopes, logs, logs[:, positions], positions)
    alphas, best, chosen = np.full(count, np.nan), np.full(count, np.inf), np.full(count, n)
    todo = np.arange(count)
    while True:
        row = np.arange(todo.size)
        start = bounds.argmin(axis=1)
        # The margin covers the last bit, in which two ways to the same D may differ.
        worth = np.isfinite(bounds[row, start]) & (bounds[row, start] <= best[todo] * (1.0 + 1e-12))
        if not worth.any():
            return alphas, np.where(chosen < n, best, np.nan), n - chosen
        todo, start, row = todo[worth], start[worth], row[: np.count_nonzero(worth)]
        logs, slopes, bounds = logs[worth], slopes[worth], bounds[worth]
        distance, position = _distance(logs, slopes[row, start], start)
        better = (distance < best[todo]) | ((distance == best[todo]) & (start < chosen[todo]))
        improved = todo[better]
        best[improved], chosen[improved] = distance[better], start[better]
        alphas[improved] = 1.0 - slopes[row, start][better]
        _raise_bounds(bounds, slopes, logs, logs[row, position][:, None], position[:, None])
        bounds[row, start] = np.inf


def _slopes(gaps: Array, logs: Array) -> Array:
    """1 - alpha of every tail, shape (samples, n - 1); NaN where a tail is flat."""
    followers = np.arange(gaps.shape[1], 0, -1)
    sums = np.cumsum((followers * gaps)[:, ::-1], axis=1)[:, ::-1]
    sums[logs[:, -1:] - logs[:, :-1] < _FLAT] = np.nan
    slopes: Array = -(followers + 1) / sums
    return slopes


def _raise_bounds(bounds: Array, slopes: Array, logs: Array, at: Array, positions: NDArray[np.intp]) -> None:
    """Raise the lower bounds of D to what it is at one position, for the tails that hold it; in place.

    Args:
        bounds, slopes: of every tail, shape (samples, n - 1).
        logs: ln(x / x_max), shape (samples, n).
        at: the logarithms at the positions; broadcasts to the shape of the bounds.
        positions: a position for each start or each sample, shape (n - 1,) or (samples, 1).
    """
    starts = np.arange(bounds.shape[1])
    offset = np.maximum(positions - starts, 0)
    fitted = -np.expm1(slopes * np.maximum(at - logs[:, :-1], 0.0))
    # A flat tail has no slope and keeps its infinite bound.
    np.fmax(bounds, np.abs(fitted - offset / (logs.shape[1] - starts)), out=bounds)


def _distance(logs: Array, slopes: Array, starts: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
    """D of one tail of each sample, and the position in the sample where it lies; shapes (samples,)."""
    row = np.arange(starts.size)
    offset = np.maximum(np.arange(logs.shape[1]) - starts[:, None], 0)
    rise = np.maximum(logs - logs[row, starts][:, None], 0.0)
    apart = np.abs(-np.expm1(slopes[:, None] * rise) - offset / (logs.shape[1] - starts[:, None]))
    position = apart.argmax(axis=1)
    return apart[row, position], position

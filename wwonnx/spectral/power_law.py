"""Fits the tail of an ESD with a power law: the exponent alpha."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .tail import fittable

#: Positions in a tail at which a first, lower bound of every D is taken.
_PROBES = np.linspace(0.0, 1.0, 16)
#: A tail whose ends differ by less than this has no slope: what differs is rounding.
_FLAT = 1e-10
#: A scan has so many starts, whatever it costs.
_FEWEST_STARTS = 100


@dataclass(frozen=True)
class PowerLaw:
    """A power law on [xmin, xmax]: density proportional to x^-alpha.

    Attributes:
        alpha: exponent; NaN where the fit failed.
        xmin, xmax: where the tail begins and ends.
        D: Kolmogorov-Smirnov distance between the tail and the fit.
        sigma: standard error of alpha, (alpha - 1) / sqrt(n).
        num_pl_spikes: number of eigenvalues in the tail.
        reason: why the fit failed; empty where it did not.
    """

    alpha: float
    xmin: float
    xmax: float
    D: float
    sigma: float
    num_pl_spikes: int
    reason: str = ""

    @classmethod
    def failed(cls, reason: str) -> PowerLaw:
        """A fit that could not be made."""
        return cls(np.nan, np.nan, np.nan, np.nan, np.nan, 0, reason)


@dataclass(frozen=True)
class Scan:
    """Alpha and D for every start of a tail; `power_law_scan` fills it."""

    x: Array
    alphas: Array
    distances: Array


def fit_power_law(esd: Array, ignore_largest: int = 0) -> PowerLaw:
    """Fit a power law to the tail, its start chosen by the smallest Kolmogorov-Smirnov distance.

    Clauset, Shalizi and Newman (arXiv:0706.1062), eq. 3.1 for alpha, sec. 3.3 for xmin: for every start i, with
    m = n - i values x_j from there on,

        alpha_i = 1 + m / sum_j ln(x_j / x_i),      D_i = max_j |1 - (x_j / x_i)^(1 - alpha_i) - j / m|,

    and the first i with the smallest D_i is the fit.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).

    Returns:
        The fit; one with a `reason` where there is no tail to fit.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return PowerLaw.failed(reason)
    logs, alphas = exponents(x)
    return closest_fit(x, logs, alphas) or PowerLaw.failed("the eigenvalues are all equal: no tail")


def closest_fit(x: Array, logs: Array, alphas: Array) -> PowerLaw | None:
    """The fit whose start has the smallest D (arXiv:0706.1062, sec. 3.3).

    Args:
        x: values that can be fitted, shape (n,), ascending.
        logs: ln(x / x_max), shape (n,).
        alphas: exponent of every start, shape (n - 1,); inf for a start that is not to be taken.

    Returns:
        The fit; None where no start has an exponent.
    """
    best = _smallest_distance(logs, alphas)
    if best is None:
        return None
    start, distance = best
    alpha, tail = float(alphas[start]), x.size - start
    return PowerLaw(
        alpha=alpha,
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=distance,
        sigma=(alpha - 1.0) / float(np.sqrt(tail)),
        num_pl_spikes=int(x.size - np.searchsorted(x, x[start])),
    )


def exponents(x: Array) -> tuple[Array, Array]:
    """ln(x / x_max), and the maximum likelihood alpha of every tail that begins at i = 0 .. n - 2.

    The sum over a tail is built from the gaps between neighbours, all positive, so that nothing cancels:
    S_i = S_(i+1) + (n - 1 - i) ln(x_(i+1) / x_i).

    Args:
        x: values, shape (n,), ascending, above zero, n >= 2.

    Returns:
        The logarithms, shape (n,), and the exponents, shape (n - 1,); inf where a tail is flat.
    """
    gaps = np.log1p((x[1:] - x[:-1]) / x[:-1])
    logs = np.concatenate((-np.cumsum(gaps[::-1])[::-1], [0.0]))
    followers = np.arange(x.size - 1, 0, -1)
    sums = np.cumsum((followers * gaps)[::-1])[::-1]
    flat = logs[-1] - logs[:-1] < _FLAT
    with np.errstate(divide="ignore"):
        return logs, np.where(flat, np.inf, 1.0 + (followers + 1) / np.where(flat, 1.0, sums))


def distance(logs: Array, alphas: Array, start: int) -> tuple[float, int]:
    """D of the tail that begins at `start`, max_j |1 - (x_j / x_i)^(1 - alpha_i) - j / m| (arXiv:0706.1062, eq. 3.9).

    Args:
        logs: ln(x / x_max), shape (n,), ascending.
        alphas: exponent of every start, shape (n - 1,).
        start: index i of the tail's first value.

    Returns:
        D, between 0 and 1, and the position in `logs` where it lies.
    """
    tail = logs.size - start
    apart = _apart(logs[start:] - logs[start], 1.0 - alphas[start], np.arange(tail) / tail)
    offset = int(apart.argmax())
    return float(apart[offset]), start + offset


def _smallest_distance(logs: Array, alphas: Array) -> tuple[int, float] | None:
    """The first start with the smallest D, without computing every D.

    D at a few positions of a tail is a lower bound of the tail's D. The start with the lowest bound is computed in
    full, and the position of its D, which is nearly that of its neighbours, bounds all other starts anew. Once the
    lowest bound passes the best D so far, none of the rest can be better: the answer is that of the full search, after
    2 to 6 starts computed.
    """
    bounds = lower_bounds(logs, alphas)
    sloped = bounds < np.inf
    if not sloped.any():
        return None
    n = logs.size
    slopes = np.where(sloped, 1.0 - alphas, 0.0)
    counts = np.arange(n, dtype=np.float64)
    best_start, best = -1, np.inf
    while True:
        start = int(bounds.argmin())
        # The margin covers the last bit, in which a vector's exponential may differ from a shorter one's.
        if bounds[start] > best * (1.0 + 1e-12) or bounds[start] == np.inf:
            return best_start, best
        d, position = distance(logs, alphas, start)
        if d < best or (d == best and start < best_start):
            best_start, best = start, d
        bounds[start] = np.inf
        earlier = slice(0, min(position, n - 1))
        expected = (position - counts[earlier]) / (n - counts[earlier])
        anew = _apart(logs[position] - logs[earlier], slopes[earlier], expected)
        np.maximum(bounds[earlier], anew, out=bounds[earlier])


def lower_bounds(logs: Array, alphas: Array) -> Array:
    """A lower bound of every start's D, from a few positions of its tail.

    Args:
        logs: ln(x / x_max), shape (n,), ascending.
        alphas: exponent of every start, shape (n - 1,).

    Returns:
        The bounds, shape (n - 1,); inf where a tail has no slope.
    """
    n = logs.size
    sloped = (alphas > 1.0) & (alphas < np.inf)
    slopes = np.where(sloped, 1.0 - alphas, 0.0)
    probes, expected = _probes(n) if n <= _KEPT else _make_probes(n)
    apart = np.expm1(slopes * (logs[probes] - logs[:-1]))
    apart += expected
    return np.where(sloped, np.abs(apart, out=apart).max(axis=0), np.inf)


def _apart(rises: Array, slopes: Array | np.float64, expected: Array) -> Array:
    """How far the fitted distribution is from the empirical one at points ln(x / x_start) of a tail."""
    apart = np.expm1(slopes * rises)
    apart += expected
    return np.abs(apart, out=apart)


def _make_probes(n: int) -> tuple[NDArray[np.intp], Array]:
    """Where the tails of n values are probed, and what the fit should be there, both of shape (probes, n - 1)."""
    tails = np.arange(n, 1, -1)
    positions = (_PROBES[:, None] * (tails - 1)).astype(np.intp)
    return np.arange(n - 1) + positions, positions / tails


#: Kept for ESDs of up to this length: the layers of a model come in few sizes. 64 of them take 17 MB at most.
_KEPT = 1024
_probes = functools.lru_cache(maxsize=64)(_make_probes)


def power_law_scan(esd: Array, ignore_largest: int = 0, differences: float = np.inf) -> Scan:
    """Alpha and D for every start of a tail, for plots of D or alpha against xmin. Flat tails are left out.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        ignore_largest: how many of the largest to leave out.
        differences: about how many differences between fit and tail may be computed. All starts together need n^2 / 2;
            where that is more, starts evenly spaced among them stand for all.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return Scan(x[:0], x[:0], x[:0])
    logs, alphas = exponents(x)
    starts = np.flatnonzero(np.isfinite(alphas))
    most = max(_FEWEST_STARTS, 2.0 * differences / x.size)
    if starts.size > most:
        starts = starts[np.linspace(0, starts.size - 1, int(most)).astype(np.intp)]
    return Scan(x[starts], alphas[starts], np.array([distance(logs, alphas, int(start))[0] for start in starts]))

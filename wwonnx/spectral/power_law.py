"""Fits the tail of an ESD with a power law: the exponent alpha."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .tail import fittable

#: Positions in a tail at which a first, lower bound of every D is taken.
_PROBES = np.linspace(0.0, 1.0, 12)
#: More than what float32 moves a D by: 6e-8 for each of a product, a sum and the rounded result, and 2 units of `exp`.
_ROUNDING32 = np.float32(1e-6)
#: The exponential of less is nothing beside that, and not yet below float32's range.
_VANISHED = -80.0
#: A tail whose ends differ by less than this has no slope: what differs is rounding.
_FLAT = 1e-10
#: Values whose starts are sought together, and probes that are computed together. Larger temporaries than these are
#: given back to the system each time, and their pages cost more than what is done with them.
_BLOCK, _PROBED = 1 << 13, 15_000
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
    return fit_power_laws([esd], ignore_largest)[0]


def fit_power_laws(esds: Sequence[Array], ignore_largest: int = 0) -> list[PowerLaw]:
    """`fit_power_law` of each ESD; those of equal size are fitted together, which changes no bit of any."""
    fits: list[PowerLaw] = []
    alike: dict[int, list[tuple[int, Array]]] = {}
    for index, esd in enumerate(esds):
        x, reason = fittable(esd, ignore_largest)
        fits.append(PowerLaw.failed(reason or "the eigenvalues are all equal: no tail"))
        if not reason:
            alike.setdefault(esd.size, []).append((index, x))
    for some in alike.values():
        for (index, _), fit in zip(some, _closest_fits([x for _, x in some]), strict=True):
            fits[index] = fit or fits[index]
    return fits


def _closest_fits(xs: list[Array]) -> Iterator[PowerLaw | None]:
    """As `closest_fit`, for each of some values that may begin at every start."""
    n = max(x.size for x in xs)
    # They end together: what stands before the first value of a shorter one takes no part in any of its tails.
    values = np.array([np.concatenate((np.full(n - x.size, x[0]), x)) if x.size < n else x for x in xs])
    logs, alphas = exponents(values)
    for x, row in zip(xs, alphas, strict=True):
        row[: n - x.size] = np.inf
    starts, distances = closest_starts(logs, alphas)
    for x, row, start, apart in zip(xs, alphas, starts.tolist(), distances.tolist(), strict=True):
        yield _power_law(x, float(row[start]), start - (n - x.size), apart) if start < n else None


def closest_fit(x: Array, logs: Array, alphas: Array) -> PowerLaw | None:
    """The fit whose start has the smallest D (arXiv:0706.1062, sec. 3.3).

    Args:
        x: values that can be fitted, shape (n,), ascending.
        logs: ln(x / x_max), shape (n,).
        alphas: exponent of every start, shape (n - 1,); inf for a start that is not to be taken.

    Returns:
        The fit; None where no start has an exponent.
    """
    (start,), (apart,) = closest_starts(logs[None], alphas[None])
    return _power_law(x, float(alphas[start]), int(start), float(apart)) if start < x.size else None


def _power_law(x: Array, alpha: float, start: int, apart: float) -> PowerLaw:
    """The fit of the tail of x that begins at `start`, whose D is `apart`."""
    return PowerLaw(
        alpha=alpha,
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=apart,
        sigma=(alpha - 1.0) / math.sqrt(x.size - start),
        num_pl_spikes=int(x.size - np.searchsorted(x, x[start])),
    )


def exponents(x: Array) -> tuple[Array, Array]:
    """ln(x / x_max), and the maximum likelihood alpha of every tail that begins at i = 0 .. n - 2.

    The sum over a tail is built from the gaps between neighbours, all positive, so that nothing cancels:
    S_i = S_(i+1) + (n - 1 - i) ln(x_(i+1) / x_i).

    Args:
        x: values, shape (..., n), ascending along the last axis, above zero, n >= 2.

    Returns:
        The logarithms, shape (..., n), and the exponents, shape (..., n - 1); inf where a tail is flat.
    """
    gaps = np.log1p((x[..., 1:] - x[..., :-1]) / x[..., :-1])
    logs = np.zeros(x.shape)
    logs[..., :-1] = -np.cumsum(gaps[..., ::-1], axis=-1)[..., ::-1]
    followers = np.arange(x.shape[-1] - 1, 0, -1)
    sums = np.cumsum((followers * gaps)[..., ::-1], axis=-1)[..., ::-1]
    flat = -logs[..., :-1] < _FLAT
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
    found, position = distances(logs[None], 1.0 - alphas[start : start + 1], np.array([start]))
    return float(found[0]), int(position[0])


def distances(logs: Array, slopes: Array, starts: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
    """D of one tail of each row, and the position in the row where it lies; both of shape (rows,).

    Args:
        logs: ln(x / x_max), shape (rows, n), ascending.
        slopes: 1 - alpha of the tails, shape (rows,).
        starts: index of each tail's first value, shape (rows,).
    """
    first, row = int(starts.min()), np.arange(starts.size)
    # What stands before a tail's first value is as far apart as that: not at all.
    offsets = np.maximum(np.arange(first, logs.shape[1]) - starts[:, None], 0)
    rises = np.maximum(logs[:, first:] - logs[row, starts][:, None], 0.0)
    apart = _apart(rises, slopes[:, None], offsets / (logs.shape[1] - starts)[:, None])
    position = apart.argmax(axis=1)
    return apart[row, position], first + position


def closest_starts(logs: Array, alphas: Array) -> tuple[NDArray[np.intp], Array]:
    """For each row the first start with the smallest D, and D; both of shape (rows,). Start n where there is none.

    Args:
        logs: ln(x / x_max), shape (rows, n), ascending.
        alphas: exponent of every start, shape (rows, n - 1); inf, or NaN, for one that is not to be taken.
    """
    count, n = logs.shape
    starts, smallest = np.full(count, n), np.full(count, np.inf)
    together = max(1, _BLOCK // n)
    for first in range(0, count, together):
        block = slice(first, first + together)
        _seek(logs[block], alphas[block], starts[block], smallest[block])
    return starts, smallest


def _seek(logs: Array, alphas: Array, starts: NDArray[np.intp], smallest: Array) -> None:
    """Fill in `starts` and `smallest` without computing every D.

    D at a few positions of a tail is a lower bound of the tail's D. The start with the lowest bound is computed in
    full, and the position of its D, which is nearly that of its neighbours, bounds the other starts anew: those that
    can still be better. Once the lowest bound passes the best D so far, none of the rest can be: the answer is that of
    the full search, after 2 to 8 starts computed.
    """
    bounds = lower_bounds(logs, alphas)
    slopes = np.where(bounds < np.inf, 1.0 - alphas, 0.0)
    left = np.arange(logs.shape[1], 1, -1)  # values of each tail
    todo = np.arange(len(logs))
    while True:
        start, row = bounds.argmin(axis=1), np.arange(todo.size)
        lowest = bounds[row, start]
        worth = (lowest <= _within(smallest[todo])) & (lowest < np.inf)
        if not worth.all():
            todo, start, row = todo[worth], start[worth], row[: np.count_nonzero(worth)]
            if not todo.size:
                return
            logs, slopes, bounds = logs[worth], slopes[worth], bounds[worth]
        found, position = distances(logs, slopes[row, start], start)
        so_far = smallest[todo]
        better = (found < so_far) | ((found == so_far) & (start < starts[todo]))
        smallest[todo[better]], starts[todo[better]] = found[better], start[better]
        bounds[row, start] = np.inf
        of, other = np.nonzero(bounds <= _within(smallest[todo])[:, None])
        rises = np.maximum(logs[row, position][of] - logs[of, other], 0.0)
        surviving = 1.0 - np.maximum(position[of] - other, 0) / left[other]
        bounds[of, other] = np.maximum(bounds[of, other], _at_least(rises, slopes[of, other], surviving))


def _within(smallest: Array) -> Array:
    """What a bound may reach where D is no larger: a vector's exponential may differ from a shorter one's in a bit."""
    return smallest * (1.0 + 1e-12)


def lower_bounds(logs: Array, alphas: Array) -> Array:
    """A lower bound of every start's D, from a few positions of its tail.

    Args:
        logs: ln(x / x_max), shape (rows, n), ascending.
        alphas: exponent of every start, shape (rows, n - 1).

    Returns:
        The bounds, shape (rows, n - 1); inf where a tail has no slope.
    """
    n = logs.shape[1]
    sloped = (alphas > 1.0) & (alphas < np.inf)
    slopes = np.where(sloped, 1.0 - alphas, 0.0)
    probes, surviving = _probes(n) if n <= _KEPT else _make_probes(n)
    bounds = np.where(sloped, 0.0, np.inf)
    together = max(1, _PROBED // logs.size)
    for first in range(0, len(probes), together):
        some = slice(first, first + together)
        rises = logs.take(probes[some], axis=1)
        rises -= logs[:, None, :-1]
        np.maximum(bounds, _at_least(rises, slopes[:, None], surviving[some]).max(axis=1), out=bounds)
    return bounds


def _apart(rises: Array, slopes: Array, expected: Array) -> Array:
    """How far the fitted distribution is from the empirical one at points ln(x / x_start) of a tail."""
    apart = np.expm1(slopes * rises)
    apart += expected
    return np.abs(apart, out=apart)


def _at_least(rises: Array, slopes: Array, surviving: Array) -> NDArray[np.float32]:
    """A little less than `_apart`, in float32, which is several times as fast: the difference of survival functions.

    Args:
        rises: ln(x / x_start) at the points; it is overwritten.
        slopes: 1 - alpha of the tails, so that the fit's survival function is exp(slopes * rises).
        surviving: the empirical one, the share of the tail that lies from the point on.
    """
    rises *= slopes
    apart = np.maximum(rises, _VANISHED, out=rises).astype(np.float32)
    np.exp(apart, out=apart)
    apart -= surviving.astype(np.float32)
    np.abs(apart, out=apart)
    apart -= _ROUNDING32
    return apart


def _make_probes(n: int) -> tuple[NDArray[np.intp], Array]:
    """Where the tails of n values are probed, and the share of each that lies from there on; both (probes, n - 1)."""
    tails = np.arange(n, 1, -1)
    positions = (_PROBES[:, None] * (tails - 1)).astype(np.intp)
    return np.arange(n - 1) + positions, 1.0 - positions / tails


#: Kept for ESDs of up to this length: the layers of a model come in few sizes. 64 of them take 13 MB at most.
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

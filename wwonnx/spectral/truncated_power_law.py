"""Fits the tail of an ESD with a power law that an exponential cuts off: fit="TPL" and fit="E_TPL"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .fingers import starts_near_peak
from .power_law import exponents
from .tail import fittable
from .truncated_likelihood import cutoff_alone, log_survival, maximum_likelihood, moments, on_bound, simplex_search

#: Positions in a tail at which a first, lower bound of every D is taken.
_PROBES = (0.05, 0.2, 0.5, 0.8)
#: A tail whose ends differ by less than this (in the logarithm) has no slope: what differs is rounding.
_FLAT = 1e-10


@dataclass(frozen=True)
class TruncatedPowerLaw:
    """A truncated power law on [xmin, inf): density proportional to x^-alpha exp(-Lambda x).

    Attributes:
        alpha: exponent, 1 or more; NaN where the fit failed.
        Lambda: rate of the cut-off, in units of 1 / eigenvalue; 0 is a plain power law.
        xmin, xmax: where the tail begins and ends.
        D: Kolmogorov-Smirnov distance between the tail and the fit.
        sigma: standard error of alpha from the information of the tail; NaN where alpha sits on its bound.
        num_pl_spikes: number of eigenvalues from xmin on.
        reason: why the fit failed; empty where it did not.
        at_bound: the parameter whose best value is its bound, "alpha" (1) or "Lambda" (0); empty where there is none.
            With alpha on its bound the cut-off alone shapes the tail, and alpha is no exponent.
    """

    alpha: float
    Lambda: float
    xmin: float
    xmax: float
    D: float
    sigma: float
    num_pl_spikes: int
    reason: str = ""
    at_bound: str = ""

    @classmethod
    def failed(cls, reason: str) -> TruncatedPowerLaw:
        """A fit that could not be made."""
        return cls(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, 0, reason)


def fit_truncated_power_law(
    esd: Array, ignore_largest: int = 0, near_peak: bool = False, exact: bool = False
) -> TruncatedPowerLaw:
    """Fit a truncated power law to the tail, its start chosen by the smallest Kolmogorov-Smirnov distance.

    For every start i, with m = n - i values x_j from there on, alpha > 1 and Lambda > 0 maximise the likelihood of

        p(x) = x^-alpha exp(-Lambda x) / integral_(x_i)^inf y^-alpha exp(-Lambda y) dy

    (Clauset, Shalizi and Newman, arXiv:0706.1062, table 2.1, "power law with cutoff"), and

        D_i = max_j |F(x_j) - j / m|,    j = 0 .. m - 1,

    F being the distribution function; the first i with the smallest D_i is the fit.

    The maximum is sought as `powerlaw` 1.5 does, which gives WeightWatcher's figures, or exactly. The two agree to 1e-4
    until alpha runs into its bound: there the simplex of `powerlaw` now and then collapses short of the maximum, and
    such a start may even win by its D (11 of 38 layers of ResNet-20 and -32 with at most 300 eigenvalues).

    Args:
        esd: eigenvalues, shape (n,), ascending.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).
        near_peak: seek xmin near the peak of the ESD only, as `starts_near_peak` says (fit="E_TPL").
        exact: take the exact maximum, which is also about ten times faster.

    Returns:
        The fit; one with a `reason` where there is no tail to fit.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return TruncatedPowerLaw.failed(reason)
    logs, alphas = exponents(x)
    starts = np.flatnonzero(logs[-1] - logs[:-1] >= _FLAT)
    if near_peak:
        starts = starts[starts_near_peak(x)[starts]]
    if not starts.size:
        return TruncatedPowerLaw.failed("the eigenvalues are all equal where a tail may begin: no tail")
    mean_u, mean_tau = 1.0 / (alphas[starts] - 1.0), _mean_excess(x)[starts]
    if exact:
        fitted, cutoffs = maximum_likelihood(mean_u, mean_tau)
    else:
        fitted, cutoffs = simplex_search(mean_u, mean_tau, x.size - starts)
    best, distance = _smallest_distance(logs, starts, fitted, cutoffs)
    start, alpha, z = int(starts[best]), float(fitted[best]), float(cutoffs[best])
    at_bound = _bound(mean_u[best : best + 1], mean_tau[best : best + 1])
    return TruncatedPowerLaw(
        alpha=alpha,
        Lambda=z / float(x[start]),
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=distance,
        sigma=np.nan if at_bound == "alpha" else _standard_error(alpha, z, x.size - start),
        num_pl_spikes=int(x.size - np.searchsorted(x, x[start])),
        at_bound=at_bound,
    )


def _mean_excess(x: Array) -> Array:
    """Mean of x_j / x_i - 1 over every tail, built from the gaps so that nothing cancels; shape (n - 1,)."""
    followers = np.arange(x.size - 1, 0, -1)
    sums: Array = np.cumsum((followers * np.diff(x))[::-1])[::-1]
    return sums / (followers + 1) / x[:-1]


def _bound(mean_u: Array, mean_tau: Array) -> str:
    """Which parameter of one tail is on its bound where the likelihood is largest."""
    if on_bound(mean_u, cutoff_alone(mean_tau))[0]:
        return "alpha"
    plain = 1.0 + 1.0 / mean_u[0]
    return "Lambda" if plain > 2.0 and mean_tau[0] * (plain - 2.0) >= 1.0 else ""


def _standard_error(alpha: float, z: float, tail: int) -> float:
    """Of alpha: the root of its entry in the inverse of the information of `tail` values."""
    if z == 0.0:
        return (alpha - 1.0) / float(np.sqrt(tail))
    of = moments(np.array([alpha]), np.array([z]))
    return float(np.sqrt(of.var_tau[0] / (of.var_u[0] * of.unexplained[0] * tail)))


def _smallest_distance(logs: Array, starts: NDArray[np.intp], alphas: Array, cutoffs: Array) -> tuple[int, float]:
    """The first start with the smallest D, as a position in `starts`, and D.

    As in `fit_power_laws`: D at one position of a tail is a lower bound of its D. The start with the lowest bound is
    computed in full, and the position of its D bounds all other starts anew.
    """
    tails = logs.size - starts
    bounds = np.zeros(starts.size)

    def apart(which: NDArray[np.intp] | slice, positions: NDArray[np.intp]) -> Array:
        fitted = -np.expm1(log_survival(logs[positions] - logs[starts[which]], alphas[which], cutoffs[which]))
        difference: Array = np.abs(fitted - (positions - starts[which]) / tails[which])
        return difference

    for probe in _PROBES:
        np.maximum(bounds, apart(slice(None), starts + (probe * (tails - 1)).astype(np.intp)), out=bounds)
    best, smallest = -1, np.inf
    while True:
        candidate = int(bounds.argmin())
        # The margin covers the last bit, in which two ways to the same D may differ.
        if not bounds[candidate] <= smallest * (1.0 + 1e-12) or np.isinf(bounds[candidate]):
            return best, smallest
        tail = np.arange(starts[candidate], logs.size)
        differences = apart(np.full(tail.size, candidate), tail)
        d, position = float(differences.max()), int(tail[differences.argmax()])
        if d < smallest or (d == smallest and candidate < best):
            best, smallest = candidate, d
        before = np.flatnonzero(starts <= position)
        bounds[before] = np.maximum(bounds[before], apart(before, np.full(before.size, position)))
        bounds[candidate] = np.inf

"""Fits the tail of an ESD with a power law that an exponential cuts off: fit="TPL" and fit="E_TPL"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .fingers import starts_near_peak
from .power_law import exponents
from .tail import fittable

#: Nodes of the quadrature, and where it ends: the integrand has fallen by exp(-_DEPTH) there. Both moments and integral
#: are then right to 1e-12 for alpha from 1 to 1000 and Lambda * xmin from 1e-12 to 1e6 (against 120 digits).
_NODES = 64
_DEPTH = 36.0
#: Lambda * xmin below it is no cut-off: no tail reaches so far that it could be seen.
_NO_CUTOFF = 1e-13
#: A step is the last where it would raise the log-likelihood per value by less than this.
_CONVERGED = 1e-24
_STEPS = 100
#: Positions in a tail at which a first, lower bound of every D is taken.
_PROBES = np.array([0.0, 0.04, 0.1, 0.18, 0.27, 0.36, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 1.0])
#: A tail whose ends differ by less than this (in the logarithm) has no slope: what differs is rounding.
_FLAT = 1e-10
#: Values of which the integral is taken at once: 16 MiB a temporary.
_BLOCK = 32768


@dataclass(frozen=True)
class TruncatedPowerLaw:
    """A truncated power law on [xmin, inf): density proportional to x^-alpha exp(-Lambda x).

    Attributes:
        alpha: exponent, 1 or more; NaN where the fit failed.
        Lambda: rate of the cut-off, in units of 1 / eigenvalue.
        xmin, xmax: where the tail begins and ends.
        D: Kolmogorov-Smirnov distance between the tail and the fit.
        sigma: standard error of alpha from the observed information; NaN where alpha sits on its bound.
        num_pl_spikes: number of eigenvalues in the tail.
        reason: why the fit failed; empty where it did not.
        at_bound: the parameter that ended on its bound, "alpha" (1) or "Lambda" (0: a plain power law); empty where
            neither did. An alpha on its bound says that the cut-off alone shapes the tail: it is no exponent.
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


@dataclass(frozen=True)
class _Moments:
    """Of u = ln t and tau = t - 1 under t^-alpha exp(-z t) on [1, inf), and ln of the integral of t^-alpha e^(-z tau).
    """

    log_integral: Array
    mean_u: Array
    mean_tau: Array
    var_u: Array
    var_tau: Array
    covariance: Array
    unexplained: Array


def fit_truncated_power_law(esd: Array, ignore_largest: int = 0, near_peak: bool = False) -> TruncatedPowerLaw:
    """Fit a truncated power law to the tail, its start chosen by the smallest Kolmogorov-Smirnov distance.

    For every start i, with m = n - i values x_j from there on, alpha >= 1 and Lambda >= 0 maximise the likelihood of

        p(x) = x^-alpha exp(-Lambda x) / integral_(x_i)^inf y^-alpha exp(-Lambda y) dy

    (Clauset, Shalizi and Newman, arXiv:0706.1062, table 2.1, "power law with cutoff"), and

        D_i = max_j |F(x_j) - j / m|,    j = 0 .. m - 1,

    F the distribution function; the first i with the smallest D_i is the fit. The likelihood is that of an exponential
    family, so that it has one maximum; it is found to rounding, where a simplex search stops at 1e-4.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).
        near_peak: seek xmin near the peak of the ESD only, as `starts_near_peak` says (fit="E_TPL").

    Returns:
        The fit; one with a `reason` where there is no tail to fit.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return TruncatedPowerLaw.failed(reason)
    logs, alphas = exponents(x)
    # The largest start whose tail isn't flat ends the list: behind it only equal values are left.
    starts = np.flatnonzero(logs[-1] - logs[:-1] >= _FLAT)
    if near_peak:
        starts = starts[starts_near_peak(x)[starts]]
    if not starts.size:
        return TruncatedPowerLaw.failed("the eigenvalues are all equal: no tail")
    mean_u, mean_tau = 1.0 / (alphas[starts] - 1.0), _mean_excess(x)[starts]
    fitted, cutoffs = _maximum_likelihood(mean_u, mean_tau)
    best, distance = _smallest_distance(logs, starts, fitted, cutoffs)
    start, alpha, cutoff = int(starts[best]), float(fitted[best]), float(cutoffs[best])
    return TruncatedPowerLaw(
        alpha=alpha,
        Lambda=cutoff / float(x[start]),
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=distance,
        sigma=_standard_error(alpha, cutoff, x.size - start),
        num_pl_spikes=x.size - start,
        at_bound="alpha" if alpha == 1.0 else "Lambda" if cutoff == 0.0 else "",
    )


def log_survival(u: Array, alpha: Array | float, cutoff: Array | float) -> Array:
    """ln P(X >= x) of a truncated power law at x = xmin e^u.

    Args:
        u: ln(x / xmin), 0 or more; any shape that broadcasts with the others.
        alpha: exponent, 1 or more.
        cutoff: Lambda * xmin, 0 or more; above 0 where alpha is 1.

    Returns:
        Shape of the broadcast arguments; 0 at u = 0, never above.
    """
    u, alpha, cutoff = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (u, alpha, cutoff)))
    shape, u, alpha, cutoff = u.shape, u.ravel(), alpha.ravel(), cutoff.ravel()
    there, here = _log_integral(alpha, cutoff * np.exp(u)), _log_integral(alpha, cutoff)
    return np.minimum((1.0 - alpha) * u - cutoff * np.expm1(u) + there - here, 0.0).reshape(shape)


def _mean_excess(x: Array) -> Array:
    """Mean of x_j / x_i - 1 over every tail, built from the gaps so that nothing cancels; shape (n - 1,)."""
    followers = np.arange(x.size - 1, 0, -1)
    sums: Array = np.cumsum((followers * np.diff(x))[::-1])[::-1]
    return sums / (followers + 1) / x[:-1]


def _maximum_likelihood(mean_u: Array, mean_tau: Array) -> tuple[Array, Array]:
    """Alpha >= 1 and z = Lambda * xmin >= 0 that minimise alpha mean_u + z mean_tau + ln integral t^-alpha e^(-z tau).

    The function is convex, so that a point where its slope leads out of the allowed region, or is zero, is the answer.
    The two edges are tried first; what has its minimum inside is left to Newton's method.

    Args:
        mean_u: mean of u = ln(x_j / x_i) of each tail, shape (k,), above 0.
        mean_tau: mean of tau = x_j / x_i - 1 of each tail, shape (k,), above 0.

    Returns:
        alpha and z, shape (k,).
    """
    alpha, z = np.ones_like(mean_u), _cutoff_alone(mean_tau)
    steep = _moments(alpha, z).mean_u > mean_u
    plain = 1.0 + 1.0 / mean_u
    with np.errstate(divide="ignore"):
        uncut = steep & (plain > 2.0) & (mean_tau * (plain - 2.0) >= 1.0)
    alpha[uncut], z[uncut] = plain[uncut], 0.0
    inside = np.flatnonzero(steep & ~uncut)
    alpha[inside], z[inside] = _newton(mean_u[inside], mean_tau[inside], z[inside])
    lost = inside[z[inside] <= _NO_CUTOFF]
    alpha[lost], z[lost] = plain[lost], 0.0
    return alpha, z

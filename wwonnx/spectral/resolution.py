"""Whether eigenvalues computed in float32 give the tail that float64 gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .esd import Array, Spectrum
from .power_law import closest_fit, distance, exponents, lower_bounds
from .tail import fittable

#: Relative changes of alpha that are let pass: of the fit itself; by another start that may be as good, and in that.
_TOLERANCE, _RIVAL_TOLERANCE = 1e-3, 1e-2
#: Eigenvalues of fewer times their error than this are no starts worth a look of their own.
_NEAR = 50.0


def tail_resolved(found: Spectrum, pooled: bool, ignore_largest: int = 0) -> bool:
    """Whether the power law fit of an ESD stays as it is when every eigenvalue moves by up to its error.

    Args:
        found: eigenvalues and the bounds of their errors.
        pooled: whether the matrices are one ESD, or one each.
        ignore_largest: how many of the largest eigenvalues the fit leaves out (the option xmax=-k).
    """
    if found.errors is None:
        return True
    errors = np.broadcast_to(found.errors, found.eigenvalues.shape)
    if not pooled:
        return all(_resolved(*each, ignore_largest) for each in zip(found.eigenvalues, errors, strict=True))
    order = found.eigenvalues.argsort(axis=None)
    return _resolved(found.eigenvalues.ravel()[order], errors.ravel()[order], ignore_largest)


@dataclass(frozen=True)
class _Reach:
    """How far errors of the eigenvalues can move the fit of every start, shapes (n - 1,).

    Attributes:
        alpha: its exponent.
        distance: its D.
    """

    alpha: Array
    distance: Array


def _reach(x: Array, errors: Array, alphas: Array) -> _Reach:
    """With a = alpha_i - 1 and m values from x_i on, a = m / sum_j ln(x_j / x_i).

    ln(x_j) moves by at most d_j = error_j / (x_j - error_j), the sum by sum_j (d_j + d_i), so that a changes by a
    factor of 1 / (1 -+ r) at most, r = a sum_j (d_j + d_i) / m. The fitted distribution at x_j is 1 - u with
    u = (x_j / x_i)^-a, and ln(u) moves by a (d_j + d_i) with the eigenvalues, and by the part that a changes times
    -ln(u): D by less than 2 a d_i (d_j is smaller than d_i, u than 1) and 1/e of that part (-u ln(u) is at most 1/e).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        moves = np.where(x > errors, errors / (x - errors), np.inf)
        followers = np.arange(x.size - 1, 0, -1)
        sums = np.cumsum(moves[:0:-1])[::-1] + followers * moves[:-1]
        slopes = alphas - 1.0
        part = slopes * sums / (followers + 1)
        part = np.where(part < 1.0, part / (1.0 - part), np.inf)
        return _Reach(slopes * part, np.expm1(2.0 * slopes * moves[:-1]) + part / np.e)


def _resolved(esd: Array, errors: Array, ignore_largest: int) -> bool:
    """Whether errors of the eigenvalues change alpha by less than one part in a thousand, or to one within a hundredth.

    Another start whose D comes as near to the smallest as both can move might be chosen: it must have the same alpha.
    Starts too near to the error are not looked at one by one. They hold what the lowest of the others holds and a few
    values more, so that their D is its D or more but for the share of those values.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return True
    largest = esd.size - ignore_largest
    errors = errors[largest - x.size : largest]
    logs, alphas = exponents(x)
    fit = closest_fit(x, logs, alphas)
    if fit is None:
        return True
    best, alpha = int(np.searchsorted(x, fit.xmin)), fit.alpha
    reach = _reach(x, errors, alphas)
    if not reach.alpha[best] <= _TOLERANCE * alpha:
        return False
    within = fit.D + reach.distance[best]
    lowest = int(np.count_nonzero(x < _NEAR * errors))
    if lowest >= alphas.size:
        return False
    if lowest and distance(logs, alphas, lowest)[0] - reach.distance[lowest] - lowest / x.size <= within:
        return False
    other = np.abs(alphas - alpha) + reach.alpha > _RIVAL_TOLERANCE * alpha
    rivals = other & (lower_bounds(logs[None], alphas[None])[0] - reach.distance <= within)
    rivals[:lowest] = False
    return all(distance(logs, alphas, int(i))[0] - reach.distance[i] > within for i in np.flatnonzero(rivals))

"""Whether eigenvalues computed in float32 give the tail that float64 gives."""

from __future__ import annotations

import numpy as np

from .esd import Array, Spectrum
from .power_law import power_law_scan

#: Relative change of alpha that is let pass: of the fit itself, and to another fit that is as good.
_TOLERANCE, _RIVAL_TOLERANCE = 1e-3, 1e-2
#: Eigenvalues of fewer times their error than this are no starts worth a look of their own.
_NEAR = 50.0


def tail_resolved(found: Spectrum, pooled: bool) -> bool:
    """Whether the power law fit of an ESD stays as it is when every eigenvalue moves by up to its error.

    Args:
        found: eigenvalues and the bounds of their errors.
        pooled: whether the matrices are one ESD, or one each.
    """
    if found.errors is None:
        return True
    if pooled:
        return _fit_resolved(found.pooled, found.error)
    return all(_fit_resolved(esd, float(error)) for esd, error in zip(found.eigenvalues, found.errors, strict=True))


def _fit_resolved(esd: Array, error: float) -> bool:
    """Whether errors of the eigenvalues change alpha by less than one part in a thousand.

    With delta = error / xmin: all of ln(x_j / x_i) moves by 2 delta at most, alpha - 1 by a factor of 1 + 2 delta
    (alpha - 1), and the fitted distribution at x_j, 1 - (x_j / x_i)^(1 - alpha), by less than 2 delta (alpha - 1) on
    each of both accounts. Another start whose D comes as near as that might be chosen: it must have the same alpha.
    Starts too near to the error are not looked at one by one. They hold what the lowest of the others holds and a few
    values more, so that their D is its D or more but for the share of those values.
    """
    scan = power_law_scan(esd)
    if not scan.x.size:
        return True
    best = int(scan.distances.argmin())
    alpha = float(scan.alphas[best])
    shift = 4.0 * (scan.alphas - 1.0) * error / scan.x
    if shift[best] > _TOLERANCE:
        return False
    reach = scan.distances[best] + shift[best]
    lowest = int(np.searchsorted(scan.x, _NEAR * error))
    if lowest and scan.distances[lowest] - shift[lowest] - lowest / scan.x.size <= reach:
        return False
    rivals = scan.distances - shift <= reach
    rivals[:lowest] = False
    return bool((np.abs(scan.alphas[rivals] - alpha) <= _RIVAL_TOLERANCE * alpha).all())

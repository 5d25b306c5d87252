"""Hill's estimator of alpha: the tail begins at a fixed quantile, so that nothing is searched: estimator="hill"."""

from __future__ import annotations

import numpy as np

from .esd import Array
from .power_law import PowerLaw, distance, exponents
from .tail import fittable

#: The tail is the upper half of the eigenvalues.
XMIN_POS = 2


def fit_hill(esd: Array, xmin_pos: int = XMIN_POS, ignore_largest: int = 0) -> PowerLaw:
    """Hill's estimator on the largest eigenvalues, as in TempBalance (Zhou et al., arXiv:2312.00359).

    Of n eigenvalues x_0 <= ... <= x_(n-1), with i = n // xmin_pos and m = n - i,

        alpha = 1 + m / sum_(j >= i) ln(x_j / x_i),

    and D as for every power law. This is the indexing of the authors' code, YefanZhou/TempBalance: x_i belongs to its
    own tail. With k = m - 1 values above it, the paper's alpha - 1 has k where this has m = k + 1. Numerically zero
    eigenvalues are left out first, as for every fit; the authors' code leaves them in unless it is told otherwise.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        xmin_pos: the tail begins at position n // xmin_pos; 2 or more.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).

    Returns:
        The fit; one with a `reason` where there is no tail to fit.
    """
    x, reason = fittable(esd, ignore_largest)
    if reason:
        return PowerLaw.failed(reason)
    logs, alphas = exponents(x)
    start = x.size // xmin_pos
    tail = x.size - start
    if start >= alphas.size or not np.isfinite(alphas[start]):
        return PowerLaw.failed("the eigenvalues of the upper part are all equal: no tail")
    alpha = float(alphas[start])
    return PowerLaw(
        alpha=alpha,
        xmin=float(x[start]),
        xmax=float(x[-1]),
        D=distance(logs, alphas, start)[0],
        sigma=(alpha - 1.0) / float(np.sqrt(tail)),
        num_pl_spikes=int(x.size - np.searchsorted(x, x[start])),
    )

"""What of an ESD a tail fit looks at, and why there may be nothing to fit."""

from __future__ import annotations

import numpy as np

from .esd import Array

#: Eigenvalues below it are numerically zero: no part of a tail. For layers of small scale it shrinks with them.
EVALS_THRESHOLD = 1e-5
_UNSCALED_MAXIMUM = 0.01


def threshold(largest: float) -> float:
    """Below it eigenvalues are numerically zero: 1e-5 min(1, largest / 0.01), so that small layers keep their tails.

    Args:
        largest: largest eigenvalue.

    Returns:
        The threshold, in the units of the eigenvalues.
    """
    return EVALS_THRESHOLD * min(1.0, largest / _UNSCALED_MAXIMUM)


def fittable(esd: Array, ignore_largest: int = 0) -> tuple[Array, str]:
    """The eigenvalues above the threshold without the largest ones, and in words why they can't be fitted.

    The threshold follows the largest eigenvalue of the whole ESD.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        ignore_largest: how many of the largest to leave out.

    Returns:
        The values, ascending, in the units of the ESD, and the reason; it is empty where they can be fitted.
    """
    if not esd.size or not np.isfinite(esd[-1]) or esd[-1] <= 0.0:
        return esd[:0], "every weight is zero"
    if ignore_largest * 2 > esd.size:
        return esd[:0], f"xmax=-{ignore_largest} leaves out more than half of {esd.size} eigenvalues"
    cut = threshold(float(esd[-1]))
    used = esd[: esd.size - ignore_largest]
    x = used[used > cut]
    if x.size < 2:
        return x, f"{x.size} eigenvalues above the threshold of {cut:.3g}: no tail"
    return x, ""

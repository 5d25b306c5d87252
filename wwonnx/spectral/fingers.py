"""Two ways around fingers, the few largest eigenvalues that stand apart from a tail and bend its fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .power_law import PowerLaw, closest_fit, exponents, fit_power_law
from .tail import fittable

#: Defaults that are WeightWatcher's too.
MAX_FINGERS = 10
FINGER_THRESH = 1.0
#: Clipping stops at a fit as heavy-tailed as this: what follows would only be the bulk.
_HEAVIEST = 2.0
#: The histogram in which the peak is sought, and how far above the peak a tail may begin.
_BINS = 100
_HIGHEST = 1.5


@dataclass(frozen=True)
class ClippedPowerLaw:
    """A power law fitted without the fingers.

    Attributes:
        fit: the fit that was kept; its num_pl_spikes counts the fingers too, since they lie above xmin.
        num_fingers: WeightWatcher's count, one less than the number of eigenvalues left out; 0 where none was.
        clipped: how many of the largest eigenvalues were left out.
        raw_alpha: alpha with nothing left out; NaN where that fit failed.
    """

    fit: PowerLaw
    num_fingers: int
    clipped: int
    raw_alpha: float


def clip_fingers(esd: Array, max_fingers: int = MAX_FINGERS, finger_thresh: float = FINGER_THRESH) -> ClippedPowerLaw:
    """Leave out the 2, 3, ..., max_fingers - 1 largest eigenvalues until alpha falls: fix_fingers="clip_xmax".

    The first count at which alpha lies more than `finger_thresh` below the alpha of the whole ESD is kept. Where none
    does, or where alpha comes down to 2 before one does, the fit of the whole ESD stands. (WeightWatcher 0.7.7; no
    paper.)

    Args:
        esd: eigenvalues, shape (n,), ascending.
        max_fingers: one more than the most that may be left out; below 3 nothing is.
        finger_thresh: how far alpha must fall, above 0.

    Returns:
        The fit and what was left out; a failed fit where there is no tail.
    """
    raw = fit_power_law(esd)
    for clipped in range(2, min(max_fingers, esd.size // 2 + 1)):
        fit = fit_power_law(esd, ignore_largest=clipped)
        if fit.alpha + finger_thresh < raw.alpha:
            with_fingers = replace(fit, num_pl_spikes=fit.num_pl_spikes + clipped)
            return ClippedPowerLaw(with_fingers, clipped - 1, clipped, raw.alpha)
        if not fit.alpha > _HEAVIEST:
            break
    return ClippedPowerLaw(raw, 0, 0, raw.alpha)


def fit_from_peak(esd: Array, ignore_largest: int = 0) -> PowerLaw:
    """Fit a power law whose xmin is sought up to 1.5 times the peak of the ESD: fix_fingers="xmin_peak".

    As `fit_power_law`, over the starts that `starts_near_peak` allows.

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
    fit = closest_fit(x, logs, np.where(starts_near_peak(x)[:-1], alphas, np.inf))
    return fit or PowerLaw.failed("no tail begins near the peak of the eigenvalues")


def peak(x: Array) -> float:
    """Lower edge of the fullest bin of the histogram of log10(x) with 100 bins, in the units of x; the first of equals.

    Args:
        x: values, shape (n,), above zero.
    """
    counts, edges = np.histogram(np.log10(x), bins=_BINS)
    return float(10.0 ** edges[np.argmax(counts)])


def starts_near_peak(x: Array) -> NDArray[np.bool_]:
    """Which values a tail may begin at when it is sought near the peak: those up to 1.5 times the peak but the last.

    WeightWatcher 0.7.7 means 0.95 to 1.5 times the peak, but takes the logarithm of the lower limit alone, which leaves
    every smaller value in wherever the peak is below 1.05; its figures are those of no lower limit. That `powerlaw`
    never tries the last value in the range is part of them.

    Args:
        x: values, shape (n,), ascending, above zero, n >= 2.

    Returns:
        Shape (n,), true where a tail may begin.
    """
    allowed = x <= _HIGHEST * peak(x)
    last = int(np.count_nonzero(allowed)) - 1
    if last > 0:
        allowed[x == x[last]] = False
    if not allowed.any():
        allowed[0] = True
    return allowed

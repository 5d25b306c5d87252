"""How a metric goes with accuracy: rank correlations and a regression line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Two lists of numbers held against each other; NaN where there are too few, or one of them does not vary.

    Attributes:
        n: how many pairs.
        kendall_tau: Kendall's tau-b, -1 to 1; pairs of equals count for neither side (Kendall, Biometrika 33, 1945).
        kendall_p: how probable a tau so far from 0 is without any relation.
        spearman_rho: the linear correlation of the ranks, -1 to 1.
        spearman_p: likewise for rho.
        slope, intercept: of the line of least squares, y = intercept + slope x; slope in units of y over units of x.
        rmse: root mean square of the residuals, in units of y.
        r2: share of the variance of y that the line explains.
    """

    n: int
    kendall_tau: float = math.nan
    kendall_p: float = math.nan
    spearman_rho: float = math.nan
    spearman_p: float = math.nan
    slope: float = math.nan
    intercept: float = math.nan
    rmse: float = math.nan
    r2: float = math.nan


#: Up to so many pairs Spearman's p-value is counted, not approximated.
_FEW = 8


def correlate(x: Array, y: Array) -> Correlation:
    """Correlate two lists of numbers; pairs in which one is not finite are left out.

    Args:
        x: what predicts, shape (n,).
        y: what is predicted, shape (n,).
    """
    from scipy import stats

    there = np.isfinite(x) & np.isfinite(y)
    x, y = x[there], y[there]
    n = len(x)
    if n < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return Correlation(n)
    tau, rho = stats.kendalltau(x, y), _spearman(x, y)
    # On ranges of one, no square of a difference underflows.
    width, height = np.ptp(x), np.ptp(y)
    across, up = (x - x.min()) / width, (y - y.min()) / height
    line = stats.linregress(across, up)
    residuals = up - (line.intercept + line.slope * across)
    with np.errstate(over="ignore"):  # a slope beyond all numbers is infinite
        slope = float(line.slope * height / width)
        intercept = float(y.min() + line.intercept * height - line.slope * height * (x.min() / width))
    return Correlation(
        n,
        kendall_tau=float(tau.statistic),
        kendall_p=float(tau.pvalue),
        spearman_rho=rho[0],
        spearman_p=rho[1],
        slope=slope,
        intercept=intercept,
        rmse=float(np.sqrt(np.mean(residuals**2)) * height),
        r2=1.0 - float(np.sum(residuals**2) / np.sum((up - up.mean()) ** 2)),
    )


def _spearman(x: Array, y: Array) -> tuple[float, float]:
    from scipy import stats

    if len(x) > _FEW:
        found = stats.spearmanr(x, y)
        return float(found.statistic), float(found.pvalue)
    # The t distribution gives p = 0 for a perfect order of a few; all their orders can be counted.
    first, second = (ranks - ranks.mean() for ranks in (stats.rankdata(x), stats.rankdata(y)))
    products = np.array(list(permutations(first))) @ second
    observed = float(first @ second)
    as_far = np.abs(products) >= abs(observed) * (1.0 - 1e-12)
    return observed / float(np.linalg.norm(first) * np.linalg.norm(second)), float(as_far.mean())

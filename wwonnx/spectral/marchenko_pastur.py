"""Fits the bulk of an ESD with the Marchenko-Pastur law: what a matrix of independent entries would give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from .esd import Array

#: The density is a triangular kernel estimate of this half-width on so many points; what is thinner is left out.
_HALF_WIDTH, _POINTS, _MARGIN, _THIN = 0.1, 1000, 0.5, 0.01
#: Residual of a point where a sigma is rejected.
_REJECTED = 1000.0
_QUANTILE_STEPS = 4096


@dataclass(frozen=True)
class MarchenkoPastur:
    """The law that fits the bulk.

    Attributes:
        sigma_mp: standard deviation of the entries, of the ESD scaled to mean one.
        bulk_min, bulk_max: edges of the bulk, in the units of the ESD.
        num_spikes: eigenvalues beyond the upper edge and its Tracy-Widom fluctuation.
        mp_softrank: upper edge over the largest eigenvalue.
        W_scale: what W was multiplied by to scale the ESD to mean one.
    """

    sigma_mp: float
    bulk_min: float
    bulk_max: float
    num_spikes: int
    mp_softrank: float
    W_scale: float


def fit_marchenko_pastur(esd: Array, N: int, M: int) -> MarchenkoPastur:
    """Fit the bulk of an ESD (Marchenko and Pastur, 1967; for ESDs of networks arXiv:1810.01075).

    sigma minimises the sum of squared differences between the law's density and a kernel estimate of the ESD's, first
    on a grid, then by the Nelder-Mead method. For Q = 1 the law is the quarter circle of the singular values, whose
    sigma has a closed form: there sigma only scales the density. For 1 < Q < 5/3 the law's peak, at
    (Q - 1)^2 / (Q (Q + 1)), lies less than a half-width of the kernel above zero and is smeared: a single eigenvalue
    little above the bulk lifts sigma, and may not be counted as a spike. The numbers are WeightWatcher's there too.

    Args:
        esd: eigenvalues, shape (n,), ascending, their sum above zero.
        N, M: larger and smaller dimension of the matrices.

    Returns:
        The law; sigma_mp and mp_softrank have no unit, the edges are in the units of the ESD.

    Raises:
        WeightError: every eigenvalue is so far from all others that no density can be estimated.
    """
    Q = N / M
    W_scale = float(np.sqrt(esd.size / esd.sum()))
    x = esd * W_scale**2
    grid, density = _density(np.sqrt(x) if N == M else x)
    if not grid.size:
        raise WeightError("the eigenvalues are too far apart to estimate a density: no Marchenko-Pastur fit")
    sigma = _quarter_circle(grid, density) if N == M else _bulk(grid, density, Q, float(x[-1]))
    lower, upper = edges(sigma, Q)
    # Fluctuations of the largest eigenvalue of the bulk (Tracy and Widom) are of the order of M^(-2/3).
    fluctuation = upper ** (2 / 3) * M ** (-2 / 3) / np.sqrt(Q)
    return MarchenkoPastur(
        sigma_mp=sigma,
        bulk_min=lower / W_scale**2,
        bulk_max=upper / W_scale**2,
        num_spikes=int(np.count_nonzero(x > upper + np.sqrt(fluctuation))),
        mp_softrank=upper / float(x[-1]),
        W_scale=W_scale,
    )


def edges(sigma: float, Q: float) -> tuple[float, float]:
    """Ends of the bulk, sigma^2 (1 -+ 1 / sqrt(Q))^2 (Marchenko and Pastur, 1967).

    Args:
        sigma: standard deviation of the entries, the matrix being scaled by 1 / sqrt(N).
        Q: N / M, one or more.

    Returns:
        The lower and the upper end, in units of sigma^2.
    """
    root = 1.0 / np.sqrt(Q)
    return float((sigma * (1.0 - root)) ** 2), float((sigma * (1.0 + root)) ** 2)


def marchenko_pastur_density(x: Array, sigma: NDArray[np.float64] | float, Q: float) -> Array:
    """Density of the Marchenko-Pastur law (1967; arXiv:1810.01075, sec. 3.1); zero outside the bulk [a, b] of `edges`.

        rho(x) = Q sqrt((b - x) (x - a)) / (2 pi sigma^2 x)

    Args:
        x: where, any shape, zero or more, in units of sigma^2.
        sigma: standard deviations of the entries; broadcasts against x.
        Q: N / M, one or more.

    Returns:
        The density, of the shape of x and sigma broadcast together.
    """
    variance = np.square(sigma)
    root = 1.0 / np.sqrt(Q)
    lower, upper = variance * (1.0 - root) ** 2, variance * (1.0 + root) ** 2
    inside = (x > lower) & (x < upper) & (x > 0.0)
    product = np.where(inside, (upper - x) * (x - lower), 0.0)
    density: Array = Q * np.sqrt(product) / (2.0 * np.pi * variance * np.where(inside, x, 1.0))
    return density


def quantiles(count: int, Q: float) -> Array:
    """Eigenvalues of mean one that stand for an untrained layer: the law's quantiles at (k + 1/2) / count.

    With x = 1 + 1/Q + 2 cos(t) / sqrt(Q) the density has no singularity left in t, and its integral is summed there.

    Args:
        count: how many.
        Q: N / M.

    Returns:
        Shape (count,), ascending.
    """
    angles, cumulative = _distribution(Q)
    wanted = (np.arange(count) + 0.5) / count
    x: Array = 1.0 + 1.0 / Q + 2.0 / np.sqrt(Q) * np.cos(np.interp(wanted, cumulative, angles))
    return x


@lru_cache(maxsize=256)
def _distribution(Q: float) -> tuple[Array, Array]:
    """Angles from pi (lower edge) to 0 and the law's cumulative distribution there."""
    angles = np.linspace(np.pi, 0.0, _QUANTILE_STEPS + 1)
    root = 1.0 / np.sqrt(Q)
    half = np.cos(angles / 2.0) ** 2
    # sin^2 t / x; at Q = 1 without the division by x = 0 at the lower edge.
    x = (1.0 - root) ** 2 + 4.0 * root * half
    density = 1.0 - half if root == 1.0 else np.sin(angles) ** 2 / x
    steps = (density[1:] + density[:-1]) / 2.0
    cumulative = np.concatenate(([0.0], np.cumsum(steps)))
    return angles, cumulative / cumulative[-1]


def _density(x: Array) -> tuple[Array, Array]:
    """Kernel estimate of the density of ascending x where it is not thin: the points, and the density there.

    The sums of a triangular kernel over sorted values are differences of prefix sums: one search for each end.
    """
    grid = np.linspace(0.0, x[-1] + _MARGIN, _POINTS)
    sums = np.concatenate(([0.0], np.cumsum(x)))
    left, middle, right = (np.searchsorted(x, grid + shift) for shift in (-_HALF_WIDTH, 0.0, _HALF_WIDTH))
    rising = (_HALF_WIDTH - grid) * (middle - left) + sums[middle] - sums[left]
    falling = (_HALF_WIDTH + grid) * (right - middle) - sums[right] + sums[middle]
    density = (rising + falling) / (x.size * _HALF_WIDTH**2)
    thick = density > _THIN
    return grid[thick], density[thick]


def _quarter_circle(grid: Array, density: Array) -> float:
    """sigma of sqrt(4 - x^2) / (pi sigma^2): linear least squares in 1 / sigma^2."""
    circle = np.sqrt(np.maximum(4.0 - grid**2, 0.0)) / np.pi
    return float(np.sqrt(circle @ circle / (circle @ density)))


def _bulk(grid: Array, density: Array, Q: float, largest: float) -> float:
    """sigma of the Marchenko-Pastur law by least squares: the best of a grid, then polished.

    Args:
        grid, density: kernel estimate of the density of the eigenvalues.
        Q: N / M, above one.
        largest: largest eigenvalue.
    """
    from scipy.optimize import fmin

    scale = np.sqrt(largest) / (1.0 + 1.0 / np.sqrt(Q))
    peak, end = float(grid[np.argmax(density)]), float(grid[-1])

    def residual(sigma: NDArray[np.float64]) -> Array:
        sigmas = np.asarray(sigma, dtype=np.float64).reshape(-1, 1)
        root = 1.0 / np.sqrt(Q)
        lower, upper = (sigmas * (1.0 - root)) ** 2, (sigmas * (1.0 + root)) ** 2
        squares = np.square(marchenko_pastur_density(grid, sigmas, Q) - density).sum(axis=1)
        rejected = (upper < peak) | (upper > end) | (lower > peak)
        found: Array = np.where(rejected[:, 0], _REJECTED**2 * grid.size, squares)
        return found

    candidates = np.arange(0.05 * scale, 2.0 * scale, 0.01 * scale)
    start = candidates[np.argmin(residual(candidates))]

    def cost(sigma: Array) -> float:
        return float(residual(sigma)[0])

    polished = fmin(cost, start, disp=False)
    return float(polished[0])

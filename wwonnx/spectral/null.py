"""Does a number mean anything? What an untrained layer gives, and whether a layer differs from its own shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .esd import Array
from .marchenko_pastur import quantiles
from .power_law import fit_power_law


@dataclass(frozen=True)
class ShuffleTest:
    """Whether an ESD can be told from those of the same weights in random order.

    Attributes:
        distance: two-sample Kolmogorov-Smirnov distance between the ESD and the pooled shuffles'.
        p_value: how probable a distance as large is for one more shuffle.
    """

    distance: float
    p_value: float


@lru_cache(maxsize=1024)
def alpha_null(N: int, M: int, rf: int) -> float:
    """Alpha of an untrained layer of the same shape and pooling, from Marchenko-Pastur quantiles.

    The alpha that the fit gives for pure noise: a layer's own alpha says something only where it differs.

    Args:
        N, M: larger and smaller dimension of the matrices.
        rf: how many matrices are pooled.

    Returns:
        Alpha; NaN where there are too few eigenvalues to fit.
    """
    return fit_power_law(quantiles(M * rf, N / M)).alpha


def two_sample_distance(sample: Array, other: Array, held: bool = False) -> float:
    """Largest difference of two empirical distribution functions (Kolmogorov and Smirnov).

    Between two values of the sample its function stands still and the other only rises, so that the difference is
    largest beside a value of the sample.

    Args:
        sample: shape (n,), ascending.
        other: shape (m,), ascending.
        held: whether `other` holds the sample's own values; they are then left out of it.

    Returns:
        The distance, between 0 and 1.
    """
    size = other.size - sample.size * held
    apart = 0.0
    for side in ("left", "right"):
        below = np.searchsorted(sample, sample, side=side)
        others_below = np.searchsorted(other, sample, side=side) - below * held
        apart = max(apart, float(np.abs(below / sample.size - others_below / size).max()))
    return apart


def shuffle_test(esd: Array, shuffles: Sequence[Array]) -> ShuffleTest:
    """Compare an ESD with those of shuffles of the same weights.

    If the order of the weights means nothing, the layer is one more shuffle. So each shuffle's distance to the rest
    shows how far apart shuffles are, and the layer's distance is held against those: logarithms of distances are close
    to normal, and the p-value is that of a further draw from a normal distribution of unknown mean and variance
    (Student's t with one degree of freedom less than there are shuffles).

    Args:
        esd: eigenvalues of the layer, shape (n,), ascending.
        shuffles: three or more ESDs of the layer with its weights permuted, likewise.

    Returns:
        Distance and p-value; neither depends on the scale of the weights.
    """
    from scipy.stats import t

    pooled = np.sort(np.concatenate(shuffles))
    null = np.log([max(two_sample_distance(shuffle, pooled, held=True), 1e-12) for shuffle in shuffles])
    distance = two_sample_distance(esd, pooled)
    # The resolution of a distribution function is half a step: less spread than that is no knowledge.
    spread = max(float(null.std(ddof=1)), 0.5 / np.sqrt(esd.size))
    score = (np.log(max(distance, 1e-12)) - null.mean()) / (spread * np.sqrt(1.0 + 1.0 / len(shuffles)))
    return ShuffleTest(distance, float(t.sf(score, len(shuffles) - 1)))


def jensen_shannon_distance(first: Array, second: Array) -> float:
    """Jensen-Shannon distance of two sorted, normalised eigenvalue vectors (Lin, IEEE Trans. Inf. Theory 37, 1991).

        sqrt((KL(p | m) + KL(q | m)) / 2),   m = (p + q) / 2,   KL(p | m) = sum p ln(p / m)

    Args:
        first, second: shape (n,), not negative, sums above zero.

    Returns:
        The distance in nats^(1/2), between 0 and sqrt(ln 2).
    """
    p, q = first / first.sum(), second / second.sum()
    middle = (p + q) / 2.0
    return float(np.sqrt(max(0.0, (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2.0)))


def _relative_entropy(p: Array, q: Array) -> float:
    positive = p > 0.0
    return float(np.sum(p[positive] * np.log(p[positive] / q[positive])))

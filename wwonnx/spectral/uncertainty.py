"""How far alpha can be trusted: without its bias, an interval around it, and whether a power law fits at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .esd import Array
from .power_law import fit_power_law
from .power_law_batch import fit_samples
from .tail import fittable

#: Resamples of an interval: its ends then vary from seed to seed by some 3 % of its width.
REPLICATES = 1000
#: Values drawn at once, so that a temporary holds 8 MiB.
_BLOCK = 1 << 20
#: Fewer values in a tail leave no exponent without bias.
_LEAST_TAIL = 3


@dataclass(frozen=True)
class AlphaInterval:
    """Alpha without its bias, and a bootstrap interval.

    Attributes:
        alpha: the bias-corrected exponent; NaN where there is no fit.
        low, high: ends of the interval; NaN where there is none.
        replicates: number of resamples that had a tail to fit.
        reason: why there is no interval; empty where there is one.
    """

    alpha: float
    low: float
    high: float
    replicates: int
    reason: str = ""


@dataclass(frozen=True)
class GoodnessOfFit:
    """Whether the tail can be a power law.

    Attributes:
        p_value: share of samples from the fit that lie as far from their own fit as the ESD does from its; NaN where
            there is no fit. A power law is ruled out at 0.1 and below (arXiv:0706.1062, sec. 4.1).
        replicates: number of samples.
        reason: why there is no p-value; empty where there is one.
    """

    p_value: float
    replicates: int
    reason: str = ""


def corrected_alpha(alpha: float, tail: int) -> float:
    """1 + (alpha - 1) (m - 2) / m: alpha without the bias that it has for a tail of m values.

    The sum S of ln(x_j / x_i) over a Pareto tail that begins at its own smallest value is Gamma distributed with shape
    m - 1 and rate alpha - 1, so that the mean of 1 / S is (alpha - 1) / (m - 2), and alpha - 1 = m / S is too large by
    the factor m / (m - 2) on the average (Johnson, Kotz and Balakrishnan, Continuous Univariate Distributions, vol. 1,
    ch. 20). That is for a known xmin: choosing it by D adds a bias that stays, of Pareto samples with alpha = 2.5 and
    n = 50, 100, 500 values 2.4, 1.3 and 0.1 % of the 6.3, 3.2 and 0.5 % in all.

    Args:
        alpha: exponent of the fit.
        tail: number of values m in the tail.

    Returns:
        The exponent; NaN for fewer than three values.
    """
    return 1.0 + (alpha - 1.0) * (tail - 2) / tail if tail >= _LEAST_TAIL else np.nan


def bootstrap_interval(
    esd: Array,
    seed: int,
    layer_id: int,
    ignore_largest: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> AlphaInterval:
    """A percentile bootstrap interval for alpha that refits xmin in each resample and corrects the bias of each.

    The eigenvalues above the threshold are drawn with replacement (Efron's nonparametric bootstrap: nothing is assumed
    of the body or the tail), each resample is fitted as the ESD is, its alpha corrected as `corrected_alpha` does, and
    the quantiles at (1 - level) / 2 and (1 + level) / 2 are the interval. On Pareto samples of 50 to 2000 values it
    covers the truth in 95 to 97 % of cases. Eigenvalues are taken for independent; those of a random matrix repel each
    other, and the interval is then too wide rather than too narrow.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        seed, layer_id: seed the generator, so that neither order nor workers matter.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).
        replicates: number of resamples.
        level: probability that the interval is to cover, between 0 and 1.

    Returns:
        The interval; one with a `reason` where there is no tail to fit, or most resamples have none.
    """
    fit = fit_power_law(esd, ignore_largest)
    if fit.reason:
        return AlphaInterval(np.nan, np.nan, np.nan, 0, fit.reason)
    alpha = corrected_alpha(fit.alpha, fit.num_pl_spikes)
    x, _ = fittable(esd, ignore_largest)
    generator = np.random.default_rng((seed, layer_id))
    found = [_corrected(_resampled(x, rows, generator)) for rows in _blocks(replicates, x.size)]
    alphas = np.concatenate(found) if found else np.empty(0)
    if alphas.size * 2 < replicates or not alphas.size:
        reason = f"only {alphas.size} of {replicates} resamples have a tail of {_LEAST_TAIL} or more values"
        return AlphaInterval(alpha, np.nan, np.nan, alphas.size, reason)
    low, high = np.quantile(alphas, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return AlphaInterval(alpha, float(low), float(high), alphas.size)


def goodness_of_fit(
    esd: Array, seed: int, layer_id: int, ignore_largest: int = 0, replicates: int = REPLICATES
) -> GoodnessOfFit:
    """The semi-parametric p-value of Clauset, Shalizi and Newman (arXiv:0706.1062, sec. 4.1).

    A sample of n values is made of m tail and n - m body values, each of its values being from the tail with
    probability m / n: from the fitted power law above xmin, or drawn with replacement from the eigenvalues below xmin.
    Each sample is fitted as the ESD is, xmin included; p is the share whose D is that of the ESD or more. With 1000
    samples p is known to about 0.015.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        seed, layer_id: seed the generator, so that neither order nor workers matter.
        ignore_largest: how many of the largest to leave out (the option xmax=-k).
        replicates: number of samples.

    Returns:
        The p-value; one with a `reason` where there is no tail to fit.
    """
    fit = fit_power_law(esd, ignore_largest)
    if fit.reason:
        return GoodnessOfFit(np.nan, 0, fit.reason)
    x, _ = fittable(esd, ignore_largest)
    body = x[: x.size - fit.num_pl_spikes]
    generator = np.random.default_rng((seed, layer_id))
    beyond = 0
    for rows in _blocks(replicates, x.size):
        distances = fit_samples(_from_fit(body, x.size, fit.xmin, fit.alpha, rows, generator)).distances
        beyond += int(np.count_nonzero(distances >= fit.D))
    return GoodnessOfFit(beyond / replicates, replicates)


def _blocks(replicates: int, n: int) -> Iterator[int]:
    """Numbers of samples to draw at once; they depend on n alone, so that every run draws the same."""
    rows = max(1, _BLOCK // n)
    for first in range(0, replicates, rows):
        yield min(rows, replicates - first)


def _resampled(x: Array, rows: int, generator: np.random.Generator) -> Array:
    """Rows of values drawn with replacement, ascending."""
    # Sorting small integers is a few times faster than sorting the values.
    kind = np.uint16 if x.size <= np.iinfo(np.uint16).max else np.uint32
    chosen: NDArray[np.unsignedinteger] = generator.integers(0, x.size, (rows, x.size), dtype=kind)
    chosen.sort(axis=1, kind="stable")
    resampled: Array = x[chosen]
    return resampled


def _corrected(samples: Array) -> Array:
    """Bias-corrected exponents of the samples that have a tail."""
    fits = fit_samples(samples)
    tails = fits.tails[fits.tails >= _LEAST_TAIL]
    return 1.0 + (fits.alphas[fits.tails >= _LEAST_TAIL] - 1.0) * (tails - 2) / tails


def _from_fit(body: Array, n: int, xmin: float, alpha: float, rows: int, generator: np.random.Generator) -> Array:
    """Rows of n values, ascending: those below xmin drawn from the body, the others from the power law."""
    # 1 - u lies in (0, 1], of which no negative power is infinite.
    samples = xmin * (1.0 - generator.random((rows, n))) ** (-1.0 / (alpha - 1.0))
    if body.size:
        counts = generator.binomial(n, body.size / n, rows)
        drawn = generator.integers(0, body.size, (rows, n))
        samples = np.where(np.arange(n) < counts[:, None], body[drawn], samples)
    samples.sort(axis=1)
    return samples

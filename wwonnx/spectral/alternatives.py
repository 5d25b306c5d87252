"""Is the tail a power law, or something that only looks like one? Likelihood ratios against other laws."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from .esd import Array
from .power_law import PowerLaw
from .truncated_likelihood import log_integral, maximum_likelihood

Law: TypeAlias = Callable[[Array, Array], Array]

#: Fewer values than parameters and one more can't be told apart.
_LEAST_TAIL = 4
#: Python's warning filters belong to the whole process: one thread at a time sets them aside.
_quiet = threading.Lock()


@dataclass(frozen=True)
class LikelihoodRatio:
    """A power law against one other law, on the same tail.

    Attributes:
        R: log-likelihood of the power law less that of the other law, summed over the tail, in nats: above 0 the power
            law is the more likely, below 0 the other. NaN where the other could not be fitted.
        p: probability of an |R| as large as this if both were equally good: below 0.1 the sign of R means something,
            unless R itself is near 0: a lognormal can come as close to a power law as it likes.
        reason: why there is no ratio; empty where there is one.
    """

    R: float
    p: float
    reason: str = ""

    @classmethod
    def failed(cls, reason: str) -> LikelihoodRatio:
        """A comparison that could not be made."""
        return cls(np.nan, np.nan, reason)


@dataclass(frozen=True)
class Alternatives:
    """Likelihood ratios of the fitted power law against three other laws."""

    lognormal: LikelihoodRatio
    exponential: LikelihoodRatio
    truncated_power_law: LikelihoodRatio


def compare_alternatives(esd: Array, fit: PowerLaw) -> Alternatives:
    """Compare a fitted power law with a lognormal, an exponential and a truncated power law on the fit's own tail.

    Vuong's test for laws that are not nested (Clauset, Shalizi and Newman, arXiv:0706.1062, sec. 5.1 and app. C), and
    the chi-squared test of the likelihood ratio with one degree of freedom for the truncated power law, which contains
    the plain one; both through `powerlaw`. Lognormal and exponential are fitted by `powerlaw`, the truncated power law,
    whose alpha it keeps below 3, by `maximum_likelihood`. Everything is computed in units of xmin, so that the scale of
    the weights has no say.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        fit: the power law that was fitted to them.

    Returns:
        The ratios; each with a `reason` where it could not be had. Nothing is raised or printed.
    """
    if fit.reason:
        failed = LikelihoodRatio.failed(fit.reason)
        return Alternatives(failed, failed, failed)
    t = esd[(esd >= fit.xmin) & (esd <= fit.xmax)] / fit.xmin
    if t.size < _LEAST_TAIL:
        failed = LikelihoodRatio.failed(f"a tail of {t.size} values is too short to compare laws on")
        return Alternatives(failed, failed, failed)
    u = np.log(t)
    plain = np.log(fit.alpha - 1.0) - fit.alpha * u
    others: dict[str, Law] = {"lognormal": _lognormal, "exponential": _exponential, "truncated_power_law": _truncated}
    return Alternatives(**{name: _ratio(plain, name, law, t, u) for name, law in others.items()})


def _ratio(plain: Array, name: str, law: Law, t: Array, u: Array) -> LikelihoodRatio:
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            powerlaw: Any = import_module("powerlaw")
            other = law(t, u)
            nested = name == "truncated_power_law"
            R, p = powerlaw.loglikelihood_ratio(plain.copy(), other.copy(), nested=nested)
    except Exception as error:  # noqa: BLE001 - a foreign optimiser may fail in any way, which costs this ratio alone
        return LikelihoodRatio.failed(f"the {name} could not be fitted ({type(error).__name__}: {error})")
    if not (np.isfinite(other).all() and np.isfinite([R, p]).all()):
        return LikelihoodRatio.failed(f"the {name} could not be fitted: its likelihood is not a number")
    return LikelihoodRatio(float(R), float(p))


def _lognormal(t: Array, u: Array) -> Array:
    """Log-likelihood of each value under the best lognormal, cut off below 1."""
    powerlaw: Any = import_module("powerlaw")
    special: Any = import_module("scipy.special")
    # `powerlaw` gives the parameters; its own likelihood underflows where mu runs far below the tail.
    best = powerlaw.Lognormal(data=t, xmin=1.0, verbose=0).parameters
    mu, sigma = float(best["mu"]), float(best["sigma"])
    gauss = -0.5 * ((u - mu) / sigma) ** 2 - np.log(sigma * np.sqrt(2.0 * np.pi))
    likelihood: Array = gauss - u - special.log_ndtr(mu / sigma)
    return likelihood


def _exponential(t: Array, u: Array) -> Array:
    """Log-likelihood of each value under the best exponential that begins at 1."""
    powerlaw: Any = import_module("powerlaw")
    rate = float(powerlaw.Exponential(data=t, xmin=1.0, verbose=0).parameters["Lambda"])
    likelihood: Array = np.log(rate) - rate * (t - 1.0)
    return likelihood


def _truncated(t: Array, u: Array) -> Array:
    """Log-likelihood of each value under the best truncated power law with alpha of 1 or more."""
    alpha, z = maximum_likelihood(np.array([u.mean()]), np.array([(t - 1.0).mean()]))
    likelihood: Array = -alpha[0] * u - z[0] * (t - 1.0) - log_integral(alpha, z)[0]
    return likelihood

"""Likelihood ratios: closed forms, known truths, silence, and what happens when a fit fails."""

from __future__ import annotations

import warnings

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import chi2

from wwonnx.spectral.alternatives import Alternatives, compare_alternatives
from wwonnx.spectral.power_law import PowerLaw, fit_power_law
from wwonnx.spectral.truncated_likelihood import log_integral, maximum_likelihood

Array = NDArray[np.float64]
NAMES = ("lognormal", "exponential", "truncated_power_law")


def fitted_from_the_start(x: Array) -> PowerLaw:
    """The power law of all of x."""
    alpha = 1.0 + x.size / np.log(x / x[0]).sum()
    return PowerLaw(float(alpha), float(x[0]), float(x[-1]), 0.0, 0.0, x.size)


def pareto(n: int, alpha: float, seed: int = 1) -> Array:
    return np.sort(1.0 + np.random.default_rng(seed).pareto(alpha - 1.0, n))


def ratios(x: Array) -> Alternatives:
    return compare_alternatives(x, fitted_from_the_start(x))


def test_the_exponential_by_closed_form() -> None:
    x = pareto(200, 2.5) * 3.0
    found = ratios(x).exponential
    fit = fitted_from_the_start(x)
    plain = np.log(fit.alpha - 1.0) - np.log(x[0]) - fit.alpha * np.log(x / x[0])
    rate = 1.0 / (x.mean() - x[0])
    other = np.log(rate) - rate * (x - x[0])
    assert pytest.approx((plain - other).sum(), abs=1e-3) == found.R
    spread = np.sqrt(x.size * np.var(plain - other))
    assert found.p == pytest.approx(float(mpmath.erfc(abs(found.R) / spread / mpmath.sqrt(2))), rel=1e-3)


def test_the_truncated_power_law_by_its_likelihood() -> None:
    x = np.sort(np.random.default_rng(2).gamma(0.5, 1.0, 300) + 0.2)
    found = ratios(x).truncated_power_law
    t = x / x[0]
    mean_u, mean_tau = np.array([np.log(t).mean()]), np.array([(t - 1.0).mean()])
    alpha, z = maximum_likelihood(mean_u, mean_tau)
    other = -t.size * float((alpha * mean_u + z * mean_tau + log_integral(alpha, z))[0])
    plain = t.size * (np.log(1.0 / mean_u[0]) - (1.0 + 1.0 / mean_u[0]) * mean_u[0])
    assert pytest.approx(plain - other, rel=1e-9) == found.R
    assert found.p == pytest.approx(chi2.sf(2.0 * abs(found.R), 1), rel=1e-6)
    assert found.R < -9.0
    assert found.p < 1e-4


def test_the_lognormal_against_many_digits() -> None:
    """The best of all lognormals, by a likelihood with 50 digits."""
    x = np.sort(np.exp(np.abs(np.random.default_rng(3).normal(0.3, 1.0, 60))))
    found = ratios(x).lognormal
    u = [mpmath.mpf(float(value)) for value in np.log(x / x[0])]

    def cost(point: Array) -> float:
        mu, sigma = mpmath.mpf(float(point[0])), mpmath.exp(mpmath.mpf(float(point[1])))
        beyond = mpmath.erfc(-mu / (sigma * mpmath.sqrt(2))) / 2
        scale = mpmath.log(sigma * mpmath.sqrt(2 * mpmath.pi)) + mpmath.log(beyond)
        return float(sum(((value - mu) / sigma) ** 2 / 2 + value for value in u) + len(u) * scale)

    with mpmath.workdps(50):
        best = -float(minimize(cost, [0.0, 0.0], method="Nelder-Mead").fun)
    fit = fitted_from_the_start(x)
    plain = len(u) * np.log(fit.alpha - 1.0) - fit.alpha * float(sum(u))
    assert plain - found.R == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("alpha", [2.5, 4.0, 6.0])
def test_a_power_law_is_preferred_to_an_exponential_and_no_worse_than_the_rest(alpha: float) -> None:
    found = ratios(pareto(1000, alpha))
    assert found.exponential.R > 0.0
    assert found.exponential.p < 0.05
    assert found.lognormal.p > 0.1
    assert found.truncated_power_law.p > 0.05
    assert found.truncated_power_law.R <= 0.0


def test_a_lognormal_is_told_from_a_power_law() -> None:
    x = np.sort(np.exp(np.abs(np.random.default_rng(4).normal(0.0, 1.0, 1000))))
    found = ratios(x)
    assert found.lognormal.R < 0.0
    assert found.lognormal.p < 1e-3
    assert found.lognormal.R < found.exponential.R


def test_an_exponential_is_told_from_a_power_law() -> None:
    found = ratios(np.sort(1.0 + np.random.default_rng(5).exponential(1.0, 1000)))
    assert found.exponential.R < 0.0
    assert found.exponential.p < 1e-3
    assert found.truncated_power_law.p < 1e-3


def test_a_tail_that_needs_no_cutoff_gives_a_ratio_of_nought() -> None:
    t = np.append(np.exp(np.linspace(0.0, 1.0, 200)), 2000.0)
    found = ratios(t).truncated_power_law
    assert pytest.approx(0.0, abs=1e-9) == found.R
    assert found.p == pytest.approx(1.0, abs=1e-4)


def test_only_the_tail_counts() -> None:
    tail = pareto(150, 2.2) + 4.0
    esd = np.concatenate([np.linspace(0.1, 4.9, 40), tail, [1e9, 2e9]])
    fit = fitted_from_the_start(tail)
    assert compare_alternatives(esd, fit) == compare_alternatives(tail, fit)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_has_no_say(scale: float) -> None:
    x = np.sort(np.random.default_rng(6).lognormal(0.0, 1.0, 200))
    one = compare_alternatives(x, fit_power_law(x))
    other = compare_alternatives(x * scale, fit_power_law(x * scale))
    for name in NAMES:
        assert pytest.approx(getattr(one, name).R, rel=1e-4, abs=1e-4) == getattr(other, name).R
        assert getattr(other, name).p == pytest.approx(getattr(one, name).p, rel=1e-3, abs=1e-3)


def test_an_alpha_that_powerlaw_would_not_allow() -> None:
    found = ratios(pareto(80, 9.0))
    assert all(getattr(found, name).reason == "" for name in NAMES)
    assert found.truncated_power_law.R <= 0.0
    assert abs(found.lognormal.R) < 3.0


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        for x in (pareto(6, 9.0), pareto(100, 1.2), np.array([1.0, 1.5, 2.0, 900.0]), np.linspace(1.0, 1.001, 30)):
            ratios(x)
        assert warnings.filters == inside
    assert not caught
    assert warnings.filters == filters
    assert capfd.readouterr() == ("", "")


def test_a_failing_fit_costs_its_own_ratio_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import powerlaw

    def fails(**_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(powerlaw, "Lognormal", fails)
    found = ratios(pareto(50, 2.0))
    assert np.isnan([found.lognormal.R, found.lognormal.p]).all()
    assert found.lognormal.reason == "the lognormal could not be fitted (RuntimeError: no luck)"
    assert found.exponential.reason == found.truncated_power_law.reason == ""
    assert np.isfinite([found.exponential.R, found.truncated_power_law.R]).all()


def test_a_likelihood_that_is_no_number_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    import powerlaw

    class Broken:
        parameters = {"Lambda": np.nan}  # noqa: RUF012 - a stand-in

        def __init__(self, **_: object) -> None:
            pass

    monkeypatch.setattr(powerlaw, "Exponential", Broken)
    found = ratios(pareto(50, 2.0)).exponential
    assert np.isnan([found.R, found.p]).all()
    assert "not a number" in found.reason


def test_no_fit_and_short_tails_have_no_ratios() -> None:
    for found, words in (
        (compare_alternatives(np.zeros(5), PowerLaw.failed("every weight is zero")), "every weight is zero"),
        (ratios(np.array([1.0, 2.0, 5.0])), "too short"),
    ):
        for name in NAMES:
            ratio = getattr(found, name)
            assert words in ratio.reason
            assert np.isnan([ratio.R, ratio.p]).all()

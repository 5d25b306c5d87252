"""Truncated power laws: WeightWatcher's figures, the definition start by start, and samples of known parameters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral.fingers import starts_near_peak
from wwonnx.spectral.power_law import exponents, fit_power_law
from wwonnx.spectral.truncated_likelihood import log_survival, maximum_likelihood, simplex_search
from wwonnx.spectral.truncated_power_law import TruncatedPowerLaw, _mean_excess, fit_truncated_power_law

Array = NDArray[np.float64]
SAMPLES = [(fit, f"layer{stage}.0.conv1") for fit in ("TPL", "E_TPL") for stage in (1, 2, 3)]


def truncated_sample(n: int, alpha: float, cutoff: float, seed: int) -> Array:
    """x >= 1 with density proportional to x^-alpha exp(-cutoff x), by rejection from the plain power law."""
    rng = np.random.default_rng(seed)
    found: list[Array] = []
    while sum(map(len, found)) < n:
        x = 1.0 + rng.pareto(alpha - 1.0, 4 * n)
        found.append(x[rng.random(x.size) < np.exp(-cutoff * (x - 1.0))])
    return np.sort(np.concatenate(found)[:n])


def every_start(x: Array, exact: bool, allowed: Array | None = None) -> tuple[Array, Array]:
    """The starts that may be, and D of each, with nothing left out.

    A last bit of a mean may lead the simplex elsewhere (D then differs by up to 4 %), so it starts from the same ones.
    """
    starts = np.arange(x.size - 1) if allowed is None else np.flatnonzero(allowed[:-1])
    logs, distances = np.log(x), []
    same_u, same_tau = 1.0 / (exponents(x)[1] - 1.0), _mean_excess(x)
    for i in starts:
        t = x[i:] / x[i]
        m = t.size
        mean_u, mean_tau = np.array([np.log(t).mean()]), np.array([(t - 1.0).mean()])
        np.testing.assert_allclose((same_u[i], same_tau[i]), (mean_u[0], mean_tau[0]), rtol=1e-11)
        one = slice(i, i + 1)
        search = (
            maximum_likelihood(mean_u, mean_tau) if exact else simplex_search(same_u[one], same_tau[one], np.array([m]))
        )
        survival = np.exp(log_survival(logs[i:] - logs[i], *(parameter[0] for parameter in search)))
        distances.append(np.abs(1.0 - survival - np.arange(m) / m).max())
    return starts, np.array(distances)


@pytest.mark.parametrize(("fit", "name"), SAMPLES)
def test_weightwatchers_figures(shared: Path, fit: str, name: str) -> None:
    with (shared / "goldens/resnet20/tpl_samples.csv").open() as file:
        (golden,) = (row for row in csv.DictReader(file) if (row["fit"], row["name"]) == (fit, name))
    esd = np.sort(np.load(shared / "goldens/resnet20/esd.npz")[name]) * 0.5
    found = fit_truncated_power_law(esd, near_peak=fit == "E_TPL")
    for column in ("alpha", "Lambda", "xmin", "D"):
        assert getattr(found, column) == pytest.approx(float(golden[column]), rel=1e-3), column
    assert found.num_pl_spikes == int(golden["num_pl_spikes"])
    assert found.at_bound == "alpha"
    assert np.isnan(found.sigma)
    assert found.xmax == esd[-1]


def test_the_exact_maximum_is_above_weightwatchers_where_its_simplex_collapses(shared: Path) -> None:
    esd = np.sort(np.load(shared / "goldens/resnet20/esd.npz")["layer3.0.conv1"]) * 0.5
    theirs, exact = fit_truncated_power_law(esd), fit_truncated_power_law(esd, exact=True)
    t = esd[esd >= theirs.xmin] / theirs.xmin
    mean_u, mean_tau = np.array([np.log(t).mean()]), np.array([(t - 1.0).mean()])
    (alpha,), (z,) = maximum_likelihood(mean_u, mean_tau)
    assert alpha == 1.0
    assert z / theirs.xmin == pytest.approx(3.0362, abs=1e-3)
    assert theirs.Lambda == pytest.approx(2.9044, abs=1e-3)
    assert exact.xmin == pytest.approx(0.50536, abs=1e-5)
    assert exact.D > theirs.D
    assert (exact.alpha, exact.at_bound) == (1.0, "alpha")


@st.composite
def spectra(draw: st.DrawFn) -> Array:
    n = draw(st.integers(2, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["pareto", "gamma", "lognormal", "uniform", "rounded"]))
    x = {
        "pareto": lambda: 1.0 + rng.pareto(1.5, n),
        "gamma": lambda: rng.gamma(0.7, 1.0, n) + 0.01,
        "lognormal": lambda: rng.lognormal(0.0, 1.0, n),
        "uniform": lambda: rng.uniform(0.1, 1.0, n),
        "rounded": lambda: np.round(rng.lognormal(1.0, 1.0, n), 1) + 0.1,
    }[kind]()
    return np.sort(x)


@settings(deadline=None, max_examples=60)
@given(spectra(), st.booleans(), st.booleans())
def test_the_fit_is_the_best_of_all_starts(x: Array, exact: bool, near_peak: bool) -> None:
    found = fit_truncated_power_law(x, near_peak=near_peak, exact=exact)
    allowed = starts_near_peak(x) if near_peak else np.ones(x.size, dtype=bool)
    allowed &= x < x[-1]
    if not allowed[:-1].any():
        assert found.reason
        return
    starts, distances = every_start(x, exact, allowed)
    assert pytest.approx(distances.min(), rel=1e-6) == found.D
    assert found.xmin in x[starts[distances <= distances.min() * (1.0 + 1e-6)]]
    assert found.num_pl_spikes == np.count_nonzero(x >= found.xmin)
    assert found.alpha >= 1.0
    assert found.Lambda >= 0.0


@pytest.mark.parametrize(("alpha", "cutoff"), [(1.5, 0.05), (2.0, 0.3), (3.0, 0.02)])
def test_known_parameters_are_found(alpha: float, cutoff: float) -> None:
    x = truncated_sample(4000, alpha, cutoff, seed=7)
    found = fit_truncated_power_law(x, exact=True)
    assert found.at_bound == ""
    assert abs(found.alpha - alpha) < 3.0 * found.sigma
    assert found.sigma < 0.2
    assert found.D < 0.02
    simplex = fit_truncated_power_law(x)
    assert simplex.alpha == pytest.approx(found.alpha, abs=2e-3)
    assert simplex.Lambda == pytest.approx(found.Lambda, rel=2e-2)


def test_sigma_is_the_spread_over_samples() -> None:
    """At the first start alone, so that the choice of xmin adds nothing."""
    fits = []
    for seed in range(60):
        t = truncated_sample(800, 2.0, 0.3, seed)
        mean_u, mean_tau = np.array([np.log(t).mean()]), np.array([(t - 1.0).mean()])
        fits.append(maximum_likelihood(mean_u, mean_tau)[0][0])
    x = truncated_sample(800, 2.0, 0.3, 0)
    found = fit_truncated_power_law(x, exact=True)
    assert found.sigma * np.sqrt(found.num_pl_spikes / 800.0) == pytest.approx(np.std(fits), rel=0.35)


def test_a_plain_power_law_needs_no_cutoff() -> None:
    n = 300
    x = (1.0 - (np.arange(n) + 0.5) / n) ** (-1.0 / 1.5)
    x = np.append(x[:-1], x[-1] * 50.0)
    found = fit_truncated_power_law(x, exact=True)
    plain = fit_power_law(x)
    assert (found.Lambda, found.at_bound) == (0.0, "Lambda")
    assert found.alpha == pytest.approx(plain.alpha, rel=0.05)
    assert found.sigma == pytest.approx((found.alpha - 1.0) / np.sqrt(found.num_pl_spikes))


@pytest.mark.parametrize("scale", [1e-6, 3.7, 1e6])
@pytest.mark.parametrize("exact", [False, True])
def test_scale_has_no_say(scale: float, exact: bool) -> None:
    x = np.sort(np.random.default_rng(8).gamma(1.5, 1.0, 150) + 0.05)
    one, other = fit_truncated_power_law(x, exact=exact), fit_truncated_power_law(x * scale, exact=exact)
    assert other.alpha == pytest.approx(one.alpha, rel=1e-6)
    assert other.Lambda * scale == pytest.approx(one.Lambda, rel=1e-5)
    assert other.xmin == pytest.approx(one.xmin * scale)
    assert pytest.approx(one.D, rel=1e-5) == other.D
    assert other.at_bound == one.at_bound


def test_without_the_largest() -> None:
    x = np.sort(np.random.default_rng(9).gamma(1.5, 1.0, 100) + 0.05)
    assert fit_truncated_power_law(x, ignore_largest=4) == fit_truncated_power_law(x[:-4])


def test_the_mean_excess_survives_close_values() -> None:
    x = 1.0 + np.arange(50) * 1e-9
    logs, _ = exponents(x)
    assert logs[-1] - logs[0] == pytest.approx(49e-9, rel=1e-6)
    found = fit_truncated_power_law(x, exact=True)
    assert found.reason == ""
    assert 0.0 < found.D < 1.0


@pytest.mark.parametrize("near_peak", [False, True])
@pytest.mark.parametrize(
    ("esd", "words"),
    [
        (np.zeros(0), "zero"),
        (np.zeros(9), "zero"),
        (np.array([0.0, 1.0]), "no tail"),
        (np.full(9, 2.0), "all equal"),
    ],
)
def test_no_tail(esd: Array, words: str, near_peak: bool) -> None:
    found = fit_truncated_power_law(esd, near_peak=near_peak)
    assert words in found.reason
    numbers = [found.alpha, found.Lambda, found.xmin, found.xmax, found.D, found.sigma]
    assert np.isnan(numbers).all()
    assert (found.num_pl_spikes, found.at_bound) == (0, "")


def test_too_many_left_out() -> None:
    assert "more than half" in fit_truncated_power_law(np.arange(1.0, 11.0), ignore_largest=6).reason
    assert TruncatedPowerLaw.failed("why").reason == "why"

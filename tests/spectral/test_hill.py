"""Hill's estimator, with TempBalance's indexing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wwonnx.spectral.hill import fit_hill


def by_the_formula(x: list[float], xmin_pos: int) -> tuple[float, float]:
    n = len(x)
    i = n // xmin_pos
    m = n - i
    alpha = 1.0 + m / math.fsum(math.log(x[j] / x[i]) for j in range(i, n))
    d = max(abs(1.0 - (x[i + k] / x[i]) ** (1.0 - alpha) - k / m) for k in range(m))
    return alpha, d


@pytest.mark.parametrize("n", [4, 5, 10, 11, 300])
@pytest.mark.parametrize("xmin_pos", [2, 3, 10])
def test_the_formula(n: int, xmin_pos: int) -> None:
    x = np.sort(np.random.default_rng(n).lognormal(0.0, 1.0, n))
    fit = fit_hill(x, xmin_pos=xmin_pos)
    alpha, d = by_the_formula(x.tolist(), xmin_pos)
    start = n // xmin_pos
    assert fit.alpha == pytest.approx(alpha, rel=1e-12)
    assert pytest.approx(d, rel=1e-11) == fit.D
    assert (fit.xmin, fit.xmax, fit.num_pl_spikes) == (x[start], x[-1], n - start)
    assert fit.sigma == pytest.approx((alpha - 1.0) / math.sqrt(n - start), rel=1e-12)
    assert fit.reason == ""


def test_four_values_by_hand() -> None:
    fit = fit_hill(np.array([1.0, 2.0, 4.0, 4.0 * math.e]))
    assert fit.alpha == pytest.approx(1.0 + 2.0 / 1.0)
    assert fit.xmin == 4.0
    assert fit.num_pl_spikes == 2


@pytest.mark.parametrize("alpha", [1.5, 2.5, 5.0])
def test_a_pareto_tail_is_found(alpha: float) -> None:
    x = np.sort(1.0 + np.random.default_rng(3).pareto(alpha - 1.0, 20000))
    assert fit_hill(x).alpha == pytest.approx(alpha, rel=0.03)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_has_no_say(scale: float) -> None:
    x = np.sort(np.random.default_rng(4).lognormal(0.0, 1.0, 200))
    fit, scaled = fit_hill(x), fit_hill(x * scale)
    assert scaled.alpha == pytest.approx(fit.alpha, rel=1e-12)
    assert pytest.approx(fit.D, rel=1e-10) == scaled.D
    assert scaled.xmin == pytest.approx(fit.xmin * scale)


def test_zero_eigenvalues_do_not_count() -> None:
    x = np.sort(np.random.default_rng(5).lognormal(0.0, 1.0, 51))
    assert fit_hill(np.concatenate([np.zeros(40), x])) == fit_hill(x)
    assert fit_hill(np.concatenate([np.full(40, 0.99e-5), x])) == fit_hill(x)
    assert fit_hill(np.concatenate([np.full(40, 1.01e-5), x])) != fit_hill(x)


def test_without_the_largest() -> None:
    x = np.sort(np.random.default_rng(6).lognormal(0.0, 1.0, 60))
    assert fit_hill(x, ignore_largest=5) == fit_hill(x[:-5])


@pytest.mark.parametrize(
    ("esd", "words"),
    [
        (np.zeros(5), "zero"),
        (np.zeros(0), "zero"),
        (np.array([0.0, 3.0]), "no tail"),
        (np.array([1.0, 2.0, 2.0, 2.0]), "all equal"),
        (np.array([1.0, 2.0]), "all equal"),
    ],
)
def test_no_tail(esd: np.ndarray, words: str) -> None:
    fit = fit_hill(esd)
    assert words in fit.reason
    assert np.isnan([fit.alpha, fit.D, fit.xmin, fit.xmax, fit.sigma]).all()
    assert fit.num_pl_spikes == 0

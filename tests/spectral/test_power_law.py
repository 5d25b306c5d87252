"""The tail fit against the definition, evaluated for every start without any shortcut."""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

from wwonnx.spectral import power_law, tail
from wwonnx.spectral.power_law import PowerLaw, Scan, exponents, fit_power_law, fit_power_laws, power_law_scan

Array = NDArray[np.float64]


def tail_of(esd: Array, ignore_largest: int = 0) -> Array:
    largest = esd[-1]
    cut = 1e-5 * min(1.0, largest / 0.01)
    return np.array([value for value in esd[: len(esd) - ignore_largest] if value > cut])


def every_start(x: Array) -> tuple[Array, Array]:
    """Alpha and D of each start, straight from the formula; inf for a tail of equal values, which has no alpha."""
    alphas, distances = [], []
    for i in range(len(x) - 1):
        ratio = x[i:] / x[i]
        m = len(ratio)
        total = math.fsum(np.log(ratio))
        if total < 1e-10:
            alphas.append(math.inf)
            distances.append(math.inf)
            continue
        alpha = 1 + m / total
        alphas.append(alpha)
        distances.append(np.max(np.abs(1 - ratio ** (1 - alpha) - np.arange(m) / m)))
    return np.array(alphas), np.array(distances)


def start_of(fit: PowerLaw, x: Array) -> int:
    """Where the fit begins, from sigma = (alpha - 1) / sqrt(m)."""
    start = len(x) - round(((fit.alpha - 1) / fit.sigma) ** 2)
    assert x[start] == fit.xmin
    return start


def agrees(esd: Array, ignore_largest: int = 0, rel: float = 1e-11) -> None:
    x = tail_of(esd, ignore_largest)
    fit = fit_power_law(esd, ignore_largest)
    alphas, distances = every_start(x)
    if not len(distances) or not np.isfinite(distances).any():
        assert fit.reason
        assert np.isnan([fit.alpha, fit.D, fit.xmin, fit.xmax, fit.sigma]).all()
        return
    assert fit.reason == ""
    best = distances.min()
    start = start_of(fit, x)
    ties = np.flatnonzero(distances <= best * (1 + rel))
    assert start in ties
    if (distances[ties] == best).all():
        assert start == ties[0]
    assert best == pytest.approx(fit.D, rel=rel)
    assert fit.alpha == pytest.approx(alphas[start], rel=rel)
    assert fit.sigma == pytest.approx((alphas[start] - 1) / math.sqrt(len(x) - start), rel=rel)
    assert fit.xmax == x[-1]


def is_failed(fit: PowerLaw, words: str) -> None:
    assert words in fit.reason
    assert "\n" not in fit.reason
    assert np.isnan([fit.alpha, fit.xmin, fit.xmax, fit.D, fit.sigma]).all()
    assert -1 not in astuple(fit)


@st.composite
def spectra(draw: st.DrawFn) -> Array:
    n = draw(st.integers(2, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.05, 0.5, 1.0, 3.0]))
    kind = draw(st.sampled_from(["lognormal", "pareto", "uniform"]))
    if kind == "lognormal":
        values = rng.lognormal(0.0, spread, n)
    elif kind == "pareto":
        values = 1.0 + rng.pareto(0.5 + spread, n)
    else:
        values = rng.uniform(1.0, 1.0 + spread, n)
    if draw(st.booleans()):
        values = np.array([float(f"{value:.1e}") for value in values])
    scale = draw(st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e12]))
    values *= scale
    cut = 1e-5 * min(1.0, values.max() / 0.01)
    below = cut * rng.uniform(0.0, 1.0, draw(st.integers(0, 10)))
    above = cut * rng.uniform(1.0, 2.0, draw(st.integers(0, 3)))
    return np.sort(np.concatenate([np.zeros(draw(st.integers(0, 5))), below, above, values]))


def wishart(n: int, samples: int, seed: int) -> Array:
    """Eigenvalues of W^T W / samples for Gaussian W (samples x n), from Dumitriu and Edelman's bidiagonal model."""
    rng = np.random.default_rng(seed)
    a = np.sqrt(rng.chisquare(np.arange(samples, samples - n, -1)))
    b = np.sqrt(rng.chisquare(np.arange(n - 1, 0, -1)))
    diagonal = a * a
    diagonal[1:] += b * b
    values: Array = eigvalsh_tridiagonal(diagonal, a[:-1] * b)
    return np.sort(np.maximum(values, 0.0)) / samples


def heavy_tailed(n: int, exponent: float, seed: int) -> Array:
    """A uniform bulk on [0, 1] of four fifths, and a tail from 1 on."""
    rng = np.random.default_rng(seed)
    tail = 1.0 + rng.pareto(exponent - 1.0, n // 5)
    return np.sort(np.concatenate([rng.uniform(0.0, 1.0, n - n // 5), tail]))


def pareto(n: int, exponent: float) -> Array:
    """Quantiles at the middles of n equal parts."""
    return (1.0 - (np.arange(n) + 0.5) / n) ** (-1.0 / (exponent - 1.0))


@settings(deadline=None, max_examples=300)
@given(spectra())
def test_the_fit_is_the_definition_on_any_spectrum(esd: Array) -> None:
    agrees(esd)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40))
def test_the_fit_is_the_definition_on_spectra_full_of_ties(values: list[int]) -> None:
    agrees(np.sort(np.array(values, dtype=float)))


@settings(deadline=None, max_examples=100)
@given(spectra(), st.data())
def test_the_fit_is_the_definition_without_the_largest(esd: Array, data: st.DataObject) -> None:
    agrees(esd, ignore_largest=data.draw(st.integers(0, esd.size // 2)))


@pytest.mark.parametrize(("n", "samples"), [(768, 768), (768, 3072), (4096, 4096), (4096, 16384)])
def test_the_fit_is_the_definition_on_marchenko_pastur_spectra(n: int, samples: int) -> None:
    esd = wishart(n, samples, seed=n + samples)
    assert esd[-1] == pytest.approx((1 + math.sqrt(n / samples)) ** 2, rel=0.03)
    agrees(esd, rel=1e-10)


@pytest.mark.parametrize("n", [768, 4096])
@pytest.mark.parametrize("exponent", [1.5, 2.5, 4.0])
def test_the_fit_is_the_definition_on_heavy_tails(n: int, exponent: float) -> None:
    agrees(heavy_tailed(n, exponent, seed=n), rel=1e-10)


@pytest.mark.parametrize("values", [[1, 1, 1, 4, 4, 8], [1, 1, 1, 1, 4, 4, 8], [1, 1, 1, 1, 1, 4, 4, 8]])
def test_of_equal_distances_the_first_start_wins(values: list[float]) -> None:
    esd = np.array(values, dtype=float)
    _, distances = every_start(esd)
    best = np.flatnonzero(distances == distances.min())
    assert len(best) == 2
    fit = fit_power_law(esd)
    assert fit.D == 1 / 3
    assert start_of(fit, esd) == best[0]


@pytest.mark.parametrize("seed", range(20))
def test_of_many_equal_distances_the_first_start_wins(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = power_law.distances

    def coarse(*args: Any) -> tuple[Array, NDArray[np.intp]]:
        d, position = exact(*args)
        return np.ceil(d * 20) / 20, position

    esd = np.sort(np.random.default_rng(seed).lognormal(0.0, 1.0, 200))
    x = tail_of(esd)
    distances = np.ceil(every_start(x)[1] * 20) / 20
    assert np.count_nonzero(distances == distances.min()) > 1
    monkeypatch.setattr(power_law, "distances", coarse)
    fit = fit_power_law(esd)
    assert distances.min() == fit.D
    assert start_of(fit, x) == distances.argmin()


def test_a_start_whose_bound_is_the_best_distance_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([[1e-3], 1.0 + np.arange(10.0)])
    alphas, distances = every_start(x)
    assert distances.argmax() == 0
    monkeypatch.setattr(power_law, "distances", lambda *_: (distances[:1], np.zeros(1, dtype=np.intp)))
    assert fit_power_law(x).alpha == pytest.approx(alphas[0], rel=1e-12)


@settings(deadline=None, max_examples=100)
@given(st.lists(spectra(), min_size=1, max_size=6), st.integers(2, 60), st.integers(0, 2))
def test_no_bit_of_a_fit_depends_on_the_others(esds: list[Array], size: int, ignored: int) -> None:
    """Cut to one size, of which thresholds leave more or less."""
    some = [np.sort(np.resize(esd, size)) for esd in esds] + esds
    together = fit_power_laws(some, ignored)
    assert [repr(fit) for fit in together] == [repr(fit_power_law(esd, ignored)) for esd in some]


@pytest.mark.parametrize("esd", [np.array([1.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0, 1.0, 1.0, 2.0])])
def test_spikes_are_all_eigenvalues_from_xmin_on(esd: Array) -> None:
    fit = fit_power_law(esd)
    assert fit.num_pl_spikes == np.count_nonzero(esd >= fit.xmin)


@settings(deadline=None, max_examples=100)
@given(spectra())
def test_spikes_are_counted_on_any_spectrum(esd: Array) -> None:
    fit = fit_power_law(esd)
    expected = 0 if fit.reason else np.count_nonzero(esd >= fit.xmin)
    assert fit.num_pl_spikes == expected


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("exponent", [1.5, 3.0])
def test_a_scaled_layer_has_the_same_tail(scale: float, exponent: float) -> None:
    esd = heavy_tailed(768, exponent, seed=3)
    esd = esd[esd > 2e-3 * esd[-1]]
    fit, scaled = fit_power_law(esd), fit_power_law(esd * scale)
    assert (scaled.alpha, scaled.D) == pytest.approx((fit.alpha, fit.D), rel=1e-12)
    assert scaled.num_pl_spikes == fit.num_pl_spikes
    assert scaled.xmin == pytest.approx(fit.xmin * scale, rel=1e-12)


def test_a_layer_of_small_scale_keeps_its_tail_when_it_shrinks() -> None:
    esd = heavy_tailed(768, 2.5, seed=4)
    esd *= 0.01 / esd[-1]
    fit, scaled = fit_power_law(esd), fit_power_law(esd * 2.0**-40)
    assert (scaled.alpha, scaled.D, scaled.num_pl_spikes) == (fit.alpha, fit.D, fit.num_pl_spikes)


@pytest.mark.parametrize(
    ("largest", "expected"), [(1e-300, 1e-303), (1e-6, 1e-9), (0.01, 1e-5), (0.0101, 1e-5), (1.0, 1e-5), (1e12, 1e-5)]
)
def test_the_threshold_shrinks_with_small_layers_only(largest: float, expected: float) -> None:
    assert tail.threshold(largest) == pytest.approx(expected, rel=1e-14)


def test_eigenvalues_at_the_threshold_are_left_out() -> None:
    tail = np.array([1.0, 1.5, 2.5, 7.0])
    low = np.array([0.0, 1e-9, 1e-5])
    assert fit_power_law(np.concatenate([low, tail])) == fit_power_law(tail)
    assert power_law_scan(np.concatenate([low, tail])).x.tolist() == tail[:-1].tolist()
    is_failed(fit_power_law(np.array([1e-5, 1.0])), "1 eigenvalue")
    with_one = np.concatenate([[1.1e-5], tail])
    assert power_law_scan(with_one).x.tolist() == with_one[:-1].tolist()


@pytest.mark.parametrize("exponent", [1.3, 2.0, 3.0, 4.5, 7.0])
@pytest.mark.parametrize("n", [300, 4000])
def test_exact_pareto_quantiles_give_their_exponent(exponent: float, n: int) -> None:
    fit = fit_power_law(pareto(n, exponent))
    assert fit.alpha == pytest.approx(exponent, rel=5 / n)
    assert 0 < fit.D < 2 / n
    assert fit.num_pl_spikes > n / 2


def test_a_planted_tail_is_found() -> None:
    esd = heavy_tailed(4096, 2.5, seed=0)
    fit = fit_power_law(esd)
    assert abs(fit.alpha - 2.5) < 3 * fit.sigma
    assert 0.9 < fit.xmin < 2.0


@pytest.mark.parametrize("value", [1e-12, 0.1, 1.0, 3e12])
def test_equal_eigenvalues_have_no_tail(value: float) -> None:
    is_failed(fit_power_law(np.full(64, value)), "all equal")


def test_equal_eigenvalues_above_zeros_have_no_tail() -> None:
    is_failed(fit_power_law(np.array([0.0, 0.0, 2.0, 2.0, 2.0])), "all equal")


def test_eigenvalues_that_differ_by_rounding_have_no_tail() -> None:
    rng = np.random.default_rng(0)
    is_failed(fit_power_law(np.sort(1.0 + 1e-15 * rng.uniform(-1, 1, 100))), "all equal")


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_layer_of_zeros_has_no_tail(n: int) -> None:
    is_failed(fit_power_law(np.zeros(n)), "every weight is zero")


def test_no_eigenvalues_have_no_tail() -> None:
    assert fit_power_law(np.array([])).reason


@pytest.mark.parametrize("esd", [[2.0], [0.0, 0.0, 2.0], [1e-7, 1e-6, 2.0]])
def test_one_eigenvalue_is_no_tail(esd: list[float]) -> None:
    is_failed(fit_power_law(np.array(esd)), "1 eigenvalue")


def test_two_eigenvalues_are_a_tail() -> None:
    fit = fit_power_law(np.array([1.0, math.e]))
    assert (fit.alpha, fit.D) == pytest.approx((3.0, 0.5 - math.exp(-2)), rel=1e-14)
    assert fit.sigma == pytest.approx(math.sqrt(2), rel=1e-15)
    assert fit.num_pl_spikes == 2


def test_ignoring_the_largest_is_to_fit_what_is_left() -> None:
    esd = np.concatenate([heavy_tailed(300, 3.0, seed=8), [1e3, 1e4]])
    fit, rest = fit_power_law(esd, ignore_largest=2), fit_power_law(esd[:-2])
    assert fit == rest
    assert fit.alpha != fit_power_law(esd).alpha


def test_ignoring_more_than_half_fails_with_a_reason() -> None:
    esd = np.arange(1.0, 11.0)
    assert not fit_power_law(esd, ignore_largest=5).reason
    is_failed(fit_power_law(esd, ignore_largest=6), "xmax=-6")
    is_failed(fit_power_law(esd, ignore_largest=1000), "xmax=-1000")


@settings(deadline=None, max_examples=50)
@given(
    st.integers(2, 40),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-8, 1e-6, 1e-3, 1.0]),
    st.sampled_from([1e-12, 0.3, 1e12]),
)
def test_exponents_do_not_cancel(n: int, seed: int, spread: float, scale: float) -> None:
    steps = np.random.default_rng(seed).uniform(0.1, 1.0, n)
    x = scale * (1.0 + spread * np.cumsum(steps))
    logs, alphas = exponents(x)
    assert logs.shape == (n,)
    assert alphas.shape == (n - 1,)
    with mpmath.workprec(200):
        exact = [mpmath.log(mpmath.mpf(float(value))) for value in x]
        for i in range(n - 1):
            tail = n - i
            assert logs[-1] - logs[i] == pytest.approx(float(exact[-1] - exact[i]), rel=1e-13, abs=0)
            slope = tail / mpmath.fsum(exact[j] - exact[i] for j in range(i, n))
            assert alphas[i] - 1.0 == pytest.approx(float(slope), rel=1e-13, abs=2.3e-16)


@pytest.mark.parametrize(
    "x",
    [
        np.sort(np.random.default_rng(5).lognormal(0.0, 2.0, 60)),
        np.concatenate([np.geomspace(1e-5, 1e4, 30), np.linspace(1.0001e4, 1.0009e4, 30)]),
        np.concatenate([[1e-5], 1e12 * np.linspace(1.0, 1.05, 60)]),
    ],
    ids=["lognormal", "cluster", "far cluster"],
)
def test_distance_against_many_digits(x: Array) -> None:
    logs, alphas = exponents(x)
    with mpmath.workprec(200):
        exact = [mpmath.mpf(float(value)) for value in x]
        for i in range(x.size - 1):
            tail = exact[i:]
            m = len(tail)
            alpha = 1 + m / mpmath.fsum(mpmath.log(value / exact[i]) for value in tail)
            gaps = [abs(1 - (tail[j] / exact[i]) ** (1 - alpha) - mpmath.mpf(j) / m) for j in range(m)]
            assert power_law.distance(logs, alphas, i)[0] == pytest.approx(float(max(gaps)), rel=1e-12)


def counted(monkeypatch: pytest.MonkeyPatch, esd: Array) -> int:
    calls = 0
    exact = power_law.distances

    def count(*args: Any) -> tuple[Array, NDArray[np.intp]]:
        nonlocal calls
        calls += 1
        return exact(*args)

    with monkeypatch.context() as patch:
        patch.setattr(power_law, "distances", count)
        fit_power_law(esd)
    return calls


@pytest.mark.parametrize("seed", range(5))
def test_few_distances_are_evaluated(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= counted(monkeypatch, wishart(768, 3072, seed)) < 12
    assert 1 <= counted(monkeypatch, heavy_tailed(768, 2.5, seed)) < 12


@settings(deadline=None, max_examples=200)
@given(spectra(), st.sampled_from([1.0, 10.0]))
def test_a_bound_is_below_the_distance_and_close_to_a_probe_of_it(esd: Array, steeper: float) -> None:
    """By float32, whatever the user has numpy do with what leaves its range."""
    x = tail_of(esd) ** steeper if esd[-1] < 1e9 else tail_of(esd)
    if len(x) < 2 or not x[0] > 0.0:
        return
    logs, alphas = exponents(x)
    with np.errstate(all="raise"):
        bounds = power_law.lower_bounds(logs[None], alphas[None])[0]
    for start in np.flatnonzero(np.isfinite(alphas)):
        distance, _ = power_law.distance(logs, alphas, int(start))
        tail = logs[start:]
        places = (np.linspace(0.0, 1.0, 12) * (len(tail) - 1)).astype(int)
        probed = np.abs(np.exp((1 - alphas[start]) * (tail[places] - tail[0])) - 1 + places / len(tail)).max()
        assert probed - 2e-6 < bounds[start] < probed
        assert bounds[start] < distance


def test_the_scan_holds_every_start() -> None:
    esd = np.concatenate([[0.0, 1e-7], heavy_tailed(200, 2.5, seed=1)])
    x = tail_of(esd)
    alphas, distances = every_start(x)
    scan = power_law_scan(esd)
    assert scan.x.tolist() == x[:-1].tolist()
    np.testing.assert_allclose(scan.alphas, alphas, rtol=1e-11)
    np.testing.assert_allclose(scan.distances, distances, rtol=1e-11)


@settings(deadline=None, max_examples=100)
@given(spectra())
def test_the_scan_agrees_with_the_fit(esd: Array) -> None:
    scan, fit = power_law_scan(esd), fit_power_law(esd)
    if fit.reason:
        assert not scan.x.size
        return
    best = int(np.argmin(scan.distances))
    assert (scan.x[best], scan.alphas[best], scan.distances[best]) == (fit.xmin, fit.alpha, fit.D)


@pytest.mark.parametrize("esd", [[], [0.0, 0.0], [1.0], [0.0, 2.0], [2.0, 2.0, 2.0]])
def test_a_scan_without_a_tail_is_empty(esd: list[float]) -> None:
    scan: Scan = power_law_scan(np.array(esd))
    assert scan.x.size == scan.alphas.size == scan.distances.size == 0


def test_the_spectrum_is_left_alone() -> None:
    esd = heavy_tailed(100, 2.5, seed=2)
    before = esd.copy()
    esd.flags.writeable = False
    first = fit_power_law(esd)
    power_law_scan(esd)
    assert np.array_equal(esd, before)
    assert fit_power_law(esd) == first


@pytest.mark.parametrize("ignored", [0, 1, 5])
def test_a_scan_may_leave_the_largest_out_and_take_fewer_starts(ignored: int) -> None:
    esd = heavy_tailed(2000, 2.5, seed=1)
    whole = power_law_scan(esd, ignored)
    best = int(np.argmin(whole.distances))
    assert whole.alphas[best] == fit_power_law(esd, ignored).alpha
    some = power_law_scan(esd, ignored, differences=5e5)
    assert some.x.size == 2 * 500_000 // (2000 - ignored)
    where = np.searchsorted(whole.x, some.x)
    np.testing.assert_array_equal(whole.alphas[where], some.alphas)
    np.testing.assert_array_equal(whole.distances[where], some.distances)
    assert (some.x[0], some.x[-1]) == (whole.x[0], whole.x[-1])
    assert power_law_scan(esd, ignored, differences=0.0).x.size == 100

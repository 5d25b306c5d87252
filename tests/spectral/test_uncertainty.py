"""Samples whose exponent is known: bias, coverage of the interval, and p-values that mean what they say.

For a Pareto sample the estimators are equivariant: x -> x^c turns alpha - 1 into (alpha - 1) / c and leaves D and the
place of xmin alone. Coverage and relative bias of alpha - 1 are therefore those of every alpha, and one is simulated.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wwonnx.spectral import uncertainty
from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.power_law_batch import fit_samples
from wwonnx.spectral.uncertainty import bootstrap_interval, corrected_alpha, goodness_of_fit

Array = NDArray[np.float64]


def pareto(count: int, n: int, alpha: float, seed: int) -> Array:
    return np.sort(1.0 + np.random.default_rng(seed).pareto(alpha - 1.0, (count, n)), axis=1)


def corrected(samples: Array) -> Array:
    fits = fit_samples(samples)
    return np.array([corrected_alpha(a, int(m)) for a, m in zip(fits.alphas, fits.tails, strict=True)])


def test_the_correction_is_exact_for_a_known_start() -> None:
    """m / S is too large by m / (m - 2), S being the sum of m - 1 exponential spacings."""
    m, alpha = 12, 2.5
    samples = pareto(40000, m, alpha, seed=1)
    plain = 1.0 + m / np.log(samples / samples[:, :1]).sum(axis=1)
    error = 4.0 * np.std(plain) / np.sqrt(plain.size)
    assert np.mean(plain) == pytest.approx(1.0 + (alpha - 1.0) * m / (m - 2), abs=error)
    assert np.mean([corrected_alpha(a, m) for a in plain]) == pytest.approx(alpha, abs=error)
    assert corrected_alpha(3.0, 3) == pytest.approx(1.0 + 2.0 / 3.0)
    assert np.isnan(corrected_alpha(3.0, 2))


@pytest.mark.parametrize("alpha", [1.5, 2.5, 3.5, 5.0])
def test_bias_of_large_samples(alpha: float) -> None:
    for n, count in ((500, 1500), (1000, 1000)):
        found = corrected(pareto(count, n, alpha, seed=n))
        assert np.mean(found) == pytest.approx(alpha, rel=0.007)


def test_bias_of_small_samples_is_less_than_half_of_the_plain_estimators() -> None:
    alpha = 2.5
    samples = pareto(6000, 100, alpha, seed=2)
    plain, mended = fit_samples(samples).alphas, corrected(samples)
    assert 0.02 < np.mean(plain) / alpha - 1.0 < 0.06
    assert abs(np.mean(mended) / alpha - 1.0) < 0.017
    assert abs(np.median(mended) / alpha - 1.0) < 0.005
    assert np.mean((mended - alpha) ** 2) < 0.85 * np.mean((plain - alpha) ** 2)


@pytest.mark.parametrize(("n", "count", "least", "most"), [(100, 700, 93.0, 98.0), (500, 400, 93.0, 98.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int, count: int, least: float, most: float) -> None:
    """And more often than 1.96 sigma on either side of the plain exponent; benchmarks/pareto.py has the figures."""
    covered = by_sigma = 0
    for layer_id in range(count):
        alpha = (1.5, 2.0, 2.5, 3.5, 5.0)[layer_id % 5]
        (sample,) = pareto(1, n, alpha, seed=1000 * n + layer_id)
        found = bootstrap_interval(sample, seed=0, layer_id=layer_id, replicates=300)
        assert found.reason == ""
        assert found.replicates == 300
        covered += found.low <= alpha <= found.high
        fit = fit_power_law(sample)
        by_sigma += abs(fit.alpha - alpha) <= 1.96 * fit.sigma
    assert least <= 100.0 * covered / count <= most
    assert covered > by_sigma


@pytest.mark.parametrize("alpha", [1.5, 5.0])
def test_one_alpha_speaks_for_all(alpha: float) -> None:
    sample = pareto(1, 150, 2.5, seed=3)[0]
    one = bootstrap_interval(sample, seed=1, layer_id=2, replicates=200)
    other = bootstrap_interval(sample ** (1.5 / (alpha - 1.0)), seed=1, layer_id=2, replicates=200)
    factor = (alpha - 1.0) / 1.5
    for name in ("alpha", "low", "high"):
        assert getattr(other, name) - 1.0 == pytest.approx((getattr(one, name) - 1.0) * factor, rel=1e-9)


def test_a_body_below_the_tail_does_not_spoil_the_interval() -> None:
    """Half of the values in a uniform body: alpha is that of the tail."""
    rng = np.random.default_rng(4)
    covered = 0
    for layer_id in range(200):
        x = np.sort(np.concatenate([rng.uniform(0.01, 1.0, 100), 1.0 + rng.pareto(1.5, 100)]))
        found = bootstrap_interval(x, seed=0, layer_id=layer_id, replicates=200)
        covered += found.low <= 2.5 <= found.high
    assert covered / 200 > 0.91


def test_a_higher_level_is_wider() -> None:
    sample = pareto(1, 200, 2.5, seed=5)[0]
    inner = bootstrap_interval(sample, 0, 0, level=0.5)
    outer = bootstrap_interval(sample, 0, 0, level=0.99)
    assert outer.low < inner.low < inner.alpha < inner.high < outer.high


def test_the_interval_is_the_quantiles_of_refitted_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = pareto(1, 60, 2.5, seed=6)[0]
    seen: list[Array] = []

    def watched(samples: Array) -> object:
        seen.append(samples)
        return fit_samples(samples)

    monkeypatch.setattr(uncertainty, "fit_samples", watched)
    monkeypatch.setattr(uncertainty, "_BLOCK", 60 * 70)
    found = bootstrap_interval(sample, 3, 4, replicates=200)
    assert [block.shape for block in seen] == [(70, 60), (70, 60), (60, 60)]
    resamples = np.concatenate(seen)
    assert np.isin(resamples, sample).all()
    assert (np.diff(resamples, axis=1) >= 0.0).all()
    assert np.mean(resamples, axis=0).mean() == pytest.approx(sample.mean(), rel=0.2)
    fits = [fit_power_law(row) for row in resamples]
    tails = [((fit.alpha - 1.0) / fit.sigma) ** 2 for fit in fits]
    alphas = [1.0 + (fit.alpha - 1.0) * (m - 2.0) / m for fit, m in zip(fits, tails, strict=True)]
    assert [found.low, found.high] == pytest.approx(np.quantile(alphas, [0.025, 0.975]), rel=1e-9)
    plain = fit_power_law(sample)
    assert found.alpha == corrected_alpha(plain.alpha, plain.num_pl_spikes)


def test_seeds_decide_and_nothing_else() -> None:
    sample = pareto(1, 80, 2.5, seed=7)[0]
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - that it stays as it is, is the point
    one = bootstrap_interval(sample, 1, 2), goodness_of_fit(sample, 1, 2, replicates=50)
    assert one == (bootstrap_interval(sample, 1, 2), goodness_of_fit(sample, 1, 2, replicates=50))
    assert bootstrap_interval(sample, 1, 3) != one[0]
    assert bootstrap_interval(sample, 2, 2) != one[0]
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_has_no_say(scale: float) -> None:
    sample = pareto(1, 120, 2.5, seed=8)[0]
    one, other = bootstrap_interval(sample, 0, 1), bootstrap_interval(sample * scale, 0, 1)
    assert [other.alpha, other.low, other.high] == pytest.approx([one.alpha, one.low, one.high], rel=1e-9)
    assert goodness_of_fit(sample, 0, 1) == goodness_of_fit(sample * scale, 0, 1)


def test_without_the_largest_and_without_zeros() -> None:
    sample = pareto(1, 90, 2.5, seed=9)[0]
    padded = np.concatenate([np.zeros(7), sample])
    assert bootstrap_interval(padded, 0, 1) == bootstrap_interval(sample, 0, 1)
    assert bootstrap_interval(sample, 0, 1, ignore_largest=3) == bootstrap_interval(sample[:-3], 0, 1)
    assert goodness_of_fit(padded, 0, 1) == goodness_of_fit(sample, 0, 1)
    assert goodness_of_fit(sample, 0, 1, ignore_largest=3) == goodness_of_fit(sample[:-3], 0, 1)


def test_p_values_of_power_laws_are_rarely_small() -> None:
    """About a tenth of them should be below 0.1."""
    values = [goodness_of_fit(x, 0, k, replicates=200).p_value for k, x in enumerate(pareto(250, 150, 2.5, seed=10))]
    assert 0.04 <= np.mean(np.array(values) <= 0.1) <= 0.16
    assert 0.4 < np.median(values) < 0.7


def test_p_values_of_a_tail_below_a_body_are_rarely_small() -> None:
    rng = np.random.default_rng(11)
    values = []
    for layer_id in range(120):
        x = np.sort(np.concatenate([rng.uniform(0.01, 1.0, 100), 1.0 + rng.pareto(1.5, 100)]))
        values.append(goodness_of_fit(x, 0, layer_id, replicates=200).p_value)
    assert np.mean(np.array(values) <= 0.1) <= 0.2


def test_what_is_no_power_law_is_ruled_out() -> None:
    rng = np.random.default_rng(12)
    uniform = [goodness_of_fit(np.sort(rng.uniform(1.0, 2.0, 300)), 0, k, replicates=100) for k in range(20)]
    assert np.mean([found.p_value <= 0.1 for found in uniform]) >= 0.6
    # Two tight clusters: nothing like a tail anywhere.
    clusters = np.sort(np.concatenate([rng.normal(1.0, 0.01, 200), rng.normal(2.0, 0.01, 200)]))
    assert goodness_of_fit(clusters, 0, 0, replicates=100).p_value <= 0.1


def test_a_tail_better_than_chance_is_never_ruled_out() -> None:
    n = 300
    quantiles = (1.0 - (np.arange(n) + 0.5) / n) ** (-1.0 / 1.5)
    assert goodness_of_fit(quantiles, 0, 0, replicates=100).p_value == 1.0


def test_samples_from_the_fit_are_body_and_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(13)
    esd = np.sort(np.concatenate([rng.uniform(0.01, 1.0, 150), 1.0 + rng.pareto(1.5, 150)]))
    fit = fit_power_law(esd)
    seen: list[Array] = []

    def watched(samples: Array) -> object:
        seen.append(samples)
        return fit_samples(samples)

    monkeypatch.setattr(uncertainty, "fit_samples", watched)
    found = goodness_of_fit(esd, 5, 6, replicates=400)
    (samples,) = seen
    body, tail = samples[samples < fit.xmin], samples[samples >= fit.xmin]
    assert np.isin(body, esd).all()
    assert tail.size / samples.size == pytest.approx(fit.num_pl_spikes / esd.size, abs=0.01)
    assert 1.0 + tail.size / np.log(tail / fit.xmin).sum() == pytest.approx(fit.alpha, rel=0.02)
    distances = [fit_power_law(row).D for row in samples]
    assert found.p_value == np.mean(np.array(distances) >= fit.D)
    assert found.replicates == 400


@pytest.mark.parametrize("esd", [np.zeros(6), np.zeros(0), np.full(6, 2.0), np.array([0.0, 1.0])])
def test_no_tail(esd: Array) -> None:
    interval, fit = bootstrap_interval(esd, 0, 0), goodness_of_fit(esd, 0, 0)
    assert interval.reason
    assert interval.reason == fit.reason
    assert np.isnan([interval.alpha, interval.low, interval.high, fit.p_value]).all()
    assert interval.replicates == fit.replicates == 0


def test_an_esd_too_short_to_resample_says_so() -> None:
    found = bootstrap_interval(np.array([1.0, 2.0]), 0, 0)
    assert "resamples" in found.reason
    assert np.isnan([found.low, found.high]).all()

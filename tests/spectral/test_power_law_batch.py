"""Fitting many samples at once gives, sample by sample, what fitting each alone gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral import power_law, power_law_batch
from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.power_law_batch import fit_samples

Array = NDArray[np.float64]


def one_by_one(samples: Array) -> None:
    fits = fit_samples(samples)
    for row, alpha, distance, tail in zip(samples, fits.alphas, fits.distances, fits.tails, strict=True):
        alone = fit_power_law(row)
        assert tail == (0 if alone.reason else round(((alone.alpha - 1.0) / alone.sigma) ** 2))
        assert alpha == pytest.approx(alone.alpha, rel=1e-12, nan_ok=True)
        assert distance == pytest.approx(alone.D, rel=1e-12, nan_ok=True)


@st.composite
def batches(draw: st.DrawFn) -> Array:
    n, count = draw(st.integers(2, 120)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["pareto", "lognormal", "uniform", "resampled", "integers"]))
    if kind == "pareto":
        samples = 1.0 + rng.pareto(draw(st.sampled_from([0.3, 1.5, 8.0])), (count, n))
    elif kind == "lognormal":
        samples = rng.lognormal(0.0, 1.0, (count, n)) + 1e-3
    elif kind == "uniform":
        samples = rng.uniform(0.01, 1.0, (count, n))
    elif kind == "resampled":
        samples = rng.choice(1.0 + rng.pareto(1.5, n), (count, n))
    else:
        samples = rng.integers(1, 4, (count, n)).astype(float)
    return np.sort(samples, axis=1)


@settings(deadline=None, max_examples=300)
@given(batches())
def test_each_sample_is_fitted_as_if_it_were_alone(samples: Array) -> None:
    one_by_one(samples)


@pytest.mark.parametrize("n", [500, 768])
def test_large_samples_are_fitted_as_if_alone(n: int) -> None:
    rng = np.random.default_rng(n)
    one_by_one(np.sort(1.0 + rng.pareto(1.5, (30, n)), axis=1))
    one_by_one(np.sort(rng.choice(rng.lognormal(0.0, 1.0, n), (30, n)), axis=1))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.sort(np.random.default_rng(1).lognormal(0.0, 1.0, (17, 40)), axis=1)
    whole = fit_samples(samples)
    monkeypatch.setattr(power_law_batch, "_BLOCK", 100)
    pieces = fit_samples(samples)
    assert np.array_equal(whole.alphas, pieces.alphas)
    assert np.array_equal(whole.distances, pieces.distances)
    assert np.array_equal(whole.tails, pieces.tails)


def test_a_flat_sample_has_no_tail_and_spoils_no_other() -> None:
    fits = fit_samples(np.array([[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 4.0, 8.0]]))
    assert np.isnan(fits.alphas[0])
    assert np.isnan(fits.distances[0])
    assert fits.tails[0] == 0
    assert fits.alphas[1] == pytest.approx(fit_power_law(np.array([1.0, 2.0, 4.0, 8.0])).alpha)


def test_only_a_few_tails_are_computed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes bootstraps cheap: every D that is computed sharpens the bounds of all others."""
    computed = 0
    honest = power_law.distances

    def counted(logs: Array, slopes: Array, starts: NDArray[np.intp]) -> tuple[Array, NDArray[np.intp]]:
        nonlocal computed
        computed += starts.size
        return honest(logs, slopes, starts)

    monkeypatch.setattr(power_law, "distances", counted)
    fit_samples(np.sort(1.0 + np.random.default_rng(2).pareto(1.5, (100, 768)), axis=1))
    assert computed < 100 * 15

"""What an untrained layer gives, and distances between ESDs, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, kstest

from wwonnx.spectral.null import alpha_null, jensen_shannon_distance, shuffle_test, two_sample_distance
from wwonnx.spectral.power_law import fit_power_law

Array = NDArray[np.float64]

VALUES = st.lists(st.sampled_from(np.linspace(0.0, 1.0, 9).tolist()), min_size=1, max_size=30)


@settings(deadline=None, max_examples=200)
@given(VALUES, VALUES)
def test_distance_of_two_samples(first: list[float], second: list[float]) -> None:
    """Ties among them, and the sample among the other's own values."""
    one, other = np.sort(first), np.sort(second)
    expected = max(abs(np.mean(one <= value) - np.mean(other <= value)) for value in (*one, *other))
    assert two_sample_distance(one, other) == pytest.approx(expected, abs=1e-12)
    assert two_sample_distance(one, np.sort(np.concatenate((one, other))), held=True) == pytest.approx(
        expected, abs=1e-12
    )


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_jensen_shannon_distance(n: int, seed: int) -> None:
    first, second = np.sort(np.random.default_rng(seed).lognormal(0.0, 2.0, (2, n)), axis=1)
    first[0] = 0.0
    assert jensen_shannon_distance(first, second) == pytest.approx(jensenshannon(first, second), rel=1e-9)
    assert jensen_shannon_distance(second, second) == 0.0


def exponentials(count: int, n: int, seed: int, scale: float = 1.0) -> Array:
    return np.sort(scale * np.random.default_rng(seed).exponential(size=(count, n)), axis=1)


@pytest.mark.parametrize("replicas", [5, 10, 20])
def test_p_values_of_one_more_shuffle_are_uniform(replicas: int) -> None:
    draws = exponentials(600 * (replicas + 1), 200, seed=replicas).reshape(600, replicas + 1, 200)
    found = np.array([shuffle_test(own, tuple(shuffles)).p_value for own, *shuffles in draws])
    assert kstest(found, "uniform").statistic < 0.07
    assert np.mean(found < 0.025) == pytest.approx(0.025, abs=0.02)


def test_another_distribution_is_told_apart() -> None:
    shuffles = tuple(exponentials(20, 200, seed=1))
    assert shuffle_test(exponentials(1, 200, seed=2, scale=2.0)[0], shuffles).p_value < 1e-3
    assert shuffle_test(exponentials(1, 200, seed=2)[0], shuffles).p_value > 0.025


def test_the_distance_is_that_to_all_shuffles_together() -> None:
    own, *shuffles = exponentials(6, 80, seed=3)
    expected = ks_2samp(own, np.concatenate(shuffles), method="asymp").statistic
    assert shuffle_test(own, shuffles).distance == pytest.approx(expected, abs=1e-12)


def test_equal_shuffles_are_no_knowledge() -> None:
    """Of a matrix of equal entries every shuffle is the same; so is the layer."""
    esd = np.array([0.0, 0.0, 0.0, 9.0])
    found = shuffle_test(esd, [esd] * 5)
    assert found.distance == 0.0
    assert 0.3 < found.p_value <= 1.0


@pytest.mark.parametrize(("N", "M", "rf"), [(64, 64, 1), (256, 128, 1), (64, 32, 9)])
def test_the_null_is_among_the_alphas_of_noise(N: int, M: int, rf: int) -> None:
    generator = np.random.default_rng(0)
    alphas = []
    for _ in range(60):
        values = np.linalg.svd(generator.standard_normal((rf, N, M)), compute_uv=False) ** 2
        alphas.append(fit_power_law(np.sort(values, axis=None)).alpha)
    low, high = np.quantile(alphas, (0.1, 0.9))
    assert low < alpha_null(N, M, rf) < high


def test_nothing_to_fit_has_no_null() -> None:
    assert np.isnan(alpha_null(5, 1, 1))

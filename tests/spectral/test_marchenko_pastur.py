"""The law against its own moments, and the fit against its definition, summed and minimised without haste."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad

from wwonnx.errors import WeightError
from wwonnx.spectral.marchenko_pastur import edges, fit_marchenko_pastur, marchenko_pastur_density, quantiles

Array = NDArray[np.float64]


def noise(N: int, M: int, seed: int = 0, sigma: float = 1.0) -> Array:
    matrix = sigma * np.random.default_rng(seed).standard_normal((N, M))
    return np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2


def heavy(N: int, M: int, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((N, M)) * (1.0 + generator.pareto(3.0, M))
    return np.linalg.svd(matrix, compute_uv=False)[::-1] ** 2


def kernel_estimate(x: Array) -> tuple[Array, Array]:
    """Triangular kernel of half-width 0.1 on 1000 points, one value after the other."""
    grid = np.linspace(0.0, x[-1] + 0.5, 1000)
    density = sum(np.maximum(0.0, 1.0 - np.abs(grid - value) / 0.1) / 0.1 for value in x) / len(x)
    return grid[density > 0.01], density[density > 0.01]


def least_squares(grid: Array, density: Array, law: object, sigmas: Array) -> float:
    return float(sigmas[np.argmin([np.square(law(grid, sigma) - density).sum() for sigma in sigmas])])


@pytest.mark.parametrize("Q", [1.0, 1.05, 1.5, 2.0, 10.0])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_density_integrates_to_one_and_has_the_laws_moments(Q: float, sigma: float) -> None:
    """Mean sigma^2, second moment sigma^4 (1 + 1 / Q)."""
    lower, upper = edges(sigma, Q)
    middle, half = (lower + upper) / 2.0, (upper - lower) / 2.0
    for power, expected in ((0, 1.0), (1, sigma**2), (2, sigma**4 * (1.0 + 1.0 / Q))):

        def integrand(t: float, power: int = power) -> float:
            x = middle - half * np.cos(t)
            return float(x**power * marchenko_pastur_density(np.array([x]), sigma, Q)[0] * half * np.sin(t))

        assert quad(integrand, 0.0, np.pi)[0] == pytest.approx(expected, rel=1e-6)
    outside = np.array([0.0, lower * 0.99, upper * 1.01])
    assert not marchenko_pastur_density(outside, sigma, Q).any()


@pytest.mark.parametrize(("N", "M"), [(2000, 2000), (3000, 1500), (4000, 400)])
def test_quantiles_are_those_of_large_matrices(N: int, M: int) -> None:
    found = quantiles(M, N / M)
    assert (np.diff(found) > 0.0).all()
    assert found.mean() == pytest.approx(1.0, rel=1e-3)
    assert np.abs(found - noise(N, M) / N).max() < 0.08


@pytest.mark.parametrize(("N", "M"), [(90, 40), (128, 64), (500, 100), (64, 12)])
@pytest.mark.parametrize("spectrum", [noise, heavy])
def test_the_fit_of_the_eigenvalues(N: int, M: int, spectrum: object) -> None:
    esd = spectrum(N, M, seed=N)
    found = fit_marchenko_pastur(esd, N, M)
    Q, x = N / M, esd * M / esd.sum()
    grid, density = kernel_estimate(x)
    peak = grid[np.argmax(density)]
    sigmas = np.arange(0.05, 2.0, 1e-4) * np.sqrt(x[-1]) / (1.0 + 1.0 / np.sqrt(Q))
    allowed = [s for s in sigmas if edges(s, Q)[0] <= peak <= edges(s, Q)[1] <= grid[-1]]

    def cost(sigma: float) -> float:
        return float(np.square(marchenko_pastur_density(grid, sigma, Q) - density).sum())

    # The cost has a kink at every grid point that an edge passes: a simplex ends in one of the lowest, not the lowest.
    assert cost(found.sigma_mp) <= min(map(cost, allowed)) * 1.02
    lower, upper = edges(found.sigma_mp, Q)
    assert [found.bulk_min, found.bulk_max] == pytest.approx([lower / found.W_scale**2, upper / found.W_scale**2])
    assert found.W_scale**2 == pytest.approx(M / esd.sum())
    assert found.mp_softrank == pytest.approx(upper / x[-1])
    fluctuation = upper ** (2 / 3) * M ** (-2 / 3) / np.sqrt(Q)
    assert found.num_spikes == np.count_nonzero(x > upper + np.sqrt(fluctuation))


@pytest.mark.parametrize("spectrum", [noise, heavy])
def test_the_quarter_circle_of_a_square_matrix(spectrum: object) -> None:
    esd = spectrum(70, 70, seed=3)
    grid, density = kernel_estimate(np.sqrt(esd * 70 / esd.sum()))
    sigmas = np.arange(0.5, 2.0, 1e-4)

    def law(s: Array, sigma: float) -> Array:
        return np.sqrt(np.maximum(4.0 - s**2, 0.0)) / (np.pi * sigma**2)

    expected = least_squares(grid, density, law, sigmas)
    assert fit_marchenko_pastur(esd, 70, 70).sigma_mp == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("Q", [1.0, 1.67, 1.8, 2.0, 3.0, 8.0])
def test_noise_and_one_spike_above_it(Q: float) -> None:
    """At 1.2 times the edge the spike is counted; sigma is that of the noise without it, or little more."""
    M = 128
    N = round(Q * M)
    for seed in range(5):
        esd = noise(N, M, seed)
        plain = fit_marchenko_pastur(esd, N, M)
        assert plain.sigma_mp == pytest.approx(1.0, abs=0.025)
        assert plain.num_spikes == 0
        esd[-1] = 1.2 * N * edges(1.0, N / M)[1]
        spiked = fit_marchenko_pastur(esd, N, M)
        assert spiked.num_spikes == 1
        assert spiked.sigma_mp == pytest.approx(np.sqrt(esd[:-1].mean() / esd.mean()), abs=0.045)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(8, 60), st.floats(1.0, 6.0), st.integers(0, 2**32 - 1), st.sampled_from([2.0**-40, 2.0**-20, 2.0**20])
)
def test_scale_has_no_say(M: int, Q: float, seed: int, scale: float) -> None:
    N = round(Q * M)
    esd = heavy(N, M, seed)
    one, other = fit_marchenko_pastur(esd, N, M), fit_marchenko_pastur(esd * scale, N, M)
    assert (one.sigma_mp, one.num_spikes, one.mp_softrank) == (other.sigma_mp, other.num_spikes, other.mp_softrank)
    assert other.bulk_max == pytest.approx(one.bulk_max * scale)


def test_eigenvalues_without_a_density() -> None:
    """One far above 999 others: the 1000 points of the estimate are 0.75 apart, and none is near an eigenvalue."""
    esd = np.append(np.full(999, 0.25), 750.25)
    with pytest.raises(WeightError, match="too far apart"):
        fit_marchenko_pastur(esd, 2000, 1000)

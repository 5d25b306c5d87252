"""The truncated power law's integrals against mpmath, and its maximum against slopes taken with 50 digits."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import fmin

from wwonnx.spectral.truncated_likelihood import (
    cutoff_alone,
    log_integral,
    log_survival,
    maximum_likelihood,
    moments,
    on_bound,
    simplex_search,
)

Array = NDArray[np.float64]

GRID = [(a, z) for a in (1.0, 1.0001, 1.7, 3.0, 4.3, 12.0, 300.0) for z in (1e-12, 1e-6, 1e-3, 0.09, 1.0, 40.0, 1e5)]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(120):
        yield


def exact_log_integral(alpha: float, z: float) -> mpmath.mpf:
    """ln(e^z E_alpha(z))."""
    z = mpmath.mpf(z)
    return z + mpmath.log(mpmath.expint(mpmath.mpf(alpha), z))


@pytest.mark.parametrize(("alpha", "z"), GRID)
def test_the_integral(alpha: float, z: float) -> None:
    found = log_integral(np.array([alpha]), np.array([z]))[0]
    expected = exact_log_integral(alpha, z)
    assert abs(found - expected) < 1e-12 * max(1.0, abs(float(expected)))


def test_the_integral_without_a_cutoff() -> None:
    alpha = np.array([1.5, 2.0, 7.0])
    assert log_integral(alpha, np.zeros(3)) == pytest.approx(-np.log(alpha - 1.0), abs=1e-13)


def test_the_integral_of_an_exponential_tail() -> None:
    """alpha = 1: E_1, to the figures of Abramowitz and Stegun, table 5.1."""
    z = np.array([0.5, 1.0])
    assert np.exp(log_integral(np.ones(2), z) - z) == pytest.approx([0.5597735948, 0.2193839344], abs=1e-10)


def test_the_integral_keeps_shapes_and_spans_blocks() -> None:
    rng = np.random.default_rng(1)
    alpha, z = 1.0 + rng.exponential(1.0, (3, 9000)), np.exp(rng.uniform(-20.0, 5.0, (3, 9000)))
    whole = log_integral(alpha, z)
    assert whole.shape == (3, 9000)
    assert whole[2, 8999] == log_integral(alpha[2, 8999:], z[2, 8999:])[0]


@pytest.mark.parametrize(("alpha", "z"), GRID)
def test_the_moments(alpha: float, z: float) -> None:
    """E[tau] and its variance are ratios of neighbouring integrals; E[u] is the derivative in alpha."""
    found = moments(np.array([alpha]), np.array([z]))
    zero, one, two = (mpmath.exp(exact_log_integral(alpha - k, z)) for k in range(3))
    mean = one / zero - 1
    variance = two / zero - (one / zero) ** 2
    step = mpmath.mpf(10) ** -40
    mean_u = (exact_log_integral(mpmath.mpf(alpha) - step, z) - exact_log_integral(alpha, z)) / step
    assert found.mean_tau[0] == pytest.approx(float(mean), rel=1e-11)
    assert found.var_tau[0] == pytest.approx(float(variance), rel=1e-9)
    assert found.mean_u[0] == pytest.approx(float(mean_u), rel=1e-11)
    assert found.log_integral[0] == pytest.approx(float(exact_log_integral(alpha, z)), rel=1e-12, abs=1e-12)
    assert 0.0 < found.unexplained[0] <= found.var_tau[0]
    explained = found.covariance[0] ** 2 / found.var_u[0]
    assert found.unexplained[0] == pytest.approx(found.var_tau[0] - explained, abs=1e-9 * found.var_tau[0])


@pytest.mark.parametrize(("alpha", "z"), [(1.0, 0.3), (1.0, 1e-6), (2.5, 0.01), (2.5, 0.0), (6.0, 3.0)])
def test_the_survival_function(alpha: float, z: float) -> None:
    u = np.array([0.0, 1e-9, 0.1, 1.0, 3.0])
    found = log_survival(u, alpha, z)
    assert found[0] == 0.0
    for position, value in zip(u, found, strict=True):
        t = mpmath.exp(mpmath.mpf(float(position)))
        if z:
            tail, whole = (mpmath.expint(alpha, z * bound) * bound ** (1 - alpha) for bound in (t, mpmath.mpf(1)))
            expected = mpmath.log(tail / whole)
        else:
            expected = (1 - alpha) * mpmath.log(t)
        assert value == pytest.approx(float(expected), rel=1e-10, abs=3e-13)


def tail(kind: str, n: int, seed: int) -> Array:
    """Values in units of the smallest."""
    rng = np.random.default_rng(seed)
    x = {
        "pareto": lambda: 1.0 + rng.pareto(1.3, n),
        "exponential": lambda: 1.0 + rng.exponential(2.0, n),
        "gamma": lambda: rng.gamma(0.4, 1.0, n) + 0.01,
        "bounded": lambda: rng.uniform(1.0, 2.0, n),
        "lognormal": lambda: rng.lognormal(0.0, 1.5, n),
        "wide": lambda: np.exp(rng.uniform(0.0, 12.0, n)),
    }[kind]()
    return np.sort(x) / x.min()


def means(t: Array) -> tuple[Array, Array]:
    return np.array([np.log(t).mean()]), np.array([(t - 1.0).mean()])


@pytest.mark.parametrize("kind", ["pareto", "exponential", "gamma", "bounded", "lognormal", "wide"])
@pytest.mark.parametrize("n", [3, 30, 400])
def test_no_slope_leads_up_from_the_maximum(kind: str, n: int) -> None:
    """Karush, Kuhn and Tucker's conditions, with slopes from mpmath: enough for a maximum of a concave function."""
    mean_u, mean_tau = means(tail(kind, n, seed=n))
    (alpha,), (z,) = maximum_likelihood(mean_u, mean_tau)

    def cost(a: mpmath.mpf, c: mpmath.mpf) -> mpmath.mpf:
        integral = exact_log_integral(a, c) if c else -mpmath.log(a - 1)
        return a * mpmath.mpf(float(mean_u[0])) + c * mpmath.mpf(float(mean_tau[0])) + integral

    a, c, step = mpmath.mpf(float(alpha)), mpmath.mpf(float(z)), mpmath.mpf(10) ** -30
    slope_alpha = (cost(a + step, c) - cost(a, c)) / step
    slope_z = (cost(a, c + step) - cost(a, c)) / step
    assert slope_alpha > -1e-9 * mean_u[0]
    assert slope_z > -1e-9 * mean_tau[0]
    if alpha > 1.0:
        assert slope_alpha < 1e-9 * mean_u[0]
    if z > 0.0:
        assert slope_z < 1e-9 * mean_tau[0]


def test_every_kind_of_maximum_occurs() -> None:
    kinds = {}
    for kind in ("pareto", "exponential", "gamma", "bounded", "lognormal", "wide"):
        mean_u, mean_tau = means(tail(kind, 400, seed=400))
        (alpha,), (z,) = maximum_likelihood(mean_u, mean_tau)
        kinds[kind] = "alpha" if alpha == 1.0 else "Lambda" if z == 0.0 else "inside"
        assert on_bound(mean_u, cutoff_alone(mean_tau))[0] == (alpha == 1.0)
    assert set(kinds.values()) == {"alpha", "inside"}
    # A tail lighter than a power law at its end but for one far value: no cut-off improves on a plain power law.
    t = np.append(np.ones(200) * np.exp(np.linspace(0.0, 1.0, 200)), 2000.0)
    (alpha,), (z,) = maximum_likelihood(*means(t))
    assert z == 0.0
    assert alpha == pytest.approx(1.0 + 1.0 / np.log(t).mean(), rel=1e-14)


def test_many_tails_at_once_are_as_each_alone() -> None:
    pairs = [means(tail(kind, n, seed=n)) for kind in ("pareto", "gamma", "bounded") for n in (5, 50, 500)]
    mean_u, mean_tau = (np.concatenate(column) for column in zip(*pairs, strict=True))
    together = np.array(maximum_likelihood(mean_u, mean_tau))
    alone = np.array([maximum_likelihood(*pair) for pair in pairs])[:, :, 0].T
    assert together == pytest.approx(alone, rel=1e-7)
    sizes = np.array([5, 50, 500] * 3)
    together = np.array(simplex_search(mean_u, mean_tau, sizes))
    alone = np.array([simplex_search(*pair, sizes[k : k + 1]) for k, pair in enumerate(pairs)])[:, :, 0].T
    assert together == pytest.approx(alone, rel=1e-9)


def test_nothing_to_fit_is_no_error() -> None:
    empty = np.empty(0)
    assert maximum_likelihood(empty, empty)[0].size == 0
    assert simplex_search(empty, empty, np.empty(0, dtype=np.intp))[0].size == 0


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["pareto", "exponential", "gamma", "bounded", "lognormal", "wide"]),
    st.integers(2, 300),
    st.integers(0, 10**6),
)
def test_the_exact_maximum_is_never_below_where_the_simplex_ends(kind: str, n: int, seed: int) -> None:
    mean_u, mean_tau = means(tail(kind, n, seed))
    if mean_u[0] < 1e-9:
        return

    def cost(alpha: Array, z: Array) -> float:
        return float((alpha * mean_u + z * mean_tau + log_integral(alpha, z))[0])

    exact = cost(*maximum_likelihood(mean_u, mean_tau))
    assert exact <= cost(*simplex_search(mean_u, mean_tau, np.array([n]))) + 1e-9


@pytest.mark.parametrize("kind", ["pareto", "exponential", "gamma", "bounded", "lognormal"])
def test_the_simplex_goes_where_scipys_goes(kind: str) -> None:
    """The search of powerlaw 1.5 is scipy's fmin in (alpha, Lambda), a wall of likelihood around the allowed region.

    In units in which its one tolerance is both of ours, the two end in the same vertex. (Where the best Lambda is zero
    they may not: the path along that bound turns on the last digits.)
    """
    for seed in range(10):
        n = 20 + 10 * seed
        mean_u, mean_tau = means(tail(kind, n, seed))
        unit = 0.3 / (1.0 + mean_tau[0])
        if maximum_likelihood(mean_u, mean_tau)[1][0] == 0.0:
            continue

        def cost(
            point: Array, n: int = n, mean_u: Array = mean_u, mean_tau: Array = mean_tau, unit: float = unit
        ) -> float:
            alpha, z = point[0], point[1] * unit
            if not (alpha > 1.0 and z > 0.0):
                return n * 700.0
            return float(n * (alpha * mean_u + z * mean_tau + log_integral(np.array([alpha]), np.array([z])))[0])

        alpha, scaled = fmin(cost, [1.0 + 1.0 / mean_u[0], 1.0 / 0.3], disp=False, xtol=1e-4, ftol=1e-4)
        found = np.ravel(simplex_search(mean_u, mean_tau, np.array([n])))
        assert found == pytest.approx([alpha, scaled * unit], rel=1e-8)

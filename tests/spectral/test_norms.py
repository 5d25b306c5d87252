"""Scale, rank and entropy: closed forms, many digits, invariances."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.norms import Norms, entropy, log_alpha_norm, norms

Array = NDArray[np.float64]


def of(matrix: Array, tolerance: float = 1e-6) -> Norms:
    result = spectrum(lambda: matrix[None], float(np.finfo(np.float64).eps))
    return norms(result.pooled, int(result.ranks.sum()), tolerance)


def close(a: Norms, b: Norms, factor: float = 1.0) -> None:
    """`a` is `b` of a matrix whose squares are `factor` times larger."""
    assert a.norm == pytest.approx(factor * b.norm, rel=1e-12)
    assert a.spectral_norm == pytest.approx(factor * b.spectral_norm, rel=1e-12)
    assert a.log_norm == pytest.approx(b.log_norm + math.log10(factor), rel=1e-11, abs=1e-11)
    assert a.log_spectral_norm == pytest.approx(b.log_spectral_norm + math.log10(factor), rel=1e-11, abs=1e-11)
    assert a.stable_rank == pytest.approx(b.stable_rank, rel=1e-11)
    assert a.entropy == pytest.approx(b.entropy, rel=1e-9, abs=1e-12)
    assert (a.matrix_rank, a.rank_loss) == (b.matrix_rank, b.rank_loss)


@st.composite
def matrices(draw: st.DrawFn) -> Array:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(2, 24)), draw(st.integers(2, 24))
    return rng.standard_normal((rows, columns)) * rng.lognormal(0.0, 1.0, (rows, 1))


@pytest.mark.parametrize("n", [2, 8, 100])
@pytest.mark.parametrize("c", [0.5, 1.0, 8.0])
def test_identity(n: int, c: float) -> None:
    found = of(c * np.eye(n))
    assert found.norm == pytest.approx(n * c * c, rel=1e-14)
    assert found.spectral_norm == pytest.approx(c * c, rel=1e-14)
    assert found.log_norm == pytest.approx(math.log10(n * c * c), rel=1e-13, abs=1e-14)
    assert found.stable_rank == pytest.approx(n, rel=1e-14)
    assert found.entropy == pytest.approx(1.0, rel=1e-14)
    assert (found.matrix_rank, found.rank_loss, found.weak_rank_loss) == (n, 0, 0)


def test_diagonal() -> None:
    found = of(np.diag([3.0, 2.0, 1.0, 1e-4, 0.0]))
    norm = 14.0 + 1e-8
    p = [9 / norm, 4 / norm, 1 / norm, 1e-8 / norm]
    assert found.norm == pytest.approx(norm, rel=1e-14)
    assert found.spectral_norm == pytest.approx(9.0, rel=1e-14)
    assert found.log_spectral_norm == pytest.approx(math.log10(9.0), rel=1e-14)
    assert found.stable_rank == pytest.approx(norm / 9, rel=1e-14)
    assert found.entropy == pytest.approx(-sum(q * math.log(q) for q in p) / math.log(4), rel=1e-13)
    assert (found.matrix_rank, found.rank_loss, found.weak_rank_loss) == (4, 1, 2)


def test_one_eigenvalue() -> None:
    found = of(np.array([[3.0, 4.0]]))
    assert found.norm == pytest.approx(25.0, rel=1e-15)
    assert found.stable_rank == 1.0
    assert (found.entropy, found.matrix_rank, found.rank_loss) == (0.0, 1, 0)


def test_rank_one() -> None:
    rng = np.random.default_rng(0)
    found = of(np.outer(rng.standard_normal(30), rng.standard_normal(20)))
    assert found.stable_rank == pytest.approx(1.0, rel=1e-13)
    assert found.entropy == 0.0
    assert (found.matrix_rank, found.rank_loss, found.weak_rank_loss) == (1, 19, 19)


def test_zeros_have_no_logarithm() -> None:
    found = of(np.zeros((6, 4)))
    assert (found.norm, found.spectral_norm) == (0.0, 0.0)
    assert np.isnan([found.log_norm, found.log_spectral_norm, found.stable_rank, found.entropy]).all()
    assert (found.matrix_rank, found.rank_loss, found.weak_rank_loss) == (0, 4, 4)


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 0), (1e-6, 1), (1e-3, 2), (0.5, 3), (1.0, 3), (1.1, 5)])
def test_weak_rank_loss_counts_below_the_tolerance(tolerance: float, expected: int) -> None:
    esd = np.array([1e-7, 1e-4, 1e-3, 1.0, 1.0])
    assert norms(esd, 5, tolerance).weak_rank_loss == expected


def test_norm_is_the_squared_frobenius_norm() -> None:
    matrix = np.random.default_rng(1).standard_normal((50, 33))
    found = of(matrix)
    assert found.norm == pytest.approx(math.fsum((matrix * matrix).ravel()), rel=1e-13)
    assert found.spectral_norm == pytest.approx(np.linalg.norm(matrix, 2) ** 2, rel=1e-13)


def test_entropy_against_many_digits() -> None:
    esd = np.sort(np.random.default_rng(2).lognormal(0.0, 4.0, 500))
    with mpmath.workprec(200):
        values = [mpmath.mpf(float(value)) for value in esd]
        total = mpmath.fsum(values)
        exact = -mpmath.fsum(v / total * mpmath.log(v / total) for v in values) / mpmath.log(500)
    assert entropy(esd, 500) == pytest.approx(float(exact), rel=1e-12)


def test_entropy_of_eigenvalues_too_small_to_count() -> None:
    assert entropy(np.array([0.0, 5e-324, 1e300, 1e300]), 2) == pytest.approx(1.0, rel=1e-14)


@settings(deadline=None, max_examples=60)
@given(matrices(), st.integers(0, 2**32 - 1))
def test_the_order_of_rows_and_columns_is_nothing(matrix: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed = matrix[rng.permutation(matrix.shape[0])][:, rng.permutation(matrix.shape[1])]
    close(of(mixed), of(matrix))
    close(of(matrix.T), of(matrix))


@settings(deadline=None, max_examples=60)
@given(matrices(), st.integers(0, 2**32 - 1))
def test_rotations_are_nothing(matrix: Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((matrix.shape[0],) * 2))
    right, _ = np.linalg.qr(rng.standard_normal((matrix.shape[1],) * 2))
    close(of(left @ matrix @ right), of(matrix))


@settings(deadline=None, max_examples=60)
@given(matrices(), st.sampled_from([1e-30, 1e-3, 0.3, 7.0, 1e30]))
def test_scaling_by_c_scales_the_norms_by_its_square(matrix: Array, c: float) -> None:
    close(of(c * matrix), of(matrix), factor=c * c)


@settings(deadline=None, max_examples=60)
@given(matrices())
def test_bounds(matrix: Array) -> None:
    found = of(matrix)
    assert 1.0 <= found.stable_rank <= min(matrix.shape) * (1 + 1e-13)
    assert 0.0 <= found.entropy <= 1.0 + 1e-12
    assert found.rank_loss == min(matrix.shape) - found.matrix_rank


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-250, 1e-6, 1.0, 1e6, 1e250]),
    st.sampled_from([0.5, 1.2, 2.0, 6.5, 60.0, 1000.0]),
)
def test_log_alpha_norm_against_many_digits(n: int, seed: int, scale: float, alpha: float) -> None:
    esd = scale * np.sort(np.random.default_rng(seed).lognormal(0.0, 2.0, n))
    esd[: n // 4] = 0.0
    with mpmath.workprec(300):
        exact = mpmath.log10(mpmath.fsum(mpmath.mpf(float(value)) ** alpha for value in esd))
    assert log_alpha_norm(esd, alpha) == pytest.approx(float(exact), rel=1e-13, abs=1e-12)


def test_log_alpha_norm_where_powers_leave_the_range_of_floats() -> None:
    for base in (100.0, 0.01):
        esd = np.full(10, base)
        assert log_alpha_norm(esd, 400.0) == pytest.approx(1.0 + 400.0 * math.log10(base), rel=1e-15)

"""Truncation, factors and traps: closed forms, numpy's SVD, and every shape and element type."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.errors import WeightError
from wwonnx.spectral import low_rank
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.low_rank import factor, kept_per_matrix, sharpen, truncate, truncate_stack
from wwonnx.spectral.randomize import permuted

SHAPES = [(60, 40), (40, 60), (50, 50), (1, 30), (30, 1), (1, 1), (5000, 12), (12, 5000)]
EPS = {np.float64: 2e-15, np.float32: 2e-7, np.float16: 1e-3, ml_dtypes.bfloat16: 8e-3}


def heavy_tailed(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (1.0 + rng.pareto(2.0, shape[-1]))).astype(dtype)


def by_svd(matrix: NDArray[Any], k: int) -> NDArray[np.float64]:
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    truncated: NDArray[np.float64] = (u[:, :k] * s[:k]) @ vt[:k]
    return truncated


def with_singular_values(values: NDArray[np.float64], rows: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((rows, values.size)))[0]
    v = np.linalg.qr(rng.standard_normal((values.size, values.size)))[0]
    matrix: NDArray[np.float64] = (u * values) @ v.T
    return matrix


def counts(shape: tuple[int, int]) -> list[int]:
    least = min(shape)
    return sorted({0, 1, least // 8, least // 2, least - 1, least})


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_numpys_truncated_svd(shape: tuple[int, int], dtype: Any) -> None:
    matrix = heavy_tailed(shape, dtype=dtype)
    largest = np.linalg.norm(matrix.astype(np.float64), 2)
    for k in counts(shape):
        found = truncate(matrix, k)
        assert (found.shape, found.dtype) == (matrix.shape, matrix.dtype)
        np.testing.assert_allclose(found.astype(np.float64), by_svd(matrix, k), rtol=0, atol=EPS[dtype] * largest)


def test_a_diagonal_keeps_its_largest() -> None:
    matrix = np.diag(np.array([3.0, -7.0, 1.0, 5.0], dtype=np.float32))
    np.testing.assert_array_equal(truncate(matrix, 2), np.diag(np.array([0, -7, 0, 5], dtype=np.float32)))


def test_a_matrix_of_rank_one_is_its_own_truncation() -> None:
    matrix = np.outer(np.arange(1, 9), np.arange(1, 6)).astype(np.float32)
    np.testing.assert_allclose(truncate(matrix, 1), matrix, rtol=1e-7)
    np.testing.assert_array_equal(truncate(matrix, 0), np.zeros_like(matrix))


def test_all_triplets_are_the_matrix_itself_bit_for_bit() -> None:
    matrix = heavy_tailed((30, 20))
    kept = truncate(matrix, 20)
    np.testing.assert_array_equal(kept, matrix)
    assert not np.shares_memory(kept, matrix)


@pytest.mark.parametrize("k", [1, 7, 20, 33, 39])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_the_rank_is_the_one_asked_for(k: int, dtype: Any) -> None:
    matrix = heavy_tailed((60, 40), dtype=dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert spectrum(lambda: truncate(matrix, k)[None], eps).ranks[0] == k


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_what_is_lost_is_the_sum_of_the_dropped_squares(rows: int, columns: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, min(rows, columns)))
    matrix = heavy_tailed((rows, columns), seed=data.draw(st.integers(0, 1000)))
    lost = np.square(matrix.astype(np.float64) - truncate(matrix, k)).sum()
    singular = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    assert lost == pytest.approx(np.square(singular[k:]).sum(), abs=1e-10 * singular[0] ** 2, rel=1e-4)


@pytest.mark.parametrize(("smallest", "bound"), [(1e-4, 2e-12), (1e-7, 1e-9), (1e-9, 3e-8), (1e-12, 3e-8)])
def test_the_stated_accuracy(smallest: float, bound: float) -> None:
    matrix = with_singular_values(np.geomspace(1.0, smallest, 80), 200).astype(np.float32)
    for k in range(1, 80, 13):
        exact = np.vstack([rows for _, rows in low_rank._truncated(matrix, k, dropped=False)])
        reference = by_svd(matrix, k)
        assert np.linalg.norm(exact - reference, 2) < bound
        best = np.linalg.norm(matrix - reference, 2)
        assert np.linalg.norm(matrix - exact, 2) < best + 1e-8


def test_a_strided_matrix_is_read_as_any_other() -> None:
    kernel = heavy_tailed((24, 16, 3, 3)).transpose(2, 3, 0, 1)[1, 2]
    np.testing.assert_array_equal(truncate(kernel, 5), truncate(np.ascontiguousarray(kernel), 5))
    np.testing.assert_array_equal(truncate(kernel.T, 5), truncate(kernel, 5).T)


@pytest.mark.parametrize(
    ("k", "matrices", "each"), [(1, 9, 1), (9, 9, 1), (10, 9, 2), (18, 9, 2), (0, 9, 0), (7, 1, 7)]
)
def test_a_stack_shares_its_count_out_evenly(k: int, matrices: int, each: int) -> None:
    assert kept_per_matrix(k, matrices) == each


@pytest.mark.parametrize("k", [0, 1, 9, 10, 100, 16 * 9, 1000])
def test_a_stack_is_each_of_its_matrices(k: int) -> None:
    stack = heavy_tailed((9, 24, 16))
    each = min(-(-k // 9), 16)
    np.testing.assert_array_equal(truncate_stack(stack, k), [truncate(matrix, each) for matrix in stack])


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_factors_multiply_to_the_truncation(shape: tuple[int, int], dtype: Any) -> None:
    matrix = heavy_tailed(shape, dtype=dtype)
    for k in counts(shape):
        B, A = factor(matrix, k)
        assert (B.shape, A.shape) == ((shape[0], k), (k, shape[1]))
        assert B.dtype == A.dtype == matrix.dtype
        product, wanted = B.astype(np.float64) @ A.astype(np.float64), by_svd(matrix, k)
        assert np.linalg.norm(product - wanted) <= 4 * EPS[dtype] * np.linalg.norm(matrix.astype(np.float64))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_factors_share_the_singular_values_evenly(dtype: Any) -> None:
    values = np.array([9.0, 4.0, 2.0, 1.0])
    B, A = factor(with_singular_values(values, 7).astype(dtype), 3)
    np.testing.assert_allclose(np.sort(np.linalg.norm(B, axis=0) ** 2)[::-1], values[:3], rtol=1e-5)
    np.testing.assert_allclose(np.sort(np.linalg.norm(A, axis=1) ** 2)[::-1], values[:3], rtol=1e-5)


def test_factors_beyond_the_rank_are_finite() -> None:
    matrix = np.outer(np.arange(1, 9), np.arange(1, 6)).astype(np.float32)
    for some in (matrix, np.zeros((8, 5), dtype=np.float32)):
        B, A = factor(some, 4)
        np.testing.assert_allclose(B @ A, some, atol=1e-5)


def trapped(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float64) -> NDArray[Any]:
    """Gaussian matrices, the second of which (or the only one) has one entry that sticks out."""
    matrices = np.random.default_rng(seed).standard_normal(shape)
    matrices[min(1, len(matrices) - 1), 3, 2] = 100.0
    return matrices.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(1, 60, 40), (1, 40, 60), (4, 20, 30)])
def test_a_trap_goes_and_the_rest_stays(shape: tuple[int, int, int], dtype: Any) -> None:
    matrices = trapped(shape, dtype=dtype)
    index = min(1, len(matrices) - 1)
    sharp = sharpen(matrices, 1, seed=5, layer_id=2)
    assert (sharp.shape, sharp.dtype) == (matrices.shape, matrices.dtype)
    assert abs(sharp[index, 3, 2]) < 10.0
    others = np.delete(sharp.reshape(-1), np.ravel_multi_index((index, 3, 2), shape))
    kept = np.delete(matrices.reshape(-1), np.ravel_multi_index((index, 3, 2), shape))
    assert np.linalg.norm(others - kept) < 0.25 * np.linalg.norm(kept)


def test_a_strided_stack_is_sharpened_as_any_other() -> None:
    matrices = trapped((2, 20, 30), dtype=np.float32)
    strided = np.asfortranarray(matrices.transpose(0, 2, 1)).transpose(0, 2, 1)
    for some in (strided, matrices.transpose(1, 2, 0).copy().transpose(2, 0, 1)):
        assert not some.flags.c_contiguous
        np.testing.assert_array_equal(sharpen(some, 1, 3, 1), sharpen(matrices, 1, 3, 1))


def test_the_shuffle_loses_its_largest_singular_values_and_nothing_else() -> None:
    matrices = trapped((3, 20, 30))
    shuffled = permuted(matrices, 7, 11)
    after = permuted(sharpen(matrices, 2, seed=7, layer_id=11), 7, 11)
    pooled = np.sort(np.linalg.svd(shuffled, compute_uv=False), axis=None)
    left = np.sort(np.linalg.svd(after, compute_uv=False), axis=None)
    np.testing.assert_allclose(left[2:], pooled[:-2], rtol=1e-10)
    assert left[1] < 1e-12 * pooled[-1]


def test_matrices_without_a_trap_keep_their_bits() -> None:
    matrices = trapped((4, 20, 30), dtype=np.float32)
    sharp = sharpen(matrices, 1, seed=0, layer_id=1)
    np.testing.assert_array_equal(sharp[[0, 2, 3]], matrices[[0, 2, 3]])
    assert not np.array_equal(sharp[1], matrices[1])


def test_no_trap_no_change() -> None:
    matrices = trapped((2, 8, 6))
    np.testing.assert_array_equal(sharpen(matrices, 0, seed=0, layer_id=1), matrices)
    np.testing.assert_allclose(sharpen(matrices, 12, seed=0, layer_id=1), 0.0, atol=1e-12)


def test_the_shuffle_is_the_seeds_and_the_layers() -> None:
    matrices = trapped((1, 30, 20))
    one = sharpen(matrices, 1, seed=1, layer_id=1)
    np.testing.assert_array_equal(one, sharpen(matrices, 1, seed=1, layer_id=1))
    assert not np.array_equal(one, sharpen(matrices, 1, seed=2, layer_id=1))
    assert not np.array_equal(one, sharpen(matrices, 1, seed=1, layer_id=2))


def test_the_input_is_never_written_to() -> None:
    matrices = trapped((2, 20, 30), dtype=np.float32)
    matrices.flags.writeable = False
    truncate_stack(matrices, 5)
    factor(matrices[0], 3)
    sharpen(matrices, 1, seed=0, layer_id=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_that_are_not_finite_are_refused(bad: float, dtype: Any) -> None:
    matrix = heavy_tailed((20, 12), dtype=dtype)
    matrix[3, 4] = bad
    for k in (1, 6, 11):
        with pytest.raises(WeightError, match="NaN, infinite"):
            truncate(matrix, k)
        with pytest.raises(WeightError, match="NaN, infinite"):
            factor(matrix, k)
    with pytest.raises(WeightError, match="NaN, infinite"):
        sharpen(np.stack([matrix, matrix]), 1, seed=0, layer_id=1)


@pytest.mark.parametrize("k", [-1, 13])
def test_counts_that_can_not_be_are_refused(k: int) -> None:
    matrix = heavy_tailed((20, 12))
    for function in (truncate, factor):
        with pytest.raises(ValueError, match=f"k={k} of a matrix of shape"):
            function(matrix, k)
    with pytest.raises(ValueError, match="singular values"):
        sharpen(matrix[None], k, seed=0, layer_id=1)
    with pytest.raises(ValueError, match="of a matrix of shape"):
        truncate(matrix[0], 1)

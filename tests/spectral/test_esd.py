"""Eigenvalues and ranks against the singular values that a full SVD in float64 finds."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.errors import WeightError
from wwonnx.spectral.esd import Spectrum, gram_matrices, spectra, spectrum

Matrices = NDArray[Any]

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
SHAPES = [
    (1, 1, 1),
    (1, 1, 7),
    (1, 7, 1),
    (1, 16, 16),
    (1, 64, 10),
    (1, 10, 64),
    (9, 32, 16),
    (9, 16, 32),
    (25, 3, 64),
    (1, 2048, 12),
    (1, 2049, 12),
    (1, 12, 4097),
    (2, 5000, 8),
    (1, 2100, 530),
    (1, 5000, 1),
]


def gaussian(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> Matrices:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def eps_of(matrices: Matrices) -> float:
    return float(ml_dtypes.finfo(matrices.dtype).eps)


def take(matrices: Matrices) -> Spectrum:
    return spectrum(lambda: matrices, eps_of(matrices))


def squares(matrices: Matrices) -> NDArray[np.float64]:
    """Squared singular values of each matrix, ascending."""
    return np.array([np.sort(np.linalg.svd(np.array(m, dtype=np.float64), compute_uv=False) ** 2) for m in matrices])


def agrees(matrices: Matrices) -> None:
    found, expected = take(matrices), squares(matrices)
    assert found.eigenvalues.shape == (len(matrices), min(matrices.shape[1:]))
    assert found.eigenvalues.dtype == np.float64
    assert (np.diff(found.eigenvalues, axis=1) >= 0).all()
    assert (found.eigenvalues >= 0).all()
    error = np.abs(found.eigenvalues - expected) / expected[:, -1:]
    assert error.max() < 1e-13
    assert np.array_equal(found.pooled, np.sort(found.eigenvalues.ravel()))


def with_singular_values(values: NDArray[np.float64], rows: int, columns: int, seed: int = 0) -> Matrices:
    n = len(values)
    left, _ = np.linalg.qr(gaussian((rows, n), seed=seed))
    right, _ = np.linalg.qr(gaussian((columns, n), seed=seed + 1))
    return ((left * values) @ right.T)[None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalues_are_squared_singular_values(shape: tuple[int, ...], dtype: Any) -> None:
    agrees(gaussian(shape, dtype))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
    st.sampled_from([0.02, 1.0, 50.0]),
    st.integers(0, 2**32 - 1),
)
def test_eigenvalues_of_any_shape(rf: int, rows: int, columns: int, dtype: Any, scale: float, seed: int) -> None:
    agrees((scale * gaussian((rf, rows, columns), seed=seed)).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (8, 16, 3, 3), (6, 6, 1, 1), (2500, 4, 2, 1)])
def test_strided_kernels(shape: tuple[int, ...], dtype: Any) -> None:
    kernel = gaussian(shape, dtype)
    stack = np.moveaxis(kernel.reshape(shape[0], shape[1], -1), -1, 0)
    agrees(stack)
    np.testing.assert_allclose(
        take(stack).eigenvalues, take(np.ascontiguousarray(stack)).eigenvalues, rtol=0, atol=1e-12 * shape[0]
    )


def test_other_views() -> None:
    matrix = gaussian((1, 60, 40), np.float32)
    agrees(matrix[:, ::-2, ::3])
    agrees(matrix.swapaxes(1, 2))
    agrees(np.broadcast_to(matrix[:, :1], (1, 30, 40)))
    agrees(matrix.astype(">f4"))


@pytest.mark.parametrize("shape", [(1, 5000, 12), (1, 12, 5000), (2, 2049, 520), (3, 64, 48), (1, 8193, 2)])
def test_gram_matrices_are_those_of_the_smaller_side(shape: tuple[int, ...]) -> None:
    matrices = np.random.default_rng(0).integers(-9, 10, shape).astype(np.float32)
    smaller = (matrices if shape[1] >= shape[2] else matrices.swapaxes(1, 2)).astype(np.float64)
    gram = gram_matrices(lambda: matrices)
    assert gram.dtype == np.float64
    assert np.array_equal(gram, smaller.swapaxes(1, 2) @ smaller)


def test_a_tall_matrix_is_never_whole_in_float64() -> None:
    rows, columns = 100_000, 8
    matrices = gaussian((1, rows, columns), np.float16)
    tracemalloc.start()
    try:
        spectrum(lambda: matrices, eps_of(matrices))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows * columns * 8 / 10


@pytest.mark.parametrize("shape", [(3, 20, 30), (1, 5000, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_let_go_before_the_eigenvalues(
    shape: tuple[int, ...], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Matrices]] = []
    alive: list[bool] = []
    exact = np.linalg.eigvalsh

    def load() -> Matrices:
        matrices = gaussian(shape, dtype)
        loaded.append(weakref.ref(matrices))
        return matrices

    def watched(gram: Matrices) -> Any:
        alive.extend(ref() is not None for ref in loaded)
        return exact(gram)

    monkeypatch.setattr(np.linalg, "eigvalsh", watched)
    spectrum(load, eps_of(gaussian((1, 1, 1), dtype)))
    assert alive == [False]


@pytest.mark.parametrize("shape", [(1, 3000, 64), (1, 300, 200)])
def test_no_two_weights_are_held_unless_they_are_tiny(shape: tuple[int, ...]) -> None:
    """Shuffles of an embedding are copies of it."""
    loaded: list[weakref.ref[Matrices]] = []

    def load() -> Matrices:
        assert not any(ref() is not None for ref in loaded)
        matrices = gaussian(shape, np.float32)
        loaded.append(weakref.ref(matrices))
        return matrices

    found = spectra([load] * 4, [eps_of(gaussian((1, 1, 1), np.float32))] * 4)
    assert len(loaded) == len(found) == 4


def test_a_weight_of_full_rank_is_loaded_once() -> None:
    matrices = gaussian((4, 64, 32), np.float32)
    loads = 0

    def load() -> Matrices:
        nonlocal loads
        loads += 1
        return matrices

    assert spectrum(load, eps_of(matrices)).ranks.tolist() == [32] * 4
    assert loads == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 30, 20), (1, 3000, 5)])
def test_weights_are_left_alone(shape: tuple[int, ...], dtype: Any) -> None:
    matrices = gaussian(shape, dtype)
    before = matrices.copy()
    matrices.flags.writeable = False
    take(matrices)
    assert np.array_equal(matrices, before)


@pytest.mark.parametrize("shape", [(9, 64, 48), (1, 300, 300), (1, 9000, 20)])
def test_repetition_gives_the_same_bits(shape: tuple[int, ...]) -> None:
    matrices = gaussian(shape, np.float32)
    first = take(matrices)
    for _ in range(3):
        again = take(matrices.copy())
        assert first.eigenvalues.tobytes() == again.eigenvalues.tobytes()
        assert first.ranks.tolist() == again.ranks.tolist()


def test_scaled_is_the_spectrum_of_scaled_matrices() -> None:
    matrices = gaussian((4, 12, 9))
    half, direct = take(matrices).scaled(0.5), take(matrices * np.sqrt(0.5))
    np.testing.assert_allclose(half.eigenvalues, direct.eigenvalues, rtol=1e-12)
    assert half.ranks.tolist() == direct.ranks.tolist()


def low_rank(rows: int, columns: int, rank: int, dtype: Any, seed: int = 0) -> Matrices:
    return (gaussian((1, rows, rank), seed=seed) @ gaussian((1, rank, columns), seed=seed + 1)).astype(dtype)


@pytest.mark.parametrize(
    ("rows", "columns", "rank", "dtype"),
    [
        (512, 512, 20, np.float32),
        (512, 64, 20, np.float32),
        (64, 512, 20, np.float32),
        (128, 128, 20, np.float64),
        (300, 40, 1, np.float64),
        (300, 300, 1, np.float64),
        (512, 512, 20, np.float64),
        (64, 64, 5, np.float16),
        (64, 64, 5, ml_dtypes.bfloat16),
        (5000, 12, 7, np.float32),
        (5000, 12, 7, np.float64),
    ],
)
def test_rank_of_deficient_matrices(rows: int, columns: int, rank: int, dtype: Any) -> None:
    assert take(low_rank(rows, columns, rank, dtype)).ranks.tolist() == [rank]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rank_of_exactly_deficient_matrices(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    halves = rng.integers(-1, 2, (1, 48, 24)).astype(dtype)
    assert np.linalg.matrix_rank(halves[0].astype(np.float64)) == 24
    assert take(np.concatenate([halves, halves, -halves], axis=2)).ranks.tolist() == [24]


@pytest.mark.parametrize("n", [16, 128, 512])
def test_full_rank_of_random_square_matrices(n: int) -> None:
    for dtype in (np.float32, np.float64):
        assert take(gaussian((1, n, n), dtype, seed=n)).ranks.tolist() == [n]


def test_float64_matrices_of_high_condition_have_full_rank() -> None:
    assert take(with_singular_values(np.geomspace(1e-10, 1.0, 40), 60, 40)).ranks.tolist() == [40]


def test_the_rank_needs_the_stored_type() -> None:
    matrices = with_singular_values(np.geomspace(1e-10, 1.0, 40), 60, 40)
    exact = np.linalg.svd(matrices[0], compute_uv=False)
    for dtype in DTYPES:
        eps = float(ml_dtypes.finfo(dtype).eps)
        assert spectrum(lambda: matrices, eps).ranks.tolist() == [np.count_nonzero(exact > exact[0] * eps)]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.integers(0, 12), st.integers(0, 2**16), st.data())
def test_ranks_of_float64_weights(n: int, decades: int, seed: int, data: st.DataObject) -> None:
    values = np.geomspace(10.0**-decades, 1.0, n)
    zeros = data.draw(st.integers(0, n - 1))
    values[:zeros] = 0.0
    assert take(with_singular_values(values, n + 5, n, seed)).ranks.tolist() == [n - zeros]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.integers(0, 12), st.integers(0, 2**16), st.data())
def test_ranks_of_float32_weights(n: int, decades: int, seed: int, data: st.DataObject) -> None:
    values = np.geomspace(10.0**-decades, 1.0, n)
    values[: data.draw(st.integers(0, n - 1))] = 0.0
    matrices = with_singular_values(values, n + 5, n, seed).astype(np.float32)
    ratio = np.linalg.svd(matrices[0].astype(np.float64), compute_uv=False)
    ratio /= ratio[0] * eps_of(matrices)
    found = int(take(matrices).ranks[0])
    assert np.count_nonzero(ratio > 1.02) <= found <= np.count_nonzero(ratio > 0.98)


def test_each_matrix_has_its_own_rank() -> None:
    stack = np.concatenate([low_rank(40, 30, 4, np.float32), gaussian((1, 40, 30), np.float32), np.zeros((1, 40, 30))])
    result = take(stack.astype(np.float32))
    assert result.ranks.tolist() == [4, 30, 0]
    assert not result.eigenvalues[2].any()


def test_each_float64_matrix_has_its_own_rank() -> None:
    stack = np.concatenate([gaussian((1, 40, 30)), low_rank(40, 30, 4, np.float64), low_rank(40, 30, 9, np.float64)])
    assert take(stack).ranks.tolist() == [30, 4, 9]


@pytest.mark.parametrize("scale", [1e-100, 1e-20, 1e20, 1e100])
def test_ranks_do_not_depend_on_scale(scale: float) -> None:
    assert take(low_rank(64, 64, 20, np.float64) * scale).ranks.tolist() == [20]


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_have_rank_zero(dtype: Any) -> None:
    result = take(np.zeros((2, 5, 4), dtype=dtype))
    assert result.ranks.tolist() == [0, 0]
    assert result.eigenvalues.tolist() == [[0.0] * 4] * 2


BROKEN: list[tuple[list[float], str]] = [
    ([np.nan], "1 of 24 weights are NaN;"),
    ([np.nan, np.nan, np.nan], "3 of 24 weights are NaN;"),
    ([np.inf], "1 of 24 weights are infinite;"),
    ([-np.inf], "1 of 24 weights are infinite;"),
    ([np.inf, -np.inf], "2 of 24 weights are infinite;"),
    ([np.nan, np.inf], "2 of 24 weights are NaN or infinite;"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("values", "words"), BROKEN)
def test_weights_that_are_not_finite(values: list[float], words: str, dtype: Any) -> None:
    matrices = gaussian((2, 4, 3), dtype)
    matrices.reshape(-1)[5 : 5 + len(values)] = values
    with pytest.raises(WeightError, match=words) as caught:
        take(matrices)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_infinities_that_meet_in_a_sum(n: int) -> None:
    matrices = gaussian((1, n, n))
    matrices[0, 0], matrices[0, 1], matrices[0, 0, 0] = np.inf, -np.inf, 0.0
    with pytest.raises(WeightError, match=rf"{2 * n - 1} of {n * n} weights are infinite;"):
        take(matrices)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(1, 6000, 3), (1, 3, 6000)])
def test_one_broken_weight_of_a_tall_matrix(value: float, shape: tuple[int, ...]) -> None:
    matrices = gaussian(shape, np.float32)
    matrices.reshape(-1)[-1] = value
    with pytest.raises(WeightError, match="1 of 18000 weights"):
        take(matrices)


@pytest.mark.parametrize("shape", [(1, 8, 4), (2, 4, 8), (1, 5000, 3)])
def test_weights_whose_squares_overflow(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightError, match="overflow float64; rescale"):
        take(gaussian(shape) * 1e200)


@pytest.mark.parametrize("shape", [(1, 8, 4), (2, 4, 8), (1, 5000, 3)])
def test_weights_whose_squares_vanish(shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightError, match="squares are zero in float64; rescale"):
        take(gaussian(shape) * 1e-200)


def fails_to_converge(*_: Any, **__: Any) -> Any:
    raise np.linalg.LinAlgError("Eigenvalues did not converge")


def cases() -> list[tuple[str, Callable[[], Matrices]]]:
    return [("eigvalsh", lambda: gaussian((1, 8, 8))), ("svd", lambda: low_rank(8, 8, 3, np.float64))]


@pytest.mark.parametrize(("routine", "load"), cases())
def test_no_convergence_costs_one_layer(
    routine: str, load: Callable[[], Matrices], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.linalg, routine, fails_to_converge)
    with pytest.raises(WeightError, match="did not converge"):
        spectrum(load, float(np.finfo(np.float64).eps))


def test_no_convergence_of_one_costs_none_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [gaussian((2, 12, 8)), gaussian((2, 12, 8)) * 1e3, gaussian((1, 20, 8))]
    decompose = np.linalg.eigvalsh

    def fails_on_large(stack: Matrices) -> Matrices:
        return fails_to_converge() if np.abs(stack).max() > 1e5 else decompose(stack)

    monkeypatch.setattr(np.linalg, "eigvalsh", fails_on_large)
    eps = float(np.finfo(np.float64).eps)
    first, broken, last = spectra([lambda one=one: one for one in weights], [eps] * 3)
    assert isinstance(broken, WeightError)
    assert "did not converge" in str(broken)
    for found, weight in ((first, weights[0]), (last, weights[2])):
        assert isinstance(found, Spectrum)
        np.testing.assert_array_equal(found.eigenvalues, spectrum(lambda weight=weight: weight, eps).eigenvalues)

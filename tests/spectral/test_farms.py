"""Windows of one aspect ratio: where they lie, and that they take the aspect ratio out of the tail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwonnx.errors import WeightError
from wwonnx.spectral.farms import farms_spectrum, windows
from wwonnx.spectral.hill import fit_hill

EPS = float(np.finfo(np.float32).eps)


def test_a_square_matrix_is_its_own_window() -> None:
    chosen = windows(64, 64)
    assert (chosen.rows, chosen.columns, chosen.row_starts, chosen.column_starts) == (64, 64, (0,), (0,))
    assert len(chosen) == 1


def test_a_tall_matrix_is_covered_by_squares() -> None:
    chosen = windows(512, 100)
    assert (chosen.rows, chosen.columns) == (100, 100)
    assert chosen.row_starts == (0, 82, 165, 247, 330, 412)
    assert chosen.column_starts == (0,)


def test_a_wide_matrix_mirrors_the_tall_one() -> None:
    tall, wide = windows(512, 100, 2.0), windows(100, 512, 2.0)
    assert (tall.rows, tall.columns) == (wide.columns, wide.rows) == (200, 100)
    assert (tall.row_starts, tall.column_starts) == (wide.column_starts, wide.row_starts)


def test_a_matrix_squarer_than_the_ratio_is_cut_along_the_shorter_side() -> None:
    chosen = windows(100, 100, aspect_ratio=2.0)
    assert (chosen.rows, chosen.columns) == (100, 50)
    assert chosen.column_starts == (0, 50)


def test_a_window_of_a_broken_size_fits() -> None:
    chosen = windows(100, 100, aspect_ratio=1.5)
    assert (chosen.rows, chosen.columns) == (99, 66)
    assert (chosen.row_starts, chosen.column_starts) == ((0, 1), (0, 34))


def test_size_and_number_can_be_chosen() -> None:
    chosen = windows(4096, 11008, size=2000, per_axis=15)
    assert (chosen.rows, chosen.columns) == (2000, 2000)
    assert len(chosen.row_starts) == len(chosen.column_starts) == 15
    assert (chosen.row_starts[-1], chosen.column_starts[-1]) == (2096, 9008)


def test_a_window_larger_than_the_matrix_is_made_smaller_and_keeps_its_ratio() -> None:
    chosen = windows(300, 60, aspect_ratio=2.0, size=2000, per_axis=15)
    assert (chosen.rows, chosen.columns) == (120, 60)
    assert len(chosen.row_starts) == 15
    assert chosen.column_starts == (0,)


def test_a_ratio_that_nothing_can_have_is_cut() -> None:
    chosen = windows(10, 3, aspect_ratio=20.0)
    assert (chosen.rows, chosen.columns) == (10, 1)
    assert chosen.column_starts == (0, 1, 2)


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(1.0, 20.0),
    st.none() | st.integers(1, 400),
    st.none() | st.integers(1, 20),
)
def test_windows_lie_in_the_matrix_and_cover_it(
    rows: int, columns: int, ratio: float, size: int | None, per_axis: int | None
) -> None:
    chosen = windows(rows, columns, ratio, size, per_axis)
    long, short = max(chosen.rows, chosen.columns), min(chosen.rows, chosen.columns)
    if long < max(rows, columns):
        assert abs(long - short * ratio) <= 0.5 + 1e-9 * long or long == short
    for length, window, starts in (
        (rows, chosen.rows, chosen.row_starts),
        (columns, chosen.columns, chosen.column_starts),
    ):
        assert 1 <= window <= length
        assert starts[0] == 0
        assert len(set(starts)) == len(starts)
        if len(starts) > 1:
            assert starts[-1] == length - window
        if per_axis is None:
            assert starts[-1] == length - window
            assert max(np.diff(starts), default=0) <= window
        else:
            assert len(starts) <= per_axis


def test_views_copy_nothing() -> None:
    matrices = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3)
    chosen = windows(7, 3)
    views = list(chosen.views(matrices))
    assert len(views) == len(chosen) == 3
    assert all(view.base is not None and np.shares_memory(view, matrices) for view in views)
    assert np.array_equal(views[1], matrices[:, 2:5, :])


def test_eigenvalues_are_those_of_the_windows() -> None:
    matrices = np.random.default_rng(1).standard_normal((3, 20, 6))
    result = farms_spectrum(lambda: matrices, EPS)
    expected = [
        np.linalg.svd(matrices[k, start : start + 6], compute_uv=False)[::-1] ** 2
        for start in windows(20, 6).row_starts
        for k in range(3)
    ]
    assert result.eigenvalues == pytest.approx(np.array(expected), rel=1e-10, abs=1e-12)
    assert result.ranks.tolist() == [6] * 12
    assert result.pooled == pytest.approx(np.sort(np.ravel(expected)), rel=1e-10, abs=1e-12)


def test_a_square_matrix_keeps_its_spectrum() -> None:
    matrix = np.random.default_rng(2).standard_normal((1, 30, 30))
    expected = np.linalg.svd(matrix[0], compute_uv=False)[::-1] ** 2
    assert farms_spectrum(lambda: matrix, EPS).pooled == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_orientation_does_not_matter() -> None:
    matrices = np.random.default_rng(3).standard_normal((2, 50, 8)).astype(np.float32)
    one = farms_spectrum(lambda: matrices, EPS, aspect_ratio=1.5)
    other = farms_spectrum(lambda: matrices.swapaxes(1, 2), EPS, aspect_ratio=1.5)
    assert one.pooled == pytest.approx(other.pooled, rel=1e-9, abs=1e-12)


def test_the_weights_are_read_once() -> None:
    calls = 0

    def load() -> np.ndarray:
        nonlocal calls
        calls += 1
        return np.ones((1, 40, 4))

    farms_spectrum(load, EPS)
    assert calls == 1


def test_bad_weights_are_refused() -> None:
    matrices = np.ones((1, 8, 4))
    matrices[0, 7, 3] = np.nan
    with pytest.raises(WeightError, match="NaN"):
        farms_spectrum(lambda: matrices, EPS)


def test_the_aspect_ratio_leaves_alpha() -> None:
    """Gaussian matrices differ in nothing but their shape: alpha should not tell them apart."""
    rng = np.random.default_rng(4)
    plain, farmed = [], []
    for rows in (128, 256, 512, 1024):
        matrix = rng.standard_normal((1, rows, 128))
        plain.append(fit_hill(np.linalg.svd(matrix[0], compute_uv=False)[::-1] ** 2).alpha)
        farmed.append(fit_hill(farms_spectrum(lambda matrix=matrix: matrix, EPS).pooled).alpha)
    assert max(plain) - min(plain) > 1.0
    assert max(farmed) - min(farmed) < 0.1

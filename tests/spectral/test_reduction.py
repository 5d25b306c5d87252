"""Eigenvalues of large symmetric matrices: the band, the way there, and beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral import lapack, reduction
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.reduction import eigenvalues, to_band


def gram(M: int, seed: int = 0, rank: int | None = None) -> NDArray[np.float64]:
    factor = np.random.default_rng(seed).standard_normal((M, rank or M + 2))
    product: NDArray[np.float64] = factor @ factor.T
    return product


def lower(matrix: NDArray[Any], dtype: type = np.float64) -> NDArray[Any]:
    """In Fortran's order, with nothing usable above the diagonal."""
    triangle = np.array(matrix, dtype=dtype, order="F")
    triangle[np.triu_indices(len(matrix), 1)] = np.nan
    return triangle


def dense(band: NDArray[Any]) -> NDArray[np.float64]:
    rows, M = band.shape
    matrix = np.zeros((M, M))
    for below in range(min(rows, M)):
        matrix += np.diag(band[below, : M - below], -below)
        matrix += np.diag(band[below, : M - below], below) if below else 0.0
    return matrix


@given(
    M=st.integers(1, 70),
    width=st.integers(1, 20),
    panels=st.integers(1, 4),
    block=st.integers(1, 40),
    rank=st.none() | st.integers(1, 5),
    single=st.booleans(),
)
def test_the_band_has_the_eigenvalues_of_the_matrix(
    M: int, width: int, panels: int, block: int, rank: int | None, single: bool
) -> None:
    matrix = gram(M, rank=rank)
    dtype = np.float32 if single else np.float64
    band = to_band(lower(matrix, dtype), width, panels, block)
    assert band.shape == (width + 1, M)
    assert band.dtype == dtype
    assert all(not band[below, max(0, M - below) :].any() for below in range(width + 1))
    exact, tolerance = np.linalg.eigvalsh(matrix), 10.0 * np.finfo(dtype).eps * np.linalg.norm(matrix)
    assert np.abs(np.linalg.eigvalsh(dense(band)) - exact).max() <= tolerance
    diagonal, beside = lapack.tridiagonal_of_band(band.astype(np.float64))
    assert np.abs(lapack.tridiagonal_eigenvalues(diagonal, beside) - exact).max() <= tolerance


@pytest.mark.parametrize("M", [500, 2100])
def test_the_eigenvalues_of_a_known_matrix(M: int) -> None:
    """G_ij = min(i, j) is the inverse of a second difference: 1 / (4 sin^2((2 k - 1) pi / (4 M + 2)))."""
    index = np.arange(1.0, M + 1.0)
    found = eigenvalues(lower(np.minimum.outer(index, index)))
    angles = (2.0 * index - 1.0) * np.pi / (4.0 * M + 2.0)
    exact = np.sort(1.0 / (4.0 * np.sin(angles) ** 2))
    assert np.abs(found - exact).max() <= 20.0 * np.finfo(float).eps * exact[-1]


def test_large_matrices_go_by_way_of_a_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size where they do, against numpy; and to the same bits again."""
    M = 2048
    sizes = []

    def seen(matrix: NDArray[Any], width: int) -> NDArray[Any]:
        sizes.append((len(matrix), width))
        return to_band(matrix, width)

    monkeypatch.setattr(reduction, "to_band", seen)
    matrix = np.random.default_rng(0).standard_normal((M, M)).astype(np.float32)
    found, again = (spectrum(lambda: matrix[None], 1e-7).eigenvalues[0] for _ in range(2))
    spectrum(lambda: matrix[None, : M - 1], 1e-7)
    assert sizes == [(M, 48)] * 2
    assert np.array_equal(found, again)
    exact = np.linalg.eigvalsh(matrix.astype(np.float64) @ matrix.T.astype(np.float64))
    assert np.abs(found - exact).max() <= 10.0 * np.finfo(float).eps * np.linalg.norm(exact)


@pytest.mark.parametrize("scale", [1e-190, 1e240])
def test_the_range_of_float64_is_kept(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_BEYOND_CACHE", 0)
    matrix = gram(200)
    exact = np.linalg.eigvalsh(matrix)
    found = eigenvalues(lower(matrix * scale)) / scale
    assert np.abs(found - exact).max() <= 1e-14 * exact[-1]


@pytest.mark.parametrize("M", [1, 48, 49, 97, 150])
def test_matrices_without_anything_beside_the_diagonal(M: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_BEYOND_CACHE", 0)
    assert np.array_equal(eigenvalues(np.zeros((M, M), order="F")), np.zeros(M))
    assert np.allclose(eigenvalues(lower(np.diag(np.arange(M, 0.0, -1.0)))), np.arange(1.0, M + 1.0), rtol=1e-14)


def test_the_band_widens_with_the_matrix() -> None:
    assert [reduction._bandwidth(M) for M in (2048, 4096, 8192, 8193, 28672)] == [48, 48, 64, 80, 128]

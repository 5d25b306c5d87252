"""Eigenvalues of large symmetric matrices, by way of a tridiagonal matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import lapack

Array = NDArray[np.float64]

#: Matrices of so many bytes go by way of a band. Half of what is left is read for each column that sytrd reduces, which
#: is fast as long as the processor's cache holds it, together with those of the layers beside.
_BEYOND_CACHE = 32 * 2**20
#: Bandwidths: multiples of this, and no less than the second.
_WIDTHS, _NARROWEST = 16, 48
#: Panels of one bandwidth whose reflections are held back, to be applied to the rest of the matrix together.
_PANELS = 2
#: Columns of which a product reads one half and, while it is in the cache, uses it for the other half as well.
_BLOCK = 1024


def eigenvalues(gram: NDArray[Any]) -> Array:
    """Eigenvalues of a symmetric matrix, ascending, from its lower triangle.

    The tridiagonal form of a float32 matrix is brought to float64 before its eigenvalues are taken: that costs nothing
    beside the reduction, and in float32 it is LAPACK's sterf that errs the most, by up to 8 eps |G|_F at M = 2048 where
    the reduction errs by 0.04 (Gaussian weights).

    Args:
        gram: shape (M, M), in Fortran's order, of float64 or float32. It is overwritten: no copy is made.

    Raises:
        WeightError: no convergence.
    """
    if gram.nbytes < _BEYOND_CACHE:
        diagonal, beside = lapack.tridiagonal(gram)
    else:
        band = to_band(gram, _bandwidth(len(gram)))
        diagonal, beside = lapack.tridiagonal_of_band(band.astype(np.float64, copy=False))
    exact = (each.astype(np.float64, copy=False) for each in (diagonal, beside))
    return lapack.tridiagonal_eigenvalues(*exact)


def _bandwidth(M: int) -> int:
    """How wide a band is left by stage one, which is faster the wider it is; stage two is slower.

    LAPACK's sbtrd does as many rotations at once as M / width, and from twice the width on in an order that strides
    through memory: at M = 8192 it takes 4.2 s for 48 diagonals and 3.0 s for 64.
    """
    return max(_NARROWEST, _WIDTHS * math.ceil(math.sqrt(M / 2) / _WIDTHS))


def to_band(gram: NDArray[Any], width: int, panels: int = _PANELS, block: int = _BLOCK) -> NDArray[Any]:
    """A band matrix with the eigenvalues of a symmetric matrix.

    The first of the two stages of Bischof, Lang and Sun (A framework for symmetric band reduction, ACM TOMS 26 (2000),
    581-601): where the direct way to a tridiagonal matrix reads what is left of the matrix for every column, this reads
    it for every `width` columns. With A what is left and V, T the reflections that a panel's QR step gives,
    Q^T A Q = A - V W^T - W V^T, where W = X - V T^T V^T X / 2 and X = A V T (Dongarra, Sorensen and Hammarling, Block
    reduction of matrices to condensed forms, J. Comput. Appl. Math. 27 (1989), 215-227).

    Args:
        gram: shape (M, M), in Fortran's order, of float64 or float32; its lower triangle is read. It is overwritten.
        width: bandwidth.
        panels: how many panels' V and W are kept before they are applied to the whole of what is left.
        block: columns that are multiplied at once.

    Returns:
        Its diagonals as rows, the main one first, shape (width + 1, M), in Fortran's order; what lies beyond their ends
        is zero.
    """
    M = len(gram)
    V, W = (np.zeros((M, panels * width), gram.dtype, order="F") for _ in range(2))
    held = 0
    for start in range(0, M, width):
        end = min(start + width, M)
        columns = gram[start:, start:end]
        lapack.add_multiple(columns, -1.0, V[start:, :held], W[start:end, :held], turn_right=True)
        lapack.add_multiple(columns, -1.0, W[start:, :held], V[start:end, :held], turn_right=True)
        if end == M:
            break
        panel = gram[end:, start:end].copy(order="F")
        T = lapack.decompose(panel)
        k = len(T)
        gram[end : end + k, start:end] = np.triu(panel[:k])
        new = slice(held, held + k)
        V[start:end, new] = W[start:end, new] = W[end:, new] = 0.0
        V[end:, new] = panel[:, :k]
        V[end : end + k, new] = np.tril(panel[:k, :k], -1) + np.eye(k, dtype=gram.dtype)
        v, x, before = V[end:, new], W[end:, new], (V[end:, :held], W[end:, :held])
        _add_symmetric(x, gram[end:, end:], v, block)
        for left, right in (before, before[::-1]):
            inner = np.zeros((held, k), gram.dtype, order="F")
            lapack.add_multiple(inner, 1.0, right, v, turn_left=True)
            lapack.add_multiple(x, -1.0, left, inner)
        lapack.multiply_triangular(x, T)
        inner = np.zeros((k, k), gram.dtype, order="F")
        lapack.add_multiple(inner, 1.0, v, x, turn_left=True)
        lapack.add_multiple(x, -0.5, v, np.asfortranarray(T.T @ inner))
        held += k
        if held + width > V.shape[1]:
            lapack.subtract_products(gram[end:, end:], V[end:, :held], W[end:, :held])
            held = 0
    band = np.zeros((width + 1, M), gram.dtype, order="F")
    for below in range(min(width + 1, M)):
        band[below, : M - below] = np.diagonal(gram, -below)
    return band


def _add_symmetric(total: NDArray[Any], symmetric: NDArray[Any], right: NDArray[Any], block: int) -> None:
    """Add S B, as `add_symmetric_product` does: for few columns of B the products of blocks are faster than symm."""
    M = len(symmetric)
    for start in range(0, M, block):
        end = min(start + block, M)
        lapack.add_symmetric_product(total[start:end], symmetric[start:end, start:end], right[start:end])
        if end < M:
            lapack.add_multiple(total[end:], 1.0, symmetric[end:, start:end], right[start:end])
            lapack.add_multiple(total[start:end], 1.0, symmetric[end:, start:end], right[end:], turn_left=True)

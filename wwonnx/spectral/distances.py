"""How far two weights of the same shape are from each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .esd import Array

#: Values that are brought to float64 at a time.
_CHUNK = 1 << 22


def raw(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Frobenius norm of the difference of two weights, all matrices together: sqrt(sum (A - B)^2).

    Args:
        first, second: shape (matrices, rows, columns), equal.

    Returns:
        The norm, in the units of the weights.
    """
    return float(np.sqrt(sum(_squares(a, b) for a, b in zip(first, second, strict=True))))


def euclidean(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Mean over the matrices of the Frobenius norms of their differences, |A_k - B_k|_F.

    Args:
        first, second: shape (matrices, rows, columns), equal.

    Returns:
        The mean, in the units of the weights.
    """
    return float(np.mean([np.sqrt(_squares(a, b)) for a, b in zip(first, second, strict=True)]))


def cka(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Mean over the matrices of their linear centred kernel alignment (Kornblith et al., arXiv:1905.00414).

    |A^T B|_F^2 / (|A^T A|_F |B^T B|_F), columns centred: 1 for equal spaces whatever their scale or rotation; NaN where
    a matrix has constant columns only.

    Args:
        first, second: shape (matrices, rows, columns), equal.

    Returns:
        The alignment, between 0 and 1, without unit.
    """
    return float(np.mean([_alignment(_centred(a), _centred(b)) for a, b in zip(first, second, strict=True)]))


def _squares(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Sum of squared differences, some rows at a time: the matrices may be maps of large files."""
    step = max(1, _CHUNK // max(1, first.shape[1]))
    total = 0.0
    for row in range(0, len(first), step):
        difference = first[row : row + step].astype(np.float64) - second[row : row + step].astype(np.float64)
        total += float(np.vdot(difference, difference))
    return total


def _centred(matrix: NDArray[Any]) -> Array:
    exact = matrix.astype(np.float64)
    centred: Array = exact - exact.mean(axis=0)
    return centred


def _alignment(a: Array, b: Array) -> float:
    """CKA of centred matrices, through whichever of the Gram matrices A A^T and A^T A is the smaller."""
    if a.shape[0] <= a.shape[1]:
        first, second = a @ a.T, b @ b.T
        overlap = float(np.vdot(first, second))
    else:
        first, second = a.T @ a, b.T @ b
        cross = a.T @ b
        overlap = float(np.vdot(cross, cross))
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return overlap / norm if norm > 0.0 else float("nan")

"""From matrices to eigenvalues: the one expensive step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError

Array = NDArray[np.float64]

#: Tall matrices with more than so many rows, and than four times their columns, are summed in blocks of so many rows.
_BLOCK_ROWS = 2048
#: Squares beyond these leave no room for their sums and powers. Weights of float32 never come near.
_HUGE, _TINY = 1e250, 1e-200
_EPS64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the W^T W of one or more matrices of equal shape.

    Attributes:
        eigenvalues: shape (matrices, M), each row ascending, none negative.
        ranks: shape (matrices,), the number of singular values above S.max * eps of the stored element type.
    """

    eigenvalues: Array
    ranks: NDArray[np.intp]

    @property
    def pooled(self) -> Array:
        """All eigenvalues, ascending: the layer's empirical spectral density (ESD)."""
        return np.sort(self.eigenvalues, axis=None)

    @property
    def nonzero(self) -> Array:
        """The eigenvalues that are not zero within the ranks, ascending: the `ranks[i]` largest of each matrix i."""
        rows = zip(self.eigenvalues, self.ranks, strict=True)
        return np.sort(np.concatenate([row[row.size - rank :] for row, rank in rows]))

    def scaled(self, factor: float) -> Spectrum:
        """The spectrum of the matrices times sqrt(factor)."""
        return Spectrum(self.eigenvalues * factor, self.ranks)


def spectrum(load: Callable[[], NDArray[Any]], eps: float) -> Spectrum:
    """Eigenvalues of W^T W, or of W W^T where that is the smaller, in float64.

    The Gram matrix resolves eigenvalues down to about 1e-16 of the largest, which is far below any tail. Only
    where a rank can't be told from it (singular values near 1e-8 of the largest: float64 weights) is the SVD taken.

    Args:
        load: gives the matrices, shape (matrices, rows, columns), of any floating point type. It is called, and what it
            gives let go, before the eigenvalues are computed, so that a memory map is not held through them.
        eps: machine epsilon of the element type in which the weights are stored, for the rank.

    Returns:
        The spectrum of each matrix, with M = min(rows, columns) eigenvalues.

    Raises:
        WeightError: NaN or infinite weights, weights whose squares leave float64's range, or no convergence.
    """
    gram = gram_matrices(load)
    _check_finite(gram, load)
    try:
        # Rounding leaves the zeros of a deficient matrix slightly negative.
        values = np.maximum(np.linalg.eigvalsh(gram), 0.0)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the eigenvalues did not converge ({error})") from None
    del gram
    ranks = np.empty(len(values), dtype=np.intp)
    for index, row in enumerate(values):
        ranks[index], exact = _rank(row, partial(_matrix, load, index), eps)
        if exact is not None:
            values[index] = exact
    return Spectrum(values, ranks)


def gram_matrices(load: Callable[[], NDArray[Any]]) -> Array:
    """W^T W for tall matrices, W W^T for wide ones, shape (matrices, M, M), summed in float64.

    Working memory is at most the float64 copy of the matrices and their Gram matrices. Tall matrices are brought to
    float64 in blocks of rows, so that an embedding table costs little more than its Gram matrix.

    Args:
        load: gives the matrices, shape (matrices, rows, columns).
    """
    matrices = load()
    count, rows, columns = matrices.shape
    tall = matrices if rows >= columns else matrices.swapaxes(1, 2)
    length, width = tall.shape[1:]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite weights are reported, not warned of
        if length <= max(4 * width, _BLOCK_ROWS):
            exact = tall.astype(np.float64)
            del matrices, tall
            gram: Array = np.matmul(exact.swapaxes(1, 2), exact)
            return gram
        gram = np.zeros((count, width, width))
        for start in range(0, length, _BLOCK_ROWS):
            exact = tall[:, start : start + _BLOCK_ROWS].astype(np.float64)
            gram += np.matmul(exact.swapaxes(1, 2), exact)
        return gram


def _check_finite(gram: Array, load: Callable[[], NDArray[Any]]) -> None:
    """One look at the diagonal of the Gram matrices tells whether every weight was finite."""
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    if (diagonal < _HUGE).all():
        if diagonal.max() < _TINY and load().astype(bool).any():
            raise WeightError("the weights are so small that their squares are zero in float64; rescale the layer")
        return
    matrices = load()
    finite = np.isfinite(matrices)
    if finite.all():
        raise WeightError("the weights are so large that their squares overflow float64; rescale the layer")
    broken = int(finite.size - np.count_nonzero(finite))
    nans = int(np.count_nonzero(np.isnan(matrices)))
    kind = "NaN" if nans == broken else "infinite" if nans == 0 else "NaN or infinite"
    raise WeightError(f"{broken} of {finite.size} weights are {kind}; the layer can't be analysed")


def _matrix(load: Callable[[], NDArray[Any]], index: int) -> NDArray[Any]:
    matrix: NDArray[Any] = load()[index]
    return matrix


def _rank(values: Array, load: Callable[[], NDArray[Any]], eps: float) -> tuple[int, Array | None]:
    """Number of singular values above S.max * eps, from the eigenvalues of the Gram matrix where they can tell.

    Rounding moves an eigenvalue of a Gram matrix by a few units of eps64 * lambda_max (1.4 at M = 64 and 5 at
    M = 4096, measured on matrices of known rank); the threshold for float32 weights is 64 of them. Otherwise the SVD
    tells; its own noise grows with the size of the matrix, so that float64 weights need a threshold that does too.

    Returns:
        The rank, and the eigenvalues, ascending, where the SVD had to be taken: they are the more exact ones.

    Raises:
        WeightError: the SVD did not converge.
    """
    if not values.size or values[-1] == 0.0:
        return 0, None
    noise = (2.0 + 0.25 * np.sqrt(values.size)) * _EPS64 * values[-1]
    threshold = eps * eps * values[-1]
    doubtful = (values > threshold - noise) & (values < threshold + noise)
    if not doubtful.any():
        return int(np.count_nonzero(values > threshold)), None
    matrix = load().astype(np.float64)
    try:
        exact = np.linalg.svd(matrix, compute_uv=False)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the singular values did not converge ({error})") from None
    rank = int(np.count_nonzero(exact > exact[0] * max(eps, _EPS64 * max(matrix.shape))))
    return rank, np.square(exact[::-1])

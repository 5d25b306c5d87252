"""Weights cut down to their leading singular triplets, and weights freed of their correlation traps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from .esd import Array, gram_matrices
from .randomize import permuted

#: Rows that are brought to float64 at a time.
_BLOCK_ROWS = 2048
#: Up to this share of all eigenvectors LAPACK's partial solver beats the full one (measured at M = 768 and 2048).
_FEW = 0.25


def kept_per_matrix(k: int, matrices: int) -> int:
    """Singular triplets that each matrix of a stack keeps where the stack keeps k: ceil(k / matrices).

    Args:
        k: how many the layer keeps.
        matrices: how many matrices it has.
    """
    return -(-k // matrices)


def truncate(matrix: NDArray[Any], k: int) -> NDArray[Any]:
    """The best approximation of rank k: the k leading singular triplets (Eckart and Young, Psychometrika 1, 1936).

    With V the eigenvectors of the k largest eigenvalues of W^T W it is W V V^T; where fewer than half are dropped,
    W minus the same of the dropped ones. It is computed in float64, some rows at a time: the working memory is that of
    the smaller Gram matrix and its eigenvectors, and a float64 copy at most four times as large.

    Against numpy's SVD in float64, before the result is rounded to its type, it differs by 1e-12 of the largest
    singular value for singular values within 1e-4 of that, by 4e-10 for those within 1e-7, and by 2e-8 whatever they
    are, which is below what float32 holds; it is then as near to W as the SVD's to 5e-9. Weights in float64 go through
    the SVD itself, which is about six times slower.

    Args:
        matrix: shape (rows, columns), of any floating point type.
        k: how many to keep, 0 to min(rows, columns).

    Returns:
        Same shape and type, rounded to it once. A copy of the matrix, bit for bit, where all are kept.

    Raises:
        ValueError: there is no such k.
        WeightError: NaN or infinite weights, or no convergence.
    """
    _check(matrix, k)
    if k == min(matrix.shape):
        return np.array(matrix)
    return _cut(matrix, k, dropped=False)


def truncate_stack(matrices: NDArray[Any], k: int) -> NDArray[Any]:
    """A stack of matrices, such as a convolution's, each cut down to its ceil(k / matrices) leading triplets.

    Args:
        matrices: shape (matrices, rows, columns).
        k: how many triplets the stack keeps; what ceil gives beyond min(rows, columns) is all there are.

    Returns:
        Same shape and type.

    Raises:
        ValueError: k is negative.
        WeightError: NaN or infinite weights, or no convergence.
    """
    each = min(kept_per_matrix(k, len(matrices)), *matrices.shape[1:])
    result = np.empty(matrices.shape, dtype=matrices.dtype)
    for index, matrix in enumerate(matrices):
        result[index] = truncate(matrix, each)
    return result


def factor(matrix: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two factors whose product is the matrix truncated to rank k: k (rows + columns) numbers for rows x columns.

    The singular values S are shared evenly, B = U sqrt(S) and A = sqrt(S) V^T, so that neither leaves the range of a
    narrow type.

    Args:
        matrix: shape (rows, columns), of any floating point type.
        k: rank, 0 to min(rows, columns).

    Returns:
        B, shape (rows, k), and A, shape (k, columns), in the matrix's type.

    Raises:
        ValueError: there is no such k.
        WeightError: NaN or infinite weights, or no convergence.
    """
    _check(matrix, k)
    if matrix.shape[0] < matrix.shape[1]:
        left, right = factor(matrix.T, k)
        return right.T, left.T
    if matrix.dtype == np.float64:
        u, s, vt = _svd(matrix)
        roots = np.sqrt(s[:k])
        return u[:, :k] * roots, roots[:, None] * vt[:k]
    values, vectors = _leading(_gram(matrix), k)
    roots = np.sqrt(np.sqrt(np.maximum(values, 0.0)))
    divisors = np.where(roots > 0.0, roots, 1.0)
    B = np.empty((len(matrix), k), dtype=matrix.dtype)
    for rows, block in _blocks(matrix):
        B[rows] = ((block @ vectors) / divisors).astype(matrix.dtype)
    return B, (vectors * divisors).T.astype(matrix.dtype)


def sharpen(matrices: NDArray[Any], num_spikes: int, seed: int, layer_id: int) -> NDArray[Any]:
    """Take out correlation traps: what stands out of the bulk although the weights' order is gone.

    Each matrix is permuted, the `num_spikes` largest singular triplets of all permuted matrices together are taken
    away, and the rest is brought back into its order. The permutation is that of `randomize.permuted`, so that the
    triplets are the traps which that shuffle shows.

    Args:
        matrices: shape (matrices, rows, columns), of any floating point type.
        num_spikes: how many triplets to take away, 0 to all there are.
        seed: the run's seed.
        layer_id: the layer's id.

    Returns:
        Same shape and type. Matrices that lose nothing keep their bits.

    Raises:
        ValueError: there are not so many.
        WeightError: NaN or infinite weights, or no convergence.
    """
    count, rows, columns = matrices.shape
    if not 0 <= num_spikes <= count * min(rows, columns):
        raise ValueError(f"num_spikes={num_spikes} of {count} x {min(rows, columns)} singular values")
    result = np.array(matrices, order="C")  # written to through flat views
    if num_spikes == 0:
        return result
    positions = np.arange(rows * columns, dtype=np.int32 if rows * columns < 2**31 else np.int64)
    order = permuted(np.broadcast_to(positions.reshape(rows, columns), matrices.shape), seed, layer_id)
    order = order.reshape(count, -1)
    shuffled = np.take_along_axis(result.reshape(count, -1), order, axis=1).reshape(matrices.shape)
    for index, spikes in enumerate(_spikes_each(shuffled, num_spikes)):
        if spikes:
            result[index].reshape(-1)[order[index]] = _cut(shuffled[index], int(spikes), dropped=True).reshape(-1)
    return result


def _spikes_each(matrices: NDArray[Any], num_spikes: int) -> NDArray[np.intp]:
    """How many of the largest singular values of the stack each matrix has, shape (matrices,)."""
    if len(matrices) == 1:
        return np.array([num_spikes])
    gram = gram_matrices(lambda: matrices)
    _check_finite(gram)
    values = np.linalg.eigvalsh(gram)
    largest = np.argsort(values, axis=None)[values.size - num_spikes :]
    return np.bincount(largest // values.shape[1], minlength=len(matrices))


def _cut(matrix: NDArray[Any], k: int, dropped: bool) -> NDArray[Any]:
    """The k leading triplets of a matrix, or what is left without them; rounded to its type once."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    result: NDArray[Any] = np.empty(tall.shape, dtype=matrix.dtype)
    for rows, exact in _truncated(tall, k, dropped):
        result[rows] = exact.astype(matrix.dtype)
    return result if tall is matrix else result.T


def _truncated(matrix: NDArray[Any], k: int, dropped: bool) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows of a tall matrix's truncation, in float64, or of what that drops."""
    if matrix.dtype == np.float64:
        u, s, vt = _svd(matrix)
        part = slice(k, None) if dropped else slice(None, k)
        yield slice(None), (u[:, part] * s[part]) @ vt[part]
        return
    width = matrix.shape[1]
    # The shorter side of the cut costs less, and what is left of the matrix after it is as exact.
    leading = k <= width // 2
    vectors = _leading(_gram(matrix), k)[1] if leading else _trailing(_gram(matrix), width - k)
    for rows, block in _blocks(matrix):
        projected = (block @ vectors) @ vectors.T
        yield rows, projected if leading != dropped else block - projected


def _blocks(matrix: NDArray[Any]) -> Iterator[tuple[slice, Array]]:
    for start in range(0, len(matrix), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        yield rows, matrix[rows].astype(np.float64)


def _gram(matrix: NDArray[Any]) -> Array:
    """W^T W of a tall matrix.

    Raises:
        WeightError: the weights are not finite.
    """
    gram: Array = gram_matrices(lambda: matrix[None])[0]
    _check_finite(gram)
    return gram


def _leading(gram: Array, k: int) -> tuple[Array, Array]:
    """The k largest eigenvalues, ascending, and their eigenvectors as columns."""
    size = len(gram)
    return _eigenvectors(gram, size - k, size)


def _trailing(gram: Array, count: int) -> Array:
    """Eigenvectors of the smallest eigenvalues as columns."""
    return _eigenvectors(gram, 0, count)[1]


def _eigenvectors(gram: Array, start: int, stop: int) -> tuple[Array, Array]:
    """Eigenvalues number start to stop of a symmetric matrix, ascending, and their eigenvectors as columns.

    Raises:
        WeightError: no convergence.
    """
    if start == stop:
        return np.empty(0), np.empty((len(gram), 0))
    try:
        if stop - start <= _FEW * len(gram):
            from scipy.linalg import eigh

            values, vectors = eigh(gram, subset_by_index=[start, stop - 1], driver="evr", check_finite=False)
            return values, vectors
        values, vectors = np.linalg.eigh(gram)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the eigenvectors did not converge ({error})") from None
    return values[start:stop], vectors[:, start:stop]


def _svd(matrix: NDArray[Any]) -> tuple[Array, Array, Array]:
    _check_finite(matrix)
    try:
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the singular values did not converge ({error})") from None
    return u, s, vt


def _check(matrix: NDArray[Any], k: int) -> None:
    if matrix.ndim != 2 or not 0 <= k <= min(matrix.shape):
        raise ValueError(f"k={k} of a matrix of shape {matrix.shape}")


def _check_finite(values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise WeightError("some weights are NaN, infinite, or so large that their squares overflow float64")

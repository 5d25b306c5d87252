"""From matrices to eigenvalues: the one expensive step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from ..maps import let_go
from . import lapack
from .accelerator import device_eigenvalues, triangle_eigenvalues
from .reduction import eigenvalues
from .solver import ACCURATE, Solver, rounding

Array = NDArray[np.float64]
Load: TypeAlias = Callable[[], NDArray[Any]]

#: From this M on a matrix is decomposed in place by LAPACK; smaller ones together, unless they are taken in float32.
LARGE = 1024
#: Below this width a product of many matrices in one call beats one call each.
_TINY_WIDTH = 96

#: Tall matrices are summed in blocks of so many rows.
_BLOCK_ROWS = 2048
#: Elements of a map that are brought to float64 before its pages are given back.
_COPIED = 1 << 22
#: Squares beyond these leave no room for their sums and powers. Weights of float32 never come near.
_HUGE, _TINY = 1e250, 1e-200
#: float32 holds the sums of squares of weights whose largest lies between these.
_TINY32, _HUGE32 = 1e-10, 1e12
_EPS64 = float(np.finfo(np.float64).eps)
_EPS32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Approximation:
    """How a spectrum that was not computed in full came about, for each matrix.

    Attributes:
        tails: shape (matrices,), how many of the largest eigenvalues were computed one by one.
        replicates: shape (replicates, matrices, M): other spectra that are as likely as the one that is given.
    """

    tails: NDArray[np.intp]
    replicates: Array


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the W^T W of one or more matrices of equal shape.

    Attributes:
        eigenvalues: shape (matrices, M), each row ascending, none negative.
        ranks: shape (matrices,), the number of singular values above S.max * eps of the stored element type.
        errors: bounds of what float32 arithmetic moved the eigenvalues by, shape (matrices, M), or (matrices, 1) for
            one bound of all; None where they were computed in float64. Where they can't tell the ranks, these count
            the eigenvalues above them. Of an approximation, an estimate of the largest error.
        approximation: None where the eigenvalues were computed in full.
    """

    eigenvalues: Array
    ranks: NDArray[np.intp]
    errors: Array | None = None
    approximation: Approximation | None = None

    @property
    def error(self) -> float:
        """A bound of the error of every eigenvalue."""
        bounds = rounding(self.eigenvalues, _EPS64) if self.errors is None else self.errors
        return float(bounds.max())

    @property
    def ranked(self) -> bool:
        """Whether the arithmetic could tell the ranks."""
        return self.errors is None or bool((self.eigenvalues > self.errors).all())

    @property
    def pooled(self) -> Array:
        """All eigenvalues, ascending: the layer's empirical spectral density (ESD)."""
        return np.sort(self.eigenvalues, axis=None)

    @property
    def nonzero(self) -> Array:
        """The eigenvalues that are not zero within the ranks, ascending: the `ranks[i]` largest of each matrix i."""
        rows = zip(self.eigenvalues, self.ranks, strict=True)
        return np.sort(np.concatenate([row[row.size - rank :] for row, rank in rows]))

    def slice(self, index: int) -> Spectrum:
        """The spectrum of one of the matrices."""
        one = np.s_[index : index + 1]
        errors = None if self.errors is None else self.errors[one]
        about = self.approximation
        part = None if about is None else Approximation(about.tails[one], about.replicates[:, one])
        return Spectrum(self.eigenvalues[one], self.ranks[one], errors, part)

    def scaled(self, factor: float) -> Spectrum:
        """The spectrum of the matrices times sqrt(factor)."""
        errors = None if self.errors is None else self.errors * factor
        about = self.approximation
        if about is not None:
            about = Approximation(about.tails, about.replicates * factor)
        return Spectrum(self.eigenvalues * factor, self.ranks, errors, about)


def spectrum(load: Load, eps: float) -> Spectrum:
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
    (found,) = spectra([load], [eps])
    if isinstance(found, WeightError):
        raise found
    return found


def spectra(loads: Sequence[Load], eps: Sequence[float], solver: Solver = ACCURATE) -> list[Spectrum | WeightError]:
    """The spectra of several weights, those of equal M in one call.

    numpy lets other threads run only during calls on many small matrices: layers of 384 x 384 one at a time would keep
    every other core waiting. And the fewer the calls, the less often a thread waits for the interpreter afterwards.
    Each matrix is decomposed on its own all the same, so that no bit depends on its company.

    Args:
        loads, eps: as for `spectrum`, one each.
        solver: what computes the eigenvalues. In float32 layers whose squares leave its range are computed in float64
            all the same.

    Returns:
        For each weight its spectrum, or why it has none.
    """
    found: dict[int, Spectrum | WeightError] = {}
    grams: dict[int, dict[int, Array]] = {}
    tiny: dict[tuple[int, ...], dict[int, NDArray[Any]]] = {}
    for index, load in enumerate(loads):
        try:
            matrices = load()
            shape = matrices.shape
            dtype = _precision(matrices, solver)
            small = dtype is np.float64 and min(shape[1:]) < LARGE and not solver.accelerated
            if small and _is_tiny(shape):
                tiny.setdefault(shape, {})[index] = matrices
            elif small:  # at once, so that no two weights are held
                _add_grams({index: matrices}, loads, grams, found)
            del matrices
            if not small:
                by = _accelerated if solver.accelerated else _one_by_one
                values = by(load, shape, dtype, solver.device)
                if dtype is np.float32:
                    found[index] = _with_errors(values, rounding(values, _EPS32, float64_tail=not solver.accelerated))
                else:
                    found[index] = _with_ranks(np.maximum(values, 0.0), load, eps[index])
        except WeightError as error:
            found[index] = error
    while tiny:
        _add_grams(tiny.popitem()[1], loads, grams, found)
    for alike in grams.values():
        found |= _decomposed(alike, loads, eps)
    return [found[index] for index in range(len(loads))]


def _add_grams(
    weights: dict[int, NDArray[Any]],
    loads: Sequence[Load],
    grams: dict[int, dict[int, Array]],
    found: dict[int, Spectrum | WeightError],
) -> None:
    """Add the Gram matrices of weights of equal shape to those of equal M; or to what was found, why one has none.

    Args:
        weights: each of shape (matrices, rows, columns), by its place in `loads`.
        loads: as for `spectra`.
        grams: for each M, by place, shape (matrices, M, M).
        found: by place.
    """
    together = _grams(list(weights.values()))
    fine = _is_fine(np.diagonal(together, axis1=1, axis2=2))
    count = len(together) // len(weights)
    for number, index in enumerate(weights):
        gram = together[number * count : (number + 1) * count]
        try:
            if not fine:
                check_finite(np.diagonal(gram, axis1=1, axis2=2), loads[index])
        except WeightError as error:
            found[index] = error
        else:
            grams.setdefault(gram.shape[1], {})[index] = gram


def _decomposed(
    grams: dict[int, Array], loads: Sequence[Load], eps: Sequence[float]
) -> dict[int, Spectrum | WeightError]:
    """The spectra of stacks of Gram matrices of equal width, by place, in one call of numpy.

    Args:
        grams: each of shape (matrices, M, M), by its place in `loads`.
        loads, eps: as for `spectra`.
    """
    stack = next(iter(grams.values())) if len(grams) == 1 else np.concatenate(list(grams.values()))
    try:
        # The other triangle of a transpose is the same, and the copy that LAPACK works on needs no strides.
        values = np.maximum(np.linalg.eigvalsh(stack.swapaxes(1, 2)), 0.0)  # rounding leaves zeros slightly negative
    except np.linalg.LinAlgError as error:
        if len(grams) == 1:
            return dict.fromkeys(grams, WeightError(f"the eigenvalues did not converge ({error})"))
        alone = [_decomposed({index: gram}, loads, eps) for index, gram in grams.items()]  # one costs no other
        return {index: outcome for each in alone for index, outcome in each.items()}
    full = _of_full_rank(values, np.repeat([eps[index] for index in grams], [len(gram) for gram in grams.values()]))
    found: dict[int, Spectrum | WeightError] = {}
    start = 0
    for index, gram in grams.items():
        own = slice(start, start + len(gram))
        try:
            found[index] = (
                Spectrum(values[own], np.full(len(gram), values.shape[1]))
                if full[own].all()
                else _with_ranks(values[own], loads[index], eps[index])
            )
        except WeightError as error:
            found[index] = error
        start += len(gram)
    return found


def _with_errors(values: Array, errors: Array) -> Spectrum:
    """Add the ranks as far as eigenvalues from float32 can tell: what is below its error stays, and counts as zero."""
    values = np.maximum(values, 0.0)
    return Spectrum(values, np.count_nonzero(values > errors, axis=1), errors)


def _with_ranks(values: Array, load: Load, eps: float) -> Spectrum:
    """Add the ranks: the number of singular values above S.max * eps, from the eigenvalues where they can tell.

    Otherwise the SVD tells, and its eigenvalues are the more exact ones.

    Args:
        values: eigenvalues, shape (matrices, M), each row ascending, none negative.
        load: gives the matrices.
        eps: as for `spectrum`.

    Raises:
        WeightError: the SVD did not converge.
    """
    largest = values[:, -1:]
    threshold, noise = eps * eps * largest, _noise(values)
    ranks = np.count_nonzero(values > threshold, axis=1)
    doubtful = ((values > threshold - noise) & (values < threshold + noise)).any(axis=1) & (largest[:, 0] > 0.0)
    for index in np.flatnonzero(doubtful):
        ranks[index], values[index] = _exact(load()[index].astype(np.float64), eps)
    return Spectrum(values, ranks)


def _of_full_rank(values: Array, eps: NDArray[Any]) -> NDArray[np.bool_]:
    """Which matrices are so beyond doubt, as most are: a batch of small layers saves the rest of `_with_ranks`.

    Args:
        values: eigenvalues, shape (matrices, M), each row ascending.
        eps: machine epsilon of the weights, shape (matrices,).
    """
    full: NDArray[np.bool_] = values[:, 0] > eps * eps * values[:, -1] + _noise(values)[:, 0]
    return full


def _noise(values: Array) -> Array:
    """What rounding may have moved eigenvalues of Gram matrices by, shape (matrices, 1).

    It is a few units of eps64 * lambda_max (1.4 at M = 64 and 8 at M = 4096, measured on matrices of known rank); the
    threshold of the rank for float32 weights is 64 of them.
    """
    return (2.0 + 0.25 * math.sqrt(values.shape[1])) * _EPS64 * values[:, -1:]


def gram_matrices(load: Load) -> Array:
    """W^T W for tall matrices, W W^T for wide ones, shape (matrices, M, M), summed in float64.

    Tall matrices are brought to float64 in blocks of rows, so that an embedding table costs little more than its Gram
    matrix.

    Args:
        load: gives the matrices, shape (matrices, rows, columns).
    """
    return _grams([load()])


def _is_tiny(shape: tuple[int, ...]) -> bool:
    """Whether the Gram matrices of weights of this shape are worth one call of matmul for all."""
    return min(shape[1:]) < _TINY_WIDTH and max(shape[1:]) <= _BLOCK_ROWS


def _grams(weights: Sequence[NDArray[Any]]) -> Array:
    """The Gram matrices of weights of equal shape, one after the other."""
    count, rows, columns = weights[0].shape
    tall = [matrices if rows >= columns else matrices.swapaxes(1, 2) for matrices in weights]
    length, width = tall[0].shape[1:]
    with np.errstate(over="ignore", invalid="ignore"):  # infinite weights are reported, not warned of
        if _is_tiny(weights[0].shape):
            # BLAS wants a kernel's positions, which lie interleaved, apart.
            exact = np.empty((len(tall) * count, length, width))
            np.concatenate(tall, out=exact, casting="unsafe")
            gram: Array = np.matmul(exact.swapaxes(1, 2), exact)
            return gram
        gram = np.zeros((len(tall) * count, width, width))
        for number, matrices in enumerate(tall):
            for start in range(0, length, _BLOCK_ROWS):
                exact = matrices[:, start : start + _BLOCK_ROWS].astype(np.float64)
                for index, block in enumerate(exact, number * count):
                    gram[index] += np.dot(block.T, block)  # unlike matmul, dot lets other threads run
                let_go(matrices)
        return gram


def _precision(matrices: NDArray[Any], solver: Solver) -> type[np.float32] | type[np.float64]:
    """The precision that a solver takes these weights in: float32 only where it holds their squares."""
    dtype = solver.dtype(min(matrices.shape[1:]))
    if dtype is np.float32:
        largest = max(float(matrices.max()), -float(matrices.min()))
        return dtype if _TINY32 < largest < _HUGE32 else np.float64
    return dtype


def _one_by_one(load: Load, shape: tuple[int, ...], dtype: type[np.float32] | type[np.float64], device: str) -> Array:
    """Eigenvalues of the Gram matrices of large matrices, shape (matrices, M), one matrix at a time and in place.

    BLAS's syrk fills one triangle only (which PyTorch has not), the reduction reads only that and works where it lies:
    neither the mirrored half nor a second copy is made, which numpy would. Working memory is the copy of a matrix and
    its Gram matrix.
    """
    count, rows, columns = shape
    values = np.empty((count, min(rows, columns)))
    for index in range(count):
        gram = _triangle(load()[index], dtype)
        check_finite(np.diagonal(gram)[None], load)
        # PyTorch gives no tridiagonal form, whose eigenvalues are lost in float32.
        by_torch = device == "torch" and dtype is np.float64
        values[index] = triangle_eigenvalues(gram) if by_torch else eigenvalues(gram)
    return values


def _accelerated(load: Load, shape: tuple[int, ...], dtype: type[np.float32] | type[np.float64], device: str) -> Array:
    """Eigenvalues of the Gram matrices, shape (matrices, M), by an accelerator: small ones in one call."""
    count, rows, columns = shape
    values = np.empty((count, min(rows, columns)))
    together = count if min(rows, columns) < LARGE else 1
    for start in range(0, count, together):
        some: NDArray[Any] = load()[start : start + together].astype(dtype)
        tall = some if rows >= columns else some.swapaxes(1, 2)
        check_finite(np.einsum("kij,kij->kj", tall, tall), load)
        values[start : start + together] = device_eigenvalues(tall, device)
    return values


def _triangle(matrix: NDArray[Any], dtype: type[np.float32] | type[np.float64]) -> NDArray[Any]:
    """Lower triangle of one Gram matrix in Fortran's order, summed over blocks of rows of a tall matrix."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    del matrix
    length, width = tall.shape
    block = length if length <= 4 * width else _BLOCK_ROWS
    # Zeros that the system gives cost nothing before they are touched; scipy, left to make it, writes every one.
    gram: NDArray[Any] = np.zeros((width, width), dtype, order="F")
    for start in range(0, length, block):
        exact = _exactly(tall[start : start + block], dtype)
        if start + block >= length:
            del tall
        lapack.add_product(gram, exact.T)
        del exact
    return gram


def _exactly(matrix: NDArray[Any], dtype: type[np.float32] | type[np.float64]) -> NDArray[Any]:
    """A matrix in another precision, in the order in which it lies; of a map only a few pages are held at a time."""
    if abs(matrix.strides[0]) < abs(matrix.strides[1]):
        turned: NDArray[Any] = _exactly(matrix.T, dtype).T
        return turned
    exact: NDArray[Any] = np.empty(matrix.shape, dtype)
    step = max(1, _COPIED // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        exact[start : start + step] = matrix[start : start + step]
        let_go(matrix)
    return exact


def check_finite(diagonal: Array, load: Load) -> None:
    """One look at the diagonals of the Gram matrices tells whether every weight was finite.

    Args:
        diagonal: sums of squares, shape (matrices, M).
        load: gives the matrices again, to say what is wrong with them.

    Raises:
        WeightError: some weights are not, or their squares leave float64's range.
    """
    if _is_finite(diagonal):
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


def _is_finite(diagonal: Array) -> bool:
    """Whether sums of squares, shape (matrices, M), are within what is computed with."""
    return bool((diagonal < (_HUGE if diagonal.dtype == np.float64 else np.inf)).all())


def _is_fine(diagonal: Array) -> bool:
    """Whether `check_finite` would have nothing to say of any of the matrices."""
    return _is_finite(diagonal) and bool((diagonal.max(axis=1) >= _TINY).all())


def _exact(matrix: Array, eps: float) -> tuple[int, Array]:
    """Rank and eigenvalues, ascending, from the SVD.

    Its own noise grows with the size of the matrix, so that float64 weights need a threshold that does too.
    """
    try:
        singular = np.linalg.svd(matrix, compute_uv=False)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the singular values did not converge ({error})") from None
    rank = int(np.count_nonzero(singular > singular[0] * max(eps, _EPS64 * max(matrix.shape))))
    return rank, np.square(singular[::-1])

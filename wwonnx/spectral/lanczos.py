"""Spectra of matrices too large to decompose: Lanczos for the tail, stochastic Lanczos quadrature for the bulk.

One Krylov space serves both. Block Lanczos starts from random orthonormal probes; the largest Ritz values that have
converged are eigenvalues, and the squared overlaps of the probes with all Ritz vectors are the quadrature of the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..maps import let_go
from .esd import Approximation, Array, Load, Spectrum, check_finite

Product: TypeAlias = Callable[[Array], Array]

#: Probes, and how many times the Gram matrix multiplies as many vectors: the Krylov space has as many dimensions as
#: both make together. Fewer probes with more steps find more of the tail and less of the bulk.
PROBES, STEPS = 32, 32
#: Ritz values belong to the tail as long as their residuals are below this part of them.
TAIL_TOLERANCE = 1e-3
#: Other spectra that are as likely: errors are the largest distances from them.
REPLICATES = 100
#: A direction of which less than this part of the largest product lies outside the Krylov space lies in it.
_DEPENDENT = 1e-12
#: Residuals below this part of the largest eigenvalue are rounding: the Ritz value is an eigenvalue.
_EXACT = 1e-9
#: Bytes of a block of rows in float64. It is used twice, and should be in a cache the second time.
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class Krylov:
    """What block Lanczos knows of a symmetric matrix.

    Attributes:
        values: Ritz values, shape (d,), ascending.
        residuals: |G u - value u| of each Ritz vector u, shape (d,): an eigenvalue is as near as that.
        overlaps: squared products of each probe with each Ritz vector, shape (probes, d); each row sums to one.
        coarser: what was known after half the steps; None where the Krylov space is invariant, and all is known.
    """

    values: Array
    residuals: Array
    overlaps: Array
    coarser: Krylov | None = None


def approximate_spectrum(load: Load, eps: float, seed: tuple[int, ...], replicates: int = REPLICATES) -> Spectrum:
    """Eigenvalues of W^T W, or of W W^T where that is the smaller, without either matrix.

    Working memory beside the weight as it is stored: the Krylov space, 8 M * 1024 bytes, what is made of it, and a few
    blocks. The weight is read once per step, twice where its rows are the shorter side. One matrix of a convolution is
    copied, as stored, where its elements lie apart; element types of less than 32 bits are brought to float32.

    Args:
        load: gives the matrices, shape (matrices, rows, columns), of any floating point type.
        eps: machine epsilon of the element type in which the weights are stored.
        seed: of the probes.
        replicates: how many other spectra that are as likely.

    Returns:
        The spectrum of each matrix; its sum is the squared Frobenius norm.

    Raises:
        WeightError: NaN or infinite weights, or weights whose squares leave float64's range.
    """
    matrices = load()
    count, rows, columns = matrices.shape
    M = min(rows, columns)
    values, errors, tails = np.empty((count, M)), np.empty(count), np.empty(count, np.intp)
    others = np.empty((replicates, count, M))
    for index in range(count):
        matrix = _lying(matrices[index])
        squares = _squares(matrix)
        check_finite(squares[None], load)
        generator = np.random.default_rng((*seed, index))
        krylov = block_lanczos(partial(gram_product, matrix), M, generator)
        found = spectrum_of(krylov, M, float(squares.sum()), generator, replicates)
        values[index], errors[index], tails[index], others[:, index] = found
    ranks = np.count_nonzero(values > eps * eps * values[:, -1:], axis=1)
    return Spectrum(values, ranks, errors[:, None], Approximation(tails, others))


def gram_product(matrix: NDArray[Any], vectors: Array) -> Array:
    """W^T (W V), or W (W^T V) for a wide W, in float64: no more than one block of rows of W is there in float64.

    Args:
        matrix: W, shape (rows, columns).
        vectors: V, shape (min(rows, columns), n).
    """
    rows, columns = matrix.shape
    product = np.zeros(vectors.shape)
    if rows >= columns:
        for _, exact in _blocks(matrix):
            product += exact.T @ (exact @ vectors)
        return product
    inner = np.zeros((columns, vectors.shape[1]))
    for part, exact in _blocks(matrix):
        inner += exact.T @ vectors[part]
    for part, exact in _blocks(matrix):
        product[part] = exact @ inner
    return product


def block_lanczos(
    product: Product, M: int, generator: np.random.Generator, probes: int = PROBES, steps: int = STEPS
) -> Krylov:
    """Block Lanczos with full reorthogonalisation (Golub and Underwood, 1977) from random orthonormal probes.

    The probes are uniform on the sphere, so that the mean of an overlap is 1 / M whatever the eigenvectors are. Where
    the Krylov space is invariant earlier (low rank, few distinct eigenvalues, small M) it ends there.

    Args:
        product: multiplies a positive semidefinite matrix G of shape (M, M) with vectors of shape (M, n).
        M: the size of G.
        generator: of the probes.
        probes: size of the first block, at most M.
        steps: how many products.
    """
    width = min(probes, M)
    limit = min(width * steps, M)
    space = np.empty((M, limit), order="F")
    projected = np.zeros((limit, limit))
    space[:, :width] = np.linalg.qr(generator.standard_normal((M, width)))[0]
    start, stop, largest = 0, width, 0.0
    ends = [0, width]
    while True:
        new = product(space[:, start:stop])
        largest = max(largest, float(np.sqrt(np.square(new).sum(axis=0).max())))
        basis = space[:, :stop]
        projected[:stop, start:stop] = basis.T @ new
        # Twice, and once more below, or what is left of a small remainder is not orthogonal to rounding.
        for _ in range(2):
            new -= basis @ (basis.T @ new)
        orthogonal, triangle = np.linalg.qr(new)
        rotation, sizes, coupling = np.linalg.svd(triangle)
        rank = int(np.count_nonzero(sizes > _DEPENDENT * largest))
        coupling = sizes[:rank, None] * coupling[:rank]
        if not rank or stop + rank > limit:
            break
        directions = orthogonal @ rotation[:, :rank]
        directions -= basis @ (basis.T @ directions)
        space[:, stop : stop + rank] = np.linalg.qr(directions)[0]
        start, stop = stop, stop + rank
        ends.append(stop)
    coarser = None
    if rank and len(ends) > 2:
        before, end, after = ends[len(ends) // 2 - 1 : len(ends) // 2 + 2]
        coarser = _ritz(projected[:end, :end], projected[before:end, end:after].T, width)
    return replace(_ritz(projected[:stop, :stop], coupling, width), coarser=coarser)


def _ritz(projected: Array, coupling: Array, probes: int) -> Krylov:
    """Ritz values and what goes with them.

    Args:
        projected: G in the Krylov space's basis, its upper triangle, shape (d, d).
        coupling: of the last block to what lies outside, shape (n, last block).
        probes: size of the first block.
    """
    values, vectors = np.linalg.eigh(projected, UPLO="U")
    residuals = np.sqrt(np.square(coupling @ vectors[len(vectors) - coupling.shape[1] :]).sum(axis=0))
    # Rounding leaves zeros slightly negative.
    return Krylov(np.maximum(values, 0.0), residuals, np.square(vectors[:probes]))


def spectrum_of(
    krylov: Krylov, M: int, trace: float, generator: np.random.Generator, replicates: int = REPLICATES
) -> tuple[Array, float, int, Array]:
    """M eigenvalues from a Krylov space: the converged ones of the tail, and quantiles of the rest.

    The mean of the probes' spectral measures is the spectral density (Lin, Saad and Yang, 2016; Ubaru, Chen and Saad,
    2017). Of the part below the tail both the mass, M less the tail, and the mean are known exactly; the weights of
    the quadrature are calibrated to both (Deville and Saerndal, 1992), which takes out the largest part of their noise.
    How sure that is shows in other spectra that are as likely: of as many probes drawn from the same ones (Efron,
    1979), with the distribution anywhere between its bounds at the nodes, and the tail moved by up to its residuals;
    and in the spectrum that half the steps give.

    Args:
        krylov: of G, shape (M, M).
        M: how many eigenvalues.
        trace: their sum.
        generator: of the draws of probes.
        replicates: how many other spectra.

    Returns:
        The eigenvalues, shape (M,), ascending; an estimate of the largest error among them: the largest residual
        of the tail, or the largest distance from the other spectra; how many form the tail; these spectra, shape
        (replicates, M).
    """
    rest, tail = _split(krylov, M, trace)
    probes = len(krylov.overlaps)
    values = rest.with_tail(np.ones(probes), tail)
    others = np.empty((replicates, M))
    for other in others:
        # Ritz values are never above the eigenvalues that they stand for.
        moved = tail + generator.random(tail.size) * krylov.residuals[krylov.values.size - tail.size :]
        draws = generator.multinomial(probes, np.full(probes, 1.0 / probes))
        other[:] = rest.with_tail(draws, moved, generator.random())
    if replicates and krylov.coarser is not None:
        rest_then, tail_then = _split(krylov.coarser, M, trace)
        others[0] = rest_then.with_tail(np.ones(probes), tail_then)
    error = _EXACT * float(krylov.values[-1])
    if tail.size:
        error = max(error, float(krylov.residuals[krylov.values.size - tail.size :].max()))
    if replicates:
        error = max(error, float(np.abs(others - values).max()))
    return values, error, tail.size, others


def _split(krylov: Krylov, M: int, trace: float) -> tuple[_Rest, Array]:
    """The tail, ascending, and what lies below it."""
    size = krylov.values.size
    resolved = (krylov.residuals <= TAIL_TOLERANCE * krylov.values)[::-1]
    k = size if resolved.all() else int(resolved.argmin())
    exact = krylov.residuals <= _EXACT * krylov.values[-1]
    # An eigenvalue of higher multiplicity than there are probes has more copies than the Krylov space can hold. Its
    # mass is in the overlaps, and the tail ends above it.
    cut = size - min(k, _above_multiple(krylov, exact))
    tail = krylov.values[cut:]
    total = max(0.0, trace - float(tail.sum()))
    return _Rest(krylov.values[:cut], exact[:cut], krylov.overlaps[:, :cut], M - tail.size, total), tail


def _above_multiple(krylov: Krylov, exact: NDArray[np.bool_]) -> int:
    """How many Ritz values lie above the largest eigenvalue of which there are as many as probes."""
    values, probes = krylov.values, len(krylov.overlaps)
    if values.size < probes:
        return int(values.size)
    apart = values[probes - 1 :] - values[: values.size - probes + 1]
    multiple = np.flatnonzero((apart <= _EXACT * values[-1]) & exact[probes - 1 :])
    return int(values.size - probes - multiple[-1]) if multiple.size else int(values.size)


@dataclass(frozen=True)
class _Rest:
    """The eigenvalues below the tail.

    Attributes:
        nodes: Ritz values, ascending.
        exact: which of them are eigenvalues to rounding, and hold all their weight themselves.
        overlaps: of the probes with them.
        count: how many eigenvalues there are.
        total: their sum.
    """

    nodes: Array
    exact: NDArray[np.bool_]
    overlaps: Array
    count: int
    total: float

    def with_tail(self, draws: NDArray[Any], tail: Array, place: float = 0.5) -> Array:
        """All eigenvalues, ascending.

        Args:
            draws: how often each probe counts.
            tail: the others.
            place: as for `quantiles`.
        """
        below = self.quantiles(draws @ self.overlaps, place) if self.count else self.nodes
        return np.sort(np.concatenate((below, tail)))

    def quantiles(self, weights: Array, place: float) -> Array:
        """Eigenvalues, ascending.

        The distribution at a node lies between its values before and after the node's weight (separation theorem of
        Chebyshev, Markov and Stieltjes); between nodes it is taken as linear.

        Args:
            weights: of the nodes, of any sum.
            place: where between these two values, from 0 to 1.

        Returns:
            Shape (count,).
        """
        weights = self._calibrated(weights / weights.sum()) * self.count
        upper = np.cumsum(weights)
        lower = upper - weights
        middle = lower + place * weights
        steps = np.stack((np.where(self.exact, lower, middle), np.where(self.exact, upper, middle)), axis=1)
        found: Array = np.interp(np.arange(self.count) + 0.5, steps.ravel(), np.repeat(self.nodes, 2))
        summed = float(found.sum())
        return found * np.float64(self.total / summed) if summed > 0.0 else found

    def _calibrated(self, weights: Array) -> Array:
        """The weights times a linear function of the node, so that the mean is the known one."""
        mean = weights @ self.nodes
        apart = self.nodes - mean
        variance = weights @ np.square(apart)
        if variance <= 0.0:
            return weights
        adjusted: Array = weights * np.maximum(0.0, 1.0 + (self.total / self.count - mean) / variance * apart)
        adjusted /= adjusted.sum()
        return adjusted


def _lying(matrix: NDArray[Any]) -> NDArray[Any]:
    """The matrix or its transpose with rows that lie in memory, in an element type that converts fast."""
    if not matrix.flags.forc:
        matrix = np.ascontiguousarray(matrix)
    matrix = matrix if matrix.flags.c_contiguous else matrix.T
    return matrix.astype(np.float32) if matrix.dtype.itemsize < 4 else matrix


def _blocks(matrix: NDArray[Any]) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows in float64, and where they are. What was read of a map of a file is given back."""
    block = max(1, _BLOCK_BYTES // (8 * matrix.shape[1]))
    for start in range(0, len(matrix), block):
        part = slice(start, start + block)
        yield part, matrix[part].astype(np.float64, copy=False)
        let_go(matrix)


def _squares(matrix: NDArray[Any]) -> Array:
    """Squared norms of the rows."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinite weights are reported, not warned of
        return np.concatenate([np.einsum("ij,ij->i", exact, exact) for _, exact in _blocks(matrix)])

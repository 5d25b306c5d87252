"""Other matrices or spectra in place of a weight's own: Fourier transforms, Glorot's scale, level spacings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from .esd import Array, Spectrum

#: Points per axis of the grid on which convolutions are taken.
GRID = 32
#: Transfer matrices of so many bytes, and their Gram matrices, are held at a time.
_CHUNK_BYTES = 64 << 20
#: Where the element type is finer than this, eigenvalues of Gram matrices can't tell a rank; singular values can.
_FINE = 1e-8
#: Eigenvalues nearer to each other than this, relative to the largest, are equal; what differs is rounding.
_EQUAL = 1e-14


def fft(matrices: NDArray[Any]) -> Array:
    """The real part of the two-dimensional discrete Fourier transform of each matrix.

    X_uv = sum_jk W_jk cos(2 pi (u j / rows + v k / columns)). The whole, complex transform is W between two matrices
    that are unitary up to their scale, so its spectrum would be W's own, rows * columns times larger; the real part's
    is another.

    Args:
        matrices: shape (matrices, rows, columns).

    Returns:
        The same shape, in float64. Weights that are not finite come back as they are, so that they can be counted.
    """
    exact = matrices.astype(np.float64)
    if not np.isfinite(exact).all():
        return exact
    return np.ascontiguousarray(np.fft.fft2(exact).real)


def convolution_spectrum(
    load: Callable[[], NDArray[Any]], kernel: tuple[int, ...], eps: float, grid: int = GRID
) -> Spectrum:
    """The squared singular values of a convolution as the linear map that it is, on a periodic grid.

    Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers" (arXiv:1805.10408): they are those of the
    transfer matrices, one per frequency f of the grid,

        P_f = sum_p W_p exp(-2 pi i f.p / n),

    with W_p the (outputs x inputs) matrix of kernel position p. Stride and dilation are 1, the borders are joined. As
    weights are real, f and -f have the same singular values: half of the frequencies are computed.

    Cost: about n^d / 2 complex eigenvalue problems of size M; memory for the float64 weights and about 64 MiB.

    Args:
        load: gives the matrices, shape (groups * positions, rows, columns), positions in row-major order.
        kernel: how many positions along each of the d axes. One that is longer than the grid wraps around.
        eps: machine epsilon of the element type in which the weights are stored, for the rank.
        grid: n, points along each axis.

    Returns:
        Eigenvalues of P_f^H P_f, shape (groups * n^d, M); ranks, relative to the largest singular value of all.

    Raises:
        WeightError: NaN or infinite weights, weights whose squares leave float64's range, or no convergence.
    """
    weights = load().astype(np.float64)
    if not np.isfinite(weights).all():
        raise WeightError(f"{np.count_nonzero(~np.isfinite(weights))} of {weights.size} weights are NaN or infinite")
    _, rows, columns = weights.shape
    waves, paired = _waves(kernel, grid)
    step = max(1, _CHUNK_BYTES // (16 * (rows * columns + 2 * min(rows, columns) ** 2)))
    squares = []
    for group in weights.reshape(-1, math.prod(kernel), rows * columns):
        found = []
        for start in range(0, len(waves), step):
            wave = waves[start : start + step]
            transfer = wave.real @ group + 1j * (wave.imag @ group)
            found.append(_squares(transfer.reshape(-1, rows, columns), fine=eps < _FINE))
        half = np.concatenate(found)
        squares += [half, half[paired]]
    eigenvalues = np.concatenate(squares)
    if not np.isfinite(eigenvalues).all():
        raise WeightError("the weights are so large that their squares overflow float64; rescale the layer")
    if weights.any() and not eigenvalues.any():
        raise WeightError("the weights are so small that their squares are zero in float64; rescale the layer")
    return Spectrum(eigenvalues, np.count_nonzero(eigenvalues > eps * eps * eigenvalues.max(), axis=1))


def glorot_factor(N: int, M: int, positions: int) -> float:
    """By how much glorot_fix scales eigenvalues: W / sqrt(2 / ((N + M) positions)) in place of W.

    Glorot and Bengio (AISTATS 2010), eq. 12: weights drawn with variance 2 / (fan_in + fan_out). A layer as it was
    drawn then has entries of variance 1, whatever its shape. It takes the place of conv2d_norm.

    Args:
        N, M: larger and smaller dimension of the matrices.
        positions: kernel positions of a convolution, otherwise 1.

    Returns:
        (N + M) positions / 2, the factor of the eigenvalues, without unit.
    """
    return (N + M) * positions / 2.0


def level_spacings(esd: Array) -> Array:
    """log10 of the differences between neighbouring eigenvalues.

    Args:
        esd: eigenvalues, shape (n,), ascending.

    Returns:
        Shape (n - 1,); -inf between eigenvalues that are equal up to rounding.
    """
    gaps = np.diff(esd)
    equal = gaps <= _EQUAL * esd[-1:]
    return np.where(equal, -np.inf, np.log10(np.where(equal, 1.0, gaps)))


@dataclass(frozen=True)
class LevelSpacings:
    """Mean and variance of the log10 spacings of eigenvalues, in the tail and in the bulk; NaN where there are none.

    Attributes:
        tail_mean_delta, tail_var_delta: of the spacings whose lower eigenvalue is xmin or more.
        bulk_mean_delta, bulk_var_delta: of all others.
    """

    tail_mean_delta: float
    tail_var_delta: float
    bulk_mean_delta: float
    bulk_var_delta: float

    @property
    def columns(self) -> dict[str, float]:
        """The columns of a row."""
        return asdict(self)


#: The columns of `spacing_metrics`.
SPACING_COLUMNS = tuple(field.name for field in fields(LevelSpacings))


def spacing_metrics(esd: Array, xmin: float) -> LevelSpacings:
    """How close eigenvalues lie to each other. Spacings between equal eigenvalues are left out.

    Args:
        esd: eigenvalues, shape (n,), ascending.
        xmin: where the tail begins; NaN where there is none, and then all is NaN.
    """
    if not np.isfinite(xmin):
        return LevelSpacings(*[np.nan] * 4)
    spacings = level_spacings(esd)
    apart = np.isfinite(spacings)
    tail = esd[:-1] >= xmin
    moments: list[float] = []
    for part in (spacings[tail & apart], spacings[~tail & apart]):
        moments += [float(part.mean()), float(part.var())] if part.size else [np.nan, np.nan]
    return LevelSpacings(*moments)


def _waves(kernel: tuple[int, ...], grid: int) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """exp(-2 pi i f.p / n) for half of the frequencies (rows) and all positions, and which stand for -f as well."""
    count = grid // 2 + 1
    axes = [np.outer(np.arange(grid), np.arange(size)) % grid for size in kernel]
    axes[-1] = axes[-1][:count]
    waves = reduce(np.kron, [np.exp(-2j * np.pi / grid * axis) for axis in axes])
    last = np.arange(count)
    paired = (last > 0) & (2 * last < grid)
    return waves, np.tile(paired, grid ** (len(kernel) - 1))


def _squares(transfer: NDArray[np.complex128], fine: bool) -> Array:
    """Squared singular values of each matrix, ascending; infinite where they leave float64's range."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            if fine:
                squares: Array = np.square(np.linalg.svd(transfer, compute_uv=False)[:, ::-1])
                return squares
            tall = transfer if transfer.shape[1] >= transfer.shape[2] else transfer.swapaxes(1, 2)
            gram = tall.conj().swapaxes(1, 2) @ tall
            if not np.isfinite(gram).all():
                return np.full(gram.shape[:2], np.inf)
            # Rounding leaves the zeros of a deficient matrix slightly negative.
            return np.maximum(np.linalg.eigvalsh(gram), 0.0)
    except np.linalg.LinAlgError as error:
        raise WeightError(f"the eigenvalues did not converge ({error})") from None

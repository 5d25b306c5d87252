"""Eigenvectors: whether the directions of a layer's tail lie on few coordinates or are spread over all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from .esd import Array, gram_matrices

#: Bins of the histogram behind `vec_entropy`.
BINS = 100
#: xmin is itself an eigenvalue, and two solvers agree on it to a few units of 1e-16 of the largest (1e-15 at M = 4096).
#: Its vector belongs to the tail, whichever way the last digit fell.
_SLACK = 1e-14
#: A vector whose components differ by less than this is a constant one; what differs is rounding.
_FLAT = 1e-12
#: So many components at a time are sorted into bins.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class VectorMetrics:
    """Mean and variance of three measures of eigenvectors, over the tail and over the bulk; NaN where that is empty.

    The tail is the eigenvectors whose eigenvalues are xmin or more, the bulk all others. Variances are the
    population's. n is the number of components, M.

    Attributes:
        tail_mean_loc_ratio: |v|_1 / |v|_inf, from 1 (one component holds all) to n (all are alike).
        tail_mean_part_ratio: |v|_2 / |v|_4, from 1 to n^(1/4); about (n/3)^(1/4) for a random direction.
        tail_mean_vec_entropy: entropy in nats of the histogram of |v| in 100 bins from its least to its largest
            component, between 0 and ln 100.
        tail_var_loc_ratio, tail_var_part_ratio, tail_var_vec_entropy: their variances.
        bulk_mean_loc_ratio, bulk_mean_part_ratio, bulk_mean_vec_entropy: likewise, of the bulk.
        bulk_var_loc_ratio, bulk_var_part_ratio, bulk_var_vec_entropy: likewise.
    """

    tail_mean_loc_ratio: float
    tail_var_loc_ratio: float
    tail_mean_part_ratio: float
    tail_var_part_ratio: float
    tail_mean_vec_entropy: float
    tail_var_vec_entropy: float
    bulk_mean_loc_ratio: float
    bulk_var_loc_ratio: float
    bulk_mean_part_ratio: float
    bulk_var_part_ratio: float
    bulk_mean_vec_entropy: float
    bulk_var_vec_entropy: float

    @property
    def columns(self) -> dict[str, float]:
        """The columns of a row."""
        return asdict(self)


#: Names of the columns, in order.
COLUMNS = tuple(field.name for field in fields(VectorMetrics))


@dataclass(frozen=True)
class Localization:
    """How localised each eigenvector is.

    Attributes:
        eigenvalues: shape (n,), ascending within each matrix.
        measures: shape (3, n), as `localization` gives them.
    """

    eigenvalues: Array
    measures: Array

    def metrics(self, xmin: float) -> VectorMetrics:
        """Means and variances over the tail from xmin on and over the bulk; all NaN where xmin is."""
        if not np.isfinite(xmin):
            return VectorMetrics(*[np.nan] * len(COLUMNS))
        tail = self.tail(xmin)
        return VectorMetrics(*_moments(self.measures[:, tail]), *_moments(self.measures[:, ~tail]))

    def tail(self, xmin: float) -> NDArray[np.bool_]:
        """Which vectors belong to the tail, shape (n,)."""
        found: NDArray[np.bool_] = self.eigenvalues >= xmin - _SLACK * self.eigenvalues.max()
        return found


def measure_vectors(load: Callable[[], NDArray[Any]], factor: float) -> Localization:
    """Localisation of the eigenvectors of each matrix's smaller Gram matrix; of W W^T (outputs) where it is square.

    The measures are those of Martin and Mahoney (arXiv:1810.01075). The vectors are of unit length and have M
    components; those of several matrices count together. Where eigenvalues are equal (the zeros of a matrix of low
    rank) the vectors between them are arbitrary, and so are their measures.

    Memory: the Gram matrices, and the eigenvectors of one matrix at a time.

    Args:
        load: gives the matrices, shape (matrices, rows, columns), as in `esd.spectrum`.
        factor: the eigenvalues' scale, 1/2 for a pooled convolution under conv2d_norm; it leaves the vectors alone.

    Raises:
        WeightError: NaN or infinite weights, or no convergence.
    """
    # Turned, so that a square matrix gives W W^T; the others have but one smaller Gram matrix.
    gram = gram_matrices(lambda: load().swapaxes(1, 2))
    if not np.isfinite(gram).all():
        raise WeightError("weights are NaN or infinite, or so large that their squares overflow float64")
    spectra, measures = [], []
    for matrix in gram:
        try:
            eigenvalues, vectors = np.linalg.eigh(matrix)
        except np.linalg.LinAlgError as error:
            raise WeightError(f"the eigenvectors did not converge ({error})") from None
        spectra.append(eigenvalues * factor)
        measures.append(localization(vectors.T))
        del vectors
    return Localization(np.concatenate(spectra), np.concatenate(measures, axis=1))


def vector_metrics(load: Callable[[], NDArray[Any]], factor: float, xmin: float) -> VectorMetrics:
    """Means and variances of `measure_vectors` over tail and bulk.

    Args:
        load, factor: as there.
        xmin: where the tail begins, in units of the scaled eigenvalues; NaN where there is no tail.

    Returns:
        Means and variances; all NaN where there is no tail, and then no vector is computed.

    Raises:
        WeightError: NaN or infinite weights, or no convergence.
    """
    if not np.isfinite(xmin):
        return VectorMetrics(*[np.nan] * len(COLUMNS))
    return measure_vectors(load, factor).metrics(xmin)


def localization(vectors: Array) -> Array:
    """|v|_1 / |v|_inf, |v|_2 / |v|_4, and the entropy of the histogram of |v|, for each vector.

    The histogram has 100 bins between the least and the largest |v_i|, p_b the share of components in bin b; the
    entropy is -sum p_b ln p_b. Moving |v| by its mean would move the bins along and change nothing.

    Args:
        vectors: shape (vectors, n), none of them zero.

    Returns:
        Shape (3, vectors).
    """
    count, size = vectors.shape
    measures = np.empty((3, count))
    step = max(1, _BLOCK // size)
    for start in range(0, count, step):
        magnitudes = np.abs(vectors[start : start + step])
        largest = magnitudes.max(axis=1)
        squares = np.square(magnitudes)
        measures[0, start : start + step] = magnitudes.sum(axis=1) / largest
        measures[1, start : start + step] = np.sqrt(squares.sum(axis=1) / np.sqrt(np.square(squares).sum(axis=1)))
        measures[2, start : start + step] = _entropy(magnitudes, largest)
    return measures


def _entropy(magnitudes: Array, largest: Array) -> Array:
    """Entropies of the histograms of the rows, all filled by one count."""
    least = magnitudes.min(axis=1)
    spread = largest - least
    spread = np.where(spread > _FLAT * largest, spread, np.inf)
    bins = ((magnitudes - least[:, None]) * (BINS / spread)[:, None]).astype(np.intp)
    np.minimum(bins, BINS - 1, out=bins)  # the largest belongs to the last bin
    bins += np.arange(len(bins))[:, None] * BINS
    shares = np.bincount(bins.ravel(), minlength=len(bins) * BINS).reshape(-1, BINS) / magnitudes.shape[1]
    logs: Array = np.log(shares, out=np.zeros_like(shares), where=shares > 0.0)
    entropies: Array = -np.sum(shares * logs, axis=1)
    return entropies


def _moments(measures: Array) -> list[float]:
    """Mean and variance of each row in turn; NaN where there are no columns."""
    if not measures.shape[1]:
        return [np.nan] * (2 * len(measures))
    moments: list[float] = np.column_stack((measures.mean(axis=1), measures.var(axis=1))).ravel().tolist()
    return moments

"""Scale, rank and entropy of an ESD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .esd import Array


@dataclass(frozen=True)
class Norms:
    """Scale and rank metrics of one ESD; `log_*` are to base 10. NaN where a layer of zeros leaves them undefined.

    Attributes:
        norm: sum of the eigenvalues, the squared Frobenius norm.
        spectral_norm: the largest eigenvalue, the squared spectral norm.
        stable_rank: norm / spectral_norm.
        entropy: -sum(p ln p) / ln(rank), p = eigenvalue / norm; 1 for equal eigenvalues.
        weak_rank_loss: number of eigenvalues below the tolerance.
    """

    norm: float
    log_norm: float
    spectral_norm: float
    log_spectral_norm: float
    stable_rank: float
    entropy: float
    matrix_rank: int
    rank_loss: int
    weak_rank_loss: int


def norms(esd: Array, matrix_rank: int, tolerance: float) -> Norms:
    """Scale and rank metrics (Martin, Peng and Mahoney, arXiv:2002.06716; entropy: arXiv:1810.01075).

    Args:
        esd: eigenvalues, shape (n,), ascending, n >= 1.
        matrix_rank: number of singular values that are not zero, summed over the matrices of the layer.
        tolerance: eigenvalues below it count into weak_rank_loss.

    Returns:
        The metrics; norm = sum(lambda) and spectral_norm = max(lambda) in the units of the eigenvalues, logarithms to
        base 10.
    """
    norm, largest = float(esd.sum()), float(esd[-1])
    alive = norm > 0.0
    return Norms(
        norm=norm,
        log_norm=math.log10(norm) if alive else np.nan,
        spectral_norm=largest,
        log_spectral_norm=math.log10(largest) if alive else np.nan,
        stable_rank=norm / largest if alive else np.nan,
        entropy=entropy(esd, matrix_rank) if alive else np.nan,
        matrix_rank=matrix_rank,
        rank_loss=esd.size - matrix_rank,
        weak_rank_loss=int(np.count_nonzero(esd < tolerance)),
    )


def entropy(esd: Array, matrix_rank: int) -> float:
    """Normalised entropy of the eigenvalues (Martin and Mahoney, arXiv:1810.01075); 0 for a matrix of rank 1.

    -sum(p ln p) / ln(matrix_rank), p = lambda / sum(lambda).

    Args:
        esd: eigenvalues, shape (n,), ascending, not all zero.
        matrix_rank: the number whose logarithm normalises it.

    Returns:
        The entropy, without unit, 1 where all of `matrix_rank` eigenvalues are equal.
    """
    if matrix_rank < 2:
        return 0.0
    p = esd / esd.sum()
    p = p[np.searchsorted(p, 0.0, side="right") :]
    return -float((p * np.log(p)).sum()) / math.log(matrix_rank)


def log_alpha_norm(esd: Array, alpha: float) -> float:
    """log10 of sum(lambda^alpha), alpha the tail's exponent (Martin, Peng and Mahoney, arXiv:2002.06716).

    Summed in units of the largest eigenvalue, so that no power overflows.

    Args:
        esd: eigenvalues, shape (n,), ascending, the last above zero.
        alpha: exponent.

    Returns:
        The logarithm to base 10.
    """
    largest = float(esd[-1])
    return alpha * math.log10(largest) + math.log10(float(np.sum((esd / largest) ** alpha)))

"""Where and how precisely eigenvalues are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Below this M float32 saves nothing that one would notice.
_FAST_FROM = 256
#: How far rounding moves eigenvalues in units of eps * |G|_F where everything is done in one precision. The largest
#: seen in float32 were 23 (Cauchy weights) and 17 (Gaussian weights of few bits), mostly 1 to 9.
_UNITS = 40.0
#: Where the eigenvalues of the tridiagonal form are taken in float64: in units of eps * |G|_F, and of eps times the
#: eigenvalue itself (the product W^T W rounds in proportion to its entries). The largest seen in 20 kinds of weights
#: were 0.8 and 7.
_REDUCED, _OWN = 1.5, 12.0
#: A Gram matrix has no negative eigenvalues: the lowest that is found tells of a reduction that went worse, which
#: happens where one direction rules so much that nothing else is left (nearly constant weights). The largest error seen
#: was 3 times as far below zero.
_BELOW_ZERO = 4.0


@dataclass(frozen=True)
class Solver:
    """What computes eigenvalues.

    Attributes:
        device: "cpu" for numpy and LAPACK, "torch" for PyTorch on the CPU, "cuda" or "mps" for it on an accelerator.
        fast: Gram matrices and eigenvalues in float32.
    """

    device: str = "cpu"
    fast: bool = False

    @property
    def accelerated(self) -> bool:
        """Whether the matrices leave the CPU."""
        return self.device in ("cuda", "mps")

    def dtype(self, M: int) -> type[np.float32] | type[np.float64]:
        """The precision of a layer whose matrices have M eigenvalues."""
        return np.float32 if self.fast and M >= _FAST_FROM else np.float64


#: numpy and LAPACK in float64.
ACCURATE = Solver()


def rounding(values: NDArray[Any], eps: float, float64_tail: bool = False) -> NDArray[np.float64]:
    """How far rounding moves each eigenvalue of Gram matrices at most.

    LAPACK promises p(M) eps |G|_2 with a p that grows slowly (Anderson et al., LAPACK Users' Guide, sec. 4.7); what is
    seen follows eps |G|_F.

    Args:
        values: eigenvalues as they were computed, shape (matrices, M).
        eps: machine epsilon of the arithmetic.
        float64_tail: whether the eigenvalues of the tridiagonal form were taken in float64.

    Returns:
        Shape (matrices, M), or (matrices, 1) for one bound of all.
    """
    found = values.astype(np.float64, copy=False)
    largest = found.max(axis=-1, keepdims=True, initial=0.0)
    shares = np.divide(found, largest, out=np.zeros(values.shape), where=largest > 0.0)
    frobenius = largest * np.sqrt(np.square(shares).sum(axis=-1, keepdims=True))
    below = -found.min(axis=-1, keepdims=True, initial=0.0)
    own = _OWN * np.maximum(found, 0.0) if float64_tail else 0.0
    bound: NDArray[np.float64] = eps * ((_REDUCED if float64_tail else _UNITS) * frobenius + own) + _BELOW_ZERO * below
    return bound

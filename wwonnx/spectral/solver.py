"""Where and how precisely eigenvalues are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Below this M float32 saves nothing that one would notice.
_FAST_FROM = 256
#: How many units of eps * |G|_F rounding moves an eigenvalue. The largest seen were 8 in float32 (4096 x 1024 Gaussian
#: weights, both LAPACKs), 2.3 at 256; spectra that one eigenvalue rules, 7 of their eps * lambda_max.
_UNITS = 12.0


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


def rounding(values: NDArray[Any], eps: float) -> NDArray[np.float64]:
    """How far rounding moves the eigenvalues of each Gram matrix at most, shape (matrices,).

    LAPACK promises p(M) eps |G|_2 with a p that grows slowly (Anderson et al., LAPACK Users' Guide, sec. 4.7); what is
    seen follows eps |G|_F.

    Args:
        values: eigenvalues, shape (matrices, M).
        eps: machine epsilon of the arithmetic.
    """
    largest = values.max(axis=-1, keepdims=True, initial=0.0).astype(np.float64)
    shares = np.divide(values, largest, out=np.zeros(values.shape), where=largest > 0.0)
    bound: NDArray[np.float64] = _UNITS * eps * largest[..., 0] * np.sqrt(np.square(shares).sum(axis=-1))
    return bound

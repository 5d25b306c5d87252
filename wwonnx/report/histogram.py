"""Histograms of ESDs, for pictures on paper and in the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..spectral.esd import Array
from ..spectral.tail import threshold

#: How far below xmin, or else below the largest eigenvalue, a logarithmic axis reaches.
_BELOW_XMIN, _BELOW_MAX = 1e-2, 1e-4
_FEWEST, _MOST = 12, 100


@dataclass(frozen=True)
class Histogram:
    """Share of eigenvalues per unit of their axis.

    Attributes:
        edges: of the bins, shape (bins + 1,).
        density: counts / (all eigenvalues * width of the bin), shape (bins,).
        below, above: how many eigenvalues lie outside the edges. They count among all.
    """

    edges: Array
    density: Array
    below: int
    above: int


def bins(count: int) -> int:
    """How many bins so many eigenvalues fill: 2 sqrt(n), between 12 and 100."""
    return int(np.clip(2.0 * np.sqrt(count), _FEWEST, _MOST))


def log_range(esd: Array, xmin: float) -> tuple[float, float]:
    """From where to where a logarithmic axis shows an ESD: the tail, two decades of what lies below, no zeros.

    Args:
        esd: eigenvalues, shape (n,), ascending, the largest above zero.
        xmin: where the tail begins; NaN where there is none.
    """
    largest = float(esd[-1])
    low = max(threshold(largest), xmin * _BELOW_XMIN if np.isfinite(xmin) else largest * _BELOW_MAX)
    least = float(esd[np.searchsorted(esd, low)])
    # Equal eigenvalues have no range: a tenth on either side.
    return (least, largest) if least < largest * 0.999 else (least * 0.9, largest * 1.1)


def histogram(x: Array, edges: Array) -> Histogram:
    """Count values into bins.

    Args:
        x: shape (n,), ascending.
        edges: shape (bins + 1,), ascending. Each bin holds its lower edge; the last holds its upper one too.
    """
    # Rounding in the spacing of the edges must not cost the first or the last value.
    slack = 1e-12 * max(abs(float(edges[0])), abs(float(edges[-1])))
    inside = x[np.searchsorted(x, edges[0] - slack) : np.searchsorted(x, edges[-1] + slack, side="right")]
    below = int(np.searchsorted(x, edges[0] - slack))
    counts, _ = np.histogram(np.clip(inside, edges[0], edges[-1]), bins=edges)
    return Histogram(edges, counts / (x.size * np.diff(edges)), below, x.size - below - inside.size)


def log_edges(low: float, high: float, count: int) -> Array:
    """Edges of bins of equal width in the logarithm."""
    edges: Array = np.geomspace(low, high, count + 1)
    return edges

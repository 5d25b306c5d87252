"""Spectra of windows of one aspect ratio, so that layers of different shapes can be compared: subsample="farms"."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .esd import Spectrum, spectrum

#: Windows are square by default, as in the main experiments of the paper's authors.
ASPECT_RATIO = 1.0


@dataclass(frozen=True)
class Windows:
    """Equal windows over a matrix.

    Attributes:
        rows, columns: shape of each window.
        row_starts, column_starts: where windows begin; there is one for each pair.
    """

    rows: int
    columns: int
    row_starts: tuple[int, ...]
    column_starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.row_starts) * len(self.column_starts)

    def views(self, matrices: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The windows as views of shape (matrices, rows, columns), row by row.

        Args:
            matrices: shape (matrices, m, n), of the shape that the windows were made for.
        """
        for row in self.row_starts:
            for column in self.column_starts:
                yield matrices[:, row : row + self.rows, column : column + self.columns]


def windows(
    rows: int, columns: int, aspect_ratio: float = ASPECT_RATIO, size: int | None = None, per_axis: int | None = None
) -> Windows:
    """Windows of a fixed aspect ratio over a matrix of this shape (FARMS: Hu et al., arXiv:2506.06280).

    The paper slides windows of one ratio over the matrix and measures the tail of all their eigenvalues. Where they lie
    is chosen here:

    - The longer side of a window lies along the longer side of the matrix.
    - Its shorter side is `size`, or as large as fits; its longer side is `aspect_ratio` times that, rounded. A window
      that would not fit is made smaller as a whole, so that the ratio stays. Only where the matrix is too short for the
      ratio even at a shorter side of 1 is the longer side cut.
    - Along each axis windows begin at equal distances, the first at 0 and the last so that it ends with the axis: as
      many as it takes to cover the axis, or `per_axis`, but not more than there are places.

    A square matrix at ratio 1 gives one window, itself. 512 x 100 gives six of 100 x 100, which overlap by 18 rows.
    (For convolutions the authors' code, HUST-AI-HYZ/FARMS, takes five side by side, leaves the last 12 rows out, and
    averages alpha over the windows instead of pooling them.)

    Args:
        rows, columns: shape of the matrix, 1 or more each.
        aspect_ratio: longer by shorter side of a window, 1 or more; 1 in the authors' main experiments.
        size: shorter side of a window; None for the largest that fits.
        per_axis: number of windows along each axis (the authors take 10 to 15 of size 2000 for language models); None
            for the fewest that cover it.
    """
    longer, shorter = max(rows, columns), min(rows, columns)
    # The small number takes back the rounding of longer / aspect_ratio where that is a whole number.
    largest = max(1, min(shorter, math.floor(longer / aspect_ratio + 1e-9)))
    short = largest if size is None else min(size, largest)
    long = min(longer, max(short, round(short * aspect_ratio)))
    height, width = (long, short) if rows >= columns else (short, long)
    return Windows(height, width, _starts(rows, height, per_axis), _starts(columns, width, per_axis))


def farms_spectrum(
    load: Callable[[], NDArray[Any]],
    eps: float,
    aspect_ratio: float = ASPECT_RATIO,
    size: int | None = None,
    per_axis: int | None = None,
) -> Spectrum:
    """Eigenvalues of every window of every matrix, to be pooled: FARMS measures the tail of their union.

    Args:
        load: gives the matrices, shape (matrices, m, n), of any floating point type. It is called once and its array is
            held until the last window is done.
        eps: machine epsilon of the element type in which the weights are stored, for the rank.
        aspect_ratio, size, per_axis: as for `windows`.

    Returns:
        The spectrum, with one row per window and matrix: `pooled` is the layer's ESD. Ranks are those of the windows.

    Raises:
        WeightError: as for `spectrum`.
    """
    matrices = load()
    chosen = windows(matrices.shape[1], matrices.shape[2], aspect_ratio, size, per_axis)
    parts = [spectrum(partial(_itself, view), eps) for view in chosen.views(matrices)]
    return Spectrum(
        np.concatenate([part.eigenvalues for part in parts]), np.concatenate([part.ranks for part in parts])
    )


def _itself(view: NDArray[Any]) -> NDArray[Any]:
    return view


def _starts(length: int, window: int, count: int | None) -> tuple[int, ...]:
    room = length - window
    number = min(room + 1, math.ceil(length / window) if count is None else max(1, count))
    return tuple(int(start) for start in np.linspace(0, room, number).round()) if number > 1 else (0,)

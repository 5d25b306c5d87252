"""Spectra reduced to what a page draws: a few hundred numbers a layer, however many eigenvalues it has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..analysis import Kept
from ..spectral.esd import Array
from . import laws
from .histogram import bins, histogram, log_edges, log_range

Curve: TypeAlias = tuple[Array, Array]
#: Points of a law's curve.
_POINTS = 48


@dataclass(frozen=True)
class Picture:
    """The ESD of a row and what it is held against, as densities over eigenvalues.

    Attributes:
        edges: of the bins, evenly spaced in the logarithm, shape (bins + 1,).
        density: of the ESD, shape (bins,).
        below: eigenvalues too small to show.
        tail: the fitted law from xmin to xmax; None where there is no fit.
        null: the Marchenko-Pastur law of the same variance, nothing fitted.
        bulk: the fitted Marchenko-Pastur law; None where the layer is square, or it was not asked for.
        shuffle: density of the shuffled weights' eigenvalues, shape (bins,); None where it was not asked for.
    """

    edges: Array
    density: Array
    below: int
    tail: Curve | None
    null: Curve
    bulk: Curve | None
    shuffle: Array | None


def picture(row: Mapping[str, Any], kept: Kept) -> Picture | None:
    """Reduce the spectra of a row; None where every weight is zero."""
    esd = kept.esd
    if not esd[-1] > 0.0:
        return None
    low, high = log_range(esd, float(row["xmin"]))
    if kept.shuffle is not None:
        high = max(high, float(kept.shuffle[-1]))
    edges = log_edges(low, high, bins(esd.size))
    counted = histogram(esd, edges)
    is_truncated = float(row.get("Lambda") or 0.0) > 0.0
    square = row["N"] == row["M"]
    return Picture(
        edges,
        counted.density,
        counted.below,
        laws.tail_curve(row, kept.fitted, _POINTS if is_truncated else 2),
        _from(low, laws.null_curve(esd, float(row["Q"]), 2 * _POINTS)),
        None if square or not (bulk := laws.bulk_curve(row, "", 2 * _POINTS)) else _from(low, bulk),
        None if kept.shuffle is None else histogram(kept.shuffle, edges).density,
    )


def _from(low: float, curve: Curve) -> Curve:
    """The part of a curve that the picture shows."""
    x, y = curve
    return x[x >= low], y[x >= low]


def as_json(shown: Picture) -> dict[str, Any]:
    """The picture for the page's script, its numbers to four digits."""
    curves = {"tail": shown.tail, "null": shown.null, "bulk": shown.bulk}
    return {
        "low": float(f"{shown.edges[0]:.6g}"),
        "high": float(f"{shown.edges[-1]:.6g}"),
        "density": _short(shown.density),
        "below": shown.below,
        "shuffle": None if shown.shuffle is None else _short(shown.shuffle),
        **{name: None if curve is None else [_short(part) for part in curve] for name, curve in curves.items()},
    }


def _short(values: Array) -> list[float]:
    return [float(f"{value:.4g}") if math.isfinite(value) else 0.0 for value in np.asarray(values).tolist()]

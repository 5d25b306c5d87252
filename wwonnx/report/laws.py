"""Densities of what was fitted, on the scale of a whole ESD, from the numbers of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spectral.esd import Array
from ..spectral.marchenko_pastur import marchenko_pastur_density


def tail_curve(row: Mapping[str, Any], esd: Array, points: int = 200) -> tuple[Array, Array] | None:
    """The fitted law of the tail from xmin to xmax, its integral the share of the eigenvalues that it was fitted to.

    Args:
        row: of `analyze`: alpha, xmin, xmax, and Lambda where the law is a truncated power law.
        esd: the fitted eigenvalues, shape (n,), ascending.
        points: how many.

    Returns:
        Where and how dense, both of shape (points,), evenly spaced in the logarithm; None where there is no fit.
    """
    alpha, xmin, xmax = (float(row[name]) for name in ("alpha", "xmin", "xmax"))
    if not (math.isfinite(alpha) and xmax > xmin > 0.0):
        return None
    share = np.count_nonzero((esd >= xmin) & (esd <= xmax)) / esd.size
    x = np.geomspace(xmin, xmax, points)
    Lambda = float(row.get("Lambda", 0.0) or 0.0)
    if Lambda > 0.0:
        return x, share * _truncated(x / xmin, alpha, Lambda * xmin) / xmin
    return x, share * (alpha - 1.0) / xmin * (x / xmin) ** -alpha


def _truncated(t: Array, alpha: float, z: float) -> Array:
    """t^-alpha exp(-z t) over its integral from 1 on."""
    from scipy.integrate import quad

    # With t = e^u the integrand falls off doubly exponentially.
    end = math.log(1.0 + 60.0 / z)
    integral, _ = quad(lambda u: math.exp((1.0 - alpha) * u - z * math.expm1(u)), 0.0, end, limit=200)
    density: Array = t**-alpha * np.exp(-z * (t - 1.0)) / integral
    return density


def null_curve(esd: Array, Q: float, points: int = 200) -> tuple[Array, Array]:
    """The Marchenko-Pastur law of independent entries with the variance that the layer's have.

    Nothing is fitted: the law's mean is the ESD's.

    Args:
        esd: shape (n,), ascending, its sum above zero.
        Q: N / M.
        points: how many.

    Returns:
        Where and how dense; the points lie close together at the edges, where the law bends.
    """
    return _bulk(Q, 1.0, float(esd.mean()), points)


def bulk_curve(row: Mapping[str, Any], prefix: str = "", points: int = 200) -> tuple[Array, Array] | None:
    """The Marchenko-Pastur law that was fitted to the bulk, in the units of the ESD.

    Args:
        row: of `analyze` with mp_fit (or randomize, with prefix "rand_").
        prefix: of the columns.
        points: how many.

    Returns:
        Where and how dense; None where there is no fit.
    """
    sigma, scale = (float(row.get(prefix + name, math.nan)) for name in ("sigma_mp", "W_scale"))
    if not (math.isfinite(sigma) and math.isfinite(scale)):
        return None
    return _bulk(float(row["Q"]), sigma, 1.0 / scale**2, points)


def quarter_circle(row: Mapping[str, Any], prefix: str = "", points: int = 200) -> tuple[Array, Array] | None:
    """The law that is fitted to the singular values of a square matrix, in their units: sigma scales its density.

    Returns:
        As `bulk_curve`.
    """
    sigma, scale = (float(row.get(prefix + name, math.nan)) for name in ("sigma_mp", "W_scale"))
    if not (math.isfinite(sigma) and math.isfinite(scale)):
        return None
    x = 2.0 * np.sin(np.linspace(0.0, np.pi / 2.0, points))
    return x / scale, scale * np.sqrt(np.maximum(4.0 - x**2, 0.0)) / (np.pi * sigma**2)


def _bulk(Q: float, sigma: float, unit: float, points: int) -> tuple[Array, Array]:
    """The law of entries of standard deviation sigma, its eigenvalues times `unit`."""
    root = 1.0 / np.sqrt(Q)
    # At Q = 1 the density is infinite at zero: begin just above.
    angles = np.linspace(np.pi, 0.0, points) if Q > 1.0 else np.linspace(np.pi * 0.99, 0.0, points)
    x = sigma**2 * (1.0 + root**2 + 2.0 * root * np.cos(angles))
    return x * unit, marchenko_pastur_density(x, sigma, Q) / unit

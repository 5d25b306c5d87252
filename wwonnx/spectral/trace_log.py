"""The trace-log condition: how many of the largest eigenvalues have a determinant of one (detX, ERG)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .esd import Array


@dataclass(frozen=True)
class TraceLog:
    """Where the trace-log condition cuts an ESD.

    Attributes:
        num: number of eigenvalues that it keeps, column detX_num.
        value: the smallest of them in the units of the ESD, column detX_val.
    """

    num: int
    value: float


def trace_log(esd: Array) -> TraceLog:
    """Cut the ESD where the determinant of its largest eigenvalues falls below one.

    The eigenvalues, scaled to mean one, are multiplied from the largest on; the first count whose product is below
    one is the cut (Martin and Hinrichs, arXiv:2507.17912, the ERG condition). Logarithms are summed: products of
    thousands of eigenvalues over- and underflow.

    Args:
        esd: eigenvalues, shape (n,), ascending, their sum above zero.

    Returns:
        The cut; all n eigenvalues where the product never falls below one (all equal).
    """
    descending = esd[::-1]
    with np.errstate(divide="ignore"):
        logs = np.log(descending * (esd.size / esd.sum()))
    # Each logarithm is rounded: a product of ones must not read as less than one.
    rounding = 4.0 * np.finfo(np.float64).eps * np.arange(1, esd.size + 1)
    below = np.flatnonzero(np.cumsum(logs) < -rounding)
    num = int(below[0]) + 1 if below.size else esd.size
    return TraceLog(num, float(descending[num - 1]))

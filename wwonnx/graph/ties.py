"""Weights that are stored twice: tied embeddings that an exporter copied, layers that share their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from ..maps import expect_few_reads

if TYPE_CHECKING:
    from .walk import Found

#: Values of the diagonal that are compared before the whole weights are: a transpose leaves them in place.
_SAMPLES = 16
#: Weights of one repeated value (untrained, masked, sparse files) are compared as a whole only up to so many elements.
_MOST_UNIFORM = 1 << 22


def merge(weights: list[Found]) -> list[Found]:
    """Weights of equal values, transposed or not, become one with all uses; the first keeps its place.

    Only weights of equal shape are looked at, first at a few samples.
    """
    groups: dict[tuple[int, ...], list[Found]] = {}
    for weight in weights:
        groups.setdefault(_shape(weight), []).append(weight)
    gone: set[int] = set()
    for group in groups.values():
        if len(group) > 1:
            gone |= _merge_group(group)
    return [weight for weight in weights if id(weight) not in gone]


def _shape(weight: Found) -> tuple[int, ...]:
    return tuple(sorted(weight.shape)) if weight.is_matrix else (-1, *weight.shape)


def _merge_group(group: list[Found]) -> set[int]:
    gone: set[int] = set()
    by_sample: dict[bytes, list[Found]] = {}
    for weight in _alike(group):
        sample = _sample(weight, _SAMPLES)
        if sample is None:
            continue
        alike = by_sample.setdefault(sample, [])
        twin = next((other for other in alike if _equal(other, weight)), None)
        if twin is None:
            alike.append(weight)
        else:
            twin.uses.extend(weight.uses)
            twin.leaves.update(weight.leaves)
            gone.add(id(weight))
    return gone


def _alike(group: list[Found]) -> list[Found]:
    """Those whose corner is also another's: one value of each tells almost all apart, and costs one page of a file."""
    corners: dict[bytes, list[Found]] = {}
    for weight in group:
        corner = _sample(weight, 1)
        if corner is not None:
            corners.setdefault(corner, []).append(weight)
    return [weight for alike in corners.values() if len(alike) > 1 for weight in alike]


def _sample(weight: Found, samples: int) -> bytes | None:
    """A few values that a transpose leaves in place; None where the weight can't be read or is not worth the look."""
    if weight.constant.work > 0 and weight.constant.size > _MOST_UNIFORM:
        return None  # computed: a look would cost the whole expression
    try:
        array = weight.read()
    except WeightError:
        return None  # its row will say so
    expect_few_reads(array)
    length = min(array.shape[:2])
    if length == 0:
        return None
    if samples == 1:
        return np.asarray(array[0, 0], dtype=np.float64).tobytes()
    index = np.arange(samples) * (length - 1) // (samples - 1)
    values = np.asarray(array[index, index], dtype=np.float64)
    if array.size > _MOST_UNIFORM and np.all(values == values.flat[0]):
        return None
    return values.tobytes()


def _equal(one: Found, other: Found) -> bool:
    try:
        first, second = one.read(), other.read()
    except WeightError:
        return False
    if first.dtype != second.dtype:
        return False
    if first.shape == second.shape and _same(first, second):
        return True
    return one.is_matrix and other.is_matrix and first.shape == second.T.shape and _same(first, second.T)


def _same(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    """Equal in all values, compared some rows at a time: the arrays may be maps of large files."""
    step = max(1, (1 << 22) // max(1, first[0].size)) if len(first) else 1
    return all(np.array_equal(first[row : row + step], second[row : row + step]) for row in range(0, len(first), step))

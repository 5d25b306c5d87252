"""Small drawings inside the page: thumbnails of ESDs, and the correlation flow. They need no script, and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spectral.esd import Array
from .pictures import Picture

#: Size of a thumbnail, in units of its view box.
WIDTH, HEIGHT = 104, 34


@dataclass(frozen=True)
class Thumbnail:
    """Paths of the ESD on logarithmic axes: bulk and tail filled, the fit a line. Empty where there is none."""

    bulk: str
    tail: str
    fit: str


def thumbnail(shown: Picture, xmin: float) -> Thumbnail:
    """Draw a thumbnail.

    Args:
        shown: the reduced ESD.
        xmin: where the tail begins; NaN where there is none.
    """
    low, high = np.log10(shown.edges[0]), np.log10(shown.edges[-1])
    x = (np.log10(shown.edges) - low) / (high - low) * WIDTH
    positive = shown.density[shown.density > 0.0]
    floor, top = float(np.log10(positive.min())) - 0.5, float(np.log10(positive.max()))
    drop = (HEIGHT - 2.0) / (top - floor)

    def y(density: Array) -> Array:
        logs: Array = np.log10(np.maximum(density, 10.0**floor))
        return HEIGHT - np.clip((logs - floor) * drop, 0.0, HEIGHT)

    heights = y(shown.density)
    first = int(np.searchsorted(shown.edges, xmin * (1.0 + 1e-9), side="right")) - 1 if math.isfinite(xmin) else None
    split = heights.size if first is None else max(first, 0)
    fit = ""
    if shown.tail is not None:
        points = zip((np.log10(shown.tail[0]) - low) / (high - low) * WIDTH, y(shown.tail[1]), strict=True)
        fit = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in points)
    return Thumbnail(_steps(x[: split + 1], heights[:split]), _steps(x[split:], heights[split:]), fit)


def _steps(x: Array, heights: Array) -> str:
    """A closed path of bars that touch each other."""
    if not heights.size:
        return ""
    moves = "".join(f"V{down:.1f}H{right:.1f}" for down, right in zip(heights, x[1:], strict=True))
    return f"M{x[0]:.1f} {HEIGHT}{moves}V{HEIGHT}Z"


@dataclass(frozen=True)
class Point:
    """A layer in the flow: where, its row, what its tooltip says, and whether it lies beyond the edge."""

    x: float
    y: float
    row: int
    words: str
    beyond: bool


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: float
    words: str


@dataclass(frozen=True)
class Panel:
    """One chart of the flow, in units of its view box.

    Attributes:
        name: of the metric.
        width, height, left, right, top, bottom: of the view box, and the edges of the axes in it.
        x_ticks, y_ticks: numbers on the axes.
        band: upper and lower end of the range of well trained layers; None for other metrics.
        lines: the points of each model, and the path through them.
    """

    name: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    band: tuple[float, float] | None
    lines: list[tuple[list[Point], str]]


def flow(
    name: str,
    models: Sequence[Sequence[tuple[str, float]]],
    band: tuple[float, float] | None = None,
    most: float = math.inf,
) -> Panel | None:
    """A metric against depth: the position of the layer in its graph.

    Args:
        name: of the metric.
        models: for each model its layers in order, their names and values.
        band: the range to shade.
        most: values beyond it are drawn at the upper edge, as such.

    Returns:
        The chart; None where no layer has a value.
    """
    values = [value for layers in models for _, value in layers if math.isfinite(value)]
    if not values:
        return None
    width, height, left, right, top, bottom = 900.0, 250.0, 46.0, 888.0, 12.0, 214.0
    low = min(0.0, *values) if band is None else min(1.0, *values)
    high = min(most, max(*values, band[1] * 1.15 if band else -math.inf))
    steps = _round_steps(low, high)
    if steps[-1] < high < most:
        steps.append(2.0 * steps[-1] - steps[-2])
    low, high = min(low, steps[0]), max(high, steps[-1])
    longest = max(len(layers) for layers in models)

    def across(position: int) -> float:
        return left + 14.0 + (right - left - 28.0) * (position / (longest - 1) if longest > 1 else 0.5)

    def down(value: float) -> float:
        return bottom - (bottom - top) * (min(value, high) - low) / ((high - low) or 1.0)

    lines = []
    for layers in models:
        points = [
            Point(across(index), down(value), index, f"{layer}: {name} {value:.3f}", value > high)
            for index, (layer, value) in enumerate(layers)
            if math.isfinite(value)
        ]
        path = "M" + "L".join(f"{point.x:.1f} {point.y:.1f}" for point in points) if points else ""
        lines.append((points, path))
    stride = max(1, math.ceil(longest / 20))
    return Panel(
        *(name, width, height, left, right, top, bottom),
        x_ticks=[Tick(across(index), str(index + 1)) for index in range(0, longest, stride)],
        y_ticks=[Tick(down(step), f"{step:g}") for step in steps],
        band=(down(band[1]), down(band[0])) if band else None,
        lines=lines,
    )


def _round_steps(low: float, high: float) -> list[float]:
    """Two to eight round numbers from low to high."""
    span = (high - low) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 4.0))
    step = next(unit * factor for factor in (1.0, 2.0, 5.0, 10.0) if span / (unit * factor) <= 7.0)
    first = math.ceil(low / step - 1e-9)
    return [round((first + index) * step, 10) for index in range(int((high - first * step) / step + 1e-9) + 1)]

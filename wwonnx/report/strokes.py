"""What several pictures of a layer draw alike, and the layer as they see it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

from ..analysis import Kept
from ..spectral.esd import Array
from ..spectral.power_law import Scan, power_law_scan
from . import figures as f
from .histogram import bins, histogram, log_edges, log_range
from .plot_ids import plot_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .figures import LayerFigure

#: What a scan over xmin may cost: beyond it, not every start is taken.
_DIFFERENCES = 2e7
EIGENVALUE, DENSITY = "eigenvalue λ", "density ρ(λ)"


@dataclass(frozen=True)
class Layer:
    """A row and the spectra behind it."""

    row: Mapping[str, Any]
    kept: Kept

    @property
    def plot_id(self) -> str:
        """`3`, or `3:0` for a slice of layer 3."""
        return plot_id(self.row)

    @property
    def title(self) -> str:
        """Its id and name."""
        return f"Layer {self.plot_id}  {self.row['name']}"

    @property
    def size(self) -> str:
        """How large it is, in words."""
        rf = f" in {self.row['rf']} matrices" if self.row["rf"] > 1 and "slice_id" not in self.row else ""
        return f"{self.kept.esd.size} eigenvalues{rf} (N {self.row['N']}, M {self.row['M']})"

    def number(self, name: str) -> float:
        """A column of its row; NaN where it has none."""
        return float(self.row.get(name, math.nan))

    @property
    def has_fit(self) -> bool:
        """Whether its tail was fitted."""
        return math.isfinite(self.number("alpha"))

    @property
    def is_dead(self) -> bool:
        """Whether every weight is zero."""
        return not self.kept.esd[-1] > 0.0


def one(layer: Layer, about: str) -> tuple[LayerFigure, Axes]:
    """A figure with one panel, titled with the layer."""
    figure, (ax,) = f.new_figure(layer.title, about, layer.size)
    return figure, ax


def blank(layer: Layer, reason: str) -> LayerFigure:
    """Words in place of a picture."""
    figure, ax = one(layer, "nothing to draw")
    f.message(ax, reason)
    return figure


def scan(layer: Layer) -> Scan:
    """Alpha and D over xmin; the eigenvalues that the fit left out at the top are left out here too."""
    return power_law_scan(layer.kept.fitted, left_out(layer), _DIFFERENCES)


def left_out(layer: Layer) -> int:
    """How many of the largest eigenvalues the fit left out."""
    return int(np.count_nonzero(layer.kept.fitted > layer.number("xmax"))) if layer.has_fit else 0


def fit_words(layer: Layer) -> str:
    """The fit in a legend."""
    words = f"α = {layer.number('alpha'):.3f}"
    if math.isfinite(layer.number("sigma")):
        words += f" ± {layer.number('sigma'):.2g}"
    if layer.number("Lambda") > 0.0:
        words += f", Λ = {layer.number('Lambda'):.3g}"
    return f"{words}, D = {layer.number('D'):.3f}"


def mark_tail(ax: Axes, layer: Layer) -> None:
    """Where the tail begins, and where it ends before the largest eigenvalue; why there is none."""
    if not layer.has_fit:
        ax.plot([], [], " ", label=f"no fit: {layer.row['reason']}"[:70])
        return
    xmin_line(ax, layer)
    xmax = layer.number("xmax")
    if xmax < layer.kept.fitted[-1]:
        ax.axvline(xmax, color=f.ORANGE, linewidth=1.4, linestyle=":", label=f"xmax = {xmax:.3g}")


def xmin_line(ax: Axes, layer: Layer) -> None:
    """Where the tail begins."""
    xmin = layer.number("xmin")
    words = f"xmin = {xmin:.3g} ({layer.number('num_pl_spikes'):.0f} from there on)"
    ax.axvline(xmin, color="#222222", linewidth=1.1, linestyle=":", label=words)


def log_histogram(ax: Axes, layer: Layer, esd: Array, name: str, color: str) -> str:
    """The density per decade; what is not shown of it, in words."""
    low, high = log_range(esd, layer.number("xmin"))
    counted = histogram(esd, log_edges(low, high, bins(esd.size)))
    per_decade = counted.density * np.diff(counted.edges) / np.diff(np.log10(counted.edges))
    ax.stairs(per_decade, counted.edges, fill=True, color=color, label=name)
    return unseen(counted.below, "eigenvalue", f"below {low:.3g}")


def per_decade(x: Array, density: Array) -> Array:
    """A density over the logarithm to base ten."""
    per_decade: Array = density * x * math.log(10.0)
    return per_decade


def log_axis(ax: Axes) -> None:
    """Scale and name the axes of a density per decade."""
    ax.set_xscale("log")
    ticks(ax)
    f.label(ax, f"{EIGENVALUE}, logarithmic", "density per decade of λ")


def ticks(ax: Axes) -> None:
    """Numbers on logarithmic axes: powers of ten, or plain numbers where an axis spans less than two of them."""
    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log":
            narrow = high / low < 100.0
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
            axis.set_major_formatter(FuncFormatter(_plain) if narrow else LogFormatterSciNotation())
            axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: int | None) -> str:
    return f"{value:g}"


def bulk_words(layer: Layer, prefix: str) -> str:
    """The bulk's fit in a legend."""
    softrank = layer.number(prefix + "mp_softrank")
    return f"law: σ = {layer.number(prefix + 'sigma_mp'):.3f}, MP soft rank {softrank:.3f}"


def spikes(ax: Axes, layer: Layer, esd: Array, prefix: str, end: float, singular: bool = False) -> None:
    """Ticks for the eigenvalues beyond the bulk."""
    count = layer.number(prefix + "num_spikes")
    if not count > 0.0:
        return
    values = esd[esd.size - int(count) :]
    values = np.sqrt(values) if singular else values
    values = values[values <= end]
    what = "trap" if prefix else "spike"
    rug(ax, values, f"{count:.0f} {what}{'s' * (count != 1)} beyond the bulk", f.PURPLE)


def rug(ax: Axes, values: Array, words: str, color: str) -> None:
    """A tick above the axis for each value."""
    ax.plot(values, np.full(values.size, 0.02), "|", transform=ax.get_xaxis_transform(), color=color, markersize=11,
            markeredgewidth=1.6, label=words)  # fmt: skip


def shuffle_words(layer: Layer) -> str:
    """What the layer is held against, and how probable it is."""
    p = layer.number("rand_p_value")
    return f"The layer against its shuffled weights (p = {p:.2g})" if math.isfinite(p) else "The layer, shuffled"


def shuffle_marks(ax: Axes, layer: Layer, shuffle: Array) -> None:
    """The largest eigenvalue of the shuffle, and its traps."""
    largest = float(shuffle[-1])
    ax.axvline(largest, color=f.ORANGE, linewidth=1.6, label=f"largest when shuffled: {largest:.3g}")
    traps = layer.number("num_traps")
    if traps > 0.0:
        rug(ax, shuffle[shuffle.size - int(traps) :], f"{traps:.0f} correlation trap{'s' * (traps != 1)}", f.PURPLE)
    elif traps == 0.0:
        ax.plot([], [], " ", label="no correlation traps")


def two_parts(ax: Axes, bulk: Array, tail: Array, split: bool) -> None:
    """Histograms of what belongs to the bulk and to the tail, over the same bins."""
    both = np.concatenate((bulk, tail))
    if not both.size:
        return
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins(both.size) + 1)
    parts = ((bulk, f.BLUE, "bulk" if split else "all: no tail"), (tail, f.VERMILLION, "tail"))
    for values, color, name in parts:
        if values.size:
            density, _ = np.histogram(values, bins=edges, density=True)
            ax.stairs(density, edges, fill=True, color=color, alpha=0.45, label=f"{name} ({values.size})")
            ax.stairs(density, edges, color=color, linewidth=1.0)


def unseen(count: int, what: str, where: str) -> str:
    """What an axis leaves out, in words; empty where it is nothing."""
    return f"Not shown: {count} {what}{'s' * (count != 1)} {where}" if count else ""


def beyond(count: int, values: Array) -> str:
    """What lies beyond the right edge, in words."""
    return unseen(count, "value", f"beyond the right edge, up to {float(values[-1]):.4g}")

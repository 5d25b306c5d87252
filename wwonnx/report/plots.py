"""Pictures of one layer, from its row and the spectra behind it. Only what no row needs is computed here.

Kinds, and the names of their files, which are WeightWatcher's where it has such a picture, are in `KINDS`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..analysis import KEPT, Kept, Row
from ..errors import OptionError
from ..options import Options, nearest
from ..spectral.esd import Array
from ..spectral.power_law import Scan, power_law_scan
from ..spectral.transforms import level_spacings
from . import laws
from .histogram import bins, histogram, log_edges, log_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .figures import LayerFigure

#: Folder of analyze(plot=True), as in WeightWatcher.
DEFAULT_FOLDER = "ww-img"
#: What a scan over xmin may cost: beyond it, not every start is taken.
_DIFFERENCES = 2e7
_EIGENVALUE, _DENSITY = "eigenvalue λ", "density ρ(λ)"

Draw: TypeAlias = "Callable[[_Layer], LayerFigure]"


@dataclass(frozen=True)
class _Layer:
    """A row and the spectra behind it."""

    row: Mapping[str, Any]
    kept: Kept

    @property
    def plot_id(self) -> str:
        """`3`, or `3:0` for a slice of layer 3."""
        return _plot_id(self.row, ":")

    @property
    def title(self) -> str:
        return f"Layer {self.plot_id}  {self.row['name']}"

    @property
    def size(self) -> str:
        rf = f" in {self.row['rf']} matrices" if self.row["rf"] > 1 and "slice_id" not in self.row else ""
        return f"{self.kept.esd.size} eigenvalues{rf} (N {self.row['N']}, M {self.row['M']})"

    def number(self, name: str) -> float:
        return float(self.row.get(name, math.nan))

    @property
    def has_fit(self) -> bool:
        return math.isfinite(self.number("alpha"))

    @property
    def is_dead(self) -> bool:
        return not self.kept.esd[-1] > 0.0


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        file: what its file is called, between the layer's id and `.png`.
        about: what it shows.
        option: the option of `analyze` that it needs; empty for what is always drawn.
        draw: makes it.
        square: whether only layers with N = M have it.
    """

    file: str
    about: str
    option: str
    draw: Draw
    square: bool = False


def require() -> None:
    """Plots need matplotlib.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise OptionError("plots need matplotlib: pip install 'wwonnx[plot]'") from None


def names(options: Options) -> list[str]:
    """The kinds that these options bring."""
    return [name for name, kind in KINDS.items() if not kind.option or getattr(options, kind.option)]


def kind_of(name: str) -> Kind:
    """A kind by its name, or by that of its files.

    Raises:
        OptionError: there is none.
    """
    found = KINDS.get(name) or next((kind for kind in KINDS.values() if kind.file == name), None)
    if found is None:
        raise OptionError(f"kind={name!r}: there is no such plot; {nearest(str(name), list(KINDS))}")
    return found


def draw(row: Row, name: str) -> LayerFigure:
    """One picture of a row of an analysis whose options keep the spectra.

    Raises:
        OptionError: there is no such kind, or the layer has no such picture.
    """
    kind = kind_of(name)
    if KEPT not in row:
        raise OptionError(f"layer {row['layer_id']} {row['name']} has no spectrum to plot: {row['reason']}")
    layer = _Layer(row, row[KEPT])
    if layer.is_dead:
        return _blank(layer, "every weight is zero")
    if kind.square and row["N"] != row["M"]:
        raise OptionError(f"kind={name!r} is for square layers; {row['name']} is {row['N']} x {row['M']}: take 'mp'")
    return kind.draw(layer)


def draw_all(row: Row, options: Options) -> Iterator[tuple[str, LayerFigure]]:
    """Every picture of a row that the options bring, with the name of its file; none of a layer without a spectrum."""
    if KEPT not in row:
        return
    # A colon in a file's name means something else to Windows.
    plot_id = _plot_id(row, "-" if os.name == "nt" else ":")
    for name in names(options):
        kind = KINDS[name]
        if not kind.square or row["N"] == row["M"]:
            yield f"ww.layer{plot_id}.{kind.file}.png", draw(row, name)


def make_folder(savefig: Any) -> Path | None:
    """The folder that the argument `savefig` of `analyze` means, made; None for False.

    Raises:
        OptionError: it can't be made, or is none.
    """
    if savefig is False:
        return None
    if not isinstance(savefig, (str, os.PathLike)) and savefig is not True:
        raise OptionError(f"savefig={savefig!r}: give a folder, True for {DEFAULT_FOLDER!r}, or False")
    folder = Path(DEFAULT_FOLDER if savefig is True else savefig)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"savefig={str(folder)!r}: can't be made ({error.strerror or error})") from None
    return folder


def save(picture: LayerFigure, path: Path) -> None:
    """Write a picture as PNG.

    Raises:
        OptionError: it can't be written.
    """
    try:
        path.write_bytes(picture.png())
    except OSError as error:
        raise OptionError(f"savefig: {path} can't be written ({error.strerror or error})") from None


def _plot_id(row: Mapping[str, Any], separator: str) -> str:
    slice_id = row.get("slice_id")
    return f"{row['layer_id']}{separator}{slice_id}" if slice_id is not None else str(row["layer_id"])


# Each picture ---------------------------------------------------------------------------------------------------------


def _esd(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "ESD, logarithmic axes")
    esd = layer.kept.esd
    low, high = log_range(esd, layer.number("xmin"))
    counted = histogram(esd, log_edges(low, high, bins(esd.size)))
    least, top = counted.density[counted.density > 0.0].min(), float(counted.density.max())
    curve = laws.tail_curve(layer.row, layer.kept.fitted)
    floor = max(top * 1e-8, min([least / 3.0, *([curve[1][-1] / 1.5] if curve else [])]))
    ax.stairs(np.maximum(counted.density, floor), counted.edges, baseline=floor, fill=True, color=f.SKY, label="ESD")
    if curve:
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, linestyle="--", label=_fit_words(layer))
    _mark_tail(ax, layer)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(floor, top * 5.0)
    _ticks(ax)
    f.label(ax, _EIGENVALUE, _DENSITY)
    f.legend(ax, loc="upper right")
    f.remark(ax, _unseen(counted.below, "eigenvalue", f"below {low:.3g}"))
    return figure


def _linear(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "ESD, linear axes")
    esd = layer.kept.esd
    counted = histogram(esd, np.linspace(min(0.0, float(esd[0])), float(esd[-1]), bins(esd.size) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.SKY, label="ESD")
    if curve := laws.tail_curve(layer.row, layer.kept.fitted):
        ax.plot(*curve, color=f.VERMILLION, linewidth=1.6, linestyle="--", label=_fit_words(layer))
        ax.set_ylim(0.0, 1.08 * float(counted.density.max()))
    _mark_tail(ax, layer)
    f.label(ax, _EIGENVALUE, _DENSITY)
    f.legend(ax)
    return figure


def _log(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "ESD, logarithmic eigenvalues")
    esd = layer.kept.esd
    below = _log_histogram(ax, layer, esd, "ESD", f.SKY)
    if curve := laws.tail_curve(layer.row, layer.kept.fitted):
        top, law = ax.get_ylim()[1], _per_decade(*curve)
        ax.plot(curve[0], law, color=f.VERMILLION, linewidth=1.8, linestyle="--", label=_fit_words(layer))
        ax.set_ylim(0.0, max(top, min(2.0 * top, 1.05 * float(law.max()))))
    _mark_tail(ax, layer)
    _log_axis(ax)
    f.legend(ax)
    f.remark(ax, below)
    return figure


def _D(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "How good a power law is that begins at xmin")
    scan = _scan(layer)
    if not scan.x.size:
        return _blank(layer, str(layer.row["reason"]))
    ax.plot(scan.x, scan.distances, color=f.BLUE, linewidth=1.3, label="D of the best power law from there on")
    if layer.has_fit:
        _xmin_line(ax, layer)
        ax.plot(layer.number("xmin"), layer.number("D"), "o", color=f.VERMILLION, label=f"D = {layer.number('D'):.3f}")
    ax.set_xscale("log")
    ax.set_ylim(0.0, 1.05 * float(scan.distances.max()))
    _ticks(ax)
    f.label(ax, "xmin (eigenvalue λ)", "Kolmogorov-Smirnov distance D")
    f.legend(ax)
    return figure


def _alpha(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "Exponent of the power law that begins at xmin")
    scan = _scan(layer)
    if not scan.x.size:
        return _blank(layer, str(layer.row["reason"]))
    x = layer.kept.fitted
    followers = x.size - _left_out(layer) - np.searchsorted(x, scan.x)
    sigma = (scan.alphas - 1.0) / np.sqrt(followers)
    ax.axhspan(2.0, 6.0, color=f.GREEN, alpha=0.10, linewidth=0, label="2 to 6: well trained")
    ax.fill_between(
        scan.x, scan.alphas - sigma, scan.alphas + sigma, color=f.SKY, alpha=0.45, linewidth=0, label="± standard error"
    )
    ax.plot(scan.x, scan.alphas, color=f.BLUE, linewidth=1.3, label="α of the power law from there on")
    alpha = layer.number("alpha")
    if layer.has_fit:
        _xmin_line(ax, layer)
        ax.plot(layer.number("xmin"), alpha, "o", color=f.VERMILLION, label=f"α = {alpha:.3f}")
    top = max(8.0, 1.6 * alpha if layer.has_fit else 0.0)
    ax.set_xscale("log")
    ax.set_ylim(1.0, top)
    _ticks(ax)
    f.label(ax, "xmin (eigenvalue λ)", "α")
    f.legend(ax)
    f.remark(ax, _unseen(int(np.count_nonzero(scan.alphas > top)), "start", f"with α above {top:.3g}"))
    return figure


def _mp(layer: _Layer) -> LayerFigure:
    return _bulk(layer, layer.kept.esd, "")


def _mp_shuffled(layer: _Layer) -> LayerFigure:
    assert layer.kept.shuffle is not None
    return _bulk(layer, layer.kept.shuffle, "rand_")


def _bulk(layer: _Layer, esd: Array, prefix: str) -> LayerFigure:
    """The bulk and its law; of a square layer the singular values and the quarter circle, which is what was fitted."""
    return _bulk_circle(layer, esd, prefix) if layer.row["N"] == layer.row["M"] else _bulk_density(layer, esd, prefix)


def _mp_square(layer: _Layer) -> LayerFigure:
    return _bulk_density(layer, layer.kept.esd, "")


def _bulk_density(layer: _Layer, esd: Array, prefix: str) -> LayerFigure:
    from . import figures as f

    of = "shuffled weights" if prefix else "ESD"
    figure, ax = _one(layer, f"Marchenko-Pastur law, {of}")
    upper = layer.number(prefix + "bulk_max")
    end = min(float(esd[-1]), 3.0 * upper) if math.isfinite(upper) else float(esd[-1])
    counted = histogram(esd, np.linspace(0.0, end, max(bins(esd.size), 40) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.ORANGE if prefix else f.SKY, label=of)
    if curve := laws.bulk_curve(layer.row, prefix):
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, label=_bulk_words(layer, prefix))
        ax.axvline(upper, color=f.GREY, linewidth=1.2, linestyle=":", label=f"bulk_max = {upper:.3g}")
        ax.set_ylim(0.0, 1.1 * max(float(counted.density.max()), min(float(curve[1].max()), 2 * counted.density.max())))
    _spikes(ax, layer, esd, prefix, end)
    f.label(ax, _EIGENVALUE, _DENSITY)
    f.legend(ax)
    f.remark(ax, _beyond(counted.above, esd))
    return figure


def _bulk_circle(layer: _Layer, esd: Array, prefix: str) -> LayerFigure:
    from . import figures as f

    of = "shuffled weights" if prefix else "ESD"
    figure, ax = _one(layer, f"Quarter circle law (N = M), singular values of the {of}")
    singular = np.sqrt(esd)
    curve = laws.quarter_circle(layer.row, prefix)
    end = min(float(singular[-1]), 3.0 * float(curve[0][-1])) if curve else float(singular[-1])
    counted = histogram(singular, np.linspace(0.0, end, max(bins(esd.size), 40) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.ORANGE if prefix else f.SKY, label=of)
    if curve:
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, label=_bulk_words(layer, prefix))
        upper = math.sqrt(layer.number(prefix + "bulk_max"))
        ax.axvline(upper, color=f.GREY, linewidth=1.2, linestyle=":", label=f"√bulk_max = {upper:.3g}")
    _spikes(ax, layer, esd, prefix, end, singular=True)
    f.label(ax, "singular value √λ", "density")
    f.legend(ax)
    f.remark(ax, _beyond(counted.above, singular))
    return figure


def _randomized(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, _shuffle_words(layer))
    esd, shuffle = layer.kept.esd, layer.kept.shuffle
    assert shuffle is not None
    end = min(float(max(esd[-1], shuffle[-1])), 3.0 * float(shuffle[-1]))
    edges = np.linspace(0.0, end, max(bins(esd.size), 40) + 1)
    counted = histogram(esd, edges)
    ax.stairs(counted.density, edges, fill=True, color=f.SKY, label="ESD")
    ax.stairs(histogram(shuffle, edges).density, edges, color=f.VERMILLION, linewidth=1.6, label="weights shuffled")
    _shuffle_marks(ax, layer, shuffle)
    f.label(ax, _EIGENVALUE, _DENSITY)
    f.legend(ax)
    f.remark(ax, _beyond(counted.above, esd))
    return figure


def _randomized_log(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, _shuffle_words(layer))
    shuffle = layer.kept.shuffle
    assert shuffle is not None
    low = min(log_range(layer.kept.esd, layer.number("xmin"))[0], log_range(shuffle, math.nan)[0])
    high = float(max(layer.kept.esd[-1], shuffle[-1]))
    edges = log_edges(low, high, bins(shuffle.size))
    counted = histogram(layer.kept.esd, edges)
    decades = np.diff(np.log10(edges))
    ax.stairs(counted.density * np.diff(edges) / decades, edges, fill=True, color=f.SKY, label="ESD")
    shuffled = histogram(shuffle, edges).density * np.diff(edges) / decades
    ax.stairs(shuffled, edges, color=f.VERMILLION, linewidth=1.6, label="weights shuffled")
    _shuffle_marks(ax, layer, shuffle)
    _log_axis(ax)
    f.legend(ax)
    f.remark(ax, _unseen(counted.below, "eigenvalue", f"below {low:.3g}"))
    return figure


def _detX(layer: _Layer) -> LayerFigure:
    from . import figures as f

    cut, count = layer.number("detX_val"), layer.number("detX_num")
    figure, ax = _one(layer, "Trace-log condition")
    below = _log_histogram(ax, layer, layer.kept.esd, "ESD", f.SKY)
    if math.isfinite(cut):
        ax.axvline(cut, color=f.PURPLE, linewidth=2.0, label=f"detX = 1: λ = {cut:.3g}, {count:.0f} eigenvalues")
    if layer.has_fit:
        xmin = layer.number("xmin")
        gap = f", ERG gap {layer.number('ERG_gap'):+.0f}"
        words = f"xmin = {xmin:.3g}, {layer.number('num_pl_spikes'):.0f} eigenvalues{gap}"
        ax.axvline(xmin, color=f.VERMILLION, linewidth=1.6, linestyle="--", label=words)
        ax.axvspan(min(xmin, cut), max(xmin, cut), color=f.PURPLE, alpha=0.12, linewidth=0)
    _log_axis(ax)
    f.legend(ax)
    f.remark(ax, below)
    return figure


def _spacings(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "Level spacings in the order of the eigenvalues")
    spacings = level_spacings(layer.kept.esd)
    apart = np.isfinite(spacings)
    rank = np.arange(spacings.size)
    ax.plot(rank[apart], spacings[apart], ".", color=f.BLUE, markersize=4, label="spacing to the next eigenvalue")
    if layer.has_fit:
        first = int(np.searchsorted(layer.kept.esd, layer.number("xmin")))
        ax.axvline(first, color=f.VERMILLION, linewidth=1.4, linestyle="--", label=f"xmin = {layer.number('xmin'):.3g}")
    f.label(ax, "rank of the eigenvalue, smallest first", "log10 Δλ")
    f.legend(ax)
    f.remark(ax, _unseen(int(np.count_nonzero(~apart)), "spacing", "between equal eigenvalues"))
    return figure


def _level_stats(layer: _Layer) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "Level statistics")
    esd = layer.kept.esd
    spacings = level_spacings(esd)
    apart = np.isfinite(spacings)
    tail = esd[:-1] >= layer.number("xmin") if layer.has_fit else np.zeros(spacings.size, bool)
    _two_parts(ax, spacings[apart & ~tail], spacings[apart & tail], split=layer.has_fit)
    f.label(ax, "log10 Δλ", "density")
    f.legend(ax)
    f.remark(ax, _unseen(int(np.count_nonzero(~apart)), "spacing", "between equal eigenvalues"))
    return figure


_VECTOR_LABELS = ("localisation ratio", "participation ratio", "entropy / nats")


def _vectors(layer: _Layer) -> LayerFigure:
    from . import figures as f

    found = layer.kept.vectors
    assert found is not None
    figure, axes = f.new_figure(layer.title, "How localised the eigenvectors are", layer.size, panels=3)
    low, high = log_range(np.sort(found.eigenvalues), layer.number("xmin"))
    shown = (found.eigenvalues >= low) & (found.eigenvalues <= high * 1.001)
    for ax, values, name in zip(axes, found.measures, _VECTOR_LABELS, strict=True):
        ax.plot(found.eigenvalues[shown], values[shown], ".", color=f.BLUE, markersize=4, label="eigenvector")
        if layer.has_fit:
            _xmin_line(ax, layer)
        ax.set_ylabel(name, fontsize=9.5)
        ax.set_xscale("log")
    _ticks(axes[-1])
    axes[-1].set_xlabel(_EIGENVALUE, fontsize=10)
    f.legend(axes[0])
    f.remark(axes[-1], _unseen(int(np.count_nonzero(~shown)), "eigenvector", f"below {low:.3g}"))
    return figure


def _vector_histograms(layer: _Layer) -> LayerFigure:
    from . import figures as f

    found = layer.kept.vectors
    assert found is not None
    figure, axes = f.new_figure(layer.title, "Eigenvectors of tail and bulk", layer.size, panels=3, share=False)
    tail = found.tail(layer.number("xmin")) if layer.has_fit else np.zeros(found.eigenvalues.size, bool)
    for ax, values, name in zip(axes, found.measures, _VECTOR_LABELS, strict=True):
        _two_parts(ax, values[~tail], values[tail], split=layer.has_fit)
        f.label(ax, name, "density")
    f.legend(axes[0])
    return figure


#: Every kind, in the order in which they are drawn.
KINDS: dict[str, Kind] = {
    "esd": Kind("esd", "the ESD on logarithmic axes, the fit and xmin", "", _esd),
    "linear": Kind("esd2", "the ESD on linear axes", "", _linear),
    "log": Kind("esd3", "the ESD over the logarithm of the eigenvalue", "", _log),
    "D": Kind("esd4", "D against xmin", "", _D),
    "alpha": Kind("esd5", "alpha against xmin", "", _alpha),
    "detX": Kind("detX", "the trace-log condition", "detX", _detX),
    "mp_square": Kind("mpfit1", "a square layer's eigenvalues and the same law", "mp_fit", _mp_square, True),
    "mp": Kind("mpfit2", "the bulk and the fitted Marchenko-Pastur law", "mp_fit", _mp),
    "randomized": Kind("randesd1", "the ESD and that of the shuffled weights", "randomize", _randomized),
    "randomized_log": Kind("randesd2", "the same over the logarithm of the eigenvalue", "randomize", _randomized_log),
    "mp_shuffled": Kind("randmpfit", "the shuffled weights' bulk, and traps", "randomize", _mp_shuffled),
    "spacings": Kind("deltaEs", "level spacings in order", "deltas", _spacings),
    "level_stats": Kind("level-stats", "level spacings of tail and bulk", "deltas", _level_stats),
    "vectors": Kind("vector_metrics", "how localised each eigenvector is", "vectors", _vectors),
    "vector_histograms": Kind("vector_histograms", "the same, of tail and bulk", "vectors", _vector_histograms),
}


# What several pictures draw -------------------------------------------------------------------------------------------


def _one(layer: _Layer, about: str) -> tuple[LayerFigure, Axes]:
    from . import figures as f

    figure, (ax,) = f.new_figure(layer.title, about, layer.size)
    return figure, ax


def _blank(layer: _Layer, reason: str) -> LayerFigure:
    from . import figures as f

    figure, ax = _one(layer, "nothing to draw")
    f.message(ax, reason)
    return figure


def _scan(layer: _Layer) -> Scan:
    """Alpha and D over xmin; the eigenvalues that the fit left out at the top are left out here too."""
    return power_law_scan(layer.kept.fitted, _left_out(layer), _DIFFERENCES)


def _left_out(layer: _Layer) -> int:
    """How many of the largest eigenvalues the fit left out."""
    return int(np.count_nonzero(layer.kept.fitted > layer.number("xmax"))) if layer.has_fit else 0


def _fit_words(layer: _Layer) -> str:
    words = f"α = {layer.number('alpha'):.3f}"
    if math.isfinite(layer.number("sigma")):
        words += f" ± {layer.number('sigma'):.2g}"
    if layer.number("Lambda") > 0.0:
        words += f", Λ = {layer.number('Lambda'):.3g}"
    return f"{words}, D = {layer.number('D'):.3f}"


def _mark_tail(ax: Axes, layer: _Layer) -> None:
    """Where the tail begins, and where it ends before the largest eigenvalue; why there is none."""
    from . import figures as f

    if not layer.has_fit:
        ax.plot([], [], " ", label=f"no fit: {layer.row['reason']}"[:70])
        return
    _xmin_line(ax, layer)
    xmax = layer.number("xmax")
    if xmax < layer.kept.fitted[-1]:
        ax.axvline(xmax, color=f.ORANGE, linewidth=1.4, linestyle=":", label=f"xmax = {xmax:.3g}")


def _xmin_line(ax: Axes, layer: _Layer) -> None:
    xmin = layer.number("xmin")
    words = f"xmin = {xmin:.3g} ({layer.number('num_pl_spikes'):.0f} from there on)"
    ax.axvline(xmin, color="#222222", linewidth=1.1, linestyle=":", label=words)


def _log_histogram(ax: Axes, layer: _Layer, esd: Array, name: str, color: str) -> str:
    """The density per decade; what is not shown of it, in words."""
    low, high = log_range(esd, layer.number("xmin"))
    counted = histogram(esd, log_edges(low, high, bins(esd.size)))
    per_decade = counted.density * np.diff(counted.edges) / np.diff(np.log10(counted.edges))
    ax.stairs(per_decade, counted.edges, fill=True, color=color, label=name)
    return _unseen(counted.below, "eigenvalue", f"below {low:.3g}")


def _per_decade(x: Array, density: Array) -> Array:
    per_decade: Array = density * x * math.log(10.0)
    return per_decade


def _log_axis(ax: Axes) -> None:
    from . import figures as f

    ax.set_xscale("log")
    _ticks(ax)
    f.label(ax, f"{_EIGENVALUE}, logarithmic", "density per decade of λ")


def _ticks(ax: Axes) -> None:
    """Numbers on logarithmic axes: powers of ten, or plain numbers where an axis spans less than two of them."""
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

    for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        if axis.get_scale() == "log":
            narrow = high / low < 100.0
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
            axis.set_major_formatter(FuncFormatter(_plain) if narrow else LogFormatterSciNotation())
            axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: int | None) -> str:
    return f"{value:g}"


def _bulk_words(layer: _Layer, prefix: str) -> str:
    softrank = layer.number(prefix + "mp_softrank")
    return f"law: σ = {layer.number(prefix + 'sigma_mp'):.3f}, MP soft rank {softrank:.3f}"


def _spikes(ax: Axes, layer: _Layer, esd: Array, prefix: str, end: float, singular: bool = False) -> None:
    from . import figures as f

    count = layer.number(prefix + "num_spikes")
    if not count > 0.0:
        return
    values = esd[esd.size - int(count) :]
    values = np.sqrt(values) if singular else values
    values = values[values <= end]
    what = "trap" if prefix else "spike"
    _rug(ax, values, f"{count:.0f} {what}{'s' * (count != 1)} beyond the bulk", f.PURPLE)


def _rug(ax: Axes, values: Array, words: str, color: str) -> None:
    """A tick above the axis for each value."""
    ax.plot(values, np.full(values.size, 0.02), "|", transform=ax.get_xaxis_transform(), color=color, markersize=11,
            markeredgewidth=1.6, label=words)  # fmt: skip


def _shuffle_words(layer: _Layer) -> str:
    p = layer.number("rand_p_value")
    return f"The layer against its shuffled weights (p = {p:.2g})" if math.isfinite(p) else "The layer, shuffled"


def _shuffle_marks(ax: Axes, layer: _Layer, shuffle: Array) -> None:
    from . import figures as f

    largest = float(shuffle[-1])
    ax.axvline(largest, color=f.ORANGE, linewidth=1.6, label=f"largest when shuffled: {largest:.3g}")
    traps = layer.number("num_traps")
    if traps > 0.0:
        _rug(ax, shuffle[shuffle.size - int(traps) :], f"{traps:.0f} correlation trap{'s' * (traps != 1)}", f.PURPLE)
    elif traps == 0.0:
        ax.plot([], [], " ", label="no correlation traps")


def _two_parts(ax: Axes, bulk: Array, tail: Array, split: bool) -> None:
    """Histograms of what belongs to the bulk and to the tail, over the same bins."""
    from . import figures as f

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


def _unseen(count: int, what: str, where: str) -> str:
    return f"Not shown: {count} {what}{'s' * (count != 1)} {where}" if count else ""


def _beyond(count: int, values: Array) -> str:
    return _unseen(count, "value", f"beyond the right edge, up to {float(values[-1]):.4g}")

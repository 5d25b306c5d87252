"""Each picture of a layer. `plots.KINDS` tells what they are called, and which options bring them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..spectral.esd import Array
from ..spectral.transforms import level_spacings
from . import figures as f
from . import laws, strokes
from .histogram import bins, histogram, log_edges, log_range
from .strokes import Layer

if TYPE_CHECKING:
    from .figures import LayerFigure

Draw: TypeAlias = "Callable[[Layer], LayerFigure]"


def _esd(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "ESD, logarithmic axes")
    esd = layer.kept.esd
    low, high = log_range(esd, layer.number("xmin"))
    counted = histogram(esd, log_edges(low, high, bins(esd.size)))
    least, top = counted.density[counted.density > 0.0].min(), float(counted.density.max())
    curve = laws.tail_curve(layer.row, layer.kept.fitted)
    floor = max(top * 1e-8, min([least / 3.0, *([curve[1][-1] / 1.5] if curve else [])]))
    ax.stairs(np.maximum(counted.density, floor), counted.edges, baseline=floor, fill=True, color=f.SKY, label="ESD")
    if curve:
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, linestyle="--", label=strokes.fit_words(layer))
    strokes.mark_tail(ax, layer)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(floor, top * 5.0)
    strokes.ticks(ax)
    f.label(ax, strokes.EIGENVALUE, strokes.DENSITY)
    f.legend(ax, loc="upper right")
    f.remark(ax, strokes.unseen(counted.below, "eigenvalue", f"below {low:.3g}"))
    return figure


def _linear(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "ESD, linear axes")
    esd = layer.kept.esd
    counted = histogram(esd, np.linspace(min(0.0, float(esd[0])), float(esd[-1]), bins(esd.size) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.SKY, label="ESD")
    if curve := laws.tail_curve(layer.row, layer.kept.fitted):
        ax.plot(*curve, color=f.VERMILLION, linewidth=1.6, linestyle="--", label=strokes.fit_words(layer))
        ax.set_ylim(0.0, 1.08 * float(counted.density.max()))
    strokes.mark_tail(ax, layer)
    f.label(ax, strokes.EIGENVALUE, strokes.DENSITY)
    f.legend(ax)
    return figure


def _log(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "ESD, logarithmic eigenvalues")
    esd = layer.kept.esd
    below = strokes.log_histogram(ax, layer, esd, "ESD", f.SKY)
    if curve := laws.tail_curve(layer.row, layer.kept.fitted):
        top, law = ax.get_ylim()[1], strokes.per_decade(*curve)
        ax.plot(curve[0], law, color=f.VERMILLION, linewidth=1.8, linestyle="--", label=strokes.fit_words(layer))
        ax.set_ylim(0.0, max(top, min(2.0 * top, 1.05 * float(law.max()))))
    strokes.mark_tail(ax, layer)
    strokes.log_axis(ax)
    f.legend(ax)
    f.remark(ax, below)
    return figure


def _D(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "How good a power law is that begins at xmin")
    scan = strokes.scan(layer)
    if not scan.x.size:
        return strokes.blank(layer, str(layer.row["reason"]))
    ax.plot(scan.x, scan.distances, color=f.BLUE, linewidth=1.3, label="D of the best power law from there on")
    if layer.has_fit:
        strokes.xmin_line(ax, layer)
        ax.plot(layer.number("xmin"), layer.number("D"), "o", color=f.VERMILLION, label=f"D = {layer.number('D'):.3f}")
    ax.set_xscale("log")
    ax.set_ylim(0.0, 1.05 * float(scan.distances.max()))
    strokes.ticks(ax)
    f.label(ax, "xmin (eigenvalue λ)", "Kolmogorov-Smirnov distance D")
    f.legend(ax)
    return figure


def _alpha(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "Exponent of the power law that begins at xmin")
    scan = strokes.scan(layer)
    if not scan.x.size:
        return strokes.blank(layer, str(layer.row["reason"]))
    x = layer.kept.fitted
    followers = x.size - strokes.left_out(layer) - np.searchsorted(x, scan.x)
    sigma = (scan.alphas - 1.0) / np.sqrt(followers)
    ax.axhspan(2.0, 6.0, color=f.GREEN, alpha=0.10, linewidth=0, label="2 to 6: well trained")
    ax.fill_between(
        scan.x, scan.alphas - sigma, scan.alphas + sigma, color=f.SKY, alpha=0.45, linewidth=0, label="± standard error"
    )
    ax.plot(scan.x, scan.alphas, color=f.BLUE, linewidth=1.3, label="α of the power law from there on")
    alpha = layer.number("alpha")
    if layer.has_fit:
        strokes.xmin_line(ax, layer)
        ax.plot(layer.number("xmin"), alpha, "o", color=f.VERMILLION, label=f"α = {alpha:.3f}")
    top = max(8.0, 1.6 * alpha if layer.has_fit else 0.0)
    ax.set_xscale("log")
    ax.set_ylim(1.0, top)
    strokes.ticks(ax)
    f.label(ax, "xmin (eigenvalue λ)", "α")
    f.legend(ax)
    f.remark(ax, strokes.unseen(int(np.count_nonzero(scan.alphas > top)), "start", f"with α above {top:.3g}"))
    return figure


def _mp(layer: Layer) -> LayerFigure:
    return _bulk(layer, layer.kept.esd, "")


def _mp_shuffled(layer: Layer) -> LayerFigure:
    assert layer.kept.shuffle is not None
    return _bulk(layer, layer.kept.shuffle, "rand_")


def _bulk(layer: Layer, esd: Array, prefix: str) -> LayerFigure:
    """The bulk and its law; of a square layer the singular values and the quarter circle, which is what was fitted."""
    return _bulk_circle(layer, esd, prefix) if layer.row["N"] == layer.row["M"] else _bulk_density(layer, esd, prefix)


def _mp_square(layer: Layer) -> LayerFigure:
    return _bulk_density(layer, layer.kept.esd, "")


def _bulk_density(layer: Layer, esd: Array, prefix: str) -> LayerFigure:
    of = "shuffled weights" if prefix else "ESD"
    figure, ax = strokes.one(layer, f"Marchenko-Pastur law, {of}")
    upper = layer.number(prefix + "bulk_max")
    end = min(float(esd[-1]), 3.0 * upper) if math.isfinite(upper) else float(esd[-1])
    counted = histogram(esd, np.linspace(0.0, end, max(bins(esd.size), 40) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.ORANGE if prefix else f.SKY, label=of)
    if curve := laws.bulk_curve(layer.row, prefix):
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, label=strokes.bulk_words(layer, prefix))
        ax.axvline(upper, color=f.GREY, linewidth=1.2, linestyle=":", label=f"bulk_max = {upper:.3g}")
        ax.set_ylim(0.0, 1.1 * max(float(counted.density.max()), min(float(curve[1].max()), 2 * counted.density.max())))
    strokes.spikes(ax, layer, esd, prefix, end)
    f.label(ax, strokes.EIGENVALUE, strokes.DENSITY)
    f.legend(ax)
    f.remark(ax, strokes.beyond(counted.above, esd))
    return figure


def _bulk_circle(layer: Layer, esd: Array, prefix: str) -> LayerFigure:
    of = "shuffled weights" if prefix else "ESD"
    figure, ax = strokes.one(layer, f"Quarter circle law (N = M), singular values of the {of}")
    singular = np.sqrt(esd)
    curve = laws.quarter_circle(layer.row, prefix)
    end = min(float(singular[-1]), 3.0 * float(curve[0][-1])) if curve else float(singular[-1])
    counted = histogram(singular, np.linspace(0.0, end, max(bins(esd.size), 40) + 1))
    ax.stairs(counted.density, counted.edges, fill=True, color=f.ORANGE if prefix else f.SKY, label=of)
    if curve:
        ax.plot(*curve, color=f.VERMILLION, linewidth=2.0, label=strokes.bulk_words(layer, prefix))
        upper = math.sqrt(layer.number(prefix + "bulk_max"))
        ax.axvline(upper, color=f.GREY, linewidth=1.2, linestyle=":", label=f"√bulk_max = {upper:.3g}")
    strokes.spikes(ax, layer, esd, prefix, end, singular=True)
    f.label(ax, "singular value √λ", "density")
    f.legend(ax)
    f.remark(ax, strokes.beyond(counted.above, singular))
    return figure


def _randomized(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, strokes.shuffle_words(layer))
    esd, shuffle = layer.kept.esd, layer.kept.shuffle
    assert shuffle is not None
    end = min(float(max(esd[-1], shuffle[-1])), 3.0 * float(shuffle[-1]))
    edges = np.linspace(0.0, end, max(bins(esd.size), 40) + 1)
    counted = histogram(esd, edges)
    ax.stairs(counted.density, edges, fill=True, color=f.SKY, label="ESD")
    ax.stairs(histogram(shuffle, edges).density, edges, color=f.VERMILLION, linewidth=1.6, label="weights shuffled")
    strokes.shuffle_marks(ax, layer, shuffle)
    f.label(ax, strokes.EIGENVALUE, strokes.DENSITY)
    f.legend(ax)
    f.remark(ax, strokes.beyond(counted.above, esd))
    return figure


def _randomized_log(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, strokes.shuffle_words(layer))
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
    strokes.shuffle_marks(ax, layer, shuffle)
    strokes.log_axis(ax)
    f.legend(ax)
    f.remark(ax, strokes.unseen(counted.below, "eigenvalue", f"below {low:.3g}"))
    return figure


def _detX(layer: Layer) -> LayerFigure:
    cut, count = layer.number("detX_val"), layer.number("detX_num")
    figure, ax = strokes.one(layer, "Trace-log condition")
    below = strokes.log_histogram(ax, layer, layer.kept.esd, "ESD", f.SKY)
    if math.isfinite(cut):
        ax.axvline(cut, color=f.PURPLE, linewidth=2.0, label=f"detX = 1: λ = {cut:.3g}, {count:.0f} eigenvalues")
    if layer.has_fit:
        xmin = layer.number("xmin")
        gap = f", ERG gap {layer.number('ERG_gap'):+.0f}"
        words = f"xmin = {xmin:.3g}, {layer.number('num_pl_spikes'):.0f} eigenvalues{gap}"
        ax.axvline(xmin, color=f.VERMILLION, linewidth=1.6, linestyle="--", label=words)
        ax.axvspan(min(xmin, cut), max(xmin, cut), color=f.PURPLE, alpha=0.12, linewidth=0)
    strokes.log_axis(ax)
    f.legend(ax)
    f.remark(ax, below)
    return figure


def _spacings(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "Level spacings in the order of the eigenvalues")
    spacings = level_spacings(layer.kept.esd)
    apart = np.isfinite(spacings)
    rank = np.arange(spacings.size)
    ax.plot(rank[apart], spacings[apart], ".", color=f.BLUE, markersize=4, label="spacing to the next eigenvalue")
    if layer.has_fit:
        first = int(np.searchsorted(layer.kept.esd, layer.number("xmin")))
        ax.axvline(first, color=f.VERMILLION, linewidth=1.4, linestyle="--", label=f"xmin = {layer.number('xmin'):.3g}")
    f.label(ax, "rank of the eigenvalue, smallest first", "log10 Δλ")
    f.legend(ax)
    f.remark(ax, strokes.unseen(int(np.count_nonzero(~apart)), "spacing", "between equal eigenvalues"))
    return figure


def _level_stats(layer: Layer) -> LayerFigure:
    figure, ax = strokes.one(layer, "Level statistics")
    esd = layer.kept.esd
    spacings = level_spacings(esd)
    apart = np.isfinite(spacings)
    tail = esd[:-1] >= layer.number("xmin") if layer.has_fit else np.zeros(spacings.size, bool)
    strokes.two_parts(ax, spacings[apart & ~tail], spacings[apart & tail], split=layer.has_fit)
    f.label(ax, "log10 Δλ", "density")
    f.legend(ax)
    f.remark(ax, strokes.unseen(int(np.count_nonzero(~apart)), "spacing", "between equal eigenvalues"))
    return figure


_VECTOR_LABELS = ("localisation ratio", "participation ratio", "entropy / nats")


def _vectors(layer: Layer) -> LayerFigure:
    found = layer.kept.vectors
    assert found is not None
    figure, axes = f.new_figure(layer.title, "How localised the eigenvectors are", layer.size, panels=3)
    low, high = log_range(np.sort(found.eigenvalues), layer.number("xmin"))
    shown = (found.eigenvalues >= low) & (found.eigenvalues <= high * 1.001)
    for ax, values, name in zip(axes, found.measures, _VECTOR_LABELS, strict=True):
        ax.plot(found.eigenvalues[shown], values[shown], ".", color=f.BLUE, markersize=4, label="eigenvector")
        if layer.has_fit:
            strokes.xmin_line(ax, layer)
        ax.set_ylabel(name, fontsize=9.5)
        ax.set_xscale("log")
    strokes.ticks(axes[-1])
    axes[-1].set_xlabel(strokes.EIGENVALUE, fontsize=10)
    f.legend(axes[0])
    f.remark(axes[-1], strokes.unseen(int(np.count_nonzero(~shown)), "eigenvector", f"below {low:.3g}"))
    return figure


def _vector_histograms(layer: Layer) -> LayerFigure:
    found = layer.kept.vectors
    assert found is not None
    figure, axes = f.new_figure(layer.title, "Eigenvectors of tail and bulk", layer.size, panels=3, share=False)
    tail = found.tail(layer.number("xmin")) if layer.has_fit else np.zeros(found.eigenvalues.size, bool)
    for ax, values, name in zip(axes, found.measures, _VECTOR_LABELS, strict=True):
        strokes.two_parts(ax, values[~tail], values[tail], split=layer.has_fit)
        f.label(ax, name, "density")
    f.legend(axes[0])
    return figure


#: Every kind's, by its name.
DRAW: Mapping[str, Draw] = {
    "esd": _esd,
    "linear": _linear,
    "log": _log,
    "D": _D,
    "alpha": _alpha,
    "detX": _detX,
    "mp_square": _mp_square,
    "mp": _mp,
    "randomized": _randomized,
    "randomized_log": _randomized_log,
    "mp_shuffled": _mp_shuffled,
    "spacings": _spacings,
    "level_stats": _level_stats,
    "vectors": _vectors,
    "vector_histograms": _vector_histograms,
}

"""Pictures of several models: a metric against accuracy, and a metric along the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import OptionError
from ..options import nearest
from ..tails import OVER_TRAINED, UNDER_TRAINED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .figures import LayerFigure

#: With more models than this, names beside the points would cover them.
_NAMED = 12
_MARKERS = "osD^vP*X"
#: Okabe and Ito's colours, the best told apart first.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def accuracy_plot(summaries: pd.DataFrame, correlations: pd.DataFrame, metric: str) -> LayerFigure:
    """Accuracy against a metric, one point per model, with the line of least squares.

    Args:
        summaries: one row per model, columns `accuracy`, the metric, and `group` where there are groups.
        correlations: one row per metric: kendall_tau, slope, intercept, rmse, r2.
        metric: which.

    Raises:
        OptionError: there is no such metric, or there are no accuracies.
    """
    import pandas as pd

    from . import figures as f

    if "accuracy" not in summaries:
        raise OptionError("no model has an accuracy: give accuracies to compare()")
    _known(metric, list(correlations.index))
    fit = correlations.loc[metric]
    points = summaries[[metric, "accuracy"]].dropna()
    figure, (ax,) = f.new_figure(f"Accuracy against {metric}", _fit_words(fit), f"{len(points)} models")
    groups = summaries.loc[points.index, "group"] if "group" in summaries else pd.Series("", points.index)
    for index, (label, rows) in enumerate(points.groupby(groups, sort=False)):
        look: Any = {"color": _COLORS[index % len(_COLORS)], "marker": _MARKERS[index % len(_MARKERS)]}
        ax.plot(rows[metric], rows["accuracy"], linestyle="", markersize=7, label=f.drawable(str(label)), **look)
    if math.isfinite(fit["slope"]):
        ends = np.array([points[metric].min(), points[metric].max()])
        ax.plot(ends, fit["intercept"] + fit["slope"] * ends, color=f.GREY, linewidth=1.2)
    if len(points) <= _NAMED:
        for name, x, y in points.itertuples():
            ax.annotate(
                f.drawable(str(name)),
                (x, y),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8.5,
                parse_math=False,
                annotation_clip=False,
            )
    ax.margins(0.12)
    f.label(ax, f"{metric} (mean over layers)", "accuracy")
    if "group" in summaries:
        _legend(ax)
    f.remark(ax, "" if len(points) <= _NAMED else "too many models to name each")
    return figure


def layers_plot(details: Mapping[str, pd.DataFrame], metric: str) -> LayerFigure:
    """A metric along the layers of several models: their correlation flow.

    Args:
        details: the rows of each model, in graph order.
        metric: a column of them.

    Raises:
        OptionError: a model has no such column, or it holds no numbers.
    """
    from matplotlib.ticker import MaxNLocator

    from . import figures as f

    for rows in details.values():
        _known(metric, list(rows.columns[[kind.kind in "fiub" for kind in rows.dtypes]]))
    figure, (ax,) = f.new_figure(
        f"{metric} along the layers", "each model's layers in graph order", f"{len(details)} models"
    )
    missing = 0
    for index, (name, rows) in enumerate(details.items()):
        values = rows[metric].to_numpy(dtype=np.float64)
        missing += int(np.isnan(values).sum())
        look: Any = {"color": _COLORS[index % len(_COLORS)], "marker": _MARKERS[index % len(_MARKERS)]}
        label = f.drawable(str(name))
        ids = rows["layer_id"].to_numpy() if "layer_id" in rows else np.arange(1, len(rows) + 1)
        ax.plot(ids, values, markersize=4.5, linewidth=0.8, label=label, **look)
    if metric == "alpha":
        for limit in (OVER_TRAINED, UNDER_TRAINED):
            ax.axhline(limit, color=f.GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    f.label(ax, "layer id", metric)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(ax)
    f.remark(ax, f"{missing} layers without {metric}" if missing else "")
    return figure


def _known(metric: str, known: list[str]) -> None:
    if metric not in known:
        raise OptionError(f"metric={metric!r}: there is no such metric; {nearest(str(metric), known)}")


def _fit_words(fit: pd.Series[float]) -> str:
    if not math.isfinite(fit["slope"]):
        return "too few models, or too equal ones, for a line"
    return f"Kendall's tau {fit['kendall_tau']:+.2f}, R² {fit['r2']:.2f}, RMSE {fit['rmse']:.2g}"


def _legend(ax: Axes) -> None:
    """A legend of names, which are no formulas."""
    from . import figures as f

    f.legend(ax)
    legend = ax.get_legend()
    for text in legend.get_texts() if legend else ():
        text.set_parse_math(False)

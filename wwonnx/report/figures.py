"""What every figure shares: a canvas of its own, titles that are never markup, colours that all people can tell.

Only matplotlib's object-oriented interface is used: pyplot, its current figure, its settings and its backend are the
user's.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from ..graph.words import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours (https://jfly.uni-koeln.de/color/).
BLUE, SKY, VERMILLION, ORANGE, GREEN, PURPLE = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7"
GREY = "#6b6b6b"
_WIDTH, _HEIGHT, _DPI = 6.8, 4.6, 110
#: Inches around the axes: fixed, since searching for them draws every figure twice.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.92, 0.2, 0.72, 0.64
_LONGEST_TITLE = 64


class LayerFigure(Figure):
    """A figure that belongs to nobody else's list of figures, and shows itself in a notebook."""

    def png(self) -> bytes:
        """The figure as a PNG file."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi="figure", facecolor="white")
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def new_figure(
    title: str, subtitle: str, size: str, panels: int = 1, share: bool = True
) -> tuple[LayerFigure, list[Axes]]:
    """A figure with one panel, or several below each other that share their horizontal axis.

    Args:
        title: the layer.
        subtitle: what is drawn.
        size: how large the layer is; it stands at the lower right.
        panels: how many.
        share: whether they share their horizontal axis.
    """
    height = _HEIGHT if panels == 1 else 1.0 + 2.0 * panels
    figure = LayerFigure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=_LEFT / _WIDTH,
        right=1.0 - _RIGHT / _WIDTH,
        bottom=_BOTTOM / height,
        top=1.0 - _TOP / height,
        hspace=0.14 if share else 0.45,
    )
    axes: list[Axes] = figure.subplots(panels, 1, sharex=share, squeeze=False)[:, 0].tolist()
    for ax in axes:
        ax.set_facecolor("white")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9, colors="#222222")
    left = _LEFT / _WIDTH
    plain: Any = {"parse_math": False, "usetex": False, "ha": "left", "va": "top"}  # names are no formulas
    figure.text(left, 1.0 - 0.13 / height, drawable(title), fontsize=11.5, fontweight="bold", **plain)
    figure.text(left, 1.0 - 0.39 / height, drawable(subtitle, 100), fontsize=9, color="#444444", **plain)
    plain |= {"ha": "right", "va": "bottom"}
    figure.text(1.0 - _RIGHT / _WIDTH, 0.05 / height, drawable(size, 80), fontsize=7.5, color=GREY, **plain)
    return figure, axes


def label(ax: Axes, x: str, y: str) -> None:
    """Name the axes."""
    ax.set_xlabel(x, fontsize=10)
    ax.set_ylabel(y, fontsize=10)


def legend(ax: Axes, **where: Any) -> None:
    """A legend of what has a label; none where nothing has."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8.5, framealpha=0.9, edgecolor="#cccccc", **where)


def remark(ax: Axes, text: str) -> None:
    """A line below the axes, at the left: what the picture does not show."""
    if text:
        plain: Any = {"parse_math": False, "usetex": False, "va": "bottom"}
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.text(0.1 / _WIDTH, 0.05 / figure.get_figheight(), drawable(text, 90), fontsize=7.5, color=GREY, **plain)


def message(ax: Axes, text: str) -> None:
    """Words in place of a picture."""
    ax.text(
        *(0.5, 0.5, drawable(text, 90)),
        transform=ax.transAxes,
        ha="center",
        va="center",
        wrap=True,
        color=GREY,
        parse_math=False,
        usetex=False,
    )
    ax.set_axis_off()


def drawable(text: str, longest: int = _LONGEST_TITLE) -> str:
    """Text without letters that the font has not: matplotlib would warn of each."""
    return "".join(letter if _has(letter) else "?" for letter in clean(text, longest))


@lru_cache(maxsize=4096)
def _has(letter: str) -> bool:
    return bool(get_font(findfont(FontProperties())).get_char_index(ord(letter)))

"""Pictures of one layer, from its row and the spectra behind it. Only what no row needs is computed here.

Kinds, and the names of their files, which are WeightWatcher's where it has such a picture, are in `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis import KEPT, Row
from ..errors import OptionError
from ..options import Options, nearest
from .plot_ids import plot_id

if TYPE_CHECKING:
    from .figures import LayerFigure

#: Folder of analyze(plot=True), as in WeightWatcher.
DEFAULT_FOLDER = "ww-img"


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        file: what its file is called, between the layer's id and `.png`.
        about: what it shows.
        option: the option of `analyze` that it needs; empty for what is always drawn.
        square: whether only layers with N = M have it.
    """

    file: str
    about: str
    option: str
    square: bool = False


#: Every kind, in the order in which they are drawn.
KINDS: dict[str, Kind] = {
    "esd": Kind("esd", "the ESD on logarithmic axes, the fit and xmin", ""),
    "linear": Kind("esd2", "the ESD on linear axes", ""),
    "log": Kind("esd3", "the ESD over the logarithm of the eigenvalue", ""),
    "D": Kind("esd4", "D against xmin", ""),
    "alpha": Kind("esd5", "alpha against xmin", ""),
    "detX": Kind("detX", "the trace-log condition", "detX"),
    "mp_square": Kind("mpfit1", "a square layer's eigenvalues and the same law", "mp_fit", square=True),
    "mp": Kind("mpfit2", "the bulk and the fitted Marchenko-Pastur law", "mp_fit"),
    "randomized": Kind("randesd1", "the ESD and that of the shuffled weights", "randomize"),
    "randomized_log": Kind("randesd2", "the same over the logarithm of the eigenvalue", "randomize"),
    "mp_shuffled": Kind("randmpfit", "the shuffled weights' bulk, and traps", "randomize"),
    "spacings": Kind("deltaEs", "level spacings in order", "deltas"),
    "level_stats": Kind("level-stats", "level spacings of tail and bulk", "deltas"),
    "vectors": Kind("vector_metrics", "how localised each eigenvector is", "vectors"),
    "vector_histograms": Kind("vector_histograms", "the same, of tail and bulk", "vectors"),
}


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


def kind_of(name: str) -> str:
    """The name of a kind, given that or the one of its files.

    Raises:
        OptionError: there is none.
    """
    found = next((key for key, kind in KINDS.items() if name in (key, kind.file)), None)
    if found is None:
        raise OptionError(f"kind={name!r}: there is no such plot; {nearest(str(name), list(KINDS))}")
    return found


def draw(row: Row, name: str) -> LayerFigure:
    """One picture of a row of an analysis whose options keep the spectra.

    Raises:
        OptionError: there is no such kind, or the layer has no such picture.
    """
    name = kind_of(name)
    kind = KINDS[name]
    if KEPT not in row:
        raise OptionError(f"layer {row['layer_id']} {row['name']} has no spectrum to plot: {row['reason']}")
    from . import drawings, strokes

    layer = strokes.Layer(row, row[KEPT])
    if layer.is_dead:
        return strokes.blank(layer, "every weight is zero")
    if kind.square and row["N"] != row["M"]:
        raise OptionError(f"kind={name!r} is for square layers; {row['name']} is {row['N']} x {row['M']}: take 'mp'")
    return drawings.DRAW[name](layer)


def draw_all(row: Row, options: Options) -> Iterator[tuple[str, LayerFigure]]:
    """Every picture of a row that the options bring, with the name of its file; none of a layer without a spectrum."""
    if KEPT not in row:
        return
    # A colon in a file's name means something else to Windows.
    own_id = plot_id(row, "-" if os.name == "nt" else ":")
    for name in names(options):
        kind = KINDS[name]
        if not kind.square or row["N"] == row["M"]:
            yield f"ww.layer{own_id}.{kind.file}.png", draw(row, name)


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

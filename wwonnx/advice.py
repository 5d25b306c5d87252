"""What the numbers suggest: tables, never an edit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

#: Columns that advice is made from.
_NEEDED = ("layer_id", "name", "N", "M", "rf", "alpha")


def advise(
    details: pd.DataFrame,
    sparsity: float = 0.5,
    pruning_spread: float = 0.2,
    rate_spread: tuple[float, float] = (0.5, 1.5),
) -> pd.DataFrame:
    """Pruning ratios, learning rate scales and ranks to keep, layer by layer.

    - `pruning_ratio`: AlphaPruning's linear map (Lu et al., arXiv:2410.10912): layers with heavier tails, the better
      trained ones, are pruned less. With a = (alpha - min) / (max - min), the ratio is eta (s1 + a (s2 - s1)), where
      s1 = 1 - spread, s2 = 1 + spread, and eta is such that the ratios, weighted by the layers' parameters, make the
      wanted sparsity together. Ratios that would pass 1 are cut there, and the others take what is missing.
    - `lr_scale`: TempBalance's (Zhou et al., arXiv:2312.00359): layers of large alpha, not yet trained, learn faster:
      s1 + a (s2 - s1), what the base learning rate is multiplied by.
    - `rank_to_keep`: detX_num, spread over the rf matrices of a convolution (ceil(detX_num / rf) in each), where the
      details have it (`analyze(detX=True)`).

    Args:
        details: from `analyze`, one row per layer.
        sparsity: share of all parameters of these layers to prune, between 0 and 1.
        pruning_spread: how far ratios differ from the mean one, from 0 (all equal) to below 1.
        rate_spread: smallest and largest learning rate scale.

    Returns:
        Columns layer_id, name, alpha, parameters, pruning_ratio, lr_scale, rank_to_keep. Layers without an alpha get
        the mean: the sparsity asked for, and the scale 1.

    Raises:
        OptionError: a value that can't be, or details without the columns that are needed.
    """
    import pandas as pd

    missing = [column for column in _NEEDED if column not in details.columns]
    if missing or "slice_id" in details.columns:
        what = f"they lack {', '.join(missing)}" if missing else "they hold slices"
        raise OptionError(f"details: {what}; give those of analyze() with pool=True")
    if not 0.0 <= sparsity <= 1.0:
        raise OptionError(f"sparsity={sparsity!r}: give a share between 0 and 1")
    if not 0.0 <= pruning_spread < 1.0:
        raise OptionError(f"pruning_spread={pruning_spread!r}: give a number from 0 to below 1")
    low, high = rate_spread
    if not 0.0 < low <= high:
        raise OptionError(f"rate_spread={rate_spread!r}: give two numbers above 0, the smaller first")
    alpha = details["alpha"].to_numpy(dtype=float)
    parameters = (details["N"] * details["M"] * details["rf"]).to_numpy(dtype=float)
    place = _between(alpha)
    scale = np.where(np.isnan(place), 1.0, low + np.nan_to_num(place) * (high - low))
    shape = np.where(np.isnan(place), 1.0, 1.0 - pruning_spread + 2.0 * pruning_spread * np.nan_to_num(place))
    frame: pd.DataFrame = pd.DataFrame(
        {
            "layer_id": details["layer_id"].to_numpy(),
            "name": details["name"].to_numpy(),
            "alpha": alpha,
            "parameters": parameters.astype(np.int64),
            "pruning_ratio": _ratios(shape, parameters, sparsity),
            "lr_scale": scale,
        }
    )
    if "detX_num" in details.columns:
        positions = details["rf"].to_numpy(dtype=float)
        frame["rank_to_keep"] = np.ceil(details["detX_num"].to_numpy(dtype=float) / positions)
    return frame


def _between(alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each alpha lies between the smallest (0) and the largest (1); 1/2 where all are equal."""
    known = alpha[np.isfinite(alpha)]
    if not known.size:
        return np.full_like(alpha, np.nan)
    width = float(known.max() - known.min())
    if width == 0.0:
        return np.where(np.isfinite(alpha), 0.5, np.nan)
    place: NDArray[np.float64] = np.where(np.isfinite(alpha), (alpha - known.min()) / width, np.nan)
    return place


def _ratios(shape: NDArray[np.float64], parameters: NDArray[np.float64], sparsity: float) -> NDArray[np.float64]:
    """eta * shape, at most 1, so that sum(ratio * parameters) = sparsity * sum(parameters)."""
    total = float(parameters.sum())
    if total == 0.0:
        return np.full_like(shape, sparsity)
    full = np.zeros(shape.shape, dtype=bool)
    ratios = np.full_like(shape, sparsity)
    while not full.all():
        rest = sparsity * total - float(parameters[full].sum())
        eta = rest / float((shape * parameters)[~full].sum())
        ratios = np.where(full, 1.0, eta * shape)
        over = (ratios > 1.0) & ~full
        if not over.any():
            break
        full |= over
    return np.clip(ratios, 0.0, 1.0)

"""Two models, layer by layer: what training, fine-tuning or quantisation did to each weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .analysis import Row
from .errors import WeightError
from .layer import WeightLayer
from .matching import match
from .options import choice
from .spectral import distances as measures

if TYPE_CHECKING:
    import pandas as pd

#: How the distance between two weights is measured.
METHODS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "raw": measures.raw,
    "euclidean": measures.euclidean,
    "cka": measures.cka,
}
COLUMNS = (
    *("method", "layer_id", "name", "delta_W", "delta_b", "relative", "N", "M", "b_shape"),
    *("status", "reason", "layer_id_2", "name_2", "weight_dtype", "weight_dtype_2"),
)


def compare_layers(first: tuple[WeightLayer, ...], second: tuple[WeightLayer, ...], method: str) -> pd.DataFrame:
    """One row per pair of layers, then one per layer without a partner.

    Args:
        first, second: the layers of two models.
        method: a key of METHODS.

    Returns:
        Columns COLUMNS. `delta_W` is the distance of the weights, `relative` that over |W_1|_F (not for cka),
        `delta_b` that of the biases, NaN where one has none. A layer without a partner has status `unmatched`.

    Raises:
        OptionError: there is no such method.
    """
    import pandas as pd

    choice("method", method.lower() if isinstance(method, str) else method, tuple(METHODS))
    matching = match(first, second)
    rows = [_row(one, other, method.lower()) for one, other in matching.pairs]
    rows += [_alone(layer, method, "") for layer in matching.only_first]
    rows += [_alone(layer, method, "_2") for layer in matching.only_second]
    types = {"layer_id": "Int64", "layer_id_2": "Int64"}
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)
    return frame


def _row(one: WeightLayer, other: WeightLayer, method: str) -> Row:
    row = _about(one, "") | _about(other, "_2") | {"method": method, "N": one.N, "M": one.M, "reason": ""}
    try:
        first, second = one.matrices(), other.matrices()
        row["delta_W"] = METHODS[method](first, second)
        norm = _norm(first)
    except WeightError as error:
        return row | {"status": "failed", "reason": str(error), "delta_W": np.nan, "delta_b": np.nan}
    row["relative"] = row["delta_W"] / norm if method != "cka" and norm > 0.0 else np.nan
    row["status"] = "success" if np.isfinite(row["delta_W"]) else "failed"
    if row["status"] == "failed":
        row["reason"] = "weights that are NaN or infinite, or all equal in every column"
    return row | _biases(one, other)


def _norm(matrices: NDArray[Any]) -> float:
    return float(np.sqrt(sum(float(np.square(matrix.astype(np.float64)).sum()) for matrix in matrices)))


def _biases(one: WeightLayer, other: WeightLayer) -> Row:
    if one.read_bias is None or other.read_bias is None:
        return {"delta_b": np.nan}
    try:
        first, second = (layer().astype(np.float64).reshape(-1) for layer in (one.read_bias, other.read_bias))
    except WeightError:
        return {"delta_b": np.nan}
    if first.shape != second.shape:
        return {"delta_b": np.nan}
    return {"delta_b": float(np.linalg.norm(first - second)), "b_shape": first.shape}


def _about(layer: WeightLayer, ending: str) -> Row:
    return {f"layer_id{ending}": layer.layer_id, f"name{ending}": layer.name, f"weight_dtype{ending}": layer.dtype}


def _alone(layer: WeightLayer, method: str, ending: str) -> Row:
    matrices, outputs, inputs = layer.matrix_shape
    which = "second" if not ending else "first"
    return _about(layer, ending) | {
        "method": method,
        "N": layer.N,
        "M": layer.M,
        "delta_W": np.nan,
        "delta_b": np.nan,
        "status": "unmatched",
        "reason": f"the {which} model has no layer of this name, or left, of {matrices} x {outputs} x {inputs}",
    }

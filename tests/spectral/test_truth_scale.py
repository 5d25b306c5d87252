"""A layer times a constant is the same layer: what has no unit stays, what has one follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from building import model_of
from onnx import helper

import wwonnx as ww

#: What a column is multiplied by when weights are multiplied by c: c, its square, its inverse.
LINEAR = {"sv_max", "sv_min"}
SQUARE = {
    *("norm", "spectral_norm", "lambda_max", "xmin", "xmax", "detX_val", "bulk_min", "bulk_max"),
    *("rand_bulk_min", "rand_bulk_max", "max_rand_eval", "ww_maxdist"),
}
INVERSE = {"W_scale", "rand_W_scale"}
#: These mix a shape with the scale, or count below an absolute tolerance.
MIXED = {"alpha_weighted", "log_alpha_norm", "weak_rank_loss", "Lambda"}
OPTIONS: list[dict[str, Any]] = [
    {"detX": True, "mp_fit": True, "randomize": True, "vectors": True, "deltas": True, "ci": True, "gof": True},
    {"fit": "TPL"},
    {"fit": "E_TPL"},
    {"fix_fingers": "clip_xmax"},
    {"fix_fingers": "xmin_peak"},
    {"estimator": "hill"},
    {"subsample": "farms"},
    {"alternatives": True},
    {"pool": False, "mp_fit": True},
    {"xmax": -2, "conv2d_norm": False},
]


def details(scale: float, **options: Any) -> pd.DataFrame:
    """Heavy-tailed, Gaussian and convolutional weights times a constant, in float64.

    Their eigenvalues are above a thousandth of the largest, which is where the threshold of small layers lies.
    """
    generator = np.random.default_rng(0)
    heavy = generator.standard_normal((96, 60)) * (1.0 + generator.pareto(2.5, 60))
    tensors = {
        "heavy.weight": scale * heavy,
        "noise.weight": scale * generator.standard_normal((80, 64)),
        "conv.weight": scale * generator.standard_t(3.0, (24, 12, 3, 3)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "heavy.weight"], ["a"]),
        helper.make_node("MatMul", ["a", "noise.weight"], ["b"]),
        helper.make_node("Conv", ["b", "conv.weight"], ["y"]),
    ]
    return ww.analyze(model_of(nodes, tensors), **options)


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_shape_metrics_do_not_see_the_scale(scale: float, options: dict[str, Any]) -> None:
    plain, scaled = details(1.0, **options), details(scale, **options)
    assert list(plain.columns) == list(scaled.columns)
    assert plain.alpha.notna().all()
    shifted = {"log_norm", "log_spectral_norm", *(name for name in plain if name.endswith("mean_delta"))}
    for column in plain.columns.difference([*MIXED, *shifted]):
        one, other = plain[column], scaled[column]
        if not pd.api.types.is_numeric_dtype(one):
            assert one.tolist() == other.tolist(), column
            continue
        power = 1 if column in LINEAR else 2 if column in SQUARE else -1 if column in INVERSE else 0
        np.testing.assert_allclose(other / scale**power, one, rtol=1e-6, atol=1e-12, err_msg=column)
    for column in shifted:
        np.testing.assert_allclose(scaled[column] - plain[column], 2.0 * np.log10(scale), rtol=1e-9, err_msg=column)
    if "Lambda" in plain:
        np.testing.assert_allclose(scaled.Lambda * scale**2, plain.Lambda, rtol=1e-5)

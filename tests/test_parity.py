"""The numbers of WeightWatcher 0.7.7 for two real networks, wherever it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import wwonnx as ww

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "pool_false": {"pool": False},
    "min_evals_50": {"min_evals": 50},
    "conv2d_norm_false": {"conv2d_norm": False},
    "detX": {"detX": True},
    "mp_fit": {"mp_fit": True},
}
EXACT = ("N", "M", "rf", "num_evals", "num_pl_spikes", "matrix_rank", "rank_loss", "detX_num", "ERG_gap", "num_spikes")
CLOSE = (
    *("Q", "alpha", "D", "xmin", "xmax", "sigma", "norm", "log_norm", "spectral_norm", "log_spectral_norm"),
    *("alpha_weighted", "log_alpha_norm", "stable_rank", "lambda_max", "sv_max", "entropy", "detX_val"),
)
FITTED = ("sigma_mp", "mp_softrank", "W_scale", "bulk_max")


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
@pytest.mark.parametrize("option", OPTIONS)
def test_parity(shared: Path, network: str, option: str) -> None:
    golden = pd.read_csv(shared / "goldens" / network / f"{option}.csv")
    golden = golden[golden.num_evals >= 20]
    ours = ww.analyze(shared / "models" / "real" / f"{network}.onnx", **OPTIONS[option])
    keys = ["name"] + (["slice_id"] if option == "pool_false" else [])
    both = golden.merge(ours, on=keys, how="left", suffixes=("_ww", ""), indicator=True)
    assert (both._merge == "both").all()
    for column in EXACT:
        if column in golden:
            assert both[column].tolist() == both[f"{column}_ww"].tolist(), column
    for columns, tolerance in ((CLOSE, 1e-6), (FITTED, 1e-3)):
        for column in columns:
            if column in golden:
                np.testing.assert_allclose(
                    both[column], both[f"{column}_ww"], rtol=tolerance, atol=1e-12, err_msg=column
                )


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_esds(shared: Path, network: str) -> None:
    watcher = ww.WeightWatcher(shared / "models" / "real" / f"{network}.onnx")
    golden = np.load(shared / "goldens" / network / "esd.npz")
    for name in golden.files:
        wanted = np.sort(golden[name])
        np.testing.assert_allclose(watcher.get_ESD(layer=name), wanted, rtol=0, atol=1e-6 * wanted[-1])


@pytest.mark.parametrize("fit", ["TPL", "E_TPL", "xmin_peak"])
def test_fits_that_take_weightwatcher_minutes(shared: Path, fit: str) -> None:
    """To 1e-3; the exponents of the truncated laws end on their bound, and the rows say so."""
    golden = pd.read_csv(shared / "goldens" / "resnet20" / "tpl_samples.csv")
    golden = golden[golden.fit == fit].set_index("name")
    assert len(golden)
    options: dict[str, Any] = {"fix_fingers": fit} if fit == "xmin_peak" else {"fit": fit}
    ours = ww.analyze(shared / "models" / "real" / "resnet20.onnx", layers=list(golden.index), **options)
    ours = ours.set_index("name").loc[golden.index]
    truncated = fit != "xmin_peak"
    for column in ("alpha", "xmin", "D", *(["Lambda"] if truncated else [])):
        np.testing.assert_allclose(ours[column], golden[column], rtol=1e-3, err_msg=column)
    assert ours.num_pl_spikes.tolist() == golden.num_pl_spikes.tolist()
    assert ours.warning.str.contains("alpha on its bound").tolist() == [truncated] * len(golden)

"""What the numbers suggest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wwonnx as ww
from wwonnx import OptionError


def details(alphas: list[float], sizes: list[int] | None = None) -> pd.DataFrame:
    sizes = sizes or [100] * len(alphas)
    return pd.DataFrame(
        {"layer_id": range(1, len(alphas) + 1), "name": "l", "N": sizes, "M": 10, "rf": 1, "alpha": alphas}
    )


def test_ratios_written_out() -> None:
    """Three equal layers: s = 0.8, 1, 1.2, whose mean is 1, so eta is the sparsity itself."""
    advice = ww.advise(details([2.0, 3.0, 4.0]), sparsity=0.5, pruning_spread=0.2)
    assert advice.pruning_ratio.tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert advice.lr_scale.tolist() == pytest.approx([0.5, 1.0, 1.5])


@given(
    st.lists(st.floats(1.01, 50), min_size=1, max_size=20),
    st.floats(0, 1),
    st.floats(0, 0.99),
    st.integers(0, 10),
)
def test_ratios_make_the_sparsity_together(alphas: list[float], sparsity: float, spread: float, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5000, len(alphas)).tolist()
    advice = ww.advise(details(alphas, sizes), sparsity, spread)
    assert advice.pruning_ratio.between(0, 1).all()
    total = (advice.pruning_ratio * advice.parameters).sum()
    assert total == pytest.approx(sparsity * advice.parameters.sum(), rel=1e-9, abs=1e-9)
    order = np.argsort(alphas, kind="stable")
    assert (np.diff(advice.pruning_ratio.to_numpy()[order]) >= -1e-12).all()


def test_layers_without_an_alpha_get_the_mean() -> None:
    advice = ww.advise(details([np.nan, 3.0, 3.0]), sparsity=0.3)
    assert advice.pruning_ratio.tolist() == pytest.approx([0.3] * 3)
    assert advice.lr_scale.tolist() == pytest.approx([1.0] * 3)
    assert ww.advise(details([np.nan]), sparsity=0.3).pruning_ratio.tolist() == pytest.approx([0.3])


def test_rank_to_keep(digits: Path) -> None:
    found = ww.analyze(digits, detX=True)
    advice = ww.advise(found)
    assert advice.rank_to_keep.tolist() == np.ceil(found.detX_num / found.rf).tolist()
    assert "rank_to_keep" not in ww.advise(ww.analyze(digits))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sparsity": -0.1},
        {"sparsity": 1.1},
        {"pruning_spread": 1.0},
        {"rate_spread": (2.0, 1.0)},
        {"rate_spread": (0, 1)},
    ],
)
def test_values_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        ww.advise(details([2.0, 3.0]), **wrong)


def test_details_that_lack_something(digits: Path) -> None:
    with pytest.raises(OptionError, match="alpha"):
        ww.advise(ww.describe(digits))
    with pytest.raises(OptionError, match="slices"):
        ww.advise(ww.analyze(digits, pool=False))

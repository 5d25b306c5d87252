"""Eigenvectors against bases made by hand, a plain loop over np.histogram, and real networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.errors import WeightError
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk
from wwonnx.layer import CONVOLUTIONS
from wwonnx.spectral import vectors as module
from wwonnx.spectral.esd import spectrum
from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.vectors import COLUMNS, VectorMetrics, localization, vector_metrics

Array = NDArray[Any]

MEASURES = ("loc_ratio", "part_ratio", "vec_entropy")


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(n: int, seed: int = 0) -> Array:
    return np.linalg.qr(gaussian(n, n, seed=seed))[0]


def one_by_one(vectors: Array) -> Array:
    """The three measures from their definitions, a vector at a time."""
    found = []
    for vector in vectors:
        magnitudes = np.abs(vector)
        counts, _ = np.histogram(magnitudes - magnitudes.mean(), bins=100)
        shares = counts[counts > 0] / counts.sum()
        found.append(
            (
                np.linalg.norm(vector, 1) / np.linalg.norm(vector, np.inf),
                np.linalg.norm(vector, 2) / np.linalg.norm(vector, 4),
                -np.sum(shares * np.log(shares)),
            )
        )
    return np.array(found).T


def expected(tail: Array, bulk: Array) -> dict[str, float]:
    """The columns, from the vectors of the tail and of the bulk."""
    row = {}
    for part, vectors in (("tail", tail), ("bulk", bulk)):
        measures = one_by_one(vectors)
        for name, values in zip(MEASURES, measures, strict=True):
            row[f"{part}_mean_{name}"] = values.mean()
            row[f"{part}_var_{name}"] = values.var()
    return row


def alike(metrics: VectorMetrics, row: dict[str, float], rel: float = 1e-8) -> None:
    assert set(metrics.columns) == set(row) == set(COLUMNS)
    for name, value in row.items():
        assert metrics.columns[name] == pytest.approx(value, rel=rel, abs=1e-10), name


@pytest.mark.parametrize("n", [1, 2, 7, 100, 1000])
def test_a_vector_along_an_axis(n: int) -> None:
    (loc,), (part,), (entropy,) = localization(np.eye(n)[:1])
    assert loc == 1.0
    assert part == 1.0
    share = 1 / n
    rest = (1 - share) * math.log(1 - share) if n > 1 else 0.0
    assert entropy == pytest.approx(-share * math.log(share) - rest, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
def test_a_vector_of_equal_components(n: int) -> None:
    """Signs and rounding are no spread."""
    vector = np.full(n, 1 / math.sqrt(n)) * np.where(np.arange(n) % 2, -1.0, 1.0)
    vector = np.nextafter(vector, np.where(np.arange(n) % 3, vector, 0.0))
    (loc,), (part,), (entropy,) = localization(vector[None])
    assert loc == pytest.approx(n, rel=1e-12)
    assert part == pytest.approx(n**0.25, rel=1e-12)
    assert entropy == 0.0


@pytest.mark.parametrize("n", [2, 10, 100])
def test_a_ramp_fills_as_many_bins_as_it_has_steps(n: int) -> None:
    """Components in the middles of n bins, and the two ends."""
    (entropy,) = localization(np.arange(n)[None].astype(float))[2]
    assert entropy == pytest.approx(math.log(n), rel=1e-12)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 2), (40, 40), (7, 1000), (300, 64)])
def test_many_vectors_are_as_one_by_one(count: int, size: int) -> None:
    vectors = gaussian(count, size, seed=count)
    np.testing.assert_allclose(localization(vectors), one_by_one(vectors), rtol=1e-12, atol=1e-12)


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = gaussian(50, 30)
    whole = localization(vectors)
    for size in (1, 31, 64, 299):
        monkeypatch.setattr(module, "_BLOCK", size)
        np.testing.assert_array_equal(localization(vectors), whole)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    power=st.integers(-60, 60),
    heavy=st.booleans(),
)
def test_bounds_and_symmetries(n: int, seed: int, power: int, heavy: bool) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.standard_cauchy((4, n)) if heavy else generator.standard_normal((4, n))
    loc, part, entropy = localization(vectors)
    assert (loc >= 1 - 1e-12).all()
    assert (loc <= n * (1 + 1e-12)).all()
    assert (part >= 1 - 1e-12).all()
    assert (part <= n**0.25 * (1 + 1e-12)).all()
    assert (entropy >= 0).all()
    assert (entropy <= math.log(min(n, 100)) + 1e-12).all()
    signs = generator.choice([-1.0, 1.0], size=(4, n))
    turned = (vectors * signs * 2.0**power)[:, generator.permutation(n)]
    np.testing.assert_allclose(localization(turned), [loc, part, entropy], rtol=1e-12, atol=1e-13)


def test_random_directions_have_the_part_ratio_that_is_documented() -> None:
    part = localization(gaussian(200, 3000))[1]
    assert part.mean() == pytest.approx((3000 / 3) ** 0.25, rel=0.01)


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
@pytest.mark.parametrize("factor", [1.0, 0.5, 4.5])
def test_rectangular_matrices(shape: tuple[int, int], factor: float) -> None:
    """W = U S V^T: the vectors are those of the shorter side, in the order of the singular values."""
    short = orthogonal(25, seed=1)
    values = np.geomspace(0.1, 10, 25)
    tall = orthogonal(40, seed=2)[:, :25] * values @ short.T
    matrix = tall if shape[0] == 40 else tall.T
    metrics = vector_metrics(lambda: matrix[None], factor, factor * values[17] ** 2)
    alike(metrics, expected(short.T[17:], short.T[:17]))


def test_a_square_matrix_gives_the_vectors_of_its_outputs() -> None:
    left, right = orthogonal(30, seed=3), np.eye(30)
    values = np.geomspace(0.1, 10, 30)
    matrix = left * values @ right
    alike(vector_metrics(lambda: matrix[None], 1.0, 1.0), expected(left.T[values > 1], left.T[values < 1]))
    turned = vector_metrics(lambda: matrix.T[None], 1.0, 1.0)
    assert turned.tail_mean_loc_ratio == pytest.approx(1.0, rel=1e-10)
    assert turned.bulk_mean_part_ratio == pytest.approx(1.0, rel=1e-10)


def test_a_permutation_scaled_is_all_axes() -> None:
    order = np.random.default_rng(5).permutation(60)
    matrix = np.diag(np.arange(1.0, 61.0))[order]
    metrics = vector_metrics(lambda: matrix[None], 1.0, 1000.0)
    for part in ("tail", "bulk"):
        for measure in ("loc_ratio", "part_ratio"):
            assert metrics.columns[f"{part}_mean_{measure}"] == pytest.approx(1.0, rel=1e-12)
            assert metrics.columns[f"{part}_var_{measure}"] == pytest.approx(0.0, abs=1e-12)


def test_several_matrices_share_one_tail() -> None:
    """Each brings its own vectors; where the tail begins is common to all."""
    bases = [orthogonal(20, seed=seed) for seed in range(4)]
    values = [np.geomspace(0.1, 10, 20) * scale for scale in (0.01, 0.5, 1.0, 3.0)]
    stack = np.stack([(basis * one) @ orthogonal(20, seed=9) for basis, one in zip(bases, values, strict=True)])
    metrics = vector_metrics(lambda: stack, 0.5, 0.5 * 2.0)
    tail = np.concatenate([basis.T[one**2 >= 2.0] for basis, one in zip(bases, values, strict=True)])
    bulk = np.concatenate([basis.T[one**2 < 2.0] for basis, one in zip(bases, values, strict=True)])
    assert 0 < len(tail) < 60
    alike(metrics, expected(tail, bulk))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("wide", [True, False])
def test_the_vector_of_xmin_is_of_the_tail(seed: int, wide: bool) -> None:
    """Whatever the last digit of an eigenvalue is in one solver and in the other."""
    stack = gaussian(3, 24, 24, seed=seed).astype(np.float32)
    stack = stack.swapaxes(1, 2) if wide else stack
    esd = spectrum(lambda: stack, 1.2e-7).scaled(0.5).pooled
    here = vector_metrics(lambda: stack, 0.5, float(esd[50]))
    below = vector_metrics(lambda: stack, 0.5, float(esd[49] + esd[50]) / 2)
    assert here == below
    assert here != vector_metrics(lambda: stack, 0.5, float(esd[50] + esd[51]) / 2)


@pytest.mark.parametrize(("xmin", "empty", "full"), [(0.0, "bulk", "tail"), (1e9, "tail", "bulk")])
def test_an_empty_side_has_no_mean(xmin: float, empty: str, full: str) -> None:
    row = vector_metrics(lambda: gaussian(1, 12, 9), 1.0, xmin).columns
    for name, value in row.items():
        assert math.isnan(value) == name.startswith(empty), name
        assert name.startswith((empty, full))


def test_without_a_tail_nothing_is_read() -> None:
    def load() -> Array:
        raise AssertionError

    assert all(math.isnan(value) for value in vector_metrics(load, 1.0, math.nan).columns.values())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_element_types(dtype: Any) -> None:
    stored = gaussian(2, 30, 18).astype(dtype)
    exact = stored.astype(np.float64)
    alike(vector_metrics(lambda: stored, 1.0, 20.0), vector_metrics(lambda: exact, 1.0, 20.0).columns, rel=1e-12)


def test_one_column() -> None:
    """The only direction there is."""
    row = vector_metrics(lambda: np.ones((2, 5, 1)), 1.0, 5.0).columns
    assert [row[f"tail_mean_{name}"] for name in MEASURES] == [1.0, 1.0, 0.0]
    assert math.isnan(row["bulk_mean_loc_ratio"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_broken_weights(value: float) -> None:
    stack = gaussian(2, 6, 5)
    stack[1, 2, 3] = value
    with pytest.raises(WeightError, match="NaN or infinite"):
        vector_metrics(lambda: stack, 1.0, 1.0)


def test_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    def eigh(_: Array) -> None:
        raise np.linalg.LinAlgError("eigenvalues did not converge")

    monkeypatch.setattr(np.linalg, "eigh", eigh)
    with pytest.raises(WeightError, match="did not converge"):
        vector_metrics(lambda: gaussian(1, 6, 5), 1.0, 1.0)


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_weightwatcher(shared: Path, network: str) -> None:
    """Every row with 20 eigenvalues or more, to 1e-6.

    WeightWatcher compares xmin with the same eigenvalue from another solver, so that its vector falls to the tail or to
    the bulk by the last digit; with OpenBLAS's Haswell kernels 17 of these 50 vectors change sides. Each row must be
    one of the two, and the tail with it is ours: of so many vectors as num_pl_spikes says. Neither rule gives all rows.
    """
    import pandas as pd

    golden = pd.read_csv(shared / "goldens" / network / "vectors.csv").set_index("name")
    sides = {"tail": 0, "bulk": 0}
    for layer in walk(open_model(shared / "models" / "real" / f"{network}.onnx").model).layers:
        row = golden.loc[layer.name]
        if row.num_evals < 20:
            continue
        factor = 0.5 if layer.layer_type & CONVOLUTIONS else 1.0
        xmin = fit_power_law(spectrum(layer.matrices, layer.eps).scaled(factor).pooled).xmin
        off = [
            max(abs(metrics.columns[name] - row[name]) / max(abs(row[name]), 1e-4) for name in COLUMNS)
            for metrics in (vector_metrics(layer.matrices, factor, xmin * nudge) for nudge in (1.0, 1.0 + 1e-9))
        ]
        assert min(off) < 1e-6, (layer.name, off)
        sides["tail" if off[0] < off[1] else "bulk"] += 1
    assert sides == {"resnet20": {"tail": 12, "bulk": 7}, "resnet32": {"tail": 15, "bulk": 16}}[network]

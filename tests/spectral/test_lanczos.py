"""Approximated spectra against those that are known: by LAPACK, in closed form, by construction."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import wwonnx as ww
from wwonnx import OptionError
from wwonnx.errors import WeightError
from wwonnx.execute.tasks import Task
from wwonnx.layer import LAYER_TYPE, MATRIX, Use, WeightLayer
from wwonnx.spectral.esd import Array, Spectrum
from wwonnx.spectral.lanczos import Krylov, approximate_spectrum, block_lanczos, gram_product, spectrum_of
from wwonnx.spectral.marchenko_pastur import quantiles
from wwonnx.spectral.power_law import fit_power_law

EPS = float(np.finfo(np.float32).eps)


def exact(matrix: np.ndarray) -> Array:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[::-1] ** 2


def weights(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = shape
    noise = rng.standard_normal(shape)
    if kind == "gaussian":
        return noise.astype(np.float32)
    if kind == "student":
        return rng.standard_t(2.5, shape).astype(np.float32)
    if kind == "embedding":  # frequent and rare rows, and a common direction
        return (noise * (1 + np.arange(rows)[:, None]) ** -0.5 + 0.05).astype(np.float32)
    rank = min(shape) // 4
    scales = np.sqrt((1 - rng.random(rank)) ** (-1 / 1.5))
    signal = rng.standard_normal((rows, rank)) * scales @ rng.standard_normal((rank, columns))
    return (signal / np.sqrt(columns) + 0.2 * noise).astype(np.float32)


def small(matrix: np.ndarray, seed: int = 0, probes: int = 16, steps: int = 16) -> tuple[Krylov, Any]:
    """With fewer probes and steps than `approximate_spectrum`, so that a Krylov space has room beside it."""
    rng = np.random.default_rng(seed)
    M = min(matrix.shape)
    krylov = block_lanczos(partial(gram_product, matrix), M, rng, probes, steps)
    return krylov, spectrum_of(krylov, M, float(np.square(matrix, dtype=np.float64).sum()), rng)


def alpha_error(values: Array, others: Array) -> float:
    alpha = fit_power_law(values).alpha
    return max(abs(fit_power_law(other).alpha - alpha) for other in others)


SHAPES = {"gaussian": (900, 700), "student": (700, 900), "planted": (800, 800), "embedding": (6000, 700)}


@pytest.mark.parametrize("kind", SHAPES)
def test_the_tail_lies_within_its_residuals_and_the_rest_within_the_error(kind: str) -> None:
    matrix = weights(kind, SHAPES[kind])
    known = exact(matrix)
    krylov, (values, error, tail, others) = small(matrix)
    assert 5 <= tail < known.size // 2
    rounding = 1e-13 * known[-1]
    # A Ritz value is never above the eigenvalue of its rank (Cauchy's interlacing), and no farther than the residual.
    below = known[-tail:] - values[-tail:]
    assert (below >= -rounding).all()
    assert (below <= krylov.residuals[-tail:] + rounding).all()
    assert np.abs(values - known).max() <= error
    assert np.abs(values - known).max() < 0.02 * known[-1]
    assert others.shape == (100, known.size)


@pytest.mark.parametrize("kind", SHAPES)
def test_moments(kind: str) -> None:
    matrix = weights(kind, SHAPES[kind])
    known = exact(matrix)
    values = small(matrix, probes=32)[1][0]
    assert values.sum() == pytest.approx(np.square(matrix, dtype=np.float64).sum(), rel=1e-13)
    assert (values**2).sum() == pytest.approx((known**2).sum(), rel=1e-2)
    assert np.log(values[values.size // 20 :]).mean() == pytest.approx(
        np.log(known[known.size // 20 :]).mean(), abs=0.05
    )
    # The largest distance of the distribution functions.
    assert np.abs(np.searchsorted(values, known) - np.arange(known.size)).max() <= 0.05 * known.size


def test_the_bulk_is_marchenko_and_pasturs() -> None:
    matrix = weights("gaussian", (1600, 800)) / np.float32(40.0)
    values = small(matrix)[1][0]
    np.testing.assert_allclose(values, quantiles(800, 2.0), atol=0.1)


@pytest.mark.parametrize("kind", ["student", "planted", "embedding"])
def test_alpha_is_within_its_error_as_often_as_promised(kind: str) -> None:
    shape = (1200, 400) if kind == "embedding" else (450, 400)
    within = []
    for seed in range(40):
        matrix = weights(kind, shape, seed)
        values, _, _, others = small(matrix, seed, probes=16, steps=8)[1]
        apart = abs(fit_power_law(values).alpha - fit_power_law(exact(matrix)).alpha)
        within.append(apart <= alpha_error(values, others) + 1e-6)
    # 95 % promised: fewer than 34 of 40 would come by chance once in 300 times.
    assert sum(within) >= 34


def whole(matrix: np.ndarray, seed: int = 0, **more: Any) -> Spectrum:
    return approximate_spectrum(lambda: matrix[None], EPS, (seed,), **more)


DEGENERATE = {
    "identity": np.eye(300),
    "projection": np.diag(np.repeat([1.0, 0.0], 200)),
    "zeros": np.zeros((60, 80)),
    "ones": np.ones((1300, 1100)),
    "one column": np.ones((50, 1)),
    "rank 20": np.random.default_rng(0).standard_normal((1200, 20))
    @ np.random.default_rng(1).standard_normal((20, 1100)),
    "two values": np.diag(np.repeat([3.0, 1.0], 600)),
    "diagonal": np.diag(np.arange(1.0, 1200.0)),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_spectra(name: str) -> None:
    matrix = DEGENERATE[name]
    known = exact(matrix)
    found = whole(matrix)
    if name in ("two values", "projection"):  # how many of each is estimated: the probes see shares
        wrong = np.abs(found.pooled - known) > 1e-6
        assert np.count_nonzero(wrong) <= 0.05 * known.size
        assert found.error >= np.abs(found.pooled - known).max()
    elif name == "diagonal":
        np.testing.assert_allclose(found.pooled, known, atol=0.02 * known[-1])
    else:
        np.testing.assert_allclose(found.pooled, known, atol=1e-9 * max(1.0, known[-1]))
    assert found.pooled.sum() == pytest.approx(known.sum(), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    rank=st.integers(0, 60),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
    seed=st.integers(0, 9),
)
def test_small_matrices_are_computed_to_rounding(rows: int, columns: int, rank: int, scale: float, seed: int) -> None:
    """The Krylov space is the whole space, or all of it that the matrix reaches."""
    rng = np.random.default_rng(seed)
    matrix = scale * rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    known = exact(matrix)
    found = whole(matrix, seed).pooled
    assert (np.diff(found) >= 0.0).all()
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-9 * known[-1])


@pytest.mark.parametrize("order", ["C", "F", "strided"])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_layout_gives_the_same(order: str, shape: tuple[int, int], dtype: type) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    lying = np.repeat(matrix, 3, axis=1)[:, ::3] if order == "strided" else np.array(matrix, order=order)  # type: ignore[call-overload]
    np.testing.assert_allclose(whole(lying).pooled, exact(matrix), rtol=1e-9, atol=1e-12 * exact(matrix)[-1])


def test_the_same_seed_gives_every_bit_and_another_one_other_probes() -> None:
    matrix = weights("student", (1400, 1300))
    first, again, other = whole(matrix, replicates=3), whole(matrix, replicates=3), whole(matrix, 1, replicates=3)
    assert first.approximation is not None
    assert again.approximation is not None
    assert np.array_equal(first.eigenvalues, again.eigenvalues)
    assert np.array_equal(first.approximation.replicates, again.approximation.replicates)
    assert not np.array_equal(first.eigenvalues, other.eigenvalues)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "NaN"), (np.inf, "infinite"), (1e200, "overflow"), (1e-200, "small")]
)
def test_weights_that_are_no_numbers(value: float, words: str) -> None:
    matrix = np.full((40, 30), value) if value < 1.0 else np.ones((40, 30))
    matrix[3, 4] = value
    with pytest.raises(WeightError, match=words):
        whole(matrix)


def layer(rows: int, columns: int) -> WeightLayer:
    use = Use("MatMul", "n", 1, LAYER_TYPE.DENSE)
    shape = (rows, columns)
    return WeightLayer(1, "w", "w", shape, "float", (use,), MATRIX, EPS, False, False, lambda: np.zeros(shape))


@pytest.mark.parametrize("shape", [(2500, 2000), (2000, 2500), (30000, 1100)])
def test_memory_stays_within_what_is_told(shape: tuple[int, int]) -> None:
    matrix = weights("gaussian", shape)
    tracemalloc.start()
    whole(matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    told = Task(0, layer(*shape), lanczos_above=1000).memory
    assert peak <= told
    assert told <= 2.5 * peak


def test_memory_does_not_grow_with_the_square_of_M() -> None:
    huge = layer(28672, 28672)
    assert Task(0, huge, lanczos_above=8192).memory < 0.1 * Task(0, huge).memory
    assert Task(0, huge, lanczos_above=28672).memory == Task(0, huge).memory


def model(arrays: dict[str, np.ndarray]) -> bytes:
    """Each weight reads an input of its own: matrices by MatMul, kernels by Conv."""
    nodes, inputs, outputs = [], [], []
    for name, array in arrays.items():
        operator = "MatMul" if array.ndim == 2 else "Conv"
        ends = [f"{name}.x", f"{name}.weight"]
        nodes.append(onnx.helper.make_node(operator, ends, [f"{name}.y"], name=name))
        size = [1, array.shape[0]] if array.ndim == 2 else [1, array.shape[1], 9, 9]
        inputs.append(onnx.helper.make_tensor_value_info(ends[0], 1, size))
        outputs.append(onnx.helper.make_tensor_value_info(f"{name}.y", 1, None))
    tensors = [numpy_helper.from_array(array, f"{name}.weight") for name, array in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


@pytest.fixture(scope="module")
def mixed() -> bytes:
    kernel = np.random.default_rng(5).standard_t(3.0, (120, 110, 2, 2)).astype(np.float32)
    return model({"large": weights("planted", (1300, 1200)), "conv": kernel, "fc": weights("gaussian", (90, 60))})


@pytest.fixture(scope="module")
def details(mixed: bytes) -> pd.DataFrame:
    return ww.analyze(mixed, lanczos_above=100, mp_fit=True, detX=True, ci=True).set_index("name")


def test_rows_say_what_is_approximate_and_how_sure_it_is(mixed: bytes, details: pd.DataFrame) -> None:
    known = ww.analyze(mixed, mp_fit=True, detX=True, ci=True).set_index("name")
    assert details["approximate"].tolist() == [True, True, False]
    assert details["warning"].str.contains("approximate: alpha ± ").tolist() == [True, True, False]
    assert details["num_lanczos"].isna().tolist() == [False, False, True]
    assert (details["num_lanczos"] <= details["num_evals"])[:2].all()
    assert "approximate" not in known
    for column in ("matrix_rank", "rank_loss", "weak_rank_loss", "sv_min"):
        assert details[column].isna().tolist() == [True, True, False]
    assert (details["esd_error"] > 0.0).all()
    assert details.loc["fc", "alpha_error"] == 0.0
    apart = (details["alpha"] - known["alpha"]).abs()
    assert (apart <= details["alpha_error"] + 1e-9 * known["alpha"]).all()
    for column in ("norm", "lambda_max", "stable_rank", "log_alpha_norm", "sigma_mp", "detX_num", "entropy"):
        np.testing.assert_allclose(details[column], known[column], rtol=5e-3, err_msg=column)
    np.testing.assert_allclose(details["norm"], known["norm"], rtol=1e-12)
    same = [column for column in known if column in details]
    pd.testing.assert_frame_equal(details.loc[["fc"], same], known.loc[["fc"], same], check_dtype=False)


def test_slices_of_a_convolution(mixed: bytes) -> None:
    approximated = ww.analyze(mixed, layers="conv", lanczos_above=100, pool=False)
    known = ww.analyze(mixed, layers="conv", pool=False)
    assert approximated["approximate"].all()
    np.testing.assert_allclose(approximated["alpha"], known["alpha"], rtol=1e-9)
    np.testing.assert_allclose(approximated["esd_error"], 1e-9 * approximated["lambda_max"], rtol=1e-6)


def test_shuffles_are_approximated_too(mixed: bytes) -> None:
    chosen = {"layers": "large", "randomize": True, "rand_replicas": 3}
    found, known = (ww.analyze(mixed, **chosen, **more).iloc[0] for more in ({"lanczos_above": 500}, {}))
    assert found["max_rand_eval"] == pytest.approx(known["max_rand_eval"], rel=1e-3)
    assert found["rand_ks"] == pytest.approx(known["rand_ks"], abs=0.02)
    assert found["status"] == known["status"]


def test_jobs_change_no_bit(mixed: bytes, details: pd.DataFrame) -> None:
    other = ww.analyze(mixed, lanczos_above=100, mp_fit=True, detX=True, ci=True, jobs=1).set_index("name")
    pd.testing.assert_frame_equal(other, details, check_exact=True)


def test_a_store_keeps_the_errors(tmp_path: Path, mixed: bytes) -> None:
    store = tmp_path / "results.sqlite"
    first, again = (ww.analyze(mixed, lanczos_above=100, store=store) for _ in range(2))
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    # Another fit needs the likely spectra again, which are not kept.
    hill = ww.analyze(mixed, lanczos_above=100, store=store, estimator="hill")
    pd.testing.assert_frame_equal(hill, ww.analyze(mixed, lanczos_above=100, estimator="hill"), check_exact=True)
    assert hill["approximate"].tolist() == [True, True, False]
    other = ww.analyze(mixed, lanczos_above=100, store=store, seed=7)
    assert other.loc[0, "esd_error"] != first.loc[0, "esd_error"]
    assert not ww.analyze(mixed, lanczos_above=1200, store=store)["approximate"].any()


def test_bad_weights_cost_only_their_row() -> None:
    broken = weights("gaussian", (120, 110))
    broken[0, 0] = np.nan
    rows = ww.analyze(
        model({"nan": broken, "zero": np.zeros((120, 110), np.float32), "fc": weights("student", (120, 110))}),
        lanczos_above=100,
    ).set_index("name")
    assert rows["status"].tolist() == ["failed", "failed", "success"]
    assert "1 of 13200 weights are NaN" in rows.loc["nan", "reason"]
    assert rows.loc["zero", "reason"] == "every weight is zero"
    assert rows.loc["zero", "norm"] == 0.0


@pytest.mark.parametrize("name", ["vectors", "deltas", "inverse", "intra", "fft", "conv2d_fft", "gof"])
def test_what_needs_every_eigenvalue_is_refused_by_name(mixed: bytes, name: str) -> None:
    with pytest.raises(OptionError, match=f"lanczos_above and {name} contradict"):
        ww.analyze(mixed, lanczos_above=100, **{name: True})


@pytest.mark.parametrize("value", [0, -1, 2.5, "x", True])
def test_bad_bounds(mixed: bytes, value: Any) -> None:
    with pytest.raises(OptionError, match=r"lanczos_above="):
        ww.analyze(mixed, lanczos_above=value)


def test_accelerators_are_refused(mixed: bytes) -> None:
    with pytest.raises(OptionError, match="Lanczos runs on the CPU"):
        ww.analyze(mixed, lanczos_above=100, device="mps", svd_method="fast")


@pytest.mark.parametrize("network", ["silero_vad", "dtln_1"])
def test_trained_layers(shared: Path, network: str) -> None:
    watcher = ww.WeightWatcher(shared / "models" / "real" / f"{network}.onnx")
    layers = watcher.describe()
    within = []
    for number in layers["layer_id"][layers["M"] >= 100][:12]:
        matrix = watcher.get_weights(layer=int(number))[0]
        values, _, _, others = small(matrix, probes=16, steps=6)[1]
        known = exact(matrix)
        assert values.sum() == pytest.approx(known.sum(), rel=1e-6)
        apart = abs(fit_power_law(values).alpha - fit_power_law(known).alpha)
        within.append(apart <= alpha_error(values, others) + 1e-6)
    assert len(within) >= 5
    assert np.mean(within) >= 0.8

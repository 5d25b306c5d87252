"""Rows of layers made by hand, whose singular values are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.analysis import Row, analyze_layer, describe_layer, why_not
from wwonnx.columns import columns
from wwonnx.errors import WeightError
from wwonnx.layer import LAYER_TYPE, Layout, Use, WeightLayer
from wwonnx.options import Options

Array = NDArray[Any]

ABOUT = ("layer_id", "name", "longname", "layer_type", "N", "M", "Q", "rf", "num_evals", "weight_dtype", "folded")
TEXT = {"name", "longname", "layer_type", "status", "warning", "reason", "weight_dtype"}
FIT = ("alpha", "alpha_weighted", "log_alpha_norm", "D", "sigma", "xmin", "xmax", "num_pl_spikes")
ERG = ("detX_num", "detX_val", "num_ERG_spikes", "ERG_gap")


def made(
    weights: Array,
    kind: LAYER_TYPE = LAYER_TYPE.DENSE,
    read: Callable[[], Array] | None = None,
    depthwise: bool = False,
) -> WeightLayer:
    """A layer that holds one matrix, or one for each position in the axes after the second."""
    return WeightLayer(
        layer_id=7,
        name="block.fc",
        longname="block.fc.weight",
        shape=weights.shape,
        dtype=str(weights.dtype),
        uses=(Use("Conv" if weights.ndim > 2 else "Gemm", "/block/fc", 1, kind),),
        layout=Layout(tuple(range(2, weights.ndim)), (0,), (1,)),
        eps=float(ml_dtypes.finfo(weights.dtype).eps),
        folded=False,
        depthwise=depthwise,
        read=read or (lambda: weights),
    )


def convolved(*shape: int, seed: int = 0) -> WeightLayer:
    kinds = {3: LAYER_TYPE.CONV1D, 4: LAYER_TYPE.CONV2D, 5: LAYER_TYPE.CONV3D}
    return made(gaussian(*shape, seed=seed), kinds[len(shape)])


def row_of(layer: WeightLayer, **options: Any) -> Row:
    (row,) = analyze_layer(layer, Options.make(**options))
    return row


def gaussian(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def with_eigenvalues(esd: Array, rows: int, seed: int = 0, dtype: Any = np.float64) -> Array:
    """A matrix (rows x n) whose W^T W has these eigenvalues."""
    left, _ = np.linalg.qr(gaussian(rows, len(esd), seed=seed, dtype=np.float64))
    right, _ = np.linalg.qr(gaussian(len(esd), len(esd), seed=seed + 1, dtype=np.float64))
    return ((left * np.sqrt(esd)) @ right.T).astype(dtype)


def pareto(n: int, exponent: float) -> Array:
    return (1.0 - (np.arange(n) + 0.5) / n) ** (-1.0 / (exponent - 1.0))


def squares(matrix: Array) -> Array:
    return np.sort(np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2)


def positions(weights: Array) -> list[Array]:
    """The (out x in) matrix of each kernel position, in row-major order."""
    return [weights[(slice(None), slice(None), *index)] for index in np.ndindex(weights.shape[2:])]


def numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in TEXT}


def alike(a: Row, b: Row, rel: float = 1e-9, but: Iterable[str] = ()) -> None:
    assert a.keys() == b.keys()
    for name in a.keys() - set(but):
        if name in TEXT:
            assert (name, a[name]) == (name, b[name])
        else:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=1e-10, nan_ok=True), name


def is_nan(row: Row, names: Iterable[str]) -> None:
    """Each is NaN, or left to the table, which makes NaN of what is missing."""
    for name in names:
        value = row.get(name, math.nan)
        assert isinstance(value, float), name
        assert math.isnan(value), name


def is_failed(row: Row, options: Options) -> None:
    assert set(row) == set(columns(options))
    assert row["status"] == "failed"
    assert row["warning"] == ""
    assert row["has_esd"] is False
    assert "\n" not in row["reason"]
    known = {*ABOUT, "has_esd", "slice_id", *TEXT}
    is_nan(row, set(row) - known)


def test_every_number_of_a_row() -> None:
    esd = pareto(200, 3.0)
    (row,) = analyze_layer(made(with_eigenvalues(esd, 300)), Options.make(detX=True))
    assert set(row) == set(columns(Options.make(detX=True)))
    about = [7, "block.fc", "block.fc.weight", "dense", 300, 200, 1.5, 1, 200, "float64", False]
    assert [row[name] for name in ABOUT] == about
    assert (row["status"], row["reason"], row["warning"], row["has_esd"]) == ("success", "", "", True)

    def near(name: str, value: float, rel: float = 1e-10) -> None:
        assert row[name] == pytest.approx(value, rel=rel), name

    near("norm", esd.sum())
    near("log_norm", math.log10(esd.sum()))
    near("spectral_norm", esd[-1])
    near("lambda_max", esd[-1])
    near("log_spectral_norm", math.log10(esd[-1]))
    near("stable_rank", esd.sum() / esd[-1])
    near("sv_max", math.sqrt(esd[-1]))
    near("sv_min", math.sqrt(esd[0]))
    assert (row["matrix_rank"], row["rank_loss"], row["weak_rank_loss"]) == (200, 0, 0)
    p = esd / esd.sum()
    near("entropy", -(p * np.log(p)).sum() / math.log(200))

    x, tails = esd, []
    for i in range(199):
        ratio, m = x[i:] / x[i], 200 - i
        alpha = 1 + m / np.log(ratio).sum()
        tails.append((np.abs(1 - ratio ** (1 - alpha) - np.arange(m) / m).max(), i, alpha))
    D, start, alpha = min(tails)
    near("D", D, rel=1e-7)
    near("alpha", alpha)
    near("xmin", x[start])
    near("xmax", x[-1])
    near("sigma", (alpha - 1) / math.sqrt(200 - start))
    assert row["num_pl_spikes"] == 200 - start
    near("alpha_weighted", alpha * math.log10(esd[-1]))
    near("log_alpha_norm", math.log10(np.sum(esd**alpha)))

    num = 1 + int(np.argmax(np.cumsum(np.log(esd[::-1] / esd.mean())) < 0))
    assert (row["detX_num"], row["num_ERG_spikes"], row["ERG_gap"]) == (num, num, num - (200 - start))
    near("detX_val", esd[-num])


def test_columns_of_options_that_are_off_are_left_out() -> None:
    row = row_of(made(gaussian(60, 50)))
    assert set(row) == set(columns(Options()))
    assert not set(ERG) & set(row)
    assert "slice_id" not in row
    for some in analyze_layer(convolved(9, 8, 2, 2), Options.make(pool=False, detX=True)):
        assert set(some) == set(columns(Options.make(pool=False, detX=True)))
        assert {*ERG, "slice_id"} <= set(some)


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (16, 24, 5), (12, 12, 2, 3, 2), (20, 10, 1, 1)])
@pytest.mark.parametrize("normed", [True, False])
def test_pooled_convolutions(shape: tuple[int, ...], normed: bool) -> None:
    layer = convolved(*shape)
    row = row_of(layer, conv2d_norm=normed)
    factor = 0.5 if normed else 1.0
    esd = factor * np.sort(np.concatenate([squares(matrix) for matrix in positions(layer.read())]))
    rf, M = math.prod(shape[2:]), min(shape[:2])
    assert (row["rf"], row["M"], row["N"], row["num_evals"]) == (rf, M, max(shape[:2]), rf * M)
    assert row["layer_type"] == f"conv{len(shape) - 2}d"
    assert row["norm"] == pytest.approx(esd.sum(), rel=1e-12)
    assert row["lambda_max"] == pytest.approx(esd[-1], rel=1e-12)
    assert row["sv_max"] == pytest.approx(math.sqrt(esd[-1]), rel=1e-12)
    assert row["sv_min"] == pytest.approx(math.sqrt(esd[0]), rel=1e-6)
    assert row["matrix_rank"] == rf * M
    assert row["xmax"] == pytest.approx(esd[-1], rel=1e-12)


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (16, 24, 5), (12, 12, 2, 3, 2), (20, 10, 1, 1)])
@pytest.mark.parametrize("normed", [True, False])
def test_convolutions_in_slices(shape: tuple[int, ...], normed: bool) -> None:
    layer = convolved(*shape)
    rows = analyze_layer(layer, Options.make(pool=False, conv2d_norm=normed))
    rf, M = math.prod(shape[2:]), min(shape[:2])
    assert [row["slice_id"] for row in rows] == list(range(rf))
    for row, matrix in zip(rows, positions(layer.read()), strict=True):
        esd = (rf / 2 if normed else 1.0) * squares(matrix)
        assert row["num_evals"] == M
        assert row["norm"] == pytest.approx(esd.sum(), rel=1e-12)
        assert row["lambda_max"] == pytest.approx(esd[-1], rel=1e-12)
        assert row["sv_min"] == pytest.approx(math.sqrt(esd[0]), rel=1e-6)
        assert row["matrix_rank"] == M
        dense = row_of(made(math.sqrt(rf / 2 if normed else 1.0) * matrix.astype(np.float64)))
        for name in (*FIT, "entropy", "stable_rank", "log_norm"):
            assert row[name] == pytest.approx(dense[name], rel=1e-8), name


@pytest.mark.parametrize("pool", [True, False])
def test_conv2d_norm_is_for_convolutions_alone(pool: bool) -> None:
    layer = made(gaussian(30, 20))
    (on,) = analyze_layer(layer, Options.make(pool=pool))
    (off,) = analyze_layer(layer, Options.make(pool=pool, conv2d_norm=False))
    alike(on, off, rel=0)
    assert on["norm"] == pytest.approx(squares(layer.read()).sum(), rel=1e-12)


def test_a_slice_of_zeros_fails_alone() -> None:
    weights = gaussian(60, 55, 3)
    weights[:, :, 1] = 0.0
    rows = analyze_layer(made(weights, LAYER_TYPE.CONV1D), Options.make(pool=False))
    assert [row["status"] for row in rows] == ["success", "failed", "success"]
    assert [row["matrix_rank"] for row in rows] == [55, 0, 55]
    assert rows[1]["reason"] == "every weight is zero"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("options", [{}, {"detX": True}, {"inverse": True}, {"xmax": -2}])
def test_orientation_never_matters(dtype: Any, options: dict[str, Any]) -> None:
    for shape in ((90, 60), (64, 64), (5000, 9)):
        weights = gaussian(*shape, dtype=dtype)
        alike(row_of(made(weights), **options), row_of(made(weights.T), **options), rel=1e-7)


def test_orientation_of_kernels_never_matters() -> None:
    weights = gaussian(24, 16, 3, 3)
    turned = weights.swapaxes(0, 1)
    alike(row_of(made(weights, LAYER_TYPE.CONV2D)), row_of(made(turned, LAYER_TYPE.CONV2D)))


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "1 of 3000 weights are NaN"), (-np.inf, "1 of 3000 weights are infinite")]
)
@pytest.mark.parametrize("options", [{}, {"detX": True}, {"inverse": True}, {"pool": False}])
def test_broken_weights_fail(value: float, words: str, options: dict[str, Any]) -> None:
    weights = gaussian(60, 50)
    weights[3, 4] = value
    row = row_of(made(weights), **options)
    is_failed(row, Options.make(**options))
    assert words in row["reason"]
    about = [7, "block.fc", "block.fc.weight", "dense", 60, 50, 1.2, 1, 50, "float32", False]
    assert [row[name] for name in ABOUT] == about


def test_a_convolution_with_one_broken_weight_fails() -> None:
    layer = convolved(16, 16, 3, 3)
    layer.read()[0, 0, 1, 1] = np.nan
    for options in (Options.make(), Options.make(pool=False)):
        rows = analyze_layer(layer, options)
        assert {row["status"] for row in rows} == {"failed"}
        is_failed(rows[0], options)
        assert "1 of 2304 weights are NaN" in rows[0]["reason"]


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_weights_out_of_range_fail(scale: float) -> None:
    row = row_of(made(gaussian(60, 50, dtype=np.float64) * scale))
    is_failed(row, Options())
    assert "rescale the layer" in row["reason"]


@pytest.mark.parametrize(
    ("error", "words"),
    [(WeightError("the file is too short"), "the file is too short"), (MemoryError(), "not enough memory")],
)
def test_weights_that_can_not_be_read_fail(error: Exception, words: str) -> None:
    def read() -> Array:
        raise error

    row = row_of(made(gaussian(60, 50), read=read))
    is_failed(row, Options())
    assert words in row["reason"]


@pytest.mark.parametrize("options", [{}, {"detX": True}, {"inverse": True}, {"xmax": -1}, {"mp_fit": True}])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_layer_of_zeros(options: dict[str, Any], dtype: Any) -> None:
    row = row_of(made(np.zeros((70, 60), dtype=dtype)), **options)
    assert set(row) <= set(columns(Options.make(**options)))
    assert (row["status"], row["reason"]) == ("failed", "every weight is zero")
    assert row["warning"] == ""
    assert [row[name] for name in ("norm", "spectral_norm", "lambda_max", "sv_max", "sv_min")] == [0.0] * 5
    assert (row["matrix_rank"], row["rank_loss"], row["weak_rank_loss"]) == (0, 60, 60)
    is_nan(row, ("log_norm", "log_spectral_norm", "stable_rank", "entropy", *FIT, *ERG))


def test_an_orthogonal_layer_has_no_tail_but_all_else() -> None:
    row = row_of(made(with_eigenvalues(np.full(64, 4.0), 80)), detX=True)
    assert row["status"] == "failed"
    assert "all equal" in row["reason"]
    is_nan(row, FIT)
    is_nan(row, ["ERG_gap"])
    assert row["norm"] == pytest.approx(256.0, rel=1e-12)
    assert row["stable_rank"] == pytest.approx(64.0, rel=1e-12)
    assert row["entropy"] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(("n", "c"), [(3, 0.1), (64, 0.7), (50, 1.0)])
def test_equal_eigenvalues_all_meet_the_trace_log_condition(n: int, c: float) -> None:
    row = row_of(made(np.diag(np.full(n, math.sqrt(c)))), detX=True)
    assert row["detX_num"] == n


@pytest.mark.parametrize(
    ("exponent", "n", "warning"),
    [
        (1.6, 200, "over-trained"),
        (1.95, 200, "over-trained"),
        (2.1, 200, ""),
        (4.0, 200, ""),
        (5.8, 200, ""),
        (6.3, 200, "under-trained"),
        (12.0, 200, "under-trained"),
        (1.6, 40, "over-trained, short ESD"),
        (4.0, 49, "short ESD"),
        (4.0, 50, ""),
        (12.0, 40, "under-trained, short ESD"),
    ],
)
def test_warnings(exponent: float, n: int, warning: str) -> None:
    row = row_of(made(with_eigenvalues(pareto(n, exponent), n + 10)))
    assert row["alpha"] == pytest.approx(exponent, rel=0.03)
    assert row["warning"] == warning


def test_a_short_esd_of_zeros_or_equal_values_is_no_success() -> None:
    row = row_of(made(np.eye(10)))
    assert (row["status"], row["warning"]) == ("failed", "short ESD")
    assert "all equal" in row["reason"]


def test_xmax_leaves_the_largest_out_of_the_fit_alone() -> None:
    esd = np.concatenate([pareto(200, 3.0), [1e3, 1e4]])
    layer = made(with_eigenvalues(esd, 250))
    row, plain, rest = row_of(layer, xmax=-2), row_of(layer), row_of(made(with_eigenvalues(esd[:-2], 250)))
    for name in ("alpha", "D", "sigma", "xmin", "xmax"):
        assert row[name] == pytest.approx(rest[name], rel=1e-7), name
    assert row["alpha"] != pytest.approx(plain["alpha"], rel=1e-3)
    for name in ("norm", "lambda_max", "sv_max", "stable_rank", "entropy", "matrix_rank", "log_spectral_norm"):
        assert row[name] == plain[name], name
    assert row["alpha_weighted"] == pytest.approx(row["alpha"] * 4.0, rel=1e-9)
    assert row["log_alpha_norm"] == pytest.approx(math.log10(np.sum(esd ** row["alpha"])), rel=1e-9)


def test_too_large_an_xmax_fails_with_a_reason() -> None:
    row = row_of(made(gaussian(60, 50)), xmax=-26)
    assert row["status"] == "failed"
    assert "xmax=-26" in row["reason"]
    is_nan(row, FIT)
    assert row["norm"] > 0


def test_tolerance_counts_weak_directions() -> None:
    weights = with_eigenvalues(np.array([*np.full(5, 1e-5), *pareto(60, 3.0)]), 80)
    assert row_of(made(weights))["weak_rank_loss"] == 0
    assert row_of(made(weights), tolerance=1e-3)["weak_rank_loss"] == 5


@pytest.mark.parametrize("rows", [90, 60])
@pytest.mark.parametrize("wide", [True, False])
def test_inverse(rows: int, wide: bool) -> None:
    esd = np.sort(np.geomspace(1e-2, 1e2, 60) * (1 + 0.1 * np.sin(np.arange(60))))
    weights = with_eigenvalues(esd, rows)
    weights = weights.T if wide else weights
    row, plain = row_of(made(weights), inverse=True), row_of(made(weights))
    for name in ("sv_max", "sv_min", "matrix_rank", "rank_loss", "weak_rank_loss", *ABOUT):
        assert row[name] == plain[name], name
    turned = row_of(made(with_eigenvalues(np.sort(1 / esd), 80)))
    for name in (
        "norm",
        "log_norm",
        "spectral_norm",
        "lambda_max",
        "log_spectral_norm",
        "stable_rank",
        "entropy",
        *FIT,
    ):
        assert row[name] == pytest.approx(turned[name], rel=1e-8), name
    assert row["warning"] == turned["warning"]
    assert row["lambda_max"] == pytest.approx(1 / esd.min(), rel=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverse_of_a_deficient_matrix_leaves_zeros_out(dtype: Any) -> None:
    esd = pareto(60, 3.0)
    weights = with_eigenvalues(np.array([*np.zeros(10), *esd]), 90, dtype=dtype)
    row = row_of(made(weights), inverse=True)
    assert (row["matrix_rank"], row["rank_loss"], row["num_evals"]) == (60, 10, 70)
    assert row["norm"] == pytest.approx(np.sum(1 / esd), rel=1e-5)
    assert row["lambda_max"] == pytest.approx(1 / esd[0], rel=1e-5)
    assert row["xmax"] == pytest.approx(1 / esd[0], rel=1e-5)
    assert "10 zero eigenvalues left out of the inverse" in row["warning"]
    assert row["status"] == "success"


def test_inverse_of_one_deficient_kernel_position() -> None:
    weights = np.zeros((20, 20, 2))
    weights[:, :, 0] = np.diag(np.array([*np.zeros(8), *np.arange(1.0, 13.0)]))
    weights[:, :, 1] = np.diag(np.arange(1.0, 21.0))
    row = row_of(made(weights, LAYER_TYPE.CONV1D), inverse=True, conv2d_norm=False)
    expected = np.sum(1 / np.arange(1.0, 13.0) ** 2) + np.sum(1 / np.arange(1.0, 21.0) ** 2)
    assert row["norm"] == pytest.approx(expected, rel=1e-12)
    assert "8 zero eigenvalues left out" in row["warning"]


def test_inverse_keeps_small_kernel_positions_and_leaves_rounded_zeros_out() -> None:
    rng = np.random.default_rng(0)
    small = np.diag(np.arange(1.0, 21.0)) * 1e-9
    deficient = rng.standard_normal((20, 12)) @ rng.standard_normal((12, 20))
    weights = np.stack([small, deficient], axis=-1).astype(np.float32)
    row = row_of(made(weights, LAYER_TYPE.CONV1D), inverse=True, conv2d_norm=False)
    kept = np.concatenate([squares(weights[:, :, 0]), squares(weights[:, :, 1])[8:]])
    assert row["matrix_rank"] == 32
    assert row["norm"] == pytest.approx(np.sum(1 / kept), rel=1e-6)


def ill_conditioned() -> tuple[Array, Array]:
    singular = np.geomspace(1e-10, 1.0, 60)
    return with_eigenvalues(singular**2, 80), singular


def test_inverse_of_an_ill_conditioned_float64_matrix() -> None:
    weights, singular = ill_conditioned()
    row = row_of(made(weights), inverse=True)
    assert row["matrix_rank"] == 60
    assert row["lambda_max"] == pytest.approx(singular[0] ** -2, rel=1e-3)
    assert row["norm"] == pytest.approx(np.sum(singular**-2), rel=1e-3)


def test_smallest_singular_value_of_an_ill_conditioned_float64_matrix() -> None:
    weights, singular = ill_conditioned()
    row = row_of(made(weights))
    assert row["matrix_rank"] == 60
    assert row["sv_min"] == pytest.approx(singular[0], rel=1e-3)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_inverse_of_float32_matrices(condition: float) -> None:
    weights = with_eigenvalues(np.geomspace(condition**-2, 1.0, 60), 80, dtype=np.float32)
    esd = squares(weights)
    row = row_of(made(weights), inverse=True)
    assert row["matrix_rank"] == 60
    assert row["lambda_max"] == pytest.approx(1 / esd[0], rel=1e-2)


SWITCHES: list[dict[str, Any]] = [
    *({}, {"detX": True}, {"inverse": True}, {"pool": False}, {"xmax": -1}),
    *({"mp_fit": True}, {"randomize": True, "rand_replicas": 3}),
]


def holds(rows: list[Row]) -> None:
    for row in rows:
        assert row["status"] in ("success", "failed", "random-like")
        assert (row["status"] != "success") == bool(row["reason"])
        assert math.isnan(row["alpha"]) == (row["status"] == "failed")
        assert not np.isinf(list(numbers(row).values())).any()
        if row["status"] == "failed":
            is_nan(row, FIT)


@settings(deadline=None, max_examples=100)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)),
    st.integers(-310, 300),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from(SWITCHES),
)
def test_no_scale_is_too_odd_for_a_row(
    shape: tuple[int, int, int], decade: int, spread: int, seed: int, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    exponents = np.clip(decade + rng.uniform(-spread, spread, shape), -320, 305)
    weights = rng.standard_normal(shape) * 10.0**exponents
    holds(analyze_layer(made(weights, LAYER_TYPE.CONV1D), Options.make(**options)))


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)),
    st.integers(1, 4),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float16, np.float32, np.float64, ml_dtypes.bfloat16]),
    st.sampled_from(SWITCHES),
)
def test_no_pattern_is_too_odd_for_a_row(
    shape: tuple[int, int, int], levels: int, zeros: float, seed: int, dtype: Any, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-levels, levels + 1, shape) * (rng.random(shape) >= zeros)
    holds(analyze_layer(made(weights.astype(dtype), LAYER_TYPE.CONV1D), Options.make(**options)))


@pytest.mark.parametrize("scale", [1e-162, 1e-160, 1e-158, 1e-156, 1e-150, 1e-100, 1e100, 1e150, 1e154])
def test_a_scaled_layer_has_the_same_alpha_or_says_why_not(scale: float) -> None:
    weights = with_eigenvalues(pareto(100, 3.0), 120) / 100
    row = row_of(made(weights * scale))
    if row["status"] == "failed":
        assert "rescale the layer" in row["reason"]
    else:
        assert row["alpha"] == pytest.approx(row_of(made(weights))["alpha"], rel=1e-6)


def test_rows_repeat_to_the_last_bit_and_leave_weights_alone() -> None:
    layer = convolved(24, 16, 3, 3)
    before = layer.read().copy()
    layer.read().flags.writeable = False
    first = row_of(layer, detX=True)
    assert row_of(layer, detX=True) == first
    assert np.array_equal(layer.read(), before)


def test_describing_a_layer_does_not_read_it() -> None:
    def read() -> Array:
        raise AssertionError("the layer was read")

    layer = made(gaussian(24, 16, 3, 3), LAYER_TYPE.CONV2D, read)
    about = describe_layer(layer, Options())
    assert set(about) == set(ABOUT)
    assert (about["N"], about["M"], about["Q"], about["rf"], about["num_evals"]) == (24, 16, 1.5, 9, 144)
    assert describe_layer(layer, Options.make(pool=False))["num_evals"] == 16
    assert why_not(layer, Options()) == ""


def test_depthwise_convolutions_are_not_analysed() -> None:
    layer = made(gaussian(64, 1, 3, 3), LAYER_TYPE.CONV2D, depthwise=True)
    assert why_not(layer, Options.make(min_evals=1)).startswith("depthwise")


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((30, 8), {}, ""),
        ((30, 7), {}, "7 eigenvalues, fewer than min_evals=8"),
        ((1, 30), {}, "1 eigenvalue, fewer than min_evals=8"),
        ((1, 30), {"min_evals": 1}, ""),
        ((30, 4, 2), {}, ""),
        ((30, 4, 2), {"pool": False}, "4 eigenvalues, fewer than min_evals=8"),
        ((30, 20), {"max_evals": 20}, ""),
        ((30, 21), {"max_evals": 20}, "21 eigenvalues, more than max_evals=20"),
        ((20, 30, 3), {"max_evals": 59}, "60 eigenvalues, more than max_evals=59"),
        ((20, 30, 3), {"max_evals": 20, "pool": False}, ""),
        ((0, 30), {}, "empty: its shape is [0, 30]"),
        ((0, 30), {"min_evals": 0}, "empty: its shape is [0, 30]"),
    ],
)
def test_what_is_analysed(shape: tuple[int, ...], options: dict[str, Any], reason: str) -> None:
    layer = made(np.zeros(shape, dtype=np.float32), LAYER_TYPE.CONV1D)
    assert why_not(layer, Options.make(**options)) == reason

"""Transforms against sums and matrices written out, and what WeightWatcher computes in their place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
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
from wwonnx.spectral import transforms as module
from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.transforms import (
    GRID,
    LevelSpacings,
    convolution_spectrum,
    fft,
    glorot_factor,
    level_spacings,
    spacing_metrics,
)

Array = NDArray[Any]

EPS32, EPS64 = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def positions(weights: Array) -> Array:
    """(out, in, k1, ..., kd) as one matrix per kernel position, row-major."""
    out, inputs = weights.shape[:2]
    return np.moveaxis(weights.reshape(out, inputs, -1), 2, 0)


def written_out(weights: Array, grid: int) -> Array:
    """The convolution as a matrix: every output channel at every point, from every input channel at every point."""
    out, inputs, *kernel = weights.shape
    points = list(product(range(grid), repeat=len(kernel)))
    number = {point: index for index, point in enumerate(points)}
    whole = np.zeros((out, len(points), inputs, len(points)))
    for point in points:
        for offset in np.ndindex(*kernel):
            source = tuple((a + b) % grid for a, b in zip(point, offset, strict=True))
            whole[:, number[point], :, number[source]] += weights[(slice(None), slice(None), *offset)]
    return whole.reshape(out * len(points), inputs * len(points))


def singular(matrix: Array) -> Array:
    """Squared singular values, ascending."""
    return np.sort(np.linalg.svd(matrix, compute_uv=False)) ** 2


# fft ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (2, 5, 3), (3, 2, 7)])
def test_fft_is_the_sum_of_cosines(shape: tuple[int, int, int]) -> None:
    weights = gaussian(*shape)
    _, rows, columns = shape
    transformed = fft(weights)
    assert transformed.shape == shape
    for u, v in product(range(rows), range(columns)):
        angle = 2 * np.pi * (u * np.arange(rows)[:, None] / rows + v * np.arange(columns) / columns)
        np.testing.assert_allclose(transformed[:, u, v], (weights * np.cos(angle)).sum(axis=(1, 2)), atol=1e-12)


def test_fft_of_one_entry_and_of_a_constant() -> None:
    one = np.zeros((1, 6, 4))
    one[0, 0, 0] = 3.0
    np.testing.assert_allclose(fft(one), np.full((1, 6, 4), 3.0))
    np.testing.assert_allclose(fft(np.full((1, 6, 4), 3.0)), 24 * one, atol=1e-13)


def test_the_whole_transform_would_be_the_same_spectrum() -> None:
    weights = gaussian(9, 6)
    np.testing.assert_allclose(singular(np.fft.fft2(weights)), 54 * singular(weights), rtol=1e-10)
    assert not np.allclose(singular(fft(weights[None])[0]), 27 * singular(weights), rtol=0.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_fft_is_taken_in_float64(dtype: Any) -> None:
    stored = gaussian(2, 8, 5).astype(dtype)
    before = stored.copy()
    transformed = fft(stored)
    assert transformed.dtype == np.float64
    np.testing.assert_array_equal(transformed, fft(stored.astype(np.float64)))
    np.testing.assert_array_equal(stored, before)


def test_fft_leaves_broken_weights_to_be_counted() -> None:
    weights = gaussian(2, 5, 4)
    weights[1, 2, 3], weights[0, 0, 0] = np.nan, np.inf
    assert np.count_nonzero(~np.isfinite(fft(weights))) == 2


# convolutions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [EPS32, EPS64])
@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((4, 3, 3), 8),
        ((3, 4, 3), 7),
        ((2, 2, 2), 1),
        ((2, 2, 5), 2),
        ((1, 1, 9), 4),
        ((4, 3, 3, 3), 5),
        ((3, 4, 3, 3), 6),
        ((2, 3, 1, 1), 4),
        ((2, 3, 1, 5), 4),
        ((2, 3, 5, 2), 3),
        ((3, 3, 7, 7), 4),
        ((2, 3, 3, 2, 3), 3),
        ((3, 2, 2, 2, 2), 4),
    ],
)
def test_the_convolution_as_a_matrix(shape: tuple[int, ...], grid: int, eps: float) -> None:
    weights = gaussian(*shape)
    found = convolution_spectrum(lambda: positions(weights), shape[2:], eps, grid)
    dimensions = len(shape) - 2
    assert found.eigenvalues.shape == (grid**dimensions, min(shape[:2]))
    assert (np.diff(found.eigenvalues, axis=1) >= 0).all()
    whole = singular(written_out(weights, grid))[-found.eigenvalues.size :]
    np.testing.assert_allclose(found.pooled, whole, rtol=1e-9, atol=1e-12 * whole[-1])


def test_a_convolution_of_one_channel_has_the_transform_of_its_kernel() -> None:
    kernel = gaussian(3, 3)
    found = convolution_spectrum(lambda: kernel.reshape(9, 1, 1), (3, 3), EPS32)
    assert GRID == 32
    np.testing.assert_allclose(found.pooled, np.sort(np.abs(np.fft.fft2(kernel, (32, 32))).ravel()) ** 2, atol=1e-10)


@pytest.mark.parametrize("offset", [(0, 0), (1, 2), (2, 1)])
def test_a_shift_of_permuted_channels_keeps_every_norm(offset: tuple[int, int]) -> None:
    weights = np.zeros((6, 6, 3, 3))
    weights[(slice(None), slice(None), *offset)] = np.eye(6)[np.random.default_rng(0).permutation(6)]
    found = convolution_spectrum(lambda: positions(weights), (3, 3), EPS32, 8)
    np.testing.assert_allclose(found.eigenvalues, np.ones((64, 6)), rtol=1e-12)
    assert found.ranks.tolist() == [6] * 64


def test_a_difference_forgets_the_mean() -> None:
    """The kernel (1, -1): 2 |sin(pi f / n)|, and no rank at frequency 0."""
    found = convolution_spectrum(lambda: np.array([1.0, -1.0]).reshape(2, 1, 1), (2,), EPS64, 10)
    np.testing.assert_allclose(found.pooled, np.sort(4 * np.sin(np.pi * np.arange(10) / 10) ** 2), atol=1e-14)
    assert found.ranks.sum() == 9


@pytest.mark.parametrize("eps", [EPS32, EPS64])
def test_the_rank_is_measured_by_the_whole_map(eps: float) -> None:
    """At frequency 0 this kernel is nothing but rounding: that has no rank of its own."""
    weights = gaussian(5, 4, 3)
    weights -= weights.mean(axis=2, keepdims=True)
    found = convolution_spectrum(lambda: positions(weights), (3,), eps, 8)
    assert sorted(found.ranks.tolist()) == [0] + [4] * 7
    low = gaussian(6, 2, seed=1) @ gaussian(2, 15, seed=2)
    found = convolution_spectrum(lambda: positions(low.reshape(6, 5, 3)), (3,), eps, 8)
    assert found.ranks.tolist() == [2] * 8
    assert not convolution_spectrum(lambda: np.zeros((3, 5, 4)), (3,), eps, 4).ranks.any()
    steep = np.diag([1.0, 1e-5, 1e-10])
    found = convolution_spectrum(lambda: steep[None], (1,), eps, 4)
    assert found.ranks.tolist() == [2 if eps == EPS32 else 3] * 4


def test_groups_are_blocks_of_the_map() -> None:
    """A grouped convolution of 2 groups: the whole map is block-diagonal."""
    weights = gaussian(2, 3, 4, 3)
    whole = np.zeros((6, 8, 3))
    whole[:3, :4], whole[3:, 4:] = weights
    found = convolution_spectrum(lambda: np.concatenate([positions(group) for group in weights]), (3,), EPS32, 6)
    assert found.eigenvalues.shape == (12, 3)
    np.testing.assert_allclose(found.pooled, singular(written_out(whole, 6)), rtol=1e-10)


def test_turning_the_matrices_changes_nothing() -> None:
    """A transposed convolution is the transposed map."""
    stack = gaussian(9, 7, 4)
    one = convolution_spectrum(lambda: stack, (3, 3), EPS32, 6)
    other = convolution_spectrum(lambda: stack.swapaxes(1, 2), (3, 3), EPS32, 6)
    np.testing.assert_allclose(one.pooled, other.pooled, rtol=1e-10)


def test_the_size_of_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = gaussian(9, 7, 4)
    whole = convolution_spectrum(lambda: stack, (3, 3), EPS32, 6)
    for size in (1, 3000, 10000):
        monkeypatch.setattr(module, "_CHUNK_BYTES", size)
        found = convolution_spectrum(lambda: stack, (3, 3), EPS32, 6)
        np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    out=st.integers(1, 6),
    inputs=st.integers(1, 6),
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    grid=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_holds_of_every_convolution(out: int, inputs: int, kernel: tuple[int, ...], grid: int, seed: int) -> None:
    stack = gaussian(math.prod(kernel), out, inputs, seed=seed)
    found = convolution_spectrum(lambda: stack, kernel, EPS32, grid)
    assert found.eigenvalues.shape == (grid ** len(kernel), min(out, inputs))
    # No map is larger than the sum of what its positions do, and a constant image meets the sum of the positions.
    largest = math.sqrt(found.pooled[-1])
    assert largest <= np.linalg.norm(stack, 2, axis=(1, 2)).sum() * (1 + 1e-9)
    assert largest >= np.linalg.norm(stack.sum(axis=0), 2) * (1 - 1e-9)
    if max(kernel) <= grid:
        assert found.pooled.sum() == pytest.approx(grid ** len(kernel) * np.square(stack).sum(), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_element_types(dtype: Any) -> None:
    stored = gaussian(9, 6, 5).astype(dtype)
    found = convolution_spectrum(lambda: stored, (3, 3), EPS32, 5)
    exact = convolution_spectrum(lambda: stored.astype(np.float64), (3, 3), EPS32, 5)
    np.testing.assert_array_equal(found.eigenvalues, exact.eigenvalues)


@pytest.mark.parametrize("eps", [EPS32, EPS64])
@pytest.mark.parametrize(("value", "words"), [(np.nan, "1 of 180"), (np.inf, "1 of 180"), (1e200, "overflow")])
def test_broken_weights(value: float, words: str, eps: float) -> None:
    stack = gaussian(9, 5, 4)
    stack[3, 2, 1] = value
    with pytest.raises(WeightError, match=words):
        convolution_spectrum(lambda: stack, (3, 3), eps, 4)


@pytest.mark.parametrize("eps", [EPS32, EPS64])
def test_weights_whose_squares_vanish(eps: float) -> None:
    with pytest.raises(WeightError, match="so small"):
        convolution_spectrum(lambda: 1e-200 * gaussian(3, 5, 4), (3,), eps, 4)


def test_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    def eigvalsh(_: Array) -> None:
        raise np.linalg.LinAlgError("eigenvalues did not converge")

    monkeypatch.setattr(np.linalg, "eigvalsh", eigvalsh)
    with pytest.raises(WeightError, match="did not converge"):
        convolution_spectrum(lambda: gaussian(9, 5, 4), (3, 3), EPS32, 4)


def convolutions(shared: Path, network: str) -> Iterator[tuple[str, Array]]:
    for layer in walk(open_model(shared / "models" / "real" / f"{network}.onnx").model).layers:
        if layer.is_convolution:
            yield layer.name, np.asarray(layer.read(), dtype=np.float64)


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_what_weightwatcher_computes_in_its_place(shared: Path, network: str) -> None:
    """Not this: why conv2d_fft differs from WeightWatcher's.

    Its matrices are the 32 x 32 transforms of single pairs of channels, of which it keeps the real part and then the
    k * out * in largest singular values. So those found here are its own to 1e-6, and only a half of what the
    convolution does is in them.
    """
    import pandas as pd

    golden = pd.read_csv(shared / "goldens" / network / "conv2d_fft.csv").set_index("name")
    for name, weights in convolutions(shared, network):
        row = golden.loc[name]
        out, inputs, size, _ = weights.shape
        assert [row.N, row.M, row.num_evals, row.rf] == [max(out, inputs), min(out, inputs), out * inputs * size, 1]
        # The real part of F K F^T has the row and column spaces of the cosines and sines of its few frequencies.
        angles = 2 * np.pi / 32 * np.outer(np.arange(32), np.arange(size))
        triangle = np.linalg.qr(np.hstack([np.cos(angles), np.sin(angles)]))[1]
        blocks = np.zeros((out, inputs, 2 * size, 2 * size))
        blocks[..., :size, :size], blocks[..., size:, size:] = weights, -weights
        values = np.linalg.svd(triangle @ blocks @ triangle.T, compute_uv=False).ravel()
        esd = np.sort(values)[-out * inputs * size :] ** 2 / 2
        fit = fit_power_law(esd)
        for column, value in (
            ("norm", esd.sum()),
            ("lambda_max", esd[-1]),
            ("alpha", fit.alpha),
            ("D", fit.D),
            ("xmin", fit.xmin),
            ("sv_min", math.sqrt(esd[0])),
        ):
            assert value == pytest.approx(row[column], rel=3e-6), (name, column)
        assert esd.sum() < 0.6 * 32 * 32 * np.square(weights).sum() / 2


def test_a_trained_convolution(shared: Path) -> None:
    """Against the matrices of the transformed kernels, frequency by frequency."""
    name, weights = next(item for item in convolutions(shared, "resnet20") if item[0] == "layer2.0.conv1")
    found = convolution_spectrum(lambda: positions(weights), (3, 3), EPS32)
    transfer = np.moveaxis(np.fft.fft2(weights, (32, 32)), (0, 1), (2, 3))
    reference = np.sort(np.linalg.svd(transfer, compute_uv=False), axis=None) ** 2
    np.testing.assert_allclose(found.pooled, reference, rtol=1e-8, atol=1e-12 * reference[-1])
    assert found.ranks.sum() == 1024 * 16, name


# glorot_fix -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("N", "M", "kernel"), [(300, 200, ()), (256, 256, ()), (120, 80, (3, 3)), (64, 48, (5,))])
def test_a_layer_as_glorot_draws_it_gets_entries_of_variance_1(N: int, M: int, kernel: tuple[int, ...]) -> None:
    count = math.prod(kernel)
    deviation = math.sqrt(2 / (count * N + count * M))
    weights = deviation * gaussian(N, M, *kernel)
    factor = glorot_factor(N, M, count)
    assert factor == pytest.approx(deviation**-2)
    assert factor * np.square(weights).sum() / weights.size == pytest.approx(1.0, rel=0.02)


# deltas ---------------------------------------------------------------------------------------------------------------


def test_spacings() -> None:
    np.testing.assert_allclose(level_spacings(np.array([0.0, 1.0, 11.0, 11.01])), [0.0, 1.0, -2.0], atol=1e-12)
    assert level_spacings(np.array([3.0])).shape == (0,)
    assert level_spacings(np.array([])).shape == (0,)


def test_equal_eigenvalues_have_no_spacing() -> None:
    esd = np.array([0.0, 1e-17, 0.5, 0.5, np.nextafter(0.5, 1), 10.0])
    assert np.isneginf(level_spacings(esd)).tolist() == [True, False, True, True, False]
    assert np.isneginf(level_spacings(np.zeros(3))).all()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 50), seed=st.integers(0, 2**32 - 1), power=st.integers(-100, 100))
def test_spacings_move_with_the_scale(n: int, seed: int, power: int) -> None:
    esd = np.sort(np.random.default_rng(seed).exponential(size=n))
    moved = level_spacings(esd * 10.0**power)
    np.testing.assert_allclose(moved, level_spacings(esd) + power, atol=1e-6)


def test_spacings_of_tail_and_bulk() -> None:
    """The spacing from the last value of the bulk to xmin is the bulk's."""
    esd = np.array([0.0, 1.0, 1.0, 2.0, 12.0, 112.0])
    metrics = spacing_metrics(esd, 2.0)
    assert metrics == LevelSpacings(1.5, 0.25, 0.0, 0.0)
    assert list(metrics.columns) == ["tail_mean_delta", "tail_var_delta", "bulk_mean_delta", "bulk_var_delta"]
    assert spacing_metrics(esd, 0.0).tail_mean_delta == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("esd", "xmin", "empty"),
    [
        ([1.0, 2.0, 3.0], math.nan, "tail bulk"),
        ([1.0, 2.0, 3.0], 0.0, "bulk"),
        ([1.0, 2.0, 3.0], 3.0, "tail"),
        ([1.0, 2.0, 2.0], 2.0, "tail"),
        ([2.0], 2.0, "tail bulk"),
        ([], 2.0, "tail bulk"),
    ],
)
def test_without_spacings_there_is_no_mean(esd: list[float], xmin: float, empty: str) -> None:
    for name, value in spacing_metrics(np.array(esd), xmin).columns.items():
        assert math.isnan(value) == (name[:4] in empty), name

"""Eigenvalues in float32 and through PyTorch, against those of float64 and LAPACK."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from wwonnx import OptionError, WeightWatcher
from wwonnx.errors import WeightError
from wwonnx.options import Options
from wwonnx.spectral.esd import Array, Spectrum, spectra, spectrum
from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.resolution import tail_resolved
from wwonnx.spectral.solver import Solver, rounding

EPS = float(np.finfo(np.float32).eps)
FAST = Solver(fast=True)
KINDS = ["gaussian", "heavy", "cauchy", "mean", "low rank", "rank one", "nearly constant", "orthogonal"]
SHAPES = [(256, 256), (1024, 256), (300, 700), (1024, 1024), (4096, 1024), (1200, 1500)]


def weights(kind: str, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    if kind == "heavy":
        noise = rng.standard_t(2.5, shape)
    if kind == "mean":
        noise = 0.02 * noise + 0.05
    if kind == "cauchy":
        noise = rng.standard_cauchy(shape)
    if kind == "nearly constant":
        noise = 1e-4 * noise + 0.7
    if kind == "rank one":
        noise = np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])) + 1e-3 * noise
    if kind == "orthogonal":
        noise = np.linalg.qr(noise if shape[0] >= shape[1] else noise.T)[0]
        noise = noise if shape[0] >= shape[1] else noise.T
    if kind == "low rank":
        factors = rng.standard_normal((shape[0], 40)) * np.logspace(0, -3, 40) @ rng.standard_normal((40, shape[1]))
        noise = factors + 1e-3 * noise
    return noise.astype(np.float32)


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """In float64, where rounding is 1e-9 of what is tested here."""
    tall = matrix.astype(np.float64) if matrix.shape[0] >= matrix.shape[1] else matrix.T.astype(np.float64)
    values: np.ndarray = np.linalg.eigvalsh(tall.T @ tall)
    return values


def one(matrix: np.ndarray, solver: Solver) -> Spectrum:
    (found,) = spectra([lambda: matrix[None]], [EPS], solver)
    assert isinstance(found, Spectrum)
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_within_the_bounds_that_it_states(kind: str, shape: tuple[int, int]) -> None:
    matrix = weights(kind, shape)
    exact = eigenvalues(matrix)
    found = one(matrix, FAST)
    assert found.errors is not None
    moved = np.abs(found.eigenvalues[0] - exact)
    assert (moved <= found.errors[0]).all()
    assert 0.0 < moved.max() <= found.error
    if kind != "nearly constant":  # one direction alone is left of these; the bound must say so
        assert found.error < 1e-5 * exact[-1]


@pytest.mark.parametrize("kind", ["gaussian", "cauchy", "low rank", "nearly constant"])
def test_float32_by_way_of_a_band_stays_within_the_bounds(kind: str) -> None:
    """At the size from which it goes that way."""
    matrix = weights(kind, (2900, 2897))
    exact = eigenvalues(matrix)
    found = one(matrix, FAST)
    assert found.errors is not None
    assert (np.abs(found.eigenvalues[0] - exact) <= found.errors[0]).all()


@pytest.mark.parametrize("shape", [(256, 256), (1200, 1100)])
@pytest.mark.parametrize("kind", KINDS)
def test_float32_through_torch_stays_within_its_bounds(kind: str, shape: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    matrix = weights(kind, shape)
    exact = eigenvalues(matrix)
    found = one(matrix, Solver(device="torch", fast=True))
    assert found.errors is not None
    assert (np.abs(found.eigenvalues[0] - exact) <= found.errors[0]).all()


def test_the_tridiagonal_form_of_float32_is_solved_in_float64() -> None:
    """LAPACK's ssterf alone errs by more than this at M = 1024."""
    matrix = weights("gaussian", (1024, 1024))
    exact = one(matrix, Solver()).eigenvalues
    moved = np.abs(one(matrix, FAST).eigenvalues - exact).max()
    assert moved < 0.5 * EPS * np.linalg.norm(exact)


def test_small_layers_are_computed_in_float64_all_the_same() -> None:
    matrix = weights("gaussian", (600, 255))
    found, exact = one(matrix, FAST), one(matrix, Solver())
    assert found.errors is None
    assert np.array_equal(found.eigenvalues, exact.eigenvalues)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e16, 1e30])
def test_weights_whose_squares_leave_float32_are_computed_in_float64(scale: float) -> None:
    matrix = weights("gaussian", (300, 300)) * np.float32(scale)
    found, exact = one(matrix, FAST), one(matrix, Solver())
    assert found.errors is None
    assert np.array_equal(found.eigenvalues, exact.eigenvalues)


@pytest.mark.parametrize("solver", [FAST, Solver(device="torch"), Solver(device="torch", fast=True)])
@pytest.mark.parametrize("width", [300, 1100])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_reported(solver: Solver, width: int, bad: float) -> None:
    pytest.importorskip("torch")
    matrix = weights("gaussian", (width, width))
    matrix[3, 4] = bad
    (found,) = spectra([lambda: matrix[None]], [EPS], solver)
    assert isinstance(found, WeightError)
    assert "1 of" in str(found)


@pytest.mark.parametrize("shape", [(300, 300), (1100, 1100), (3000, 1100), (1100, 3000)])
def test_torch_gives_the_eigenvalues_of_lapack(shape: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    matrix = weights("heavy", shape)
    ours, theirs = one(matrix, Solver()), one(matrix, Solver(device="torch"))
    np.testing.assert_allclose(theirs.eigenvalues, ours.eigenvalues, rtol=1e-9, atol=1e-13 * ours.eigenvalues.max())
    assert fit_power_law(theirs.pooled).alpha == pytest.approx(fit_power_law(ours.pooled).alpha, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 300, 300), (9, 40, 16), (2, 64, 1100)])
def test_what_an_accelerator_runs_gives_the_eigenvalues_of_lapack(shape: tuple[int, int, int]) -> None:
    """The same code with PyTorch's CPU device in the place of a GPU."""
    pytest.importorskip("torch")
    from wwonnx.spectral.accelerator import device_eigenvalues

    stack = np.random.default_rng(1).standard_normal(shape)
    tall = stack if shape[1] >= shape[2] else stack.swapaxes(1, 2)
    exact = np.array([np.linalg.svd(each, compute_uv=False)[::-1] ** 2 for each in stack])
    found = device_eigenvalues(tall, "cpu")
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12 * exact.max())


def test_a_spectrum_in_float64_has_a_bound_too() -> None:
    found = spectrum(lambda: weights("gaussian", (300, 300))[None], EPS)
    assert found.error == pytest.approx(rounding(found.eigenvalues, float(np.finfo(np.float64).eps)).max())


def spread(esd: Array, error: float) -> Spectrum:
    return Spectrum(esd[None], np.array([esd.size]), np.array([[error]]))


def test_a_tail_far_above_the_error_is_resolved_and_one_near_it_is_not() -> None:
    rng = np.random.default_rng(3)
    esd = np.sort((1.0 - rng.random(500)) ** (-1.0 / 1.5))
    xmin = fit_power_law(esd).xmin
    assert tail_resolved(spread(esd, 1e-8 * xmin), pooled=True)
    assert not tail_resolved(spread(esd, 1e-2 * xmin), pooled=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_resolved_tail_keeps_its_alpha_under_any_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    esd = np.sort((1.0 - rng.random(400)) ** (-1.0 / rng.uniform(0.7, 4.0)))
    error = float(esd[-1] * 10.0 ** rng.uniform(-9, -4))
    if not tail_resolved(spread(esd, error), pooled=True):
        return
    alpha = fit_power_law(esd).alpha
    for _ in range(20):
        moved = np.sort(np.abs(esd + rng.uniform(-error, error, esd.size)))
        assert fit_power_law(moved).alpha == pytest.approx(alpha, rel=1e-2)


def model(matrices: dict[str, np.ndarray]) -> bytes:
    """A chain-less model: every matrix multiplies an input of its own."""
    nodes, inputs, outputs = [], [], []
    for name, matrix in matrices.items():
        nodes.append(onnx.helper.make_node("MatMul", [f"{name}.x", f"{name}.weight"], [f"{name}.y"], name=name))
        inputs.append(onnx.helper.make_tensor_value_info(f"{name}.x", 1, [1, matrix.shape[0]]))
        outputs.append(onnx.helper.make_tensor_value_info(f"{name}.y", 1, [1, matrix.shape[1]]))
    tensors = [numpy_helper.from_array(matrix, f"{name}.weight") for name, matrix in matrices.items()]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()


def test_fast_rows_are_those_of_accurate_or_say_so() -> None:
    watcher = WeightWatcher(
        model(
            {
                "small": weights("heavy", (100, 60)),
                "gaussian": weights("gaussian", (512, 1024)),
                "heavy": weights("heavy", (700, 700)),
                "deep": weights("low rank", (400, 400)),
            }
        )
    )
    exact = watcher.analyze(mp_fit=True, detX=True)
    fast = watcher.analyze(mp_fit=True, detX=True, svd_method="fast").set_index("name")
    assert "esd_error" not in exact
    exact = exact.set_index("name")
    for column in ("alpha", "log_norm", "lambda_max", "log_alpha_norm", "mp_softrank", "stable_rank"):
        np.testing.assert_allclose(fast[column], exact[column], rtol=1e-3, err_msg=column)
    assert (fast["esd_error"] < 1e-4 * fast["lambda_max"]).all()
    assert fast.loc["small", "esd_error"] < 1e-12 * fast.loc["small", "lambda_max"]
    unranked = fast["matrix_rank"].isna()
    assert (fast["warning"].str.contains("float32's resolution") == unranked).all()
    assert (fast["matrix_rank"][~unranked] == exact["matrix_rank"][~unranked]).all()


def test_slices_carry_their_own_errors() -> None:
    kernel = np.random.default_rng(0).standard_normal((2, 300, 300)).astype(np.float32)
    (found,) = spectra([lambda: kernel], [EPS], FAST)
    assert isinstance(found, Spectrum)
    assert found.errors is not None
    assert found.errors.shape == (2, 300)
    assert found.slice(1).error == found.errors[1].max()
    assert found.scaled(3.0).slice(1).error == 3.0 * found.errors[1].max()


@pytest.mark.parametrize("name", ["inverse", "deltas", "intra", "conv2d_fft"])
def test_fast_contradicts_what_needs_small_eigenvalues(name: str) -> None:
    with pytest.raises(OptionError, match=f"svd_method='fast' and {name}"):
        Options.make(svd_method="fast", **{name: True})


def test_devices_that_are_not_there_are_refused_in_one_line() -> None:
    torch = pytest.importorskip("torch")
    watcher = WeightWatcher(model({"fc": weights("gaussian", (60, 60))}))
    with pytest.raises(OptionError, match="device='gpu'"):
        watcher.analyze(device="gpu")
    with pytest.raises(OptionError, match="no float64"):
        watcher.analyze(device="mps")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="no CUDA device"):
            watcher.analyze(device="cuda")

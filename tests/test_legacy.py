"""The interface of WeightWatcher 0.1 and 0.2: the numbers of METRICS, held against numpy on the weights themselves."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from build_onnx import conv_model, dense_model, gaussian
from numpy.typing import NDArray

import wwonnx
import wwonnx.legacy as ww

NOT_TYPE = "Skipping (Layer type not requested to analyze)"
NOT_ID = "Skipping (Layer id not requested to analyze)"


def heavy_tailed(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(2.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[np.float32]]:
    return {
        "stem": heavy_tailed(64, 3, 3, 3),
        "conv": heavy_tailed(64, 60, 3, 3, seed=1),
        "deep": heavy_tailed(55, 64, 2, 2, seed=2),
        "line": heavy_tailed(70, 52, 3, seed=3),
        "head": heavy_tailed(90, 80, seed=4),
    }


@pytest.fixture(scope="module")
def model(weights: dict[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Three 2-D convolutions, one of them too small, a 1-D one and a dense layer, in one graph."""
    convolutions = conv_model({name: array for name, array in weights.items() if array.ndim > 2})
    dense = dense_model({"head": weights["head"]})
    for field in ("node", "initializer", "input", "output"):
        getattr(convolutions.graph, field).extend(getattr(dense.graph, field))
    return convolutions


@pytest.fixture(scope="module")
def results(model: onnx.ModelProto) -> ww.Results:
    return ww.WeightWatcher(model=model).analyze(compute_alphas=True)


def matrices(array: NDArray[np.float32]) -> list[NDArray[np.float64]]:
    """The matrices of a weight, kernel positions in row-major order."""
    flat = array.astype(np.float64).reshape(*array.shape[:2], -1)
    return [flat[:, :, index] for index in range(flat.shape[2])]


def brute_force_alpha(eigenvalues: NDArray[np.float64]) -> float:
    """Clauset, Shalizi and Newman's fit, start by start, from the formula alone."""
    x = np.sort(eigenvalues)
    best, alpha = math.inf, math.nan
    for start in range(len(x) - 1):
        tail = x[start:]
        exponent = 1 + len(tail) / np.log(tail / tail[0]).sum()
        distance = np.abs(1 - (tail / tail[0]) ** (1 - exponent) - np.arange(len(tail)) / len(tail)).max()
        if distance < best:
            best, alpha = distance, exponent
    return alpha


def slices(result: ww.LayerResult) -> dict[int, dict[str, float]]:
    return {key: value for key, value in result.items() if str(key).isdigit()}


def test_every_matrix_has_the_numbers_of_its_own_weights(
    results: ww.Results, weights: dict[str, NDArray[np.float32]]
) -> None:
    assert list(results) == [1, 2, 3, 4, 5]
    for result, (name, array) in zip(results.values(), weights.items(), strict=True):
        wanted = matrices(array)
        assert sorted(slices(result)) == list(range(len(wanted)))
        for index, W in enumerate(wanted):
            found = result[index]
            N, M = max(W.shape), min(W.shape)
            assert (found["N"], found["M"], found["Q"]) == (N, M, N / M)
            if name == "stem":
                assert set(found) == {"N", "M", "Q", "summary"}
                continue
            singular = np.linalg.svd(W, compute_uv=False)
            alpha = brute_force_alpha(singular**2)
            assert found["norm"] == pytest.approx(np.linalg.norm(W), rel=1e-9)
            assert found["lognorm"] == pytest.approx(np.log10(np.linalg.norm(W)), rel=1e-9)
            assert found["alpha"] == pytest.approx(alpha, rel=1e-6)
            assert found["alpha_weighted"] == pytest.approx(alpha * np.log10(singular[0] ** 2), rel=1e-6)
            assert found["lambda_max"] == pytest.approx(singular[0] ** 2, rel=1e-9)
            assert found["lambda_min"] == pytest.approx(singular[-1] ** 2, rel=1e-6)


def test_skipped_and_analysed_matrices_say_so(results: ww.Results) -> None:
    assert results[1][0]["summary"] == "Weight matrix 1/9 (3,64): Skipping: too small (<50)"
    assert results[1][8]["summary"] == "Weight matrix 9/9 (3,64): Skipping: too small (<50)"
    found = results[5][0]
    alpha, weighted, D, lognorm = (found[name] for name in ("alpha", "alpha_weighted", "D", "lognorm"))
    assert found["summary"].splitlines() == [
        f"Weight matrix 1/1 (80,90): Alpha: {alpha}, Alpha Weighted: {weighted}, D: {D}",
        f"Weight matrix 1/1 (80,90): Lognorm: {lognorm}",
    ]
    assert [result["layer_type"] for result in results.values()] == [
        *[ww.LAYER_TYPE.CONV2D] * 3,
        ww.LAYER_TYPE.CONV1D,
        ww.LAYER_TYPE.DENSE,
    ]


def test_the_summary_is_the_mean_over_matrices_and_the_mean_over_layers(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze(compute_alphas=True)
    wanted = {}
    for metric in ("norm", "lognorm", "alpha", "alpha_weighted"):
        layers = [[each[metric] for each in slices(result).values() if metric in each] for result in results.values()]
        wanted[metric] = np.mean([value for layer in layers for value in layer])
        wanted[f"{metric}_compound"] = np.mean([np.mean(layer) for layer in layers if layer])
    assert wanted["norm"] != pytest.approx(wanted["norm_compound"])
    assert watcher.get_summary() == pytest.approx(wanted, rel=1e-12)
    assert list(watcher.get_summary()) == list(wanted)
    frame = watcher.get_summary(pandas=True)
    assert isinstance(frame, pd.DataFrame)
    assert frame.iloc[0].to_dict() == watcher.get_summary()


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_the_summary_of_real_networks(shared: Path, network: str) -> None:
    path = shared / "models" / "real" / f"{network}.onnx"
    watcher = ww.WeightWatcher(model=path)
    watcher.analyze(compute_alphas=True)
    golden = pd.read_csv(shared / "goldens" / network / "pool_false.csv")
    golden = golden[golden.M >= 50]
    # WeightWatcher's figures with its scaling of convolutions, by sqrt(rf / 2), taken out again.
    factor = np.where(golden.rf > 1, golden.rf / 2.0, 1.0)
    norms = np.sqrt(golden.norm / factor)
    summary = watcher.get_summary()
    assert summary["alpha"] == pytest.approx(golden.alpha.mean(), rel=1e-6)
    assert summary["norm"] == pytest.approx(norms.mean(), rel=1e-6)
    assert summary["lognorm"] == pytest.approx(np.log10(norms).mean(), rel=1e-6)
    weighted = golden.alpha * np.log10(golden.lambda_max / factor)
    assert summary["alpha_weighted"] == pytest.approx(weighted.mean(), rel=1e-6)
    assert summary["alpha_weighted_compound"] == pytest.approx(weighted.groupby(golden.name).mean().mean(), rel=1e-6)


def test_filters_by_type_leave_the_message(model: onnx.ModelProto) -> None:
    found = ww.WeightWatcher(model=model).analyze(layers=ww.LAYER_TYPE.DENSE)
    assert found[1] == {"layer_type": ww.LAYER_TYPE.CONV2D, "message": NOT_TYPE}
    assert found[4] == {"layer_type": ww.LAYER_TYPE.CONV1D, "message": NOT_TYPE}
    assert "lognorm" in found[5][0]
    both = ww.WeightWatcher(model=model).analyze(layers=ww.LAYER_TYPE.CONV1D | ww.LAYER_TYPE.DENSE)
    assert [layer_id for layer_id, result in both.items() if 0 in result] == [4, 5]
    assert both == ww.WeightWatcher(model=model).analyze(layers=[ww.LAYER_TYPE.CONV1D, ww.LAYER_TYPE.DENSE])


def test_filters_by_id_leave_the_message(model: onnx.ModelProto, results: ww.Results) -> None:
    watcher = ww.WeightWatcher(model=model)
    found = watcher.analyze(layers=[2, 5], compute_alphas=True)
    assert found[1] == {"id": 1, "type": "Conv", "message": NOT_ID}
    assert {key: found[key] for key in (2, 5)} == {key: results[key] for key in (2, 5)}
    assert watcher.analyze(layers=5)[5][0]["norm"] == results[5][0]["norm"]
    mixed = watcher.analyze(layers=[2, 5, ww.LAYER_TYPE.DENSE])
    assert [mixed[key].get("message", "") for key in (1, 2, 5)] == [NOT_ID, NOT_TYPE, ""]


def test_an_id_that_no_layer_has_is_said_and_leaves_nothing(
    model: onnx.ModelProto, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = ww.WeightWatcher(model=model)
    found = watcher.analyze(layers=[20])
    assert {result["message"] for result in found.values()} == {NOT_ID}
    assert watcher.get_summary() == {}
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "layers=[20]: no layer has such an id; ids go from 1 to 5" in record.message


@pytest.mark.parametrize("layers", ["conv", [1.5], [-1], ["2"], [True]])
def test_a_filter_that_says_nothing_is_refused(model: onnx.ModelProto, layers: object) -> None:
    with pytest.raises(wwonnx.OptionError, match="layers="):
        ww.WeightWatcher(model=model).analyze(layers=layers)  # type: ignore[arg-type]


def test_sizes_are_those_of_the_smaller_dimension(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model=model)
    found = watcher.analyze(min_size=55, max_size=60)
    assert [layer_id for layer_id, result in found.items() if "norm" in result[0]] == [2, 3]
    assert found[4][0]["summary"] == "Weight matrix 1/3 (52,70): Skipping: too small (<55)"
    assert found[5][0]["summary"] == "Weight matrix 1/1 (80,90): Skipping: too big (testing) (>60)"
    everything = watcher.analyze(min_size=0)
    assert all("norm" in result[0] for result in everything.values())
    nothing = watcher.analyze(min_size=100, max_size=10)
    assert not any("norm" in result[0] for result in nothing.values())


def test_what_is_computed_is_what_was_asked_for(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model=model)
    assert set(watcher.analyze(layers=[5])[5][0]) == {"N", "M", "Q", "norm", "lognorm", "summary"}
    assert set(watcher.analyze(layers=[5], compute_lognorms=False)[5][0]) == {"N", "M", "Q", "summary"}
    assert watcher.get_summary() == {}
    assert watcher.analyze(alphas=True) == watcher.analyze(compute_alphas=True)
    assert watcher.analyze(layers=[5], lognorms=False, alphas=True)[5][0].keys() == {
        *("N", "M", "Q", "summary"),
        *("alpha", "alpha_weighted", "D", "lambda_min", "lambda_max", "rank_loss"),
    }
    assert watcher.analyze(softranks=True) == watcher.analyze(compute_softranks=True, compute_lognorms=False)
    assert watcher.analyze(spectralnorms=True) == watcher.analyze(compute_spectralnorms=True)


def test_the_rarer_numbers(model: onnx.ModelProto, weights: dict[str, NDArray[np.float32]]) -> None:
    watcher = ww.WeightWatcher(model=model)
    found = watcher.analyze(layers=[2, 5], alphas=True, softranks=True, spectralnorms=True, mp_fit=True)
    singular = np.linalg.svd(weights["head"].astype(np.float64), compute_uv=False)
    norm = np.linalg.norm(singular)
    dense = found[5][0]
    assert dense["spectralnorm"] == pytest.approx(singular[0] ** 2)
    assert dense["logspectralnorm"] == pytest.approx(np.log10(singular[0] ** 2))
    assert dense["softrank"] == pytest.approx(norm**2 / singular[0] ** 2)
    assert dense["softranklog"] == pytest.approx(np.log10(dense["softrank"]))
    assert dense["softranklogratio"] == pytest.approx(np.log10(norm) / np.log10(singular[0]))
    assert dense["ratio_numofSpikes"] == dense["numofSpikes"] / 80
    assert 0 < dense["softrank_mp"] < 1
    normal = watcher.analyze(layers=[5], alphas=True, spectralnorms=True, normalize=True)[5][0]
    assert normal["spectralnorm"] == pytest.approx(singular[0] ** 2 / 90)
    assert normal["alpha_weighted"] == pytest.approx(dense["alpha"] * np.log10(singular[0] ** 2 / 90))
    assert (normal["alpha"], normal["norm"]) == (dense["alpha"], dense["norm"])
    glorot = watcher.analyze(layers=[2], glorot_fix=True)[2][0]
    kappa = np.sqrt(2 / ((64 + 60) * 9))
    assert glorot["norm"] == pytest.approx(np.linalg.norm(weights["conv"][:, :, 0, 0].astype(np.float64)) / kappa)


def test_a_layer_that_fails_costs_the_others_nothing() -> None:
    broken = gaussian(60, 60)
    broken[3, 4] = np.nan
    watcher = ww.WeightWatcher(model=dense_model({"a": broken, "b": np.zeros((60, 60), "f4"), "c": gaussian(60, 60)}))
    found = watcher.analyze(alphas=True)
    assert set(found[1][0]) == {"N", "M", "Q", "summary"}
    assert found[1][0]["summary"].startswith("Weight matrix 1/1 (60,60): Skipping: ")
    assert "NaN" in found[1][0]["summary"]
    assert found[2][0]["norm"] == 0.0
    assert "lognorm" not in found[2][0]
    assert found[2][0]["summary"].splitlines() == [
        "Weight matrix 1/1 (60,60): Alpha: every weight is zero",
        "Weight matrix 1/1 (60,60): Lognorm: every weight is zero",
    ]
    assert watcher.get_summary()["alpha"] == found[3][0]["alpha"]


def test_weights_that_are_no_layers_come_last() -> None:
    watcher = ww.WeightWatcher(model=conv_model({"deep": gaussian(40, 1, 3, 3)}, groups={"deep": 40}))
    found = watcher.analyze(min_size=0)
    assert found[1][0]["summary"].startswith("Weight matrix 1/9 (1,40): Skipping: depthwise")
    graph = dense_model({"a": gaussian(60, 60)})
    graph.graph.node.append(onnx.helper.make_node("Mystery", ["y_a", "w"], ["z"], domain="strange"))
    graph.graph.initializer.append(onnx.numpy_helper.from_array(gaussian(60, 60), "w"))
    graph.opset_import.append(onnx.helper.make_opsetid("strange", 1))
    watcher = ww.WeightWatcher(model=graph)
    found = watcher.analyze()
    assert "norm" in found[1][0]
    assert found[2] == {"id": 2, "type": "strange.Mystery", "message": "Skipping (Layer not supported)"}
    assert watcher.analyze(layers=[1])[2]["message"] == NOT_ID


def test_the_details_are_a_table_of_the_same_numbers(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze(layers=ww.LAYER_TYPE.CONV2D, compute_alphas=True)
    details = watcher.get_details()
    assert details.index.tolist() == [1] * 9 + [2] * 9 + [3] * 4
    assert details.layer_type.unique().tolist() == ["CONV2D"]
    assert details.loc[2, "alpha"].tolist() == [results[2][index]["alpha"] for index in range(9)]
    assert details.loc[1, "alpha"].isna().all()
    assert details.equals(watcher.get_details(results))
    assert ww.WeightWatcher(model=model).get_details().empty


def test_the_banner_and_the_averages_go_to_the_log(model: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    watcher = ww.WeightWatcher(model=model)
    watcher.analyze(compute_alphas=True)
    messages = [record.message for record in caplog.records if record.name == "wwonnx.legacy"]
    assert messages[0].startswith(f"\nwwonnx v{ww.__version__}")
    for line in (
        "python      version 3.",
        f"numpy       version {np.__version__}",
        f"onnx        version {onnx.__version__}",
    ):
        assert line in messages[0]
    assert "Analyzing model '<ModelProto>' with 5 layers" in messages
    start = messages.index("### Printing results ###")
    summary = watcher.get_summary()
    headings = ["Norm", "LogNorm", "Alpha", "Alpha Weighted"]
    lines = messages[start + 1 :]
    assert [line.split(":")[0] for line in lines] == [
        f"{head}{kind}" for head in headings for kind in ("", " compound")
    ]
    norms = [each["norm"] for result in watcher.results.values() for each in slices(result).values() if "norm" in each]
    assert lines[0] == f"Norm: min: {min(norms)}, max: {max(norms)}, avg: {summary['norm']}"
    caplog.clear()
    watcher.print_results()
    assert [record.message for record in caplog.records] == messages[start:]


def test_a_logger_of_ones_own_hears_everything(model: onnx.ModelProto) -> None:
    own = logging.Logger("own", logging.DEBUG)
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    own.addHandler(handler)
    ww.WeightWatcher(model=model, logger=own).analyze(layers=ww.LAYER_TYPE.CONV1D)
    debug = [record.getMessage() for record in heard if record.levelno == logging.DEBUG]
    assert f"Layer 1: stem: {NOT_TYPE}" in debug
    assert any(line.startswith("Layer 4: line: Weight matrix 3/3 (52,70): Lognorm: ") for line in debug)
    assert any(record.levelno == logging.INFO for record in heard)
    assert own.handlers == [handler]


def test_printing_before_analysing_says_so(model: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    watcher = ww.WeightWatcher(model=model)
    watcher.print_results()
    assert "No results to print" in caplog.text
    assert watcher.get_summary() == {}
    assert repr(watcher).endswith("Analysis done: False")


def test_nothing_appears_and_nothing_of_logging_changes(shared: Path) -> None:
    """In a process without a logging configuration, where warnings appear; folded BatchNormalizations cause one."""
    path = shared / "models" / "real" / "ultraface_rfb320_bn_folded.onnx"
    code = f"""
import logging
import wwonnx.legacy as ww
ww.WeightWatcher(model={str(path)!r}, log=False).analyze(layers=[999])
for name in (None, "wwonnx", "wwonnx.legacy"):
    logger = logging.getLogger(name)
    assert not logger.handlers and not logger.filters and logger.level in (0, 30), name
assert logging.lastResort is not None and logging.root.manager.disable == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("given", [{"min_size": -1}, {"max_size": 1.5}, {"compute_alphas": "yes"}, {"mp_fit": 1}])
def test_options_that_can_not_be(model: onnx.ModelProto, given: dict[str, object]) -> None:
    with pytest.raises(wwonnx.OptionError, match=next(iter(given))):
        ww.WeightWatcher(model=model).analyze(**given)  # type: ignore[arg-type]

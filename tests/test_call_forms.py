"""How notebooks written for WeightWatcher call it: only the import and the line that makes the model change.

Two interfaces: today's, which is `wwonnx`, and that of versions 0.1 and 0.2, which is `wwonnx.legacy`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import scipy.stats
from build_onnx import conv_model, dense_model
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score

EIGHT = [f"{metric}{kind}" for metric in ("norm", "lognorm", "alpha", "alpha_weighted") for kind in ("", "_compound")]


def network(blocks: int, seed: int = 0) -> onnx.ModelProto:
    """A member of a family: convolutions one after the other, then three dense layers. Wider tails the deeper it is."""
    draw = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return draw.standard_t(2.0 + 4.0 / blocks, shape).astype(np.float32)

    convolutions = {"stem": weight(64, 3, 3, 3)} | {f"block{index}": weight(64, 64, 3, 3) for index in range(blocks)}
    model = conv_model(convolutions)
    dense = dense_model({"fc1": weight(128, 96), "fc2": weight(96, 80), "predictions": weight(80, 60)})
    for field in ("node", "initializer", "input", "output"):
        getattr(model.graph, field).extend(getattr(dense.graph, field))
    return model


@pytest.fixture(scope="module", params=["generated", "digits", "resnet20"])
def model(request: pytest.FixtureRequest) -> onnx.ModelProto | str:
    """The line that makes the model."""
    if request.param == "generated":
        return network(2)
    if request.param == "digits":
        return str(request.getfixturevalue("digits"))
    return str(request.getfixturevalue("shared") / "models" / "real" / "resnet20.onnx")


@pytest.fixture
def configured_logging() -> Iterator[logging.Logger]:
    """What a notebook does to logging, undone after the test."""
    handlers, level = list(logging.root.handlers), logging.root.level
    logging.basicConfig(level=logging.INFO)
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)
    logging.root.handlers[:], logging.root.level = handlers, level


# The interface of versions 0.1 and 0.2


def test_quick_start(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze()
    assert all(isinstance(layer_id, int) for layer_id in results)
    assert list(watcher.get_summary()) == EIGHT[:4]
    watcher.print_results()


def test_filter_by_one_type(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze(layers=ww.LAYER_TYPE.DENSE)
    watcher.print_results()
    for result in results.values():
        dense = result["layer_type"] is ww.LAYER_TYPE.DENSE
        assert result.get("message") == (None if dense else "Skipping (Layer type not requested to analyze)")


def test_filter_by_a_mask_of_types(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    both = watcher.analyze(layers=ww.LAYER_TYPE.CONV1D | ww.LAYER_TYPE.DENSE)
    assert both == watcher.analyze(layers=ww.LAYER_TYPE.DENSE)


def test_filter_by_ids(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze(layers=[20])
    for layer_id, result in results.items():
        assert (result.get("message") == "Skipping (Layer id not requested to analyze)") is (layer_id != 20)


def test_values_per_layer_and_slice(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze()
    found = []
    for layer_id, result in results.items():
        for slice_id, summary in result.items():
            if not str(slice_id).isdigit() or "lognorm" not in summary:
                continue
            found.append((layer_id, slice_id, summary["lognorm"]))
    assert watcher.get_summary()["lognorm"] == pytest.approx(np.mean([value for *_, value in found]), rel=1e-12)


def test_power_laws(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    watcher.analyze(compute_alphas=True)
    assert list(watcher.get_summary()) == EIGHT


def test_power_laws_by_the_other_name(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    data = []
    watcher = ww.WeightWatcher(model=model)
    watcher.analyze(alphas=True)
    data.append({"name": "vgg19bn", "summary": watcher.get_summary()})
    assert data[0]["summary"]["alpha_weighted_compound"] > 0.0


def test_sizes(model: onnx.ModelProto | str) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model)
    analyzed = watcher.analyze(min_size=50, max_size=500)
    assert analyzed == watcher.analyze(model, [], 50, 500, False, True)


def test_plots(model: onnx.ModelProto | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wwonnx.legacy as ww

    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    watcher = ww.WeightWatcher(model=model)
    results = watcher.analyze(compute_alphas=True, plot=True, layers=ww.LAYER_TYPE.DENSE)
    drawn = sum("alpha" in each for result in results.values() for key, each in result.items() if str(key).isdigit())
    assert len(list(tmp_path.rglob("*.png"))) == 5 * drawn


def test_a_custom_logger(model: onnx.ModelProto | str, configured_logging: logging.Logger) -> None:
    import wwonnx.legacy as ww

    watcher = ww.WeightWatcher(model=model, logger=configured_logging)
    assert watcher.analyze()


def test_no_logging(model: onnx.ModelProto | str, caplog: pytest.LogCaptureFixture) -> None:
    import wwonnx.legacy as ww

    caplog.set_level(logging.DEBUG)
    watcher = ww.WeightWatcher(model=model, log=False)
    assert watcher.analyze()
    assert not caplog.records


def test_a_family_against_its_accuracies() -> None:
    import wwonnx.legacy as ww

    accuracies = {"two": 88.7, "four": 89.3, "six": 90.4}
    data = []
    for name, blocks in (("two", 2), ("four", 4), ("six", 6)):
        watcher = ww.WeightWatcher(model=network(blocks))
        watcher.analyze(compute_alphas=True)
        data.append({"name": name, "summary": watcher.get_summary()})
    for metric in ("lognorm", "lognorm_compound", "alpha_weighted", "alpha_weighted_compound"):
        points = []
        for modelname, accuracy in accuracies.items():
            summary = [d["summary"] for d in data if d["name"] == modelname]
            points.append((accuracy, summary[0][metric]))
        assert np.isfinite(points).all()


# Today's interface


@pytest.fixture(scope="module")
def family() -> dict[str, onnx.ModelProto]:
    return {f"net{blocks}": network(blocks, seed=blocks) for blocks in (1, 2, 3, 4)}


def test_a_logger_by_the_name_of_the_package() -> None:
    import wwonnx as ww

    logger = logging.getLogger(ww.__name__)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.setLevel(before)
    assert ww.__version__


def test_details_and_summaries_of_a_family(family: dict[str, onnx.ModelProto]) -> None:
    import wwonnx as ww

    all_names, all_models = list(family), list(family.values())
    all_summaries, all_details = [], []
    for im, _name in enumerate(all_names):
        watcher = ww.WeightWatcher(model=all_models[im])
        details = watcher.analyze(ww2x=True, mp_fit=True, randomize=False, vectors=False, min_evals=50)
        all_details.append(details)
        all_summaries.append(watcher.get_summary(details))
    top1_errors = {"net1": 30.98, "net2": 30.07, "net3": 28.41, "net4": 27.62}
    for metric in ("log_norm", "alpha", "alpha_weighted"):
        xs, ys = np.empty(4), np.empty(4)
        for im, modelname in enumerate(all_names):
            xs[im] = all_summaries[im][metric]
            ys[im] = 100.0 - top1_errors[modelname]
        columns = xs.reshape(-1, 1), ys.reshape(-1, 1)
        predicted = LinearRegression().fit(*columns).predict(columns[0])
        assert np.sqrt(mean_squared_error(columns[1], predicted)) >= 0.0
        assert r2_score(columns[1], predicted) <= 1.0
        assert -1.0 <= scipy.stats.kendalltau(xs, ys)[0] <= 1.0
    for other in ("log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank"):
        assert np.isfinite(all_summaries[0][other])
    for metric in ("alpha", "alpha_weighted"):
        for details in all_details:
            assert details.index.to_numpy().shape == details[metric].to_numpy().shape
            assert np.issubdtype(details[metric].to_numpy().dtype, np.floating)


def test_the_forms_of_the_readme(tmp_path: Path, family: dict[str, onnx.ModelProto]) -> None:
    import wwonnx as ww

    path = tmp_path / "model.onnx"
    onnx.save(family["net1"], path)
    watcher = ww.WeightWatcher(model=str(path))
    details = watcher.analyze()
    assert isinstance(details, pd.DataFrame)
    assert watcher.get_summary() == watcher.get_summary(details)
    assert watcher.get_details() is details

"""The object that users know: analysis, filters, what it gives back and what it leaves alone."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pandas as pd
import pytest
from build_onnx import conv_model, dense_model, gaussian, save

import wwonnx as ww
from wwonnx import LAYER_TYPE, OptionError, WeightWatcher, WwonnxError


@pytest.fixture(scope="module")
def mixed() -> onnx.ModelProto:
    """Dense layers whose names hold dots and hyphens, and two convolutions."""
    dense = dense_model(
        {"block-1.fc": gaussian(40, 30), "block-1.fc-out": gaussian(30, 20, seed=1), "head": gaussian(20, 10)}
    )
    conv = conv_model({"stem": gaussian(16, 8, 3, 3), "seq": gaussian(12, 10, 5, seed=2)})
    dense.graph.node.extend(conv.graph.node)
    dense.graph.initializer.extend(conv.graph.initializer)
    return dense


NAMES = ["block-1.fc", "block-1.fc-out", "head", "stem", "seq"]


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        (None, [1, 2, 3, 4, 5]),
        ([], [1, 2, 3, 4, 5]),
        (2, [2]),
        ([1, 3], [1, 3]),
        ((3, 1), [1, 3]),
        (np.array([4, 5]), [4, 5]),
        (pd.Series([4]), [4]),
        ({5}, [5]),
        (-1, [2, 3, 4, 5]),
        ([-1, -5], [2, 3, 4]),
        ("head", [3]),
        ("head.weight", [3]),
        ("block-1.fc", [1]),
        ("-block-1.fc", [2, 3, 4, 5]),
        (["-block-1.fc", "-stem"], [2, 3, 5]),
        (["head", "stem"], [3, 4]),
        ("block-1.*", [1, 2]),
        ("-block-1.*", [3, 4, 5]),
        (["block-1.*", "-block-1.fc"], [2]),
        (LAYER_TYPE.DENSE, [1, 2, 3]),
        (LAYER_TYPE.CONV1D | LAYER_TYPE.CONV2D, [4, 5]),
        ([LAYER_TYPE.CONV1D, LAYER_TYPE.DENSE], [1, 2, 3, 5]),
        ([LAYER_TYPE.CONV1D, 1], [1, 5]),
        ("conv2d", [4]),
        (LAYER_TYPE.EMBEDDING, []),
        ("embedding", []),
    ],
)
def test_filters(mixed: onnx.ModelProto, layers: object, kept: list[int]) -> None:
    assert WeightWatcher(mixed).describe(layers=layers).layer_id.tolist() == kept


@pytest.mark.parametrize(
    "layers", [99, -99, 0, "nosuch", "-nosuch", "nosuch*", [1, -2], 1.5, [1.5], True, object(), [None]]
)
def test_filters_that_mean_nothing_are_refused(mixed: onnx.ModelProto, layers: object) -> None:
    with pytest.raises(OptionError) as caught:
        WeightWatcher(mixed).analyze(layers=layers)
    assert "\n" not in str(caught.value)


def test_details_are_in_graph_order_and_named(mixed: onnx.ModelProto) -> None:
    details = ww.analyze(mixed)
    assert details.name.tolist() == NAMES
    assert details.layer_id.tolist() == [1, 2, 3, 4, 5]
    assert details.layer_type.tolist() == ["dense"] * 3 + ["conv2d", "conv1d"]
    assert (details.status == "success").all()


def test_columns_come_with_their_options(mixed: onnx.ModelProto) -> None:
    watcher = WeightWatcher(mixed)
    plain = set(watcher.analyze().columns)
    assert not plain & {"slice_id", "detX_num", "mp_softrank", "num_traps"}
    assert {"detX_num", "detX_val", "num_ERG_spikes", "ERG_gap"} == set(watcher.analyze(detX=True).columns) - plain
    assert watcher.analyze(ERG=True).equals(watcher.analyze(detX=True))
    assert {"slice_id"} == set(watcher.analyze(pool=False, min_evals=0).columns) - plain
    assert watcher.analyze(ww2x=True, min_evals=0).equals(watcher.analyze(pool=False, min_evals=0))


def test_slices_have_a_row_each(mixed: onnx.ModelProto) -> None:
    details = ww.analyze(mixed, pool=False, layers=["stem"])
    assert details.slice_id.tolist() == list(range(9))
    assert (details.num_evals == 8).all()
    assert (details.rf == 9).all()


def test_summary_is_the_plain_mean_and_leaves_out_what_is_nan(mixed: onnx.ModelProto) -> None:
    watcher = WeightWatcher(dense_model({"good": gaussian(40, 30), "zero": np.zeros((40, 30), "f4")}))
    details = watcher.analyze()
    summary = watcher.get_summary()
    assert set(summary) == {"log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank"}
    assert summary["alpha"] == details.alpha[0]
    assert watcher.get_summary(ww.analyze(mixed))["alpha"] == pytest.approx(ww.analyze(mixed).alpha.mean())
    assert "mp_softrank" in WeightWatcher(mixed).get_summary(ww.analyze(mixed, mp_fit=True))


def test_layers_left_out_are_listed_with_the_reason(mixed: onnx.ModelProto) -> None:
    watcher = WeightWatcher(mixed)
    assert watcher.analyze(min_evals=21).name.tolist() == ["block-1.fc", "stem", "seq"]
    skipped = watcher.get_skipped()
    assert skipped.name.tolist() == ["block-1.fc-out", "head"]
    assert skipped.reason.tolist() == [f"{n} eigenvalues, fewer than min_evals=21" for n in (20, 10)]
    watcher.analyze(max_evals=50)
    assert watcher.get_skipped().reason.tolist() == ["72 eigenvalues, more than max_evals=50"]


def test_esd_and_weights_of_a_layer(mixed: onnx.ModelProto) -> None:
    watcher = WeightWatcher(mixed)
    weights = watcher.get_weights(layer="stem")
    assert [W.shape for W in weights] == [(16, 8)] * 9
    expected = np.sort(np.concatenate([np.linalg.svd(W.astype(float), compute_uv=False) ** 2 for W in weights]))
    np.testing.assert_allclose(watcher.get_ESD(layer="stem"), expected, rtol=1e-10)
    np.testing.assert_allclose(watcher.get_ESD(layer=4, conv2d_norm=True), expected / 2, rtol=1e-10)
    assert watcher.get_ESD(layer="stem", pool=False).shape == (9, 8)
    shuffled = watcher.get_ESD(layer="stem", random=True)
    assert np.array_equal(shuffled, watcher.get_ESD(layer="stem", random=True))
    assert not np.array_equal(shuffled, watcher.get_ESD(layer="stem", random=True, seed=1))
    assert shuffled.sum() == pytest.approx(expected.sum())
    # x @ W is stored (inputs, outputs); the matrix is (outputs, inputs), as the frameworks have it.
    stored = gaussian(40, 30)
    assert np.array_equal(watcher.get_weights(layer=1)[0], stored.T)


@pytest.mark.parametrize("layer", [None, 77, "nosuch", "block-1.*", [1, 2]])
def test_one_layer_must_be_named(mixed: onnx.ModelProto, layer: object) -> None:
    with pytest.raises(OptionError):
        WeightWatcher(mixed).get_ESD(layer=layer)


def test_models_in_every_form_give_the_same_bits(mixed: onnx.ModelProto, tmp_path: Path) -> None:
    path = save(mixed, tmp_path / "m.onnx")
    before = path.read_bytes(), path.stat().st_mtime_ns
    serialized = mixed.SerializeToString()
    wanted = ww.analyze(str(path))
    external = save(onnx.load(path), tmp_path / "e.onnx", external=True)
    for model in (path, path.read_bytes(), mixed, ir.load(path), external):
        pd.testing.assert_frame_equal(ww.analyze(model), wanted, check_exact=True)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)
    assert mixed.SerializeToString() == serialized


def test_results_do_not_depend_on_which_layers_run_beside(digits: Path) -> None:
    watcher = WeightWatcher(digits)
    whole = watcher.analyze(mp_fit=True, randomize=True, rand_replicas=3)
    for layer_id in whole.layer_id:
        alone = watcher.analyze(layers=int(layer_id), mp_fit=True, randomize=True, rand_replicas=3)
        pd.testing.assert_frame_equal(
            alone, whole[whole.layer_id == layer_id].reset_index(drop=True), check_exact=True, check_dtype=False
        )


def test_a_bad_layer_costs_only_its_own_row() -> None:
    good = gaussian(40, 30)
    bad = good.copy()
    bad[3, 4] = np.nan
    alone = ww.analyze(dense_model({"good": good}))
    both = ww.analyze(dense_model({"bad": bad, "good": good}))
    assert both.status.tolist() == ["failed", "success"]
    assert both.reason[0] == "1 of 1200 weights are NaN; the layer can't be analysed"
    assert np.isnan(both.loc[0, ["alpha", "norm", "log_norm", "entropy"]].astype(float)).all()
    columns = [column for column in alone.columns if column != "layer_id"]
    pd.testing.assert_series_equal(alone.loc[0, columns], both.loc[1, columns], check_names=False, check_dtype=False)


def test_nothing_yet_is_an_error_and_not_a_none(mixed: onnx.ModelProto) -> None:
    for call in (WeightWatcher().analyze, WeightWatcher().describe, WeightWatcher().inventory, WeightWatcher().sha256):
        with pytest.raises(WwonnxError, match="no model"):
            call()
    for name in ("get_details", "get_summary", "get_skipped"):
        with pytest.raises(WwonnxError, match="analyze"):
            getattr(WeightWatcher(mixed), name)()


def test_a_method_may_bring_a_new_model(mixed: onnx.ModelProto) -> None:
    watcher = WeightWatcher(mixed)
    watcher.analyze()
    other = dense_model({"other": gaussian(40, 30)})
    assert watcher.analyze(model=other).name.tolist() == ["other"]
    assert watcher.describe().name.tolist() == ["other"]


def test_progress_is_told_in_order_and_ends_at_all(mixed: onnx.ModelProto) -> None:
    seen: list[tuple[int, int, float]] = []
    ww.analyze(mixed, progress=lambda p: seen.append((p.layers, p.all_layers, p.work / p.all_work)))
    assert [layers for layers, _, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][2] == pytest.approx(1.0)


def test_analysis_leaves_the_process_as_it_was(digits: Path) -> None:
    filters, level, handlers = warnings.filters[:], logging.getLogger().level, logging.getLogger().handlers[:]
    own = logging.getLogger("wwonnx").level, logging.getLogger("onnx_ir.serde").filters[:]
    state = np.random.get_state()[1].copy()  # noqa: NPY002  (it is the global state that must not move)
    ww.analyze(digits, randomize=True, rand_replicas=3)
    assert warnings.filters == filters
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)
    assert own == (logging.getLogger("wwonnx").level, logging.getLogger("onnx_ir.serde").filters)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_log_level_is_the_users(mixed: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("wwonnx")
    before = logger.level
    try:
        WeightWatcher(mixed, log_level=logging.INFO).analyze()
        assert any("analysing 5 layers" in record.getMessage() for record in caplog.records)
    finally:
        logger.setLevel(before)


def test_folding_is_said_once(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    watcher = WeightWatcher(shared / "models" / "real" / "ultraface_rfb320_bn_folded.onnx")
    details = watcher.analyze()
    notes = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(notes) == 1
    assert "optimize=False" in notes[0]
    assert watcher.get_summary()["folded"] == details.folded.sum() > 0


@pytest.mark.parametrize("statement", ["import wwonnx", "import wwonnx.cli.main"])
def test_importing_loads_no_framework(statement: str) -> None:
    banned = ["torch", "tensorflow", "matplotlib", "sklearn", "powerlaw", "scipy", "pandas", "onnx", "onnx_ir", "rich"]
    code = f"{statement}; import sys; print([name for name in {banned} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_smoothing_and_sharpening_give_new_models(digits: Path, tmp_path: Path) -> None:
    watcher = WeightWatcher(digits)
    before = digits.read_bytes()
    result = watcher.SVDSmoothing(percent=0.5, method="svd", output=tmp_path / "half.onnx")
    smoothed = ww.analyze(tmp_path / "half.onnx").set_index("name")
    assert (smoothed.matrix_rank["fc1"], smoothed.num_evals["fc1"]) == (32, 64)
    assert set(result.table.status) == {"smoothed", "unchanged"}
    assert set(watcher.SVDSharpness().table.status) <= {"sharpened", "unchanged"}
    assert digits.read_bytes() == before


def test_each_row_comes_with_its_spectrum(mixed: onnx.ModelProto) -> None:
    seen: list[tuple[int, int]] = []

    def see(row: dict[str, object]) -> None:
        kept = row["_kept"]
        np.testing.assert_allclose(kept.esd.sum(), row["norm"], rtol=1e-12)
        seen.append((row["layer_id"], kept.esd.size))

    watcher = WeightWatcher(mixed)
    details = watcher.analyze_each(see, detX=True)
    pd.testing.assert_frame_equal(details, ww.analyze(mixed, detX=True), check_exact=True)
    assert sorted(seen) == list(zip(details.layer_id, details.num_evals, strict=True))
    with pytest.raises(OptionError, match="mp_fitt: there is no such option; did you mean 'mp_fit'"):
        watcher.analyze_each(see, mp_fitt=True)

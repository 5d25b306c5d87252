"""Plots: which there are, what they show, and that nothing of the user's moves."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from build_onnx import conv_model, dense_model, gaussian, save
from scipy.integrate import quad

import wwonnx as ww
from wwonnx import analysis
from wwonnx.report import laws
from wwonnx.report.histogram import histogram, log_edges, log_range

pytest.importorskip("matplotlib")

from wwonnx.report import plots

PNG = b"\x89PNG\r\n\x1a\n"


def heavy(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A matrix with a heavy-tailed spectrum."""
    scales = 1.0 + np.random.default_rng(seed).pareto(3.0, columns)
    return (gaussian(rows, columns, seed=seed) * scales / np.sqrt(rows)).astype("f4")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    broken = heavy(40, 30)
    broken[0, 0] = np.nan
    return dense_model(
        {"good": heavy(90, 60), "square": heavy(50, 50, seed=1), "zero": np.zeros((20, 20), "f4"), "broken": broken}
    )


def kept_row(model: onnx.ModelProto, layer: str, **options: object) -> analysis.Row:
    """A row of an analysis, together with the spectra behind it."""
    rows: list[analysis.Row] = []
    ww.WeightWatcher(model).analyze_each(lambda row: rows.append(dict(row)), layers=layer, **options)
    (row,) = rows
    return row


def test_the_files_are_those_of_weightwatcher(model: onnx.ModelProto, tmp_path: Path) -> None:
    details = ww.analyze(model, plot=True, savefig=tmp_path / "img")
    always = ["esd", "esd2", "esd3", "esd4", "esd5"]
    # The zero layer has an ESD, though nothing could be fitted to it; the broken one has none.
    assert sorted(path.name for path in (tmp_path / "img").iterdir()) == sorted(
        f"ww.layer{layer}.{kind}.png" for layer in (1, 2, 3) for kind in always
    )
    assert all(path.read_bytes().startswith(PNG) for path in (tmp_path / "img").iterdir())
    assert details.has_esd.tolist() == [True, True, True, False]
    assert not [column for column in details.columns if column.startswith("_")]


def test_options_bring_their_plots(model: onnx.ModelProto, tmp_path: Path) -> None:
    options = {"detX": True, "mp_fit": True, "randomize": True, "rand_replicas": 3, "deltas": True, "vectors": True}
    ww.analyze(model, layers=["good", "square"], plot=True, savefig=tmp_path, **options)
    wanted = {"detX", "mpfit2", "randesd1", "randesd2", "randmpfit", "deltaEs", "level-stats"}
    wanted |= {"vector_metrics", "vector_histograms", "esd", "esd2", "esd3", "esd4", "esd5"}
    of = {layer: {p.name.split(".")[2] for p in tmp_path.glob(f"ww.layer{layer}.*.png")} for layer in (1, 2)}
    assert of == {1: wanted, 2: wanted | {"mpfit1"}}


def test_slices_have_their_own(tmp_path: Path) -> None:
    model = conv_model({"conv": gaussian(16, 12, 1, 2)})
    ww.analyze(model, pool=False, plot=True, savefig=tmp_path)
    separator = "-" if sys.platform == "win32" else ":"
    assert {path.name for path in tmp_path.glob("*.esd.png")} == {f"ww.layer1{separator}{i}.esd.png" for i in (0, 1)}
    watcher = ww.WeightWatcher(model)
    details = watcher.analyze(pool=False)
    (line,) = [ax for ax in watcher.plot("conv", slice_id=1).axes[0].lines if "α" in str(ax.get_label())]
    assert f"α = {details.alpha[1]:.3f}" in line.get_label()
    with pytest.raises(ww.OptionError, match="slices 0 to 1"):
        watcher.plot("conv")


def test_by_default_the_folder_is_weightwatchers(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ww.analyze(model, layers="square", plot=True)
    assert len(list((tmp_path / "ww-img").iterdir())) == 5


def test_the_old_interface_draws_each_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wwonnx import legacy

    monkeypatch.chdir(tmp_path)
    watcher = legacy.WeightWatcher(conv_model({"conv": gaussian(60, 50, 1, 2)}))
    plain = watcher.analyze(compute_alphas=True)
    assert not list(tmp_path.iterdir())
    assert watcher.analyze(compute_alphas=True, plot=True) == plain
    assert len(list((tmp_path / "ww-img").iterdir())) == 10


@pytest.mark.parametrize("kind", plots.KINDS)
@pytest.mark.parametrize("layer", ["good", "square", "zero"])
def test_every_kind_draws_every_layer(model: onnx.ModelProto, layer: str, kind: str) -> None:
    watcher = ww.WeightWatcher(model)
    if layer == "good" and kind == "mp_square":
        with pytest.raises(ww.OptionError, match="is for square layers"):
            watcher.plot(layer, kind)
        return
    figure = watcher.plot(layer, kind)
    assert figure.png().startswith(PNG)
    assert layer in figure.texts[0].get_text()
    if layer != "zero":
        assert all(ax.get_xlabel() for ax in figure.axes[-1:])
        assert all(ax.get_ylabel() for ax in figure.axes)


def test_a_plot_says_what_the_row_says(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model)
    row = watcher.analyze(layers="good").iloc[0]
    legend = "\n".join(text.get_text() for text in watcher.plot("good").axes[0].get_legend().get_texts())
    assert f"α = {row.alpha:.3f}" in legend
    assert f"D = {row.D:.3f}" in legend
    assert f"xmin = {row.xmin:.3g} ({row.num_pl_spikes:.0f} from there on)" in legend


def test_a_failed_fit_still_plots(model: onnx.ModelProto) -> None:
    # Two equal halves of the spectrum have a histogram, but no slope.
    flat = dense_model({"flat": np.eye(30, dtype="f4")})
    assert ww.analyze(flat).status.tolist() == ["failed"]
    for kind in ("esd", "linear", "log", "D", "alpha", "mp", "randomized", "detX", "vectors", "level_stats"):
        assert ww.WeightWatcher(flat).plot("flat", kind).png().startswith(PNG)
    words = [text.get_text() for text in ww.WeightWatcher(flat).plot("flat").axes[0].get_legend().get_texts()]
    assert any("no fit" in word for word in words)
    with pytest.raises(ww.OptionError, match="no spectrum to plot: 1 of 1200 weights are NaN"):
        ww.WeightWatcher(model).plot("broken")


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "TPL"},
        {"fix_fingers": "clip_xmax"},
        {"inverse": True},
        {"subsample": "farms"},
        {"estimator": "hill"},
        {"xmax": -3},
    ],
)
def test_options_of_the_last_analysis_hold(model: onnx.ModelProto, options: dict[str, object]) -> None:
    watcher = ww.WeightWatcher(model)
    row = watcher.analyze(layers="good", **options).iloc[0]
    for kind in ("esd", "linear", "log", "D", "alpha"):
        figure = watcher.plot("good", kind)
        assert figure.png().startswith(PNG)
    words = "\n".join(text.get_text() for text in watcher.plot("good").axes[0].get_legend().get_texts())
    assert f"α = {row.alpha:.3f}" in words


def test_one_eigenvalue_computation_serves_all(model: onnx.ModelProto, tmp_path: Path, monkeypatch) -> None:
    counted = []
    spectra = analysis.spectra

    def counting(loads, *others):
        counted.append(len(loads))
        return spectra(loads, *others)

    monkeypatch.setattr(analysis, "spectra", counting)
    ww.analyze(model, plot=True, savefig=tmp_path)
    assert sum(counted) == 4
    counted.clear()
    watcher = ww.WeightWatcher(model)
    for kind in ("esd", "linear", "log", "D", "alpha"):
        watcher.plot("good", kind)
    assert sum(counted) == 1


def test_nothing_of_the_users_moves(model: onnx.ModelProto, tmp_path: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    backend = mpl.get_backend()
    mine, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    settings, numbers = dict(mpl.rcParams), plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ww.analyze(model, plot=True, savefig=tmp_path)
        ww.WeightWatcher(model).plot("good")
    assert plt.get_fignums() == numbers
    assert plt.gcf() is mine
    assert plt.gca() is ax
    assert len(ax.lines) == 1
    assert dict(mpl.rcParams) == settings
    assert mpl.get_backend() == backend
    plt.close(mine)


def test_no_plot_needs_pyplot() -> None:
    import subprocess

    code = (
        "import sys, wwonnx as ww; sys.path.insert(0, 'tests'); from build_onnx import dense_model, gaussian;"
        "ww.WeightWatcher(dense_model({'a': gaussian(30, 20)})).plot('a').png();"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["$\\alpha_{", "<b>x</b>", "層.0.重み", "a" * 300, "new\nline"])
def test_names_are_no_markup(name: str, tmp_path: Path) -> None:
    watcher = ww.WeightWatcher(dense_model({name: gaussian(30, 20)}))
    assert watcher.plot(1).png().startswith(PNG)
    watcher.analyze(plot=True, savefig=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"plot": "yes"}, "plot='yes'"),
        ({"plot": True, "savefig": False}, "nowhere to show"),
        ({"plot": True, "savefig": 3}, "savefig=3"),
        ({"plot": True, "savefig": "/proc/none"}, "can't be made"),
    ],
)
def test_mistakes(model: onnx.ModelProto, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ww.OptionError, match=said):
        ww.analyze(model, **arguments)


def test_there_is_no_such_plot(model: onnx.ModelProto) -> None:
    watcher = ww.WeightWatcher(model)
    with pytest.raises(ww.OptionError, match="did you mean 'randomized'"):
        watcher.plot("good", "randomised")
    assert watcher.plot("good", "esd4").texts[1].get_text() == watcher.plot("good", "D").texts[1].get_text()
    watcher.analyze(inverse=True)
    with pytest.raises(ww.OptionError, match="mp_fit contradicts"):
        watcher.plot("good", "mp")


def test_in_a_notebook_plots_are_shown(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    shell.kernel = object()
    try:
        shell.user_ns.update(ww=ww, model=model)
        with capture_output() as shown:
            shell.run_cell("ww.analyze(model, layers='good', plot=True, savefig=False);", store_history=False)
        assert [output.data["image/png"][:8] for output in shown.outputs if "image/png" in output.data] == [PNG] * 5
    finally:
        InteractiveShell.clear_instance()


def test_analyze_draws_on_the_command_line(model: onnx.ModelProto, tmp_path: Path, capsys) -> None:
    from wwonnx.cli.main import main

    one, two = (save(model, tmp_path / name) for name in ("one.onnx", "two.onnx"))
    assert main(["analyze", str(one), "--layers", "good", "--plot", "--savefig", str(tmp_path / "img")]) == 0
    assert len(list((tmp_path / "img").iterdir())) == 5
    assert main(["analyze", str(one), str(two), "--layers", "good", "--plot", "--savefig", str(tmp_path / "both")]) == 0
    assert {path.parent.name for path in (tmp_path / "both").glob("*/*.png")} == {"one.onnx", "two.onnx"}
    capsys.readouterr()
    assert main(["analyze", str(one), "--savefig", "x"]) == 2
    assert "--savefig belongs to --plot" in capsys.readouterr().err


# What is drawn is right


@pytest.mark.parametrize("options", [{}, {"fit": "TPL"}, {"xmax": -2}])
def test_the_law_has_the_share_of_its_tail(model: onnx.ModelProto, options: dict[str, object]) -> None:
    row = kept_row(model, "good", **options)
    esd = row[analysis.KEPT].esd
    x, density = laws.tail_curve(row, esd, points=20_000)
    share = np.count_nonzero((esd >= row["xmin"]) & (esd <= row["xmax"])) / esd.size
    alpha, cut = row["alpha"], row.get("Lambda", 0.0)
    # The law reaches to infinity; what lies beyond xmax is computed on its own.
    whole = quad(lambda t: t**-alpha * np.exp(-cut * t), row["xmin"], np.inf)[0]
    shown = quad(lambda t: t**-alpha * np.exp(-cut * t), row["xmin"], row["xmax"])[0]
    drawn = np.sum((density[1:] + density[:-1]) / 2.0 * np.diff(x))
    assert drawn == pytest.approx(share * shown / whole, rel=1e-4)


def test_the_null_has_the_mean_of_the_esd(model: onnx.ModelProto) -> None:
    row = kept_row(model, "good")
    esd = row[analysis.KEPT].esd
    x, density = laws.null_curve(esd, row["Q"], points=40_000)
    middles, widths = (x[1:] + x[:-1]) / 2.0, np.diff(x)
    heights = (density[1:] + density[:-1]) / 2.0
    assert np.sum(heights * widths) == pytest.approx(1.0, rel=1e-3)
    assert np.sum(middles * heights * widths) == pytest.approx(esd.mean(), rel=1e-3)


def test_the_bulk_ends_where_the_row_says(model: onnx.ModelProto) -> None:
    row = kept_row(model, "good", mp_fit=True)
    x, _ = laws.bulk_curve(row)
    assert (x[0], x[-1]) == pytest.approx((row["bulk_min"], row["bulk_max"]), rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_histograms_count_every_eigenvalue(size: int) -> None:
    esd = np.sort(np.random.default_rng(size).pareto(1.0, size) + 1e-3)
    low, high = log_range(esd, float(esd[size // 2]))
    counted = histogram(esd, log_edges(low, high, 30))
    inside = np.sum(counted.density * np.diff(counted.edges)) * size
    assert inside + counted.below + counted.above == pytest.approx(size)
    assert counted.above == 0
    assert counted.below == np.count_nonzero(esd < low * (1 - 1e-9))


def test_kept_spectra_are_those_of_the_analysis(model: onnx.ModelProto) -> None:
    row = kept_row(model, "good", randomize=True, rand_replicas=3, vectors=True)
    kept = row[analysis.KEPT]
    np.testing.assert_array_equal(kept.esd, ww.WeightWatcher(model).get_ESD(layer="good"))
    assert kept.shuffle[-1] == row["max_rand_eval"]
    assert kept.vectors.measures.shape == (3, kept.esd.size)
    np.testing.assert_allclose(np.sort(kept.vectors.eigenvalues), kept.esd, atol=1e-12 * kept.esd[-1])
    plain = ww.analyze(model, layers="good", vectors=True).iloc[0]
    assert plain.tail_mean_part_ratio == pytest.approx(row["tail_mean_part_ratio"], rel=1e-12)


def test_a_figure_is_a_matplotlib_figure(model: onnx.ModelProto) -> None:
    from matplotlib.figure import Figure

    figure = ww.WeightWatcher(model).plot("good")
    assert isinstance(figure, Figure)
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    assert b"<svg" in file.getvalue()
    assert figure._repr_png_() == figure.png()

"""What the pictures of several models show, read from the figures themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wwonnx as ww

matplotlib = pytest.importorskip("matplotlib")


def details(alpha: float, layers: int = 2) -> pd.DataFrame:
    values = np.linspace(alpha - 0.5, alpha + 0.5, layers)
    return pd.DataFrame({"layer_id": range(2, 2 + layers), "name": "x", "alpha": values, "alpha_weighted": 2 * values})


@pytest.fixture(scope="module")
def family() -> ww.Comparison:
    models = {f"net_{index}": details(2.0 + index, layers=2 + index) for index in range(4)}
    accuracies = {"net_0": 90.0, "net_1": 91.0, "net_2": 89.0}
    return ww.compare(models, accuracies, group={name: "$odd$" if name[-1] in "13" else "even" for name in models})


def test_accuracy_against_the_metric_with_the_line(family: ww.Comparison) -> None:
    (ax,) = family.plot_accuracy("alpha_weighted").axes
    points = {line.get_label(): line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() == "None"}
    assert points == {"even": [[4.0, 90.0], [8.0, 89.0]], "$odd$": [[6.0, 91.0]]}
    (line,) = [line for line in ax.lines if line.get_linestyle() != "None"]
    fit = family.correlations.loc["alpha_weighted"]
    slope, intercept = np.polyfit(*line.get_xydata().T, 1)
    assert (slope, intercept) == pytest.approx((fit.slope, fit.intercept))
    assert {text.get_text() for text in ax.texts} == {"net_0", "net_1", "net_2"}
    assert "tau -0.33" in " ".join(text.get_text() for text in ax.figure.texts)
    assert ax.get_ylabel() == "accuracy"


def test_a_metric_along_the_layer_ids(family: ww.Comparison) -> None:
    (ax,) = family.plot_layers("alpha").axes
    curves = {line.get_label(): line.get_xydata() for line in ax.lines if line.get_label().startswith("net")}
    assert list(curves) == ["net_0", "net_1", "net_2", "net_3"]
    assert curves["net_3"][:, 0].tolist() == [2, 3, 4, 5, 6]
    assert curves["net_3"][:, 1].tolist() == family.details["net_3"].alpha.tolist()
    (only,) = family.plot_layers("alpha_weighted", ["net_1"]).axes
    assert [line.get_label() for line in only.lines] == ["net_1"]


def test_the_users_pyplot_is_left_alone(family: ww.Comparison, tmp_path: Path) -> None:
    from matplotlib import pyplot as plt

    mine = plt.figure()
    before, settings, backend = plt.get_fignums(), dict(matplotlib.rcParams), matplotlib.get_backend()
    for figure in (family.plot_accuracy(), family.plot_layers()):
        figure.savefig(tmp_path / "figure.png")
    assert plt.get_fignums() == before
    assert plt.gcf() is mine
    assert dict(matplotlib.rcParams) == settings
    assert matplotlib.get_backend() == backend
    plt.close(mine)


def test_names_are_drawn_as_they_are_whatever_they_are() -> None:
    names = ["$\\broken", "$x$_1", "名前", "a\nb", "x" * 300]
    result = ww.compare({name: details(index + 2.0) for index, name in enumerate(names)}, {n: len(n) for n in names})
    for figure in (result.plot_accuracy(), result.plot_layers()):
        assert figure.png().startswith(b"\x89PNG")


def test_too_few_points_for_a_line_and_many_models() -> None:
    one = ww.compare({"a": details(3), "b": details(4)}, {"a": 90.0})
    assert [line.get_linestyle() for line in one.plot_accuracy("alpha").axes[0].lines] == ["None"]
    many = {f"m{index}": details(index / 10 + 2) for index in range(30)}
    figure = ww.compare(many, {name: float(name[1:]) for name in many}).plot_accuracy("alpha")
    assert not figure.axes[0].texts
    assert figure.png()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.plot_accuracy("alhpa"), "did you mean 'alpha'"),
        (lambda c: c.plot_layers("name"), "metric='name'"),
        (lambda c: c.plot_layers("alpha", ["net_9"]), "there is no 'net_9'"),
        (lambda c: ww.compare({"a": details(3), "b": details(4)}).plot_accuracy(), "no model has an accuracy"),
    ],
)
def test_what_can_not_be_drawn_is_refused(family: ww.Comparison, call: object, said: str) -> None:
    with pytest.raises(ww.OptionError, match=said):
        call(family)  # type: ignore[operator]

"""Models against their accuracies: scipy and scikit-learn are the reference, and what limits a comparison is said."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from build_onnx import dense_model, gaussian, save
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error, r2_score

import wwonnx as ww
from wwonnx.correlation import correlate

METRICS = ["log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank"]
LOSING = "The metrics rank models of one architecture family"


def details(**means: float) -> pd.DataFrame:
    """Details of two layers whose metrics have these means; alpha_weighted is 2 where nothing is said of it."""
    wanted = dict.fromkeys(METRICS, 2.0) | means
    return pd.DataFrame({metric: [value - 0.5, value + 0.5] for metric, value in wanted.items()})


def of_alphas(*alphas: float) -> dict[str, pd.DataFrame]:
    return {f"m{index}": details(alpha=alpha) for index, alpha in enumerate(alphas)}


def numbered(*values: float) -> dict[str, float]:
    return {f"m{index}": value for index, value in enumerate(values)}


def said(result: ww.Comparison) -> str:
    return "\n".join(result.notes)


def test_models_are_analysed_with_the_options_and_details_are_taken_as_they_are(tmp_path: Path) -> None:
    models = {
        name: dense_model({"a": gaussian(60, 50, seed=seed), "b": gaussian(40, 9)}) for seed, name in enumerate("xyz")
    }
    path = save(models["y"], tmp_path / "y.onnx")
    given = {"x": ww.analyze(models["x"], min_evals=20, mp_fit=True), "y": path, "z": ww.WeightWatcher(models["z"])}
    result = ww.compare(given, min_evals=20, mp_fit=True)
    for name, model in models.items():
        watcher = ww.WeightWatcher(model)
        rows = watcher.analyze(min_evals=20, mp_fit=True)
        summary = watcher.get_summary()
        assert result.details[name].equals(rows)
        assert result.summaries.loc[name, list(summary)].to_dict() == summary
        assert result.summaries.layers[name] == 1
    assert list(result.summaries.columns) == ["layers", *METRICS, "mp_softrank"]
    assert result.correlations.empty
    assert result.groups.empty


def test_the_correlations_are_those_of_scipy_and_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    models = {f"m{index}": details(**dict(zip(METRICS, draw.normal(3, 1, 6), strict=True))) for index in range(9)}
    accuracies = {name: float(value) for name, value in zip(models, draw.normal(90, 2, 9), strict=True)}
    result = ww.compare(models, accuracies)
    y = np.array(list(accuracies.values()))
    assert list(result.correlations.index) == METRICS
    for metric, row in result.correlations.iterrows():
        x = np.array([frame[metric].mean() for frame in models.values()])
        predicted = LinearRegression().fit(x[:, None], y).predict(x[:, None])
        assert row.n == 9
        assert (row.kendall_tau, row.kendall_p) == pytest.approx(tuple(scipy.stats.kendalltau(x, y)), rel=1e-12)
        assert (row.spearman_rho, row.spearman_p) == pytest.approx(tuple(scipy.stats.spearmanr(x, y)), rel=1e-12)
        assert row.slope == pytest.approx(np.polyfit(x, y, 1)[0])
        assert row.intercept == pytest.approx(np.polyfit(x, y, 1)[1])
        assert row.rmse == pytest.approx(math.sqrt(mean_squared_error(y, predicted)))
        assert row.r2 == pytest.approx(r2_score(y, predicted))
    assert said(result).startswith(LOSING)
    assert len(result.notes) == 1


@pytest.mark.parametrize("n", range(2, 9))
def test_the_p_value_of_few_orders_counts_them(n: int) -> None:
    x = np.arange(n, dtype=float)
    assert correlate(x, x).spearman_p == pytest.approx(2 / math.factorial(n))
    draw = np.random.default_rng(n).permutation(n).astype(float)
    exact = scipy.stats.permutation_test(
        (x,), lambda ranks: np.corrcoef(ranks, draw)[0, 1], permutation_type="pairings", n_resamples=math.factorial(n)
    )
    found = correlate(x, draw)
    assert found.spearman_rho == pytest.approx(scipy.stats.spearmanr(x, draw).statistic if n > 2 else found.kendall_tau)
    assert found.spearman_p == pytest.approx(exact.pvalue)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(0, 100)), max_size=12))
def test_correlations_of_anything_are_in_their_ranges_or_nan(points: list[tuple[float, float]]) -> None:
    x, y = np.array(points, float).reshape(-1, 2).T
    found = correlate(x, y)
    assert found.n == len(points)
    for value in (found.kendall_tau, found.spearman_rho):
        assert math.isnan(value) or -1 - 1e-9 <= value <= 1 + 1e-9
    assert math.isnan(found.r2) or found.r2 <= 1 + 1e-9
    if found.n >= 2 and np.ptp(x) and np.ptp(y):
        mirrored = correlate(-x, y)
        assert mirrored.kendall_tau == pytest.approx(-found.kendall_tau, abs=1e-12)


def test_ranking_puts_the_smaller_mean_first_and_counts_equals_alike() -> None:
    result = ww.compare(of_alphas(4.0, 3.0, 5.0, 3.0))
    assert result.ranked("alpha") == ["m1", "m3", "m0", "m2"]
    assert result.ranking.alpha.tolist() == [3, 1, 4, 1]
    assert "Equal alpha (m1 = m3)" in said(result)
    with pytest.raises(ww.OptionError, match="stable_rank"):
        result.ranked("stable_rank")


@pytest.mark.parametrize("kind", ["models", "details"])
def test_resnet32_comes_before_resnet20(shared: Path, kind: str) -> None:
    """Test accuracies 92.63 % and 91.73 %, as their authors publish them."""
    models: dict[str, Any] = {n: shared / "models" / "real" / f"{n}.onnx" for n in ("resnet20", "resnet32")}
    if kind == "details":
        models = {name: ww.analyze(path) for name, path in models.items()}
    result = ww.compare(models, accuracies={"resnet20": 91.73, "resnet32": 92.63})
    for metric in ("alpha_weighted", "log_norm"):
        assert result.ranked(metric) == ["resnet32", "resnet20"]
        assert result.correlations.kendall_tau[metric] == -1.0
    assert "Two models" in said(result)


def test_simpsons_paradox_is_named() -> None:
    """Within each group alpha falls with accuracy; over both it rises."""
    models = of_alphas(4.0, 3.5, 3.0, 7.0, 6.5, 6.0)
    accuracies = numbered(70, 71, 72, 80, 81, 82)
    groups = {name: "plain" if index < 3 else "bn" for index, name in enumerate(models)}
    result = ww.compare(models, accuracies, group=groups)
    assert result.correlations.kendall_tau["alpha"] > 0
    assert result.groups.kendall_tau["alpha"].to_dict() == {"plain": pytest.approx(-1), "bn": pytest.approx(-1)}
    note = next(note for note in result.notes if note.startswith("Simpson's paradox: alpha rises"))
    assert "falls within every group: plain (-1.00), bn (-1.00)" in note
    assert "Simpson" not in said(ww.compare(models, accuracies))
    assert list(result.summaries.columns[:2]) == ["group", "accuracy"]


def test_one_group_against_the_rest_is_named_too_and_agreement_is_not() -> None:
    groups = {f"m{index}": "ab"[index // 3] for index in range(6)}
    mixed = ww.compare(of_alphas(1, 2, 3, 9, 8, 7), numbered(1, 2, 3, 4, 5, 6), group=groups)
    assert "falls within 1 of 2 groups: b (-1.00)" in said(mixed)
    agreeing = ww.compare(of_alphas(1, 2, 3, 4, 5, 6), numbered(1, 2, 3, 4, 5, 6), group=groups)
    assert "Simpson" not in said(agreeing)
    single = ww.compare(of_alphas(1, 2), numbered(1, 2), group={"m0": "a", "m1": "b"})
    assert single.groups.n.tolist() == [1] * len(single.groups)
    assert "Simpson" not in said(single)


@pytest.mark.parametrize(
    ("accuracies", "note"),
    [
        ({"m0": 90.0}, "One model alone has an accuracy"),
        ({"m0": 90.0, "m2": 91.0}, "Two models: tau and rho"),
        (numbered(90, 91, 92, 93), "4 models: so few have a perfect order by chance"),
        ({"m0": 90.0, "m2": 91.0, "m3": math.nan}, "No accuracy for m1, m3, m4"),
        (numbered(90, 91, 92, 92, 91), "Equal accuracies (m1 = m4; m2 = m3)"),
        (numbered(90, 90, 90, 90, 90), "All accuracies are equal"),
        ({**numbered(1, 2, 3, 4, 5), "other": 6}, "Accuracies of models that are not compared: other."),
    ],
)
def test_what_limits_the_accuracies_is_said(accuracies: dict[str, float], note: str) -> None:
    result = ww.compare(of_alphas(5, 4, 3, 2, 6), accuracies)
    assert note in said(result)
    known = [value for name, value in accuracies.items() if name != "other" and math.isfinite(value)]
    assert result.correlations.n["alpha"] == len(known)
    assert math.isnan(result.correlations.kendall_tau["alpha"]) is (len(set(known)) == 1)


def test_five_models_in_order_are_enough_to_tell() -> None:
    five = ww.compare(of_alphas(6, 5, 4, 3, 2), numbered(1, 2, 3, 4, 5))
    assert five.correlations.kendall_p["alpha"] < 0.05
    four = ww.compare(of_alphas(6, 5, 4, 3), numbered(1, 2, 3, 4))
    assert four.correlations.kendall_p["alpha"] > 0.05


def test_a_metric_that_does_not_vary_or_is_not_there_has_no_correlation() -> None:
    models = of_alphas(5, 4, 3, 2, math.nan)
    result = ww.compare(models, numbered(1, 2, 3, 4, 5))
    assert result.correlations.n["alpha"] == 4
    assert result.correlations.kendall_tau["alpha"] == pytest.approx(-1)
    assert math.isnan(result.correlations.r2["stable_rank"])
    assert result.ranked("alpha") == ["m3", "m2", "m1", "m0"]
    assert "No alpha for m4" in said(result)
    assert "Equal stable_rank (m0 = m1 = m2 = m3 = m4)" in said(result)


def test_details_that_do_not_compare_are_named() -> None:
    models = {
        "sliced": details().assign(slice_id=[0, 1]),
        "folded": details().assign(folded=[True, False]),
        "broken": details().assign(status=["failed", "success"]),
    }
    text = said(ww.compare(models))
    assert "The details of sliced hold slices" in text
    assert "1 of 2 rows of folded have a BatchNormalization folded" in text
    assert "1 of 2 rows of broken failed" in text


def test_a_model_without_layers_costs_the_others_nothing() -> None:
    models = {"empty": dense_model({"a": gaussian(5, 3)}), "a": dense_model({"a": gaussian(60, 50)})}
    result = ww.compare(models, {"empty": 1.0, "a": 2.0})
    assert result.summaries.layers.to_dict() == {"empty": 0, "a": 1}
    assert result.ranked("log_norm") == ["a"]
    assert "No log_norm for empty" in said(result)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": {"a": details()}}, "two or more"),
        ({"models": [details(), details()]}, "two or more"),
        ({"models": {"a": pd.DataFrame({"x": [1]}), "b": details()}}, "has no column 'alpha'"),
        ({"models": of_alphas(1, 2), "accuracies": {"m0": "good"}}, "give a number"),
        ({"models": of_alphas(1, 2), "accuracies": {"m0": math.inf}}, "finite"),
        ({"models": of_alphas(1, 2), "accuracies": {"n0": 1.0}}, "did you mean 'm0'"),
        ({"models": of_alphas(1, 2), "group": {"m0": "a"}}, "says nothing of m1"),
        ({"models": of_alphas(1, 2), "group": ["a", "b"]}, "group"),
        ({"models": of_alphas(1, 2), "min_evals": 50}, "options are for models"),
        ({"models": {"a": details(), "b": "missing.onnx"}}, "no such file"),
    ],
)
def test_what_can_not_be_compared_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ww.WwonnxError, match=message):
        ww.compare(**given)


def test_the_result_is_frozen_and_shows_itself() -> None:
    models = {"<b>one</b>": details(alpha=3), "two": details(alpha=4)}
    result = ww.compare(models, {"<b>one</b>": 1, "two": 2})
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.notes = ()  # type: ignore[misc]
    html = result._repr_html_()
    assert "&lt;b&gt;one&lt;/b&gt;" in html
    assert "<b>one</b>" not in html
    assert LOSING in html
    assert "kendall_tau" in html
    assert models["two"].equals(details(alpha=4))

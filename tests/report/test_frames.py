"""Details and summary in a notebook: still a DataFrame and a dict, shown as tables."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from build_onnx import dense_model, gaussian

import wwonnx as ww
from wwonnx.columns import EVERY, columns
from wwonnx.options import Options
from wwonnx.report.frames import Details, Summary

NASTY = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def watcher(digits: Path) -> ww.WeightWatcher:
    watcher = ww.WeightWatcher(digits)
    watcher.analyze()
    return watcher


def rows(html: str | None) -> list[ET.Element]:
    """The table's rows, header first; XML's parser refuses what is not escaped."""
    assert html is not None
    table = ET.fromstring(f"<all>{html}</all>").find(".//table")
    assert table is not None
    return table.findall(".//tr")


def cells(row: ET.Element) -> list[str]:
    return [cell.text or "" for cell in row]


def test_details_are_a_dataframe_with_readable_numbers(watcher: ww.WeightWatcher) -> None:
    details = watcher.get_details()
    assert isinstance(details, pd.DataFrame)
    header, *body = rows(details._repr_html_())
    assert cells(header)[:5] == ["id", "name", "alpha", "verdict", "type"]
    shown = [dict(zip(cells(header), cells(row), strict=True)) for row in body]
    assert [row["name"] for row in shown] == details.name.tolist()
    np.testing.assert_allclose([float(row["alpha"]) for row in shown], details.alpha, atol=5e-4)
    assert [row["verdict"] for row in shown] == details.warning.tolist()


def test_rows_to_look_at_are_marked_in_colours_for_light_and_dark(watcher: ww.WeightWatcher) -> None:
    details = watcher.get_details().copy()
    details.loc[1, ["status", "reason"]] = "failed", "every weight is zero"
    _, *body = rows(details._repr_html_())
    styles = [row.get("style", "") for row in body]
    assert [bool(style) for style in styles] == [True, True, True, True, True]
    assert styles[1] != styles[0] == styles[2]
    # A transparent ground keeps the page's ink readable, and no ink is set.
    assert all("rgba(" in style and "0.22" in style for style in styles)
    details["warning"], details["status"] = "", "success"
    assert not [row for row in rows(details._repr_html_()) if row.get("style")]


def test_names_are_escaped() -> None:
    details = ww.analyze(dense_model({NASTY: gaussian(60, 50)}))
    assert details.name.tolist() == [NASTY]
    header, row = rows(details._repr_html_())
    assert cells(row)[cells(header).index("name")] == NASTY
    assert "<img" not in (details._repr_html_() or "")


def test_chosen_and_sorted_rows_stay_details_and_chosen_columns_do_not(watcher: ww.WeightWatcher) -> None:
    details = watcher.get_details()
    low = details[details.alpha < 2].sort_values("alpha")
    assert isinstance(low, Details)
    assert [cells(row)[1] for row in rows(low._repr_html_())[1:]] == ["fc1", "conv3"]
    for other in (details[["name", "alpha"]], details.set_index("name"), details.T, details.describe()):
        assert 'class="dataframe"' in (other._repr_html_() or "")
    assert type(details[["name", "alpha"]]) is pd.DataFrame
    own = details.assign(mine=1.5)
    header, row, *_ = rows(own._repr_html_())
    assert dict(zip(cells(header), cells(row), strict=True))["mine"] == "1.500"


def test_long_details_are_cut_as_pandas_cuts(watcher: ww.WeightWatcher) -> None:
    details = watcher.get_details()
    many = pd.concat([details] * 20, ignore_index=True)
    many["name"] = [f"layer{index}" for index in range(100)]
    assert isinstance(many, Details)
    with pd.option_context("display.max_rows", 60, "display.min_rows", 10):
        names = [cells(row)[1:2] for row in rows(many._repr_html_())[1:]]
    wanted = [f"layer{index}" for index in (*range(5), *range(95, 100))]
    assert [name[0] for name in names if name] == wanted
    assert len(names) == 11
    with pd.option_context("display.max_rows", None):
        assert len(rows(many._repr_html_())) == 101
    with pd.option_context("display.notebook_repr_html", False):
        assert many._repr_html_() is None


def test_details_survive_pickle_and_parquet(watcher: ww.WeightWatcher, tmp_path: Path) -> None:
    details = watcher.get_details()
    again = pickle.loads(pickle.dumps(details))
    pd.testing.assert_frame_equal(again, details)
    details.to_parquet(tmp_path / "details.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "details.parquet"), pd.DataFrame(details))


def test_empty_details_show() -> None:
    details = ww.analyze(dense_model({"fc": gaussian(60, 50)}), min_evals=500)
    assert len(rows(details._repr_html_())) == 1


def test_summary_is_a_dict(watcher: ww.WeightWatcher) -> None:
    summary = watcher.get_summary()
    assert isinstance(summary, Summary)
    plain = dict(summary)
    assert type(plain) is dict
    assert summary == plain
    assert json.loads(json.dumps(summary)) == plain
    assert pickle.loads(pickle.dumps(summary)) == plain
    assert repr(summary) == repr(plain)
    header, row = rows(summary._repr_html_())
    assert cells(header) == list(plain)
    assert [float(cell) for cell in cells(row)] == pytest.approx(list(plain.values()), abs=5e-4)


@pytest.mark.parametrize("option", [field.name for field in dataclasses.fields(Options)])
def test_every_column_of_an_option_is_known(option: str) -> None:
    """A column that is not is taken for one that the user added, and shown beside the chosen ones."""
    values = {"fit": "TPL", "fix_fingers": "clip_xmax", "svd_method": "fast", "lanczos_above": 100}
    default = getattr(Options(), option)
    value = values.get(option, not default if isinstance(default, bool) else default)
    assert set(columns(Options(**{option: value}))) <= EVERY

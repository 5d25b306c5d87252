"""What is found, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_onnx import conv_model, dense_model, gaussian, save
from build_tails import layer

import wwonnx as ww
from wwonnx.check import RULES, Checked, Limits, Override, check_model, rule
from wwonnx.check.baseline import Baseline, read_baseline
from wwonnx.cli.main import main


def found(checked: Checked) -> list[tuple[str, str]]:
    return [(verdict.rule.code, verdict.layer) for verdict in checked.findings]


def baseline_of(model: Path, path: Path, *options: str) -> Baseline:
    assert main(["analyze", str(model), *options, "--format", "json", "-o", str(path)]) == 0
    return read_baseline(path)


def test_alphas_within_the_limits_are_no_finding(healthy: Path, ailing: Path) -> None:
    clean = check_model(healthy)
    assert found(clean) == []
    assert clean.layers == 2
    assert {verdict.outcome for verdict in clean.verdicts} == {"passed"}
    ill = check_model(ailing)
    assert found(ill) == [("WWX001", "low"), ("WWX002", "high")]
    alphas = ww.analyze(ailing).set_index("name").alpha
    assert [verdict.value for verdict in ill.findings] == [alphas["low"], alphas["high"]]
    assert ill.findings[0].message == f"alpha {alphas['low']:.3f} is below 2: over-trained"
    assert ill.findings[1].message == f"alpha {alphas['high']:.3f} is above 6: under-trained"


def test_limits_are_inclusive(healthy: Path) -> None:
    low, high = ww.analyze(healthy).alpha
    assert found(check_model(healthy, Limits.make(min_alpha=low, max_alpha=high))) == []
    beyond = Limits.make(min_alpha=np.nextafter(low, 9), max_alpha=np.nextafter(high, 0))
    assert found(check_model(healthy, beyond)) == [("WWX001", "a"), ("WWX002", "b")]


def test_an_alpha_of_few_eigenvalues_is_called_uncertain() -> None:
    checked = check_model(dense_model({"small": layer(1.5, n=20)}))
    assert checked.findings[0].message.endswith("over-trained (uncertain: 20 eigenvalues)")
    assert found(check_model(dense_model({"small": layer(1.5, n=20), "a": layer(3)}), min_evals=50)) == []


def test_traps_are_counted_where_a_limit_asks_for_it() -> None:
    trapped = gaussian(200, 150)
    trapped[3, 4] = 60.0
    model = dense_model({"trapped": trapped, "a": layer(3)})
    count = int(ww.analyze(model, randomize=True).num_traps[0])
    assert count >= 1
    codes = {code for code, _ in found(check_model(model))}
    assert not {"WWX003", "WWX006"} & codes
    assert ("WWX003", "trapped") in found(check_model(model, Limits.make(max_traps=count - 1)))
    assert ("WWX003", "trapped") not in found(check_model(model, Limits.make(max_traps=count)))
    only_there = [Override(("trapped",), {"max_traps": 0})]
    assert [pair for pair in found(check_model(model, None, only_there)) if pair[0] == "WWX003"] == [
        ("WWX003", "trapped")
    ]


def test_a_layer_that_is_random_is_found_when_it_is_held_against_its_shuffles() -> None:
    model = dense_model({"noise": gaussian(120, 100), "a": layer(3)})
    assert ("WWX006", "noise") in found(check_model(model, randomize=True))
    assert ("WWX006", "a") not in found(check_model(model, randomize=True))


def test_coverage_is_the_share_that_the_inventory_gives(tmp_path: Path) -> None:
    model = save(dense_model({"a": layer(3), "tiny": gaussian(100, 5)}), tmp_path / "m.onnx")
    share = 100 * 12000 / 12500
    assert found(check_model(model, Limits.make(min_coverage=share))) == []
    (verdict,) = check_model(model, Limits.make(min_coverage=share + 0.01)).findings
    assert (verdict.rule.code, verdict.layer, verdict.value) == ("WWX004", "", pytest.approx(share))
    assert "WWX004" not in dict(found(check_model(model, Limits.make(min_coverage=100), min_evals=5)))


def test_broken_layers_and_empty_models_are_findings() -> None:
    broken = layer(3)
    broken[0, 0] = np.nan
    checked = check_model(dense_model({"broken": broken, "a": layer(3)}))
    assert found(checked) == [("WWX005", "broken")]
    assert "NaN" in checked.findings[0].message
    assert {v.outcome for v in checked.verdicts if v.layer == "broken" and v.rule.limit} == {"unknown"}
    assert found(check_model(dense_model({"tiny": gaussian(5, 4)}))) == [("WWX010", "")]


def test_what_is_ignored_is_kept_apart(ailing: Path) -> None:
    checked = check_model(ailing, Limits.make(ignore=["WWX001", "under-trained"]))
    assert found(checked) == []
    assert [v.rule.code for v in checked.verdicts if v.outcome == "ignored"] == ["WWX001", "WWX002"]


@pytest.mark.parametrize("layers", ["low", "l*", 1])
def test_single_layers_may_have_other_limits(ailing: Path, layers: int | str) -> None:
    assert found(check_model(ailing, None, [Override((layers,), {"min_alpha": 1.2})])) == [("WWX002", "high")]
    assert found(check_model(ailing, None, [Override((layers,), {"ignore": "WWX001"})])) == [("WWX002", "high")]
    strict = [Override(("dense",), {"max_alpha": 2.5}), Override((layers, "high"), {"min_alpha": 1.0, "max_alpha": 20})]
    assert found(check_model(ailing, None, strict)) == [("WWX002", "good")]


def test_an_override_for_no_layer_is_said(ailing: Path) -> None:
    checked = check_model(ailing, None, [Override(("head", "low"), {"min_alpha": 1.0})])
    assert checked.notes == ("the override for 'head' is for no layer of this model",)


def test_slices_are_checked_one_by_one() -> None:
    stack = np.stack([layer(1.5), layer(3)], axis=-1)[..., None]
    model = conv_model({"conv": stack})
    assert found(check_model(model, pool=False)) == [("WWX001", "conv[0]")]


# Against a baseline


def test_a_model_is_what_it_was(healthy: Path, tmp_path: Path) -> None:
    baseline = baseline_of(healthy, tmp_path / "baseline.json")
    assert found(check_model(healthy, baseline=baseline)) == []
    exact = check_model(healthy, Limits.make(max_change=0), baseline=baseline)
    assert found(exact) == []


def test_a_change_beyond_the_share_is_found(healthy: Path, tmp_path: Path) -> None:
    baseline = baseline_of(healthy, tmp_path / "baseline.json")
    model = save(dense_model({"a": layer(3.0) * np.float32(1.04), "b": layer(4.0)}), tmp_path / "healthy.onnx")
    # The eigenvalues grow by 1.04² = 1.0816; alpha and stable_rank do not see the scale.
    assert found(check_model(model, Limits.make(max_change="8.2%"), baseline=baseline)) == []
    (verdict,) = check_model(model, Limits.make(max_change=0.08), baseline=baseline).findings
    assert (verdict.rule.code, verdict.layer) == ("WWX007", "a")
    assert verdict.value == pytest.approx(0.0816, rel=1e-3)
    assert "norm" in verdict.message
    assert "(+8.2%)" in verdict.message
    assert verdict.message.endswith("changed by more than 8 %")
    loose = [Override(("a",), {"max_change": "20%"})]
    assert found(check_model(model, Limits.make(max_change=0.08), loose, baseline)) == []


def test_layers_that_went_came_or_changed_shape(healthy: Path, tmp_path: Path) -> None:
    baseline = baseline_of(healthy, tmp_path / "baseline.json")
    model = dense_model({"a": layer(3.0, n=80), "c": layer(4.0)})
    checked = check_model(save(model, tmp_path / "healthy.onnx"), baseline=baseline)
    assert found(checked) == [("WWX008", "a"), ("WWX009", "c"), ("WWX008", "b")]
    assert checked.findings[0].message == "N, M and rf were 120, 100, 1 and are 100, 80, 1"


def test_an_alpha_that_is_gone_is_a_change(healthy: Path, tmp_path: Path) -> None:
    baseline = baseline_of(healthy, tmp_path / "baseline.json")
    model = dense_model({"a": np.zeros((120, 100), "f4"), "b": layer(4.0)})
    checked = check_model(save(model, tmp_path / "healthy.onnx"), baseline=baseline)
    assert found(checked) == [("WWX005", "a"), ("WWX007", "a")]
    assert "alpha 3.0" in checked.findings[1].message
    assert "became none" in checked.findings[1].message


def test_slices_have_their_own_baseline(tmp_path: Path) -> None:
    stack = np.stack([layer(3), layer(4)], axis=-1)[..., None]
    path = save(conv_model({"conv": stack}), tmp_path / "m.onnx")
    baseline = baseline_of(path, tmp_path / "b.json", "--no-pool")
    assert found(check_model(path, Limits.make(max_change=0), baseline=baseline, pool=False)) == []
    stack[..., 1, 0] *= 2
    other = save(conv_model({"conv": stack}), tmp_path / "other.onnx")
    assert found(check_model(other, baseline=baseline, pool=False)) == [("WWX007", "conv[1]")]


def test_a_baseline_of_other_options_is_refused(healthy: Path, tmp_path: Path) -> None:
    baseline = baseline_of(healthy, tmp_path / "b.json", "--min-evals", "20", "--mp-fit", "--seed", "3")
    with pytest.raises(ww.OptionError, match="was analysed with min_evals=20, and here it is 8"):
        check_model(healthy, baseline=baseline)
    assert found(check_model(healthy, baseline=baseline, min_evals=20)) == []
    with pytest.raises(ww.OptionError, match="layers=None, and here it is"):
        check_model(healthy, baseline=baseline, min_evals=20, layers=["a"])


def test_the_model_is_found_among_those_of_the_baseline(healthy: Path, ailing: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.json"
    assert main(["analyze", str(healthy), str(ailing), "--format", "json", "-o", str(path)]) == 0
    baseline = read_baseline(path)
    assert [key[0] for key in baseline.rows(str(healthy))] == ["a", "b"]
    assert [key[0] for key in baseline.rows("elsewhere/ailing, 50%.onnx")] == ["low", "good", "high"]
    with pytest.raises(ww.OptionError, match=r"and not other\.onnx"):
        baseline.rows("other.onnx")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        (b"\xff\xfe", "is not what 'wwonnx analyze"),
        (b"[1]", "is not what 'wwonnx analyze"),
        (b'{"command": "describe"}', "is not what 'wwonnx analyze"),
        (b'{"command": "analyze", "schema_version": 99}', "another version"),
        (b'{"command": "analyze", "schema_version": 1, "models": [1], "options": {}}', "lacks models"),
        (b'{"command": "analyze", "schema_version": 1, "models": [{"model": "m", "rows": [{}]}]}', "lacks models"),
        (
            b'{"command": "analyze", "schema_version": 1, "options": {}, "models": [{"model": "m", "rows": '
            b'[{"name": "a", "alpha": "high"}]}]}',
            "lacks models",
        ),
        (b"[" * 100_000, "is not what 'wwonnx analyze"),
    ],
)
def test_a_file_that_is_no_baseline(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ww.OptionError, match=said):
        read_baseline(path)


# Rules


def test_codes_are_stable_and_every_rule_explains_itself() -> None:
    assert {each.code: each.name for each in RULES} == {
        "WWX001": "over-trained",
        "WWX002": "under-trained",
        "WWX003": "correlation-traps",
        "WWX004": "low-coverage",
        "WWX005": "failed-layer",
        "WWX006": "random-like",
        "WWX007": "changed",
        "WWX008": "missing-layer",
        "WWX009": "new-layer",
        "WWX010": "nothing-analysed",
    }
    for each in RULES:
        assert each.summary
        assert each.why
        assert each.mend
        assert each.level in ("error", "warning")
        assert rule(each.code.lower()) is rule(each.name) is each


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_alpha": 7}, "min_alpha=7 is above max_alpha=6"),
        ({"max_alpha": "six"}, "max_alpha='six'"),
        ({"min_alpha": float("nan")}, "min_alpha=nan"),
        ({"max_traps": -1}, "max_traps=-1"),
        ({"max_traps": 1.5}, "max_traps=1.5"),
        ({"min_coverage": 101}, "min_coverage=101"),
        ({"max_change": 10}, "max_change=10: give a share such as 10% or 0.1"),
        ({"max_change": "-1%"}, "max_change='-1%'"),
        ({"max_change": True}, "max_change=True"),
        ({"ignore": "WWX011"}, "'WWX011': no rule has this code"),
        ({"ignore": 3}, "ignore=3"),
    ],
)
def test_limits_that_can_not_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ww.OptionError) as caught:
        Limits.make(**given)
    assert said in str(caught.value)


def test_shares_and_percents_are_read_as_people_write_them() -> None:
    assert Limits.make(max_change="10%").max_change == Limits.make(max_change=0.1).max_change == 0.1
    assert Limits.make(max_change="250 %").max_change == 2.5
    assert Limits.make(min_coverage="90%").min_coverage == Limits.make(min_coverage=90).min_coverage == 90.0
    assert Limits.make(ignore="wwx001, WWX005").ignore == {"WWX001", "WWX005"}


def test_the_json_of_the_baseline_is_that_of_analyze(healthy: Path, tmp_path: Path) -> None:
    """What is understood is what is written: a new schema version has to be thought of here."""
    from wwonnx.check import baseline
    from wwonnx.cli.output import SCHEMA_VERSION

    assert baseline.SCHEMA_VERSION == SCHEMA_VERSION
    read = baseline_of(healthy, tmp_path / "b.json")
    written = json.loads((tmp_path / "b.json").read_text())["models"][0]["rows"]
    assert list(read.models[str(healthy)]) == written

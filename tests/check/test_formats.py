"""Formats for machines: JUnit and SARIF against their schemas, workflow commands as the runner decodes them."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import xmlschema
from build_onnx import dense_model, gaussian, save
from build_tails import layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wwonnx.check import RULES, Checked, Limits, Verdict, check_model
from wwonnx.check.formats import as_github, as_junit, as_sarif, as_text

TEXTS = st.text(st.characters(codec=None), max_size=20)
VERDICTS = st.builds(
    Verdict,
    rule=st.sampled_from(RULES),
    outcome=st.sampled_from(["passed", "found", "ignored", "unknown"]),
    message=TEXTS,
    layer=TEXTS,
    longname=TEXTS,
    value=st.none() | st.floats(),
    limit=st.none() | st.floats(),
)
CHECKED = st.builds(
    Checked,
    model=st.text(st.characters(codec=None, exclude_characters="\0"), min_size=1, max_size=20),
    sha256=st.none() | st.just("0" * 64),
    layers=st.integers(0, 9),
    verdicts=st.lists(VERDICTS, max_size=4).map(tuple),
    notes=st.lists(TEXTS, max_size=2).map(tuple),
    error=st.just("") | TEXTS,
)


def schema(name: str) -> Path:
    """A schema that others publish. CONTRIBUTING says where they come from."""
    folder = os.environ.get("WWONNX_SCHEMAS")
    if not folder:
        pytest.skip("WWONNX_SCHEMAS names no folder of schemas")
    return Path(folder, name)


@pytest.fixture(scope="module")
def junit() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(schema("junit-10.xsd"))


@pytest.fixture(scope="module")
def sarif() -> jsonschema.Draft202012Validator:
    published = json.loads(schema("sarif-2.1.0.schema.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator(published, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[Checked]:
    """A model with a finding of every outcome, a clean one, and one that could not be read."""
    folder = tmp_path_factory.mktemp("formats")
    weights = {"low": layer(1.5), "high": layer(9), "noise": gaussian(60, 50), "zero": layer(3) * 0, "good": layer(3)}
    ill = check_model(save(dense_model(weights), folder / "ill.onnx"), Limits.make(ignore="WWX001", max_traps=0))
    clean = check_model(save(dense_model({"good": layer(3)}), folder / "clean.onnx"))
    return [ill, clean, Checked("missing.onnx", error="missing.onnx: no such file; check the path")]


def test_junit_is_valid_and_counts_right(checked: list[Checked], junit: xmlschema.XMLSchema) -> None:
    content = as_junit(checked)
    junit.validate(content.decode())
    root = ET.fromstring(content)
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == [one.model for one in checked]
    for suite, one in zip(root, checked, strict=True):
        cases = suite.findall("testcase")
        assert suite.get("tests") == str(len(cases))
        assert suite.get("failures") == str(len(suite.findall("testcase/failure"))) == str(len(one.findings))
        assert suite.get("skipped") == str(len(suite.findall("testcase/skipped")))
        assert suite.get("errors") == str(len(suite.findall("testcase/error"))) == str(int(bool(one.error)))
    for total in ("tests", "failures", "errors"):
        assert int(root.get(total, "")) == sum(int(suite.get(total, "")) for suite in root)
    (failure,) = root.findall("*/testcase[@name='WWX002 under-trained: high']/failure")
    assert failure.get("type") == "WWX002"
    assert re.match(r"alpha \d+\.\d+ is above 6: under-trained$", failure.get("message", ""))
    (ignored,) = root.findall("*/testcase[@name='WWX001 over-trained: low']/skipped")
    assert ignored.get("message", "").startswith("ignored: alpha 1.")
    (unknown,) = root.findall("*/testcase[@name='WWX001 over-trained: zero']/skipped")
    assert unknown.get("message") == "there is no alpha"


def test_sarif_is_valid_and_says_the_same(checked: list[Checked], sarif: jsonschema.Draft202012Validator) -> None:
    log = as_sarif(checked)
    sarif.validate(json.loads(json.dumps(log, allow_nan=False)))
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.code for rule in RULES]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    kept = [result for result in run["results"] if "suppressions" not in result]
    assert [result["ruleId"] for result in kept] == [v.rule.code for one in checked for v in one.findings]
    (ignored,) = [result for result in run["results"] if "suppressions" in result]
    assert ignored["ruleId"] == "WWX001"
    (high,) = [result for result in kept if result["ruleId"] == "WWX002"]
    (location,) = high["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == Path(checked[0].model).as_uri()
    assert location["logicalLocations"][0] == {"name": "high", "fullyQualifiedName": "high.weight", "kind": "module"}
    assert high["properties"]["limit"] == 6.0
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["artifacts"][0]["hashes"]["sha-256"] == checked[0].sha256
    assert as_sarif(checked[:2])["runs"][0]["invocations"][0]["executionSuccessful"] is True


def test_the_schemas_can_refuse(junit: xmlschema.XMLSchema, sarif: jsonschema.Draft202012Validator) -> None:
    assert not junit.is_valid("<testsuites><testsuite name='a'/></testsuites>")
    assert not sarif.is_valid({"version": "2.1.0", "runs": [{"tool": {"driver": {}}}]})
    log: dict[str, Any] = as_sarif([])
    assert sarif.is_valid(log)
    log["runs"][0]["results"] = [{"ruleId": "WWX001"}]
    assert not sarif.is_valid(log)


def test_a_relative_path_is_a_relative_uri() -> None:
    (artifact,) = as_sarif([Checked("models/my net, 50%.onnx")])["runs"][0]["artifacts"]
    assert artifact["location"]["uri"] == "models/my%20net%2C%2050%25.onnx"


@given(checked=st.lists(CHECKED, max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_name_or_a_message_holds_every_format_is_valid(
    checked: list[Checked], junit: xmlschema.XMLSchema, sarif: jsonschema.Draft202012Validator
) -> None:
    content = as_junit(checked)
    junit.validate(content.decode())
    sarif.validate(json.loads(json.dumps(as_sarif(checked), allow_nan=False)))
    findings = sum(len(one.findings) for one in checked)
    text = as_text(checked).encode().decode()
    assert len(re.findall(r"^.*: .*WWX\d{3} ", text, re.MULTILINE)) >= findings
    commands = [line for line in as_github(checked).encode().decode().split("\n") if line.startswith("::")]
    notes = sum(len(one.notes) for one in checked)
    assert len(commands) == findings + notes + sum(bool(one.error) for one in checked)


def decoded(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as GitHub's runner reads it: properties end at a comma, the message at the end of the line."""
    command, _, message = line.removeprefix("::").partition("::")
    kind, _, listed = command.partition(" ")

    def plain(text: str, codes: dict[str, str]) -> str:
        for code, letter in codes.items():
            text = text.replace(code, letter)
        return text.replace("%25", "%")

    in_message = {"%0D": "\r", "%0A": "\n"}
    in_property = in_message | {"%3A": ":", "%2C": ","}
    pairs = (each.split("=", 1) for each in listed.split(","))
    return kind, {name: plain(value, in_property) for name, value in pairs}, plain(message, in_message)


def test_workflow_commands_survive_the_runner() -> None:
    rule = RULES[0]
    verdict = Verdict(rule, "found", "100 %, a::b\nnext: line\r", layer="fc,1:0")
    broken = Checked("a,b:c%.onnx", verdicts=(verdict,), notes=("careful, 5 %",))
    lines = as_github([broken, Checked("x.onnx", error="x.onnx: no such file")]).splitlines()
    assert [decoded(line) for line in lines[:3]] == [
        (
            "warning",
            {"file": "a,b:c%.onnx", "title": "WWX001 over-trained"},
            "fc,1:0: 100 %, a::b\nnext: line\r",
        ),
        ("notice", {"file": "a,b:c%.onnx", "title": "wwonnx"}, "careful, 5 %"),
        ("error", {"file": "x.onnx", "title": "wwonnx"}, "x.onnx: no such file"),
    ]
    assert lines[3] == "1 finding in 1 model, no rows checked"


def test_text_is_a_line_for_each_finding(checked: list[Checked]) -> None:
    lines = as_text(checked).splitlines()
    assert len([line for line in lines if re.search(r": \w+: WWX\d{3} ", line)]) == len(checked[0].findings)
    assert lines[-2] == f"{len(checked[0].findings)} findings in 2 models, 6 rows checked, 1 ignored"
    assert as_text(checked[1:2]) == "no findings in 1 model, 1 row checked\n"

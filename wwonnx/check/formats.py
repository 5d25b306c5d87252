"""Findings for people and for machines: lines of text, GitHub's workflow commands, JUnit XML and SARIF."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..graph.words import clean
from ..version import __version__
from .checker import FOUND, IGNORED, PASSED, UNKNOWN, Checked, Verdict
from .rules import RULES

#: Where SARIF's own schema lies; readers know the format by it.
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def as_text(checked: Sequence[Checked]) -> str:
    """A line for each finding and note, then how many there are."""
    lines = []
    for one in checked:
        lines += [_said(one, verdict) for verdict in one.findings]
        lines += [f"{clean(one.model)}: note: {note}" for note in one.notes]
    lines.append(_counted(checked))
    if any(one.findings for one in checked):
        lines.append("'wwonnx explain CODE' says what a code means and what to do")
    return "\n".join(lines) + "\n"


def as_github(checked: Sequence[Checked]) -> str:
    """Workflow commands, which GitHub Actions shows as annotations, and how many findings there are."""
    lines = []
    for one in checked:
        where = f"file={_property(clean(one.model, 4096))}"
        lines += [f"::error {where},title=wwonnx::{_data(one.error)}"] if one.error else []
        for verdict in one.findings:
            title = _property(f"{verdict.rule.code} {verdict.rule.name}")
            layer = f"{verdict.layer}: " if verdict.layer else ""
            lines.append(f"::{verdict.rule.level} {where},title={title}::{_data(layer + verdict.message)}")
        lines += [f"::notice {where},title=wwonnx::{_data(note)}" for note in one.notes]
    return "\n".join([*lines, _counted(checked)]) + "\n"


def as_junit(checked: Sequence[Checked]) -> bytes:
    """JUnit XML, as Jenkins' xunit schema has it: a suite for each model, a case for each rule and layer."""
    suites = [_suite(one) for one in checked]
    totals = {name: str(sum(int(suite.get(name, "0")) for suite in suites)) for name in ("tests", "failures", "errors")}
    root = ET.Element("testsuites", {"name": "wwonnx check", **totals})
    root.extend(suites)
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"


def as_sarif(checked: Sequence[Checked]) -> dict[str, Any]:
    """A SARIF 2.1.0 log with one run."""
    order = {rule.code: index for index, rule in enumerate(RULES)}
    results = [
        _result(one, verdict, order[verdict.rule.code])
        for one in checked
        for verdict in one.verdicts
        if verdict.outcome in (FOUND, IGNORED)
    ]
    notifications = [
        {
            "level": "error",
            "message": {"text": clean(one.error, 2000)},
            "locations": [{"physicalLocation": _file(one.model)}],
        }
        for one in checked
        if one.error
    ]
    rules = [
        {
            "id": rule.code,
            "name": "".join(word.capitalize() for word in rule.name.split("-")),
            "shortDescription": {"text": rule.summary},
            "fullDescription": {"text": rule.why},
            "help": {"text": rule.mend},
            "defaultConfiguration": {"level": rule.level},
        }
        for rule in RULES
    ]
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "wwonnx", "version": __version__, "semanticVersion": __version__, "rules": rules}},
        "invocations": [{"executionSuccessful": not notifications, "toolExecutionNotifications": notifications}],
        "artifacts": list({one.model: _artifact(one) for one in checked}.values()),
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}


def _counted(checked: Sequence[Checked]) -> str:
    found = sum(len(one.findings) for one in checked)
    ignored = sum(verdict.outcome == IGNORED for one in checked for verdict in one.verdicts)
    readable = [one for one in checked if not one.error]
    rows = _count(sum(one.layers for one in readable), "row")
    ending = f", {ignored} ignored" if ignored else ""
    return f"{_count(found, 'finding')} in {_count(len(readable), 'model')}, {rows} checked{ending}"


def _said(one: Checked, verdict: Verdict) -> str:
    where = f" {clean(verdict.layer)}:" if verdict.layer else ""
    return f"{clean(one.model)}:{where} {verdict.rule.code} {clean(verdict.message, 2000)}"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"


def _data(text: str) -> str:
    """A message of a workflow command: the runner reads a command up to the end of the line, and decodes these."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property of a workflow command, which a comma or a colon would end."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _suite(one: Checked) -> ET.Element:
    """The suite of a model; one that could not be read has a single case with the error."""
    cases = [_case(one, verdict) for verdict in one.verdicts]
    if one.error:
        case = ET.Element("testcase", {"classname": clean(one.model), "name": "can be checked"})
        ET.SubElement(case, "error", {"message": clean(one.error, 2000)})
        cases = [case]
    counts = {
        "tests": len(cases),
        "failures": len(one.findings),
        "errors": int(bool(one.error)),
        "skipped": sum(verdict.outcome in (IGNORED, UNKNOWN) for verdict in one.verdicts),
    }
    suite = ET.Element("testsuite", {"name": clean(one.model), **{name: str(count) for name, count in counts.items()}})
    suite.extend(cases)
    if one.notes:
        ET.SubElement(suite, "system-out").text = "\n".join(clean(note, 2000) for note in one.notes)
    return suite


def _case(one: Checked, verdict: Verdict) -> ET.Element:
    name = f"{verdict.rule.code} {verdict.rule.name}"
    name += f": {clean(verdict.layer)}" if verdict.layer else ""
    case = ET.Element("testcase", {"classname": clean(one.model), "name": name})
    message = clean(verdict.message, 2000)
    if verdict.outcome == FOUND:
        ET.SubElement(case, "failure", {"type": verdict.rule.code, "message": message}).text = verdict.rule.mend
    elif verdict.outcome != PASSED:
        ignored = "ignored: " if verdict.outcome == IGNORED else ""
        ET.SubElement(case, "skipped", {"message": ignored + message})
    return case


def _result(one: Checked, verdict: Verdict, index: int) -> dict[str, Any]:
    location: dict[str, Any] = {"physicalLocation": _file(one.model)}
    if verdict.layer:
        names = {"name": clean(verdict.layer), "fullyQualifiedName": clean(verdict.longname or verdict.layer)}
        location["logicalLocations"] = [{**names, "kind": "module"}]
    where = f"{clean(verdict.layer)}: " if verdict.layer else ""
    numbers = {"value": verdict.value, "limit": verdict.limit}
    result: dict[str, Any] = {
        "ruleId": verdict.rule.code,
        "ruleIndex": index,
        "level": verdict.rule.level,
        "message": {"text": where + clean(verdict.message, 2000)},
        "locations": [location],
        # The same finding of the next run has the same mark, so that it is not reported as new.
        "partialFingerprints": {"ruleAndLayer/v1": f"{verdict.rule.code}:{clean(verdict.longname or verdict.layer)}"},
        "properties": {
            name: number for name, number in numbers.items() if number is not None and math.isfinite(number)
        },
    }
    if verdict.outcome == IGNORED:
        result["suppressions"] = [{"kind": "external", "justification": "ignored by the settings of the check"}]
    return result


def _artifact(one: Checked) -> dict[str, Any]:
    return {
        "location": _file(one.model)["artifactLocation"],
        **({"hashes": {"sha-256": one.sha256}} if one.sha256 else {}),
    }


def _file(model: str) -> dict[str, Any]:
    """The model as SARIF's artifact: a path relative to where the check runs, or a file URI."""
    path = Path(model)
    return {"artifactLocation": {"uri": path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))}}

"""Fixtures, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI nothing may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def digits() -> Path:
    """The trained network that the project ships."""
    return ROOT / "examples" / "digits_cnn.onnx"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real networks and reference figures, where they are: beside the project or in WWONNX_SHARED."""
    folder = Path(os.environ.get("WWONNX_SHARED") or ROOT.parent / "shared")
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no reference data at {folder}; set WWONNX_SHARED")
    return folder

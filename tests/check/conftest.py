"""Models to check, and an empty folder to check them in."""

from __future__ import annotations

from pathlib import Path

import pytest
from build_onnx import save
from build_tails import network


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of alpha 3 and 4."""
    return save(network({"a": 3.0, "b": 4.0}), tmp_path_factory.mktemp("check") / "healthy.onnx")


@pytest.fixture(scope="session")
def ailing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An over-trained, a good and an under-trained layer."""
    model = network({"low": 1.5, "good": 3.0, "high": 9.0})
    return save(model, tmp_path_factory.mktemp("check") / "ailing, 50%.onnx")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in: no pyproject.toml of this project is read."""
    monkeypatch.chdir(tmp_path)
    return tmp_path

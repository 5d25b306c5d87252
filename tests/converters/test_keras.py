"""Keras keeps one backend for a process: the tests of live models run in a process for each."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGES = {"tensorflow": ["tensorflow", "tf2onnx"], "torch": ["torch", "onnxscript"], "jax": ["jax"]}


@pytest.mark.parametrize("backend", PACKAGES)
def test_live_models_and_their_files(backend: str, tmp_path: Path) -> None:
    missing = [name for name in ("keras", "h5py", *PACKAGES[backend]) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = clean | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "CI": ""}
    # The frameworks warn of many things when they are imported; what wwonnx does with warnings has its own test.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "filterwarnings="]
    command += ["--basetemp", str(tmp_path / "inner"), str(HERE / "keras_backend.py")]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

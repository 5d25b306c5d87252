"""What the package offers, and what asking for it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wwonnx import callbacks

FRAMEWORKS = {"KerasMonitor": "keras", "LightningMonitor": "lightning", "TrainerMonitor": "transformers"}


def test_no_framework_is_imported_before_its_monitor_is_asked_for() -> None:
    code = "import sys; from wwonnx.callbacks import Monitor; Monitor(); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "wwonnx.callbacks.monitor" in result.stdout.split()
    heavy = {"torch", "keras", "tensorflow", "lightning", "pytorch_lightning", "transformers"}
    assert not heavy & set(result.stdout.split())


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_said_with_the_mend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    framework = FRAMEWORKS[name]
    monkeypatch.delitem(sys.modules, f"wwonnx.callbacks.{framework}", raising=False)
    for module in (framework, f"{framework}.pytorch", f"pytorch_{framework}"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"^{name} needs {framework}: pip install {framework}$"):
        getattr(callbacks, name)


def test_names() -> None:
    assert set(dir(callbacks)) == {"Measurement", "Monitor", *FRAMEWORKS}
    with pytest.raises(AttributeError, match="no attribute 'TorchMonitor'"):
        _ = callbacks.TorchMonitor

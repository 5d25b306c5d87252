"""The notebooks run from a clean state, and say what is so."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

import wwonnx as ww  # noqa: E402

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = ("quick_start", "family", "training")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, so that nothing outside it is needed and nothing is written into the project."""
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    return Path(shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("notebooks") / "examples", ignore=ignored))


def execute(folder: Path, name: str, values: str) -> tuple[Any, dict[str, Any]]:
    """The notebook run in a new kernel, and what these names hold at its end, told by a cell of our own."""
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    tell = f"import json\nprint(json.dumps({{{values}}}, default=float))"
    notebook.cells.append(nbformat.v4.new_code_cell(tell))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's sockets and event loop
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    told = "".join(output["text"] for output in notebook.cells.pop().outputs)
    return notebook, json.loads(told)


def outputs(notebook: Any, kind: str) -> list[str]:
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output["text"] for output in found if output["output_type"] == "stream"]
    return [output["data"][kind] for output in found if kind in output.get("data", {})]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_with_outputs_small_and_without_paths(name: str) -> None:
    path = EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output["output_type"] == "error"]
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
    assert outputs(notebook, "image/png")
    text = path.read_text()
    assert not [word for word in ("/home", "/root", "/tmp", "/Users", "site-packages") if word in text]


def test_quick_start(folder: Path, digits: Path) -> None:
    values = "'alpha': details.alpha.tolist(), 'summary': summary, 'slices': {k: len(v) for k, v in results.items()}"
    notebook, told = execute(folder, "quick_start", values)
    watcher = ww.WeightWatcher(digits)
    details = watcher.analyze()
    np.testing.assert_allclose(told["alpha"], details.alpha, rtol=1e-9)
    assert told["summary"] == pytest.approx(watcher.get_summary(), rel=1e-9)
    assert told["slices"] == {"1": 10, "2": 10, "3": 10, "4": 2, "5": 2}
    tables = outputs(notebook, "text/html")
    assert all(f">{name}</td>" in tables[0] for name in details.name)
    assert "rgba(" in tables[0]
    words = "".join(outputs(notebook, "stream"))
    for line in ("[4] -> ['fc1']", "layer 3, slice 8: ", "layer 4, slice 0: ", "Norm compound: min: ", "python  "):
        assert line in words
    assert "layer 2, slice" not in words
    assert "Skipping: too small (<50)" in "".join(outputs(notebook, "text/plain"))


def test_family(folder: Path) -> None:
    values = "'tau': result.correlations.kendall_tau.to_dict(), 'small': with_small.correlations.kendall_tau.to_dict()"
    notebook, told = execute(folder, "family", values)
    measured = pd.read_csv(EXAMPLES / "family" / "accuracies.csv", index_col="model").accuracy
    for key, min_evals in (("tau", 50), ("small", 8)):
        summaries = {
            name: ww.WeightWatcher(EXAMPLES / "family" / f"{name}.onnx").analyze(min_evals=min_evals)
            for name in measured.index
        }
        means = pd.DataFrame({name: details[list(told[key])].mean() for name, details in summaries.items()}).T
        # Kendall's tau without ties, counted by hand.
        pairs = [(a, b) for index, a in enumerate(means.index) for b in means.index[index + 1 :]]
        for metric, tau in told[key].items():
            signs = [np.sign((means[metric][a] - means[metric][b]) * (measured[a] - measured[b])) for a, b in pairs]
            assert tau == pytest.approx(np.mean(signs)), metric
    # What the text says.
    assert told["tau"]["log_norm"] == told["small"]["log_norm"] == -1
    assert told["tau"]["alpha"] == 1
    assert told["small"]["alpha"] < 0
    assert abs(told["tau"]["alpha_weighted"]) < 0.5
    assert told["small"]["alpha_weighted"] == -1
    assert len(outputs(notebook, "image/png")) == 2


def test_training(folder: Path) -> None:
    pytest.importorskip("torch")
    values = (
        "'epochs': good.index.tolist(), 'accuracy': good.accuracy.tolist(), 'alpha': good['wwonnx/alpha'].tolist(), "
        "'logged': logged, 'stopped': monitor.should_stop, 'bad': len(bad), 'bad_alpha': bad['wwonnx/alpha'].tolist(), "
        "'rises': good[['accuracy', 'wwonnx/log_norm']].corr(method='spearman').iloc[0, 1]"
    )
    notebook, told = execute(folder, "training", values)
    assert told["epochs"] == list(range(1, 21))
    assert told["accuracy"][-1] > 95
    assert [one["wwonnx/alpha"] for one in told["logged"]] == told["alpha"]
    assert told["alpha"][0] > 2 * told["alpha"][-1]
    assert told["rises"] > 0
    assert told["stopped"]
    assert told["bad"] < 10
    assert all(alpha < 2 for alpha in told["bad_alpha"][-3:])
    words = "".join(outputs(notebook, "stream"))
    assert "wwonnx epoch 20: alpha " in words
    assert "stop training" in words
    assert len(outputs(notebook, "image/png")) == 2

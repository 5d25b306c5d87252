"""The command line as a user meets it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from build_onnx import dense_model, gaussian, save

import wwonnx as ww
from wwonnx.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {"fc1": gaussian(60, 50), "fc2": gaussian(50, 20, seed=1), "tiny": gaussian(20, 3)}
    return save(dense_model(weights), tmp_path_factory.mktemp("models") / "net.onnx")


def run(*arguments: str | Path, width: int = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from wwonnx.cli.main import run; run()", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": str(width), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_analyze_prints_a_table_a_summary_and_what_was_left_out(model: Path) -> None:
    result = run("analyze", model)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["id", "name", "alpha", "type"]
    assert any(line.split()[:2] == ["1", "fc1"] for line in lines)
    assert any(line.startswith("mean: log_norm ") for line in lines)
    assert "1 weight is not analysed:" in result.stdout
    assert "3 eigenvalues, fewer than min_evals=8" in result.stdout


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("command", ["analyze", "describe", "inventory"])
def test_tables_fit_the_terminal(model: Path, command: str, width: int) -> None:
    result = run(command, model, width=width)
    assert max(map(len, result.stdout.splitlines())) <= width


def test_the_formats_hold_the_same_rows(model: Path, tmp_path: Path) -> None:
    details = ww.analyze(model)
    read = pd.read_csv(io.StringIO(run("analyze", model, "--format", "csv").stdout))
    pd.testing.assert_frame_equal(read[["name", "alpha", "norm"]], details[["name", "alpha", "norm"]], rtol=1e-12)
    assert run("analyze", model, "-o", tmp_path / "d.parquet").returncode == 0
    parquet = pd.read_parquet(tmp_path / "d.parquet")
    np.testing.assert_array_equal(parquet.alpha, details.alpha)
    assert parquet.model.tolist() == [str(model)] * 2
    assert run("analyze", model, "-o", tmp_path / "d.md").returncode == 0
    card = (tmp_path / "d.md").read_text().splitlines()
    header = next(index for index, line in enumerate(card) if line.startswith("| layer_id | name |"))
    assert [line.split(" | ")[1] for line in card[header + 2 : header + 4]] == details.name.tolist()
    assert (tmp_path / "d.md").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_says_what_was_done(model: Path) -> None:
    document = json.loads(run("analyze", model, "--format", "json", "--detX", "--seed", "3", "--layers", "fc1").stdout)
    assert document["schema_version"] == 1
    assert document["command"] == "analyze"
    assert document["versions"]["wwonnx"] == ww.__version__
    assert document["options"]["seed"] == 3
    assert document["options"]["detX"] is True
    assert document["options"]["layers"] == ["fc1"]
    (entry,) = document["models"]
    assert entry["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert [row["name"] for row in entry["rows"]] == ["fc1"]
    assert entry["rows"][0]["alpha"] == ww.analyze(model).alpha[0]
    assert entry["summary"]["alpha"] == entry["rows"][0]["alpha"]


def test_json_has_null_where_there_is_no_number(tmp_path: Path) -> None:
    path = save(dense_model({"zero": np.zeros((20, 20), "f4")}), tmp_path / "zero.onnx")
    row = json.loads(run("analyze", path, "--format", "json").stdout)["models"][0]["rows"][0]
    assert (row["alpha"], row["status"], row["reason"]) == (None, "failed", "every weight is zero")


def test_several_models(model: Path, tmp_path: Path) -> None:
    other = save(dense_model({"only": gaussian(30, 30)}), tmp_path / "other.onnx")
    read = pd.read_csv(io.StringIO(run("analyze", model, other, "--format", "csv").stdout))
    assert read.model.tolist() == [str(model)] * 2 + [str(other)]
    result = run("analyze", model, tmp_path / "missing.onnx", other, "--format", "csv")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [f"wwonnx: {tmp_path / 'missing.onnx'}: no such file; check the path"]
    assert pd.read_csv(io.StringIO(result.stdout)).equals(read)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (["--layers", "fc1"], ["fc1"]),
        (["--layers=-fc1"], ["fc2"]),
        (["--layers", "1,2"], ["fc1", "fc2"]),
        (["--layers", "1", "--layers", "2"], ["fc1", "fc2"]),
        (["--layers=-1"], ["fc2"]),
        (["--layers", "fc*"], ["fc1", "fc2"]),
        (["--layers", "dense"], ["fc1", "fc2"]),
        (["--min-evals", "30"], ["fc1"]),
        (["--max-evals", "30"], ["fc2"]),
        (["--min-evals", "0"], ["fc1", "fc2", "tiny"]),
    ],
)
def test_selection(
    model: Path, arguments: list[str], kept: list[str], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["analyze", str(model), *arguments, "--format", "csv"]) == 0
    assert pd.read_csv(io.BytesIO(capsysbinary.readouterr().out)).name.tolist() == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "{model}", "--min-evals", "-1"], "min_evals=-1"),
        (["analyze", "{model}", "--min-evals", "many"], "'many' is not a valid integer"),
        (["analyze", "{model}", "--max-evals", "3"], "below min_evals=8"),
        (["analyze", "{model}", "--xmax", "2"], "xmax=2"),
        (["analyze", "{model}", "--tolerance", "nan"], "tolerance=nan"),
        (["analyze", "{model}", "--layers", "fc3"], "did you mean 'fc"),
        (["analyze", "{model}", "--layers", "9"], "ids go from 1 to 3"),
        (["analyze", "{model}", "--format", "xml"], "'xml' is not one of"),
        (["analyze", "{model}", "--no-such-option"], "--no-such-option"),
        (["analyze", "{model}", "-o", "/no/such/directory/x.csv"], "there is no directory"),
        (["analyze"], "Missing argument"),
        (["no-such-command"], "No such command"),
        (["analyze", "missing.onnx"], "no such file"),
        (["distances", "{model}", "missing.onnx"], "no such file"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(model: Path, arguments: list[str], said: str) -> None:
    result = run(*(argument.format(model=model) for argument in arguments))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("wwonnx: ")
    assert said in result.stderr
    assert not result.stdout


def test_a_file_appears_whole_or_not_at_all(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("kept")
    assert run("analyze", "missing.onnx", "-o", target).returncode == 2
    assert target.read_text() == "kept"
    assert run("analyze", model, "-o", target).returncode == 0
    assert target.read_text().startswith("layer_id,name,")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_describe_and_inventory(model: Path) -> None:
    described = pd.read_csv(io.StringIO(run("describe", model, "--format", "csv").stdout))
    assert described.name.tolist() == ["fc1", "fc2"]
    assert described.num_evals.tolist() == [50, 20]
    result = run("inventory", model)
    assert result.stdout.splitlines()[-1].startswith("4,000 of 4,060 parameters analysed (98.5 %)")
    document = json.loads(run("inventory", model, "--format", "json").stdout)["models"][0]
    assert (document["parameters"], document["parameters_analyzed"]) == (4060, 4000)
    assert [row["reason"] for row in document["rows"]] == ["", "", "3 eigenvalues, fewer than min_evals=8"]


def test_distances(model: Path, tmp_path: Path) -> None:
    changed = {"fc1": gaussian(60, 50) * np.float32(2), "fc2": gaussian(50, 20, seed=1), "tiny": gaussian(20, 3)}
    other = save(dense_model(changed), tmp_path / "other.onnx")
    rows = pd.read_csv(io.StringIO(run("distances", model, other, "--format", "csv").stdout))
    assert rows.delta_W[0] == pytest.approx(np.linalg.norm(gaussian(60, 50)), rel=1e-6)
    assert rows.relative[0] == pytest.approx(1.0, rel=1e-6)
    assert rows.delta_W[1] == 0.0
    assert rows.status.tolist() == ["success"] * 3
    assert "mean: delta_W" in run("distances", model, other).stdout


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -c 'from wwonnx.cli.main import run; run()' analyze {model} --format csv | head -c 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["analyze", "--help"]])
def test_help_needs_no_model_and_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; from wwonnx.cli.main import main; main({arguments!r}); "
        "assert not {'pandas', 'onnx', 'onnx_ir', 'scipy', 'torch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_every_option_of_analyze_is_an_option_of_the_command() -> None:
    import inspect

    wanted = set(inspect.signature(ww.WeightWatcher.analyze).parameters) - {"self", "model", "ERG", "channels"}
    text = run("analyze", "--help", width=200).stdout
    for name in wanted:
        option = "dask" if name == "executor" else name.replace("_", "-")
        assert f"--{option}" in text, name

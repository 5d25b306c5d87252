"""`wwonnx compare` as a user meets it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
from build_onnx import dense_model, gaussian, save

import wwonnx as ww
from wwonnx.cli.main import main

FAMILY = ("small", "middle", "large")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three models."""
    folder = tmp_path_factory.mktemp("family")
    for seed, name in enumerate(FAMILY, start=1):
        save(dense_model({"a": seed * gaussian(60, 50, seed=seed), "b": gaussian(40, 30)}), folder / f"{name}.onnx")
    return folder


@pytest.fixture
def accuracies(tmp_path: Path) -> Path:
    path = tmp_path / "accuracies.csv"
    path.write_text("model,accuracy,group\nsmall,90.1,x\nmiddle.onnx,91.5%,x\nsome/where/large.onnx,92,y\nother,1,y\n")
    return path


def run(capsysbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[int, str, str]:
    code = main(["compare", *map(str, arguments)])
    done = capsysbinary.readouterr()
    return code, done.out.decode(), done.err.decode()


def paths(folder: Path) -> list[Path]:
    return [folder / f"{name}.onnx" for name in FAMILY]


def test_json_holds_what_the_function_returns(
    family: Path, accuracies: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ("--accuracy", accuracies, "--min-evals", 40, "--mp-fit", "--format", "json")
    code, out, err = run(capsysbinary, *paths(family), *arguments)
    assert (code, err) == (0, "")
    document = json.loads(out)
    expected = ww.compare(
        dict(zip(FAMILY, paths(family), strict=True)),
        {"small": 90.1, "middle": 91.5, "large": 92.0},
        {"small": "x", "middle": "x", "large": "y"},
        min_evals=40,
        mp_fit=True,
    )
    assert (document["command"], document["options"]["min_evals"]) == ("compare", 40)
    assert document["notes"] == list(expected.notes)
    for name in ("summaries", "ranking", "correlations", "groups"):
        wanted = getattr(expected, name).reset_index()
        pd.testing.assert_frame_equal(pd.DataFrame(document[name]).astype(wanted.dtypes), wanted)


def test_the_table_says_the_order_the_correlations_and_the_limits(
    family: Path, accuracies: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run(capsysbinary, *paths(family), "--accuracy", accuracies)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["model", "accuracy", "alpha_weighted"]
    assert "  log_norm: small, middle, large" in lines
    assert "against accuracy:" in lines
    assert "within groups:" in lines
    assert any(line.startswith("Note: The metrics rank models of one architecture family") for line in lines)
    assert max(map(len, lines)) <= 100


def test_without_accuracies_there_are_the_means_and_the_order(
    family: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    _, out, _ = run(capsysbinary, *paths(family), "--format", "csv")
    read = pd.read_csv(io.StringIO(out))
    assert read.model.tolist() == list(FAMILY)
    assert read.log_norm[0] == pytest.approx(ww.analyze(family / "small.onnx").log_norm.mean())
    _, out, _ = run(capsysbinary, *paths(family), "--format", "markdown")
    assert out.startswith("### Summaries\n\n| model | layers |")
    assert "Correlations" not in out


def test_a_model_that_can_not_be_read_does_not_cost_the_others(
    family: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, out, err = run(capsysbinary, *paths(family), "missing.onnx", "--format", "csv")
    assert code == 2
    assert err == "wwonnx: missing.onnx: no such file; check the path\n"
    assert pd.read_csv(io.StringIO(out)).model.tolist() == list(FAMILY)
    code, out, _ = run(capsysbinary, *paths(family)[:1], "missing.onnx", "-o", tmp_path / "never.json")
    assert (code, out, list(tmp_path.iterdir())) == (2, "", [])


def test_files_of_one_name_are_told_apart_by_their_paths(
    family: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    twin = save(dense_model({"a": gaussian(60, 50)}), tmp_path / "small.onnx")
    table = tmp_path / "accuracies.csv"
    table.write_text(f"name;acc\n{twin};80\n{family / 'small.onnx'};90\n")
    _, out, _ = run(capsysbinary, twin, family / "small.onnx", "--accuracy", table, "--format", "csv")
    read = pd.read_csv(io.StringIO(out))
    assert read.model.tolist() == [str(twin), str(family / "small.onnx")]
    assert read.accuracy.tolist() == [80.0, 90.0]


def test_plots_are_written_where_asked(
    family: Path, accuracies: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "plots"
    code, _, err = run(capsysbinary, *paths(family), "--accuracy", accuracies, "--plot", folder)
    assert (code, err) == (0, "")
    written = {path.name for path in folder.iterdir()}
    assert {"accuracy.alpha_weighted.png", "layers.alpha.png", "accuracy.log_norm.png"} <= written
    assert len(written) == 12


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read (No such file or directory)"),
        ("", "needs a first line with the columns model and accuracy"),
        ("small,90\nlarge,91\n", "needs a first line with the columns model and accuracy"),
        ("model,accuracy\nsmall,ninety\n", "line 2: 'ninety' is no number"),
        ("model,accuracy\nresnet,90\n", "names none of the models; it should say small, middle, large"),
        ("model,accuracy,group\nsmall,90,x\n", "says nothing of middle, large"),
    ],
)
def test_an_accuracy_file_that_says_nothing(
    family: Path, tmp_path: Path, content: str | None, said: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "accuracies.csv"
    if content is not None:
        path.write_text(content)
    code, out, err = run(capsysbinary, *paths(family), "--accuracy", path)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{0}"], "two models or more"),
        (["{0}", "{0}"], "is given twice"),
        (["{0}", "{1}", "-o", "x.parquet"], "writes no Parquet"),
        (["{0}", "{1}", "--min-evals", "-1"], "min_evals=-1"),
    ],
)
def test_mistakes(family: Path, arguments: list[str], said: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run(capsysbinary, *(argument.format(*paths(family)) for argument in arguments))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err

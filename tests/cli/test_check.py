"""`wwonnx check` and `wwonnx explain` as a pipeline meets them."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from build_onnx import dense_model, save
from build_tails import layer, network

from wwonnx.check import RULES
from wwonnx.cli.main import main


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(save(network({"a": 3.0, "b": 4.0}), Path("healthy.onnx")))


@pytest.fixture
def ailing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(save(network({"low": 1.5, "good": 3.0}), Path("ailing.onnx")))


def run(capsysbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    done = capsysbinary.readouterr()
    return code, done.out.decode(), done.err.decode()


def test_exit_codes(healthy: str, ailing: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    limits = ("--max-alpha", 6, "--min-alpha", 2, "--max-traps", 3, "--min-coverage", 90)
    assert run(capsysbinary, "check", healthy, *limits) == (0, "no findings in 1 model, 2 rows checked\n", "")
    code, out, err = run(capsysbinary, "check", healthy, ailing)
    assert (code, err) == (1, "")
    assert out.splitlines()[0].startswith("ailing.onnx: low: WWX001 alpha 1.")
    assert out.splitlines()[1] == "1 finding in 2 models, 4 rows checked"
    code, out, err = run(capsysbinary, "check", ailing, "missing.onnx")
    assert (code, err) == (2, "wwonnx: missing.onnx: no such file; check the path\n")
    assert "WWX001" in out


def test_the_process_ends_with_the_code(ailing: str) -> None:
    command = [sys.executable, "-c", "from wwonnx.cli.main import run; run()", "check", ailing]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 1


@pytest.mark.parametrize("format_", ["json", "junit", "sarif", "github", "text"])
def test_every_format_is_written_to_a_file(
    ailing: str, tmp_path: Path, format_: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    target = tmp_path / "findings"
    assert run(capsysbinary, "check", ailing, "missing.onnx", "--format", format_, "-o", target)[:2] == (2, "")
    content = target.read_text("utf-8")
    assert "WWX001" in content
    if format_ == "json":
        document = json.loads(content)
        assert (document["command"], document["findings"]) == ("check", 1)
        assert document["options"]["limits"]["max_alpha"] == 6.0
        ill, missing = document["models"]
        (verdict,) = ill["verdicts"]
        assert (verdict["rule"], verdict["layer"], verdict["limit"]) == ("WWX001", "low", 2.0)
        assert missing["error"] == "missing.onnx: no such file; check the path"
    elif format_ == "junit":
        assert len(ET.fromstring(content).findall("testsuite")) == 2
    elif format_ == "sarif":
        assert json.loads(content)["version"] == "2.1.0"
    elif format_ == "github":
        assert content.splitlines()[0].startswith("::warning file=ailing.onnx,title=WWX001 over-trained::low: alpha 1.")


def test_a_baseline_of_analyze_is_compared(healthy: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(capsysbinary, "analyze", healthy, "--format", "json", "-o", "baseline.json")[0] == 0
    assert run(capsysbinary, "check", healthy, "--baseline", "baseline.json")[0] == 0
    save(dense_model({"a": layer(3.0) * 1.2, "b": layer(4.0)}), Path(healthy))
    code, out, _ = run(capsysbinary, "check", healthy, "--baseline", "baseline.json", "--max-change", "10%")
    assert code == 1
    assert "healthy.onnx: a: WWX007 norm " in out
    assert run(capsysbinary, "check", healthy, "--baseline", "baseline.json", "--max-change", "50%")[0] == 0
    code, _, err = run(capsysbinary, "check", healthy, "--baseline", "baseline.json", "--min-evals", 50)
    assert code == 2
    assert "min_evals=8, and here it is 50" in err


def test_the_configuration_is_found_and_the_command_line_wins(
    ailing: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    table = "[tool.wwonnx.check]\nmin-alpha = 1.2\n[tool.wwonnx.check.analyze]\nmin-evals = 150\n"
    Path("pyproject.toml").write_text(table)
    code, out, _ = run(capsysbinary, "check", ailing)
    assert (code, out.split(":")[1].split()[0]) == (1, "WWX010")
    assert run(capsysbinary, "check", ailing, "--min-evals", 8)[0] == 0
    assert run(capsysbinary, "check", ailing, "--min-evals", 8, "--min-alpha", 2)[0] == 1
    assert run(capsysbinary, "check", ailing, "--no-config")[0] == 1
    Path("other.toml").write_text('[tool.wwonnx.check]\nignore = ["WWX001"]\n')
    assert run(capsysbinary, "check", ailing, "--config", "other.toml")[0] == 0
    code, out, _ = run(capsysbinary, "check", ailing, "--no-config", "--ignore", "over-trained")
    assert (code, out) == (0, "no findings in 1 model, 2 rows checked, 1 ignored\n")


def test_an_override_in_the_configuration_holds_for_its_layers(
    ailing: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    Path("pyproject.toml").write_text('[[tool.wwonnx.check.overrides]]\nlayers = ["lo*"]\nmin-alpha = 1.2\n')
    assert run(capsysbinary, "check", ailing, "--config", "pyproject")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-alpha", "7"], "min_alpha=7 is above max_alpha=6"),
        (["--max-change", "5%"], "--max-change needs a --baseline"),
        (["--ignore", "WWX999"], "no rule has this code"),
        (["--config", "x.toml"], "--config x.toml: can't be read"),
        (["--config", "x.toml", "--no-config"], "contradict each other"),
        (["--baseline", "x.json"], "--baseline x.json: can't be read"),
        (["--format", "xml"], "'xml' is not one of"),
        (["--layers", "head"], "no layer has that name"),
        (["-o", "no/such/file"], "there is no directory"),
    ],
)
def test_mistakes_are_one_line_and_code_2(
    healthy: str, arguments: list[str], said: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    code, out, err = run(capsysbinary, "check", healthy, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_an_unknown_option_of_the_analysis_in_the_configuration(
    healthy: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    Path("pyproject.toml").write_text("[tool.wwonnx.check.analyze]\nmin-eval = 3\n")
    code, _, err = run(capsysbinary, "check", healthy)
    assert code == 2
    assert "min_eval is no option; did you mean 'min-evals'" in err


def test_explain(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, _ = run(capsysbinary, "explain")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [rule.code for rule in RULES]
    for rule in RULES:
        code, out, _ = run(capsysbinary, "explain", rule.code)
        assert code == 0
        assert out.startswith(f"{rule.code} {rule.name}\n")
        assert " ".join(rule.mend.split()) in " ".join(out.split())
        assert max(map(len, out.splitlines())) <= 88
    code, out, err = run(capsysbinary, "explain", "WWX011")
    assert (code, out) == (2, "")
    assert "'WWX011': no rule has this code; did you mean 'WWX01" in err

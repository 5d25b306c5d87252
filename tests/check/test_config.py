"""[tool.wwonnx.check] in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

import wwonnx as ww
from wwonnx.check import Limits
from wwonnx.check.limits import Config, Override, read_config

WHOLE = """
[project]
name = "somebody-elses"

[tool.wwonnx.check]
min-alpha = 1.8
max-alpha = 8
max-traps = 0
min-coverage = "90%"
max-change = "5%"
baseline = "models/baseline.json"
ignore = ["WWX005", "new-layer"]

[tool.wwonnx.check.analyze]
min-evals = 50
detX = true

[[tool.wwonnx.check.overrides]]
layers = ["fc*", 3]
max-alpha = 30

[[tool.wwonnx.check.overrides]]
layers = "conv2d"
ignore = "WWX001"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def test_every_setting_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    config = read_config(path)
    limits = Limits.make(**config.values)
    assert limits == Limits(1.8, 8.0, 0, 90.0, 0.05, frozenset({"WWX005", "WWX009"}))
    assert config.baseline == tmp_path / "models" / "baseline.json"
    assert config.analyze == {"min_evals": 50, "detX": True}
    assert config.overrides == (
        Override(("fc*", 3), {"max_alpha": 30}),
        Override(("conv2d",), {"ignore": "WWX001"}),
    )


@pytest.mark.parametrize("name", ["pyproject.toml", ".", "pyproject"])
def test_a_file_its_folder_or_its_stem_name_it(elsewhere: Path, name: str) -> None:
    write(elsewhere, WHOLE)
    assert read_config(Path(name)).values["min_alpha"] == 1.8


def test_the_nearest_file_with_the_table_counts(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = elsewhere / "inner" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert read_config(None) == Config()
    write(elsewhere, "[tool.wwonnx.check]\nmax-alpha = 7\n")
    write(elsewhere / "inner", "[tool.other]\nx = 1\n")
    assert read_config(None).values == {"max_alpha": 7}
    write(inner, "[tool.wwonnx.check]\n")
    assert read_config(None).values == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.other]", "has no table [tool.wwonnx.check]"),
        ("[tool.wwonnx.check]\nmax-alpha = ", "is no TOML"),
        ("tool = 3", "has no table"),
        ("[tool.wwonnx]\ncheck = 3", "is no table"),
        ("[tool.wwonnx.check]\nmax-alhpa = 7", "max-alhpa is no setting; did you mean 'max-alpha'"),
        ("[tool.wwonnx.check]\nqwerty = 7", "there are min-alpha, max-alpha, "),
        ("[tool.wwonnx.check]\nmax-alpha = 7\nmax_alpha = 8", "is there twice"),
        ("[tool.wwonnx.check]\nmax-alpha = 'high'", "max_alpha='high'"),
        ("[tool.wwonnx.check]\nmax-alpha = 1", "min_alpha=2 is above max_alpha=1"),
        ("[tool.wwonnx.check]\nignore = ['WWX99']", "'WWX99': no rule has this code"),
        ("[tool.wwonnx.check]\nbaseline = 3", "baseline=3: give a str"),
        ("[tool.wwonnx.check]\nanalyze = 3", "analyze=3: give a table"),
        ("[tool.wwonnx.check]\noverrides = 3", "overrides=3: give a list"),
        ("[tool.wwonnx.check]\noverrides = [3]", "each is a table"),
        ("[[tool.wwonnx.check.overrides]]\nmax-alpha = 3", "layers has to name some"),
        ("[[tool.wwonnx.check.overrides]]\nlayers = [true]", "layers has to name some"),
        ("[[tool.wwonnx.check.overrides]]\nlayers = 'a'\nmin-coverage = 3", "min-coverage is no setting"),
        ("[[tool.wwonnx.check.overrides]]\nlayers = 'a'\nmax-alpha = 'x'", "max_alpha='x'"),
        ("[[tool.wwonnx.check.overrides]]\nlayers = 'a'\nmax-alpha = 1", "min_alpha=2 is above max_alpha=1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ww.OptionError) as caught:
        read_config(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ww.OptionError, match="can't be read"):
        read_config(tmp_path / "missing.toml")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ww.OptionError, match="is no TOML"):
        read_config(tmp_path)

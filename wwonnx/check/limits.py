"""What is allowed: limits, exceptions for single layers, and where pyproject.toml says so."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..filters import select
from ..layer import WeightLayer
from ..options import nearest, whole
from ..tails import OVER_TRAINED, UNDER_TRAINED
from .rules import Rule, rule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: How far a layer may be from the baseline where nobody says.
MAX_CHANGE = 0.1
_TABLE = "[tool.wwonnx.check]"


@dataclass(frozen=True)
class Limits:
    """What is allowed. `make` checks values.

    Attributes:
        min_alpha, max_alpha: between them alpha may be.
        max_traps: how many correlation traps a layer may have; None to look for none.
        min_coverage: share of the parameters that has to be analysed, in percent; None for any.
        max_change: how far a metric may be from the baseline, as a share of it.
        ignore: codes of rules that are not applied.
    """

    min_alpha: float = OVER_TRAINED
    max_alpha: float = UNDER_TRAINED
    max_traps: int | None = None
    min_coverage: float | None = None
    max_change: float = MAX_CHANGE
    ignore: frozenset[str] = frozenset()

    @classmethod
    def make(cls, **given: Any) -> Limits:
        """Limits from values as users write them; None for those that nothing is said of.

        Raises:
            OptionError: a value that can't be.
        """
        return cls().changed(given)

    def changed(self, given: Mapping[str, Any]) -> Limits:
        """These limits with some of them set anew; what is ignored adds up.

        Raises:
            OptionError: a value that can't be.
        """
        values: dict[str, Any] = {
            name: _CHECKS[name](name, value) for name, value in given.items() if value is not None
        }
        values["ignore"] = self.ignore | values.get("ignore", frozenset())
        limits = replace(self, **values)
        if limits.min_alpha > limits.max_alpha:
            raise OptionError(f"min_alpha={limits.min_alpha:g} is above max_alpha={limits.max_alpha:g}; swap them")
        return limits

    def applies(self, wanted: Rule) -> bool:
        """Whether a rule is not ignored."""
        return wanted.code not in self.ignore


@dataclass(frozen=True)
class Override:
    """Other limits for some layers.

    Attributes:
        layers: which, as in `analyze`: ids, names, patterns or types.
        values: what is set anew, as `Limits.changed` takes it.
    """

    layers: tuple[int | str, ...]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """What a file says.

    Attributes:
        values: limits, as `Limits.changed` takes them.
        overrides: for some layers.
        baseline: the file to hold the model against.
        analyze: options of the analysis.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    baseline: Path | None = None
    analyze: Mapping[str, Any] = field(default_factory=dict)


def limits_of(
    layers: Sequence[WeightLayer], limits: Limits, overrides: Sequence[Override]
) -> tuple[dict[int, Limits], list[str]]:
    """The limits of each layer, by its id, and a note on each override that is for no layer. Later overrides win."""
    found = {layer.layer_id: limits for layer in layers}
    notes = []
    for override in overrides:
        for item in override.layers:
            try:
                chosen = select(layers, item)
            except OptionError:
                chosen = ()
            if not chosen:
                notes.append(f"the override for {item!r} is for no layer of this model")
            for layer in chosen:
                found[layer.layer_id] = found[layer.layer_id].changed(override.values)
    return found, notes


def read_config(path: Path | None) -> Config:
    """Read the table [tool.wwonnx.check] of a file.

    Args:
        path: the file, or its folder; None for the nearest pyproject.toml with such a table, here or further up, or
            nothing where there is none.

    Raises:
        OptionError: the file can't be read, has no such table, or says what can't be.
    """
    if path is not None:
        path = path / "pyproject.toml" if path.is_dir() else path
        path = path.with_suffix(".toml") if not path.suffix and not path.exists() else path
        table = _table(path)
        if table is None:
            raise OptionError(f"--config {path}: has no table {_TABLE}")
        return _config(table, path)
    here = Path.cwd()
    for folder in (here, *here.parents):
        candidate = folder / "pyproject.toml"
        found = _table(candidate) if candidate.is_file() else None
        if found is not None:
            return _config(found, candidate)
    return Config()


def _table(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise OptionError(f"--config {path}: can't be read ({error.strerror or error})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"--config {path}: is no TOML ({error})") from None
    tool: Any = document.get("tool")
    ours = tool.get("wwonnx") if isinstance(tool, dict) else None
    return ours.get("check") if isinstance(ours, dict) else None


def _config(table: Any, path: Path) -> Config:
    where = f"{path}: {_TABLE}"
    if not isinstance(table, dict):
        raise OptionError(f"{where} is no table")
    given = _underscored(table, where)
    _known(given, (*_CHECKS, "overrides", "baseline", "analyze"), where)
    overrides = [_override(one, f"{where}.overrides") for one in _typed(given, "overrides", list, where, [])]
    baseline = _typed(given, "baseline", str, where, "")
    values = {name: given[name] for name in _CHECKS if name in given}
    try:
        limits = Limits.make(**values)
        for override in overrides:
            limits.changed(override.values)
    except OptionError as error:
        raise OptionError(f"{where}: {error}") from None
    analyze = _underscored(_typed(given, "analyze", dict, where, {}), f"{where}.analyze")
    return Config(values, tuple(overrides), path.parent / baseline if baseline else None, analyze)


def _override(table: Any, where: str) -> Override:
    if not isinstance(table, dict):
        raise OptionError(f"{where}: each is a table, with layers and limits")
    given = _underscored(table, where)
    _known(given, ("layers", "ignore", *_OF_LAYERS), where)
    layers = given.pop("layers", [])
    layers = layers if isinstance(layers, list) else [layers]
    if not layers or not all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in layers):
        raise OptionError(f"{where}: layers has to name some: ids, names, patterns or types")
    return Override(tuple(layers), given)


def _underscored(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in found:
            raise OptionError(f"{where}: {key} is there twice")
        found[name] = value
    return found


def _known(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            words = [word.replace("_", "-") for word in known]
            hint = nearest(name.replace("_", "-"), words).replace(
                f"there are {len(words)}", f"there are {', '.join(words)}"
            )
            raise OptionError(f"{where}: {name.replace('_', '-')} is no setting; {hint}")


def _typed(given: Mapping[str, Any], name: str, kind: type, where: str, default: Any) -> Any:
    value = given.get(name, default)
    if not isinstance(value, kind):
        raise OptionError(f"{where}: {name}={value!r}: give a {'table' if kind is dict else kind.__name__}")
    return value


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or math.isnan(number):
        raise OptionError(f"{name}={value!r}: give a number")
    return number


def _percent(name: str, value: Any) -> float:
    number = _number(name, value.rstrip("% ") if isinstance(value, str) else value)
    if not 0.0 <= number <= 100.0:
        raise OptionError(f"{name}={value!r}: give percent, from 0 to 100")
    return number


def _share(name: str, value: Any) -> float:
    """`"10%"`, or 0.1. A whole number could be meant as either, so none above 1 goes without its sign."""
    percent = isinstance(value, str) and value.strip().endswith("%")
    number = _number(name, value.strip().rstrip("% ") if percent else value) / (100.0 if percent else 1.0)
    if not (number >= 0.0 and math.isfinite(number) and (percent or number <= 1.0)):
        raise OptionError(f"{name}={value!r}: give a share such as 10% or 0.1")
    return number


def _traps(name: str, value: Any) -> int:
    return whole(name, value, minimum=0)


def _codes(name: str, value: Any) -> frozenset[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in items):
        raise OptionError(f"{name}={value!r}: give codes, such as WWX001")
    return frozenset(rule(code).code for item in items for code in item.split(",") if code.strip())


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "min_alpha": _number,
    "max_alpha": _number,
    "max_traps": _traps,
    "min_coverage": _percent,
    "max_change": _share,
    "ignore": _codes,
}
#: Limits that a layer can have for itself; coverage is the model's.
_OF_LAYERS = tuple(name for name in _CHECKS if name not in ("min_coverage", "ignore"))

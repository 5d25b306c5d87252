"""A model against what it was: rows of an earlier analysis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from ..errors import OptionError
from ..options import Options

#: The JSON of `wwonnx analyze` that is understood.
SCHEMA_VERSION = 1
#: What is held against the baseline: none of them is near 0, as logarithms are.
METRICS = ("alpha", "norm", "spectral_norm", "stable_rank")
#: Options that add columns, and leave those of METRICS as they are.
_HARMLESS = {
    *("detX", "mp_fit", "randomize", "rand_replicas", "vectors", "deltas", "ci", "gof", "alternatives"),
    *("tolerance", "seed", "keep"),
}

Row: TypeAlias = Mapping[Any, Any]
Key: TypeAlias = tuple[str, Any]


@dataclass(frozen=True)
class Baseline:
    """An earlier analysis.

    Attributes:
        path: its file.
        options: of `analyze`.
        models: for each model's path its rows.
    """

    path: Path
    options: Mapping[str, Any]
    models: Mapping[str, tuple[Row, ...]]

    def rows(self, model: str) -> dict[Key, Row]:
        """The rows of a model, by `key`: those of its path, its file name, or the only ones that there are.

        Raises:
            OptionError: there are several models, and none is this one.
        """
        found = self.models.get(model)
        if found is None:
            alike = [rows for path, rows in self.models.items() if PurePath(path).name == PurePath(model).name]
            alike = alike or (list(self.models.values()) if len(self.models) == 1 else [])
            if len(alike) != 1:
                raise OptionError(f"--baseline {self.path}: holds {', '.join(self.models)}, and not {model}")
            found = alike[0]
        return {key(row): row for row in found}

    def refuse_other_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options under which the numbers would differ for another reason than the model.

        Raises:
            OptionError: there are some.
        """
        theirs, ours = (_options(given) for given in (self.options, options))
        for name, value in ours.items():
            if theirs[name] != value:
                raise OptionError(
                    f"--baseline {self.path}: was analysed with {name}={theirs[name]!r}, and here it is {value!r}; "
                    "give the same option, or write the baseline anew"
                )


def read_baseline(path: Path) -> Baseline:
    """Read what `wwonnx analyze --format json` has written.

    Raises:
        OptionError: the file can't be read, or is something else.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError(f"--baseline {path}: can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("command") != "analyze":
        raise OptionError(f"--baseline {path}: is not what 'wwonnx analyze MODEL --format json -o FILE' writes")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise OptionError(f"--baseline {path}: was written by another version of wwonnx; write it anew")
    try:
        models = {entry["model"]: tuple(dict(row) for row in entry["rows"]) for entry in document["models"]}
        baseline = Baseline(path, dict(document["options"]), models)
        for rows in models.values():
            for row in rows:
                numbers = [row[metric] for metric in METRICS if row.get(metric) is not None]
                if not isinstance(key(row)[0], str) or not all(isinstance(one, (int, float)) for one in numbers):
                    raise TypeError
    except (KeyError, TypeError, ValueError):
        raise OptionError(f"--baseline {path}: lacks models, rows or options; write it anew") from None
    return baseline


def key(row: Row) -> Key:
    """What makes a row the same layer, or slice, in another analysis."""
    return row["name"], row.get("slice_id")


def shape(row: Row) -> tuple[Any, Any, Any]:
    """Larger and smaller dimension, and how many matrices."""
    return row.get("N"), row.get("M"), row.get("rf")


def changes(then: Row, now: Row) -> dict[str, tuple[float, float, float]]:
    """For each metric its value then and now, and the change as a share of the first; infinite where one has none."""
    found = {}
    for metric in METRICS:
        if metric not in then or metric not in now:
            continue
        before, after = (math.nan if value is None else float(value) for value in (then[metric], now[metric]))
        if before == after or (math.isnan(before) and math.isnan(after)):
            change = 0.0
        elif math.isnan(before) or math.isnan(after) or before == 0.0:
            change = math.inf
        else:
            change = abs(after - before) / abs(before)
        found[metric] = before, after, change
    return found


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers."""
    known = {one.name for one in fields(Options)} - {"base", "keep"} | {"ww2x", "ERG"}
    made = Options.make(base=bool(given.get("base_model")), **{name: given[name] for name in known if name in given})
    found = {one.name: getattr(made, one.name) for one in fields(Options) if one.name not in {*_HARMLESS, "base"}}
    return found | {"layers": given.get("layers") or None, "base_model": given.get("base_model")}

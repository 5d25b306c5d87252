"""Holds a model against limits and a baseline: one verdict for each rule and layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..options import SHORT_ESD
from ..watcher import WeightWatcher
from . import rules
from .baseline import Baseline, Key, Row, changes, key, shape
from .limits import Limits, Override, limits_of
from .rules import Rule

if TYPE_CHECKING:
    from ..graph.source import ModelLike

#: What came of a rule: it holds, it doesn't, it doesn't and that is ignored, or it can't be told.
PASSED, FOUND, IGNORED, UNKNOWN = "passed", "found", "ignored", "unknown"


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a layer, or of the whole model.

    Attributes:
        rule: the rule.
        outcome: PASSED, FOUND, IGNORED or UNKNOWN.
        message: what was found, or why nothing can be told; empty where all is well.
        layer: the layer's name, with the slice where there are slices; empty for the model.
        longname: its tensor's name in the file.
        value, limit: what was held against what; None where there are no numbers.
    """

    rule: Rule
    outcome: str
    message: str = ""
    layer: str = ""
    longname: str = ""
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Checked:
    """A model that was checked.

    Attributes:
        model: its path.
        sha256: of the file; None for a model that was built in memory.
        layers: how many rows were analysed.
        verdicts: of the model first, then layer by layer.
        notes: what to know beside.
        error: why the model could not be checked; empty where it could.
    """

    model: str
    sha256: str | None = None
    layers: int = 0
    verdicts: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def findings(self) -> tuple[Verdict, ...]:
        """What is beyond a limit and not ignored."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == FOUND)


def check_model(
    model: ModelLike,
    limits: Limits | None = None,
    overrides: Sequence[Override] = (),
    baseline: Baseline | None = None,
    **options: Any,
) -> Checked:
    """Analyse a model and hold it against limits.

    Args:
        model: as in `WeightWatcher`.
        limits: what is allowed; None for the default limits.
        overrides: other limits for some layers.
        baseline: an earlier analysis of it.
        options: of `WeightWatcher.analyze`. Layers are shuffled where a limit of traps asks for it.

    Raises:
        ModelError: the model can't be opened.
        OptionError: an option that can't be, or under which the baseline can't be compared.
    """
    limits = limits or Limits()
    traps = limits.max_traps is not None or any("max_traps" in override.values for override in overrides)
    options["randomize"] = bool(options.get("randomize")) or traps
    if baseline is not None:
        baseline.refuse_other_options(options)
    watcher = WeightWatcher(model)
    details = watcher.analyze(**options)
    label = watcher._opened().label
    per_layer, notes = limits_of(watcher._walked(watcher._options).layers, limits, overrides)
    rows: Sequence[Row] = details.to_dict("records")
    verdicts = list(_of_model(watcher, len(rows), limits, options))
    for row in rows:
        verdicts += _of_layer(row, per_layer.get(row["layer_id"], limits))
    if baseline is not None:
        verdicts += _against(baseline.rows(label), rows, limits, per_layer)
    notes += [watcher.get_note()] if watcher.get_note() else []
    return Checked(label, watcher.sha256(), len(rows), tuple(verdicts), tuple(notes))


def _of_model(watcher: WeightWatcher, analyzed: int, limits: Limits, options: Mapping[str, Any]) -> Iterator[Verdict]:
    message = "" if analyzed else "no layer was analysed"
    yield _verdict(rules.NOTHING, limits, not analyzed, message)
    if limits.min_coverage is None:
        return
    sizes = {name: options[name] for name in ("min_evals", "max_evals", "pool") if name in options}
    attrs = watcher.inventory(**sizes).attrs
    total = attrs["parameters"]
    coverage = 100.0 * attrs["parameters_analyzed"] / total if total else 0.0
    message = f"{coverage:.1f} % of the parameters are analysed, fewer than {limits.min_coverage:g} %"
    low = coverage < limits.min_coverage
    yield _verdict(rules.COVERAGE, limits, low, message, value=coverage, limit=limits.min_coverage)


def _of_layer(row: Row, limits: Limits) -> Iterator[Verdict]:
    about = _about(row)
    yield _verdict(rules.FAILED, limits, row["status"] == "failed", str(row["reason"]), **about)
    alpha, few = float(row["alpha"]), int(row["num_evals"])
    uncertain = f" (uncertain: {few} eigenvalues)" if few < SHORT_ESD else ""
    for rule, beyond, limit, word in (
        (rules.OVER_TRAINED, alpha < limits.min_alpha, limits.min_alpha, "below"),
        (rules.UNDER_TRAINED, alpha > limits.max_alpha, limits.max_alpha, "above"),
    ):
        if math.isnan(alpha):
            yield Verdict(rule, UNKNOWN, "there is no alpha", **about)
        else:
            message = f"alpha {alpha:.3f} is {word} {limit:g}: {rule.name}{uncertain}"
            yield _verdict(rule, limits, beyond, message, **about, value=alpha, limit=limit)
    if "rand_p_value" not in row:
        return
    yield _verdict(rules.RANDOM, limits, row["status"] == "random-like", str(row["reason"]), **about)
    if limits.max_traps is None:
        return
    traps = float(row["num_traps"])
    if math.isnan(traps):
        yield Verdict(rules.TRAPS, UNKNOWN, "there is no Marchenko-Pastur fit to count traps by", **about)
    else:
        message = f"{traps:.0f} correlation trap{'s' * (traps != 1)}, more than {limits.max_traps}"
        above = traps > limits.max_traps
        yield _verdict(rules.TRAPS, limits, above, message, **about, value=traps, limit=float(limits.max_traps))


def _against(
    then: Mapping[Key, Row], rows: Sequence[Row], limits: Limits, per_layer: Mapping[int, Limits]
) -> Iterator[Verdict]:
    """What the baseline says, for each row that it or the model has."""
    for row in rows:
        allowed = per_layer.get(row["layer_id"], limits)
        about, before = _about(row), then.get(key(row))
        if before is None:
            yield _verdict(rules.NEW, allowed, True, "the baseline has no such layer", **about)
        elif shape(before) != shape(row):
            message = f"N, M and rf were {_numbers(shape(before))} and are {_numbers(shape(row))}"
            yield _verdict(rules.MISSING, allowed, True, message, **about)
        else:
            yield _changed(before, row, allowed, about)
    there = {key(row) for row in rows}
    for missing in (row for slot, row in then.items() if slot not in there):
        message = "the baseline has this layer, the model has not"
        yield _verdict(rules.MISSING, limits, True, message, **_about(missing))


def _changed(then: Row, now: Row, limits: Limits, about: Mapping[str, str]) -> Verdict:
    found = changes(then, now)
    largest = max((change for _, _, change in found.values()), default=0.0)
    parts = [
        f"{metric} {_number(before)} became {_number(after)}"
        + (f" ({after / before - 1.0:+.1%})" if math.isfinite(change) else "")
        for metric, (before, after, change) in found.items()
        if change > limits.max_change
    ]
    message = f"{', '.join(parts)}: changed by more than {100.0 * limits.max_change:g} %"
    return _verdict(rules.CHANGED, limits, bool(parts), message, **about, value=largest, limit=limits.max_change)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4g}"


def _numbers(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _about(row: Row) -> dict[str, Any]:
    slice_id = row.get("slice_id")
    name = row["name"] if slice_id is None else f"{row['name']}[{int(slice_id)}]"
    return {"layer": name, "longname": str(row.get("longname", ""))}


def _verdict(rule: Rule, limits: Limits, beyond: bool, message: str, **about: Any) -> Verdict:
    if not beyond:
        return Verdict(rule, PASSED, **about)
    return Verdict(rule, FOUND if limits.applies(rule) else IGNORED, message, **about)

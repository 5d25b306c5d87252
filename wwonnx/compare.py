"""Many models against their accuracies: which metric ranks them, and where it must not be trusted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .correlation import Correlation, correlate
from .errors import OptionError
from .options import nearest
from .watcher import SUMMARY, WeightWatcher

if TYPE_CHECKING:
    import pandas as pd

    from .graph.source import ModelLike
    from .report.figures import LayerFigure

    Compared: TypeAlias = pd.DataFrame | ModelLike | WeightWatcher

#: Metrics of which the smaller mean belongs to the better model of a family (Martin, Peng and Mahoney, Nature
#: Communications 12:4122, 2021). stable_rank and mp_softrank have no such direction.
LOWER_IS_BETTER = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm")
#: What `alpha` and the others can be held against.
_SCOPE = (
    "The metrics rank models of one architecture family that were trained on one data set. Between families or data "
    "sets they do not, nor along one training run, in which log_norm rises with accuracy."
)
#: With fewer models than this, not even a perfect order has a p-value below 0.05.
_TELLING = 5


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models, their summaries, and how the metrics go with accuracy.

    Attributes:
        summaries: one row per model, in the order given; index `model`; columns `group` and `accuracy` where they were
            given, `layers` (rows that were analysed), and the means of the metrics.
        correlations: one row per metric; index `metric`; columns n, kendall_tau, kendall_p, spearman_rho, spearman_p,
            slope, intercept, rmse, r2: accuracy as a function of the metric. Empty where no accuracy was given.
        groups: the same within each group; index `metric`, `group`. Empty where there are no groups.
        ranking: each model's place by each metric of LOWER_IS_BETTER, 1 for the smallest mean; index `model`.
        details: the rows of each model.
        notes: what to know before trusting any of it, the most general first.
    """

    summaries: pd.DataFrame
    correlations: pd.DataFrame
    groups: pd.DataFrame
    ranking: pd.DataFrame
    details: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]

    def ranked(self, metric: str = "alpha_weighted") -> list[str]:
        """The models by a metric, the best by its judgement first; those without a value are left out.

        Args:
            metric: one of LOWER_IS_BETTER.

        Raises:
            OptionError: the metric has no direction.
        """
        if metric not in self.ranking.columns:
            raise OptionError(f"metric={metric!r}: models are ranked by {', '.join(LOWER_IS_BETTER)}")
        return list(self.ranking[metric].dropna().sort_values(kind="stable").index)

    def plot_accuracy(self, metric: str = "alpha_weighted") -> LayerFigure:
        """Accuracy against a metric: one point per model, and the line of least squares.

        Args:
            metric: one of those in `correlations`.

        Returns:
            A matplotlib Figure that is not among pyplot's. Notebooks show it; `figure.savefig("family.png")` keeps it.

        Raises:
            OptionError: there is no such metric, there are no accuracies, or matplotlib is not installed.
        """
        from .report import compare_plots, plots

        plots.require()
        return compare_plots.accuracy_plot(self.summaries, self.correlations, metric)

    def plot_layers(self, metric: str = "alpha", models: Sequence[str] | None = None) -> LayerFigure:
        """A metric along the layers of the models, in graph order: their correlation flow.

        Args:
            metric: a column of the details.
            models: which of them; None for all.

        Returns:
            A matplotlib Figure, as from `plot_accuracy`.

        Raises:
            OptionError: there is no such column or model, or matplotlib is not installed.
        """
        from .report import compare_plots, plots

        plots.require()
        for name in models or ():
            if name not in self.details:
                raise OptionError(f"models: there is no {name!r}; {nearest(str(name), list(self.details))}")
        return compare_plots.layers_plot({name: self.details[name] for name in models or self.details}, metric)

    def _repr_html_(self) -> str:
        tables = [("Summary", self.summaries), ("Place, by mean", self.ranking)]
        tables += [("Against accuracy", self.correlations), ("Within groups", self.groups)]
        parts = [
            f"<h4>{heading}</h4>{frame.to_html(float_format='{:.4g}'.format, na_rep='-')}"
            for heading, frame in tables
            if len(frame)
        ]
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<div>{''.join(parts)}<ul>{notes}</ul></div>"


def compare(
    models: Mapping[str, Compared],
    accuracies: Mapping[str, float] | None = None,
    group: Mapping[str, Hashable] | None = None,
    **options: Any,
) -> Comparison:
    """Sum up several models, and hold their metrics against their accuracies.

    Args:
        models: for each name the details of an analysis, or a model that is analysed now: whatever `WeightWatcher`
            opens, or a WeightWatcher.
        accuracies: for each name how good the model is, the higher the better, in any unit. Models without one are in
            the tables, but in no correlation.
        group: for each name the group that it belongs to, such as its architecture. Correlations are then computed
            within groups too, and Simpson's paradox is named where their sign is not that over all models.
        options: of `WeightWatcher.analyze`, for the models that are analysed now.

    Returns:
        The comparison. Nothing is hidden: what limits it is in `notes`.

    Raises:
        OptionError: fewer than two models, details that are none, an accuracy that is no number, or names that fit
            none.
        ModelError: a model can't be opened.

    Example:
        >>> result = compare({"a": "a.onnx", "b": "b.onnx"}, {"a": 91.7, "b": 92.6})
        >>> result.ranked("alpha_weighted")
    """
    import pandas as pd

    if not isinstance(models, Mapping) or len(models) < 2:
        raise OptionError("models: give two or more, {'name': details or model, ...}")
    names = [str(name) for name in models]
    reached = _accuracies(names, accuracies)
    groups = _groups(names, group)
    details = _details(dict(zip(names, models.values(), strict=True)), options)
    rows_of = [
        {"group": groups.get(name), "accuracy": reached.get(name, math.nan), "layers": len(rows), **_means(rows)}
        for name, rows in details.items()
    ]
    summaries: pd.DataFrame = pd.DataFrame(rows_of, index=pd.Index(names, name="model"))
    summaries = summaries.drop(columns=[] if groups else "group").drop(columns=[] if reached else "accuracy")
    metrics = [metric for metric in SUMMARY if metric in summaries]
    ranking = summaries[[metric for metric in LOWER_IS_BETTER if metric in metrics]].rank(method="min").astype("Int64")
    every = {metric: _against(summaries, metric) for metric in metrics} if reached else {}
    within = {
        (metric, label): _against(rows, metric)
        for metric in every
        for label, rows in (summaries.groupby("group", sort=False) if groups else ())
    }
    notes = [
        _SCOPE,
        *_notes_on_accuracies(summaries, reached, accuracies or {}),
        *_notes_on_metrics(summaries, metrics),
        *_notes_on_details(details),
        *_simpson(every, within),
    ]
    return Comparison(
        summaries, _frame(every, ["metric"]), _frame(within, ["metric", "group"]), ranking, details, tuple(notes)
    )


def _accuracies(names: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """The finite accuracies of models that there are.

    Raises:
        OptionError: one is no number, or none belongs to a model.
    """
    found = {}
    for name, value in (given or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise OptionError(f"accuracies[{name!r}]={value!r}: give a number, the higher the better") from None
        if math.isinf(number):
            raise OptionError(f"accuracies[{name!r}]={value!r}: give a finite number")
        if str(name) in names and math.isfinite(number):
            found[str(name)] = number
    if given and not found:
        hint = nearest(str(next(iter(given))), list(names))
        raise OptionError(f"accuracies: none is that of a model; {hint}")
    return found


def _groups(names: Sequence[str], given: Mapping[str, Hashable] | None) -> dict[str, str]:
    """The group of each model, as a word.

    Raises:
        OptionError: a model has none.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise OptionError("group: give {'name': its group, ...}")
    found = {str(name): str(label) for name, label in given.items()}
    missing = [name for name in names if name not in found]
    if missing:
        raise OptionError(f"group: says nothing of {', '.join(missing)}; give each model a group, or none of them")
    return {name: found[name] for name in names}


def _details(models: Mapping[str, Compared], options: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The rows of each model, analysed now where they were not before."""
    import pandas as pd

    if options and all(isinstance(model, pd.DataFrame) for model in models.values()):
        raise OptionError(
            f"{next(iter(options))}: options are for models, and all of these are details already; drop it"
        )
    details = {}
    for name, model in models.items():
        if isinstance(model, pd.DataFrame):
            if not set(SUMMARY) & set(model.columns):
                raise OptionError(f"models[{name!r}]: has no column {SUMMARY[1]!r}; give what analyze() returns")
            details[name] = model
        else:
            watcher = model if isinstance(model, WeightWatcher) else WeightWatcher(model)
            details[name] = watcher.analyze(**options)
    return details


def _means(details: pd.DataFrame) -> dict[str, float]:
    summary = WeightWatcher().get_summary(details)
    return {metric: summary[metric] for metric in SUMMARY if metric in summary}


def _against(summaries: pd.DataFrame, metric: str) -> Correlation:
    return correlate(*(summaries[column].to_numpy(dtype=np.float64) for column in (metric, "accuracy")))


def _frame(found: Mapping[Any, Correlation], index: list[str]) -> pd.DataFrame:
    import pandas as pd

    header = list(Correlation.__dataclass_fields__)
    keys = [key if isinstance(key, tuple) else (key,) for key in found]
    rows = [dict(zip(index, key, strict=True)) | asdict(each) for key, each in zip(keys, found.values(), strict=True)]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=[*index, *header]).set_index(index)
    return frame


def _notes_on_accuracies(
    summaries: pd.DataFrame, reached: Mapping[str, float], given: Mapping[str, float]
) -> list[str]:
    """What is wrong with the accuracies: too few, missing, superfluous, equal."""
    if not reached:
        return []
    notes = []
    known, equal = len(reached), len(set(reached.values())) == 1
    if known == 1:
        notes.append("One model alone has an accuracy: there is nothing to correlate.")
    elif equal:
        notes.append("All accuracies are equal: there is nothing to correlate.")
    elif known == 2:
        notes.append(
            "Two models: tau and rho of two points are always 1 or -1 and every line fits; they tell no more than "
            "which model is ahead."
        )
    elif known < _TELLING:
        notes.append(f"{known} models: so few have a perfect order by chance in more than 1 of 20 cases; add models.")
    missing = [name for name in summaries.index if name not in reached]
    if missing:
        notes.append(f"No accuracy for {', '.join(missing)}: left out of the correlations.")
    unknown = [str(name) for name in given if str(name) not in summaries.index]
    if unknown:
        notes.append(f"Accuracies of models that are not compared: {', '.join(unknown)}.")
    ties = _ties(reached)
    if ties and not equal:
        notes.append(f"Equal accuracies ({'; '.join(ties)}): such pairs count for neither side in tau.")
    return notes


def _notes_on_metrics(summaries: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Which means could not be computed, and which are equal."""
    notes = []
    if not len(metrics):
        return ["No metric was computed."]
    for metric in metrics:
        values = summaries[metric]
        missing = list(values.index[values.isna()])
        if missing:
            notes.append(f"No {metric} for {', '.join(missing)}: none of its rows has one.")
        ties = _ties(values.dropna().to_dict())
        if ties:
            notes.append(f"Equal {metric} ({'; '.join(ties)}): it does not tell these apart.")
    return notes


def _notes_on_details(details: Mapping[str, pd.DataFrame]) -> list[str]:
    """Rows that failed, folded layers, and analyses that do not compare."""
    notes = []
    for name, rows in details.items():
        failed = int((rows["status"] == "failed").sum()) if "status" in rows else 0
        if failed:
            notes.append(f"{failed} of {len(rows)} rows of {name} failed: they are in no mean of alpha.")
        folded = int(rows["folded"].sum()) if "folded" in rows else 0
        if folded:
            notes.append(
                f"{folded} of {len(rows)} rows of {name} have a BatchNormalization folded into their weights: they "
                "compare with models that were exported alike only."
            )
    sliced = [name for name, rows in details.items() if "slice_id" in rows]
    if sliced and len(sliced) < len(details):
        notes.append(
            f"The details of {', '.join(sliced)} hold slices (pool=False), the others pooled layers: their means do "
            "not compare."
        )
    return notes


def _ties(values: Mapping[Any, float]) -> list[str]:
    """Names that share a value, as `a = b`."""
    names: dict[float, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(str(name))
    return [" = ".join(alike) for alike in names.values() if len(alike) > 1]


def _simpson(every: Mapping[str, Correlation], within: Mapping[tuple[str, Any], Correlation]) -> list[str]:
    """Where the sign of tau within groups is not that over all models (Simpson, J. R. Stat. Soc. B 13, 1951)."""
    notes = []
    for metric, overall in every.items():
        taus = {label: found.kendall_tau for (name, label), found in within.items() if name == metric}
        telling = {label: tau for label, tau in taus.items() if tau and math.isfinite(tau)}
        against = {label: tau for label, tau in telling.items() if tau * overall.kendall_tau < 0.0}
        if not against:
            continue
        groups = ", ".join(f"{label} ({tau:+.2f})" for label, tau in against.items())
        whole = "every group" if len(against) == len(telling) else f"{len(against)} of {len(telling)} groups"
        notes.append(
            f"Simpson's paradox: {metric} {_goes(overall.kendall_tau)} with accuracy over all models "
            f"(tau {overall.kendall_tau:+.2f}) and {_goes(-overall.kendall_tau)} within {whole}: {groups}. Judge "
            "within groups."
        )
    return notes


def _goes(tau: float) -> str:
    return "rises" if tau > 0.0 else "falls"

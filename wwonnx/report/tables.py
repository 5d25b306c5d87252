"""Tables for people: as many columns as the terminal holds, the most telling first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..graph.words import clean

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

#: Columns of `analyze` in the order in which they earn their place, and their headings.
DETAILS = {
    "layer_id": "id",
    "name": "name",
    "slice_id": "slice",
    "alpha": "alpha",
    "status": "",
    "layer_type": "type",
    "alpha_weighted": "alpha_weighted",
    "log_norm": "log_norm",
    "num_evals": "evals",
    "stable_rank": "stable_rank",
    "mp_softrank": "mp_softrank",
    "num_spikes": "num_spikes",
    "rand_p_value": "rand_p",
    "num_traps": "num_traps",
    "detX_num": "detX_num",
    "ERG_gap": "ERG_gap",
    "D": "D",
    "xmin": "xmin",
    "log_spectral_norm": "log_spectral_norm",
    "log_alpha_norm": "log_alpha_norm",
    "num_pl_spikes": "num_pl_spikes",
    "alpha_null": "alpha_null",
    "matrix_rank": "matrix_rank",
    "entropy": "entropy",
}
_DESCRIBE = {
    "layer_id": "id",
    "name": "name",
    "layer_type": "type",
    "N": "N",
    "M": "M",
    "rf": "rf",
    "num_evals": "evals",
    "Q": "Q",
    "longname": "longname",
}
_INVENTORY = {
    "name": "name",
    "shape": "shape",
    "dtype": "dtype",
    "ops": "ops",
    "outcome": "layer, or why not",
    "bytes": "bytes",
}
_DISTANCES = {
    "layer_id": "id",
    "name": "name",
    "delta_W": "delta_W",
    "status": "",
    "relative": "relative",
    "delta_b": "delta_b",
    "weight_dtype_2": "type",
    "N": "N",
    "M": "M",
    "name_2": "name in the second",
}
_SMOOTHING = {
    "layer_id": "id",
    "name": "name",
    "outcome": "status",
    "k": "k",
    "of": "of",
    "rank": "rank",
    "rf": "rf",
    "change": "change",
    "parameters": "parameters",
    "parameters_after": "after",
    "reason": "reason",
}
_ANALYSES = {"model": "model", "options": "options", "layers": "layers", "version": "version", "last": "last"}
_MODELS = {
    "name": "model",
    "accuracy": "accuracy",
    "alpha_weighted": "alpha_weighted",
    "log_norm": "log_norm",
    "alpha": "alpha",
    "log_alpha_norm": "log_alpha_norm",
    "log_spectral_norm": "log_spectral_norm",
    "layers": "layers",
    "group": "group",
    "stable_rank": "stable_rank",
    "mp_softrank": "mp_softrank",
}
_CORRELATIONS = {
    "name": "metric",
    "group": "group",
    "n": "n",
    "kendall_tau": "tau",
    "spearman_rho": "rho",
    "slope": "slope",
    "rmse": "RMSE",
    "r2": "R2",
    "kendall_p": "p (tau)",
    "spearman_p": "p (rho)",
}
_SKIPPED = {"name": "name", "shape": "shape", "op_type": "read by", "reason": "reason"}
#: Columns of words. Those that may wrap do so no narrower than this; numbers never wrap.
_WORDS = {"name", "status", "ops", "outcome", "reason", "longname", "op_type", "layer_type", "dtype", "name_2", "group"}
_WORDS |= {"model", "options", "version", "last"}
_LEAST = {"name": 14, "status": 26, "ops": 8, "outcome": 16, "reason": 16, "longname": 10, "op_type": 10, "name_2": 10}
_LEAST |= {"model": 14, "options": 10}


def print_details(console: Console, details: pd.DataFrame) -> None:
    """One line per layer; what is wrong with it stands in the column without a heading."""
    if details.empty:
        console.print("no layer was analysed", markup=False, highlight=False)
        return
    frame = details.assign(status=[verdict(row) for row in details.to_dict("records")])
    _print(console, frame, DETAILS, lambda row: style_of_verdict(row["status"]))


def print_summary(console: Console, summary: Mapping[str, float]) -> None:
    """The means, on as few lines as they need; nothing where nothing was analysed."""
    means = {name: value for name, value in summary.items() if name != "folded"}
    if all(math.isnan(value) for value in means.values()):
        return
    parts = [f"{name} {number(value)}" for name, value in means.items()]
    console.print("mean: " + ", ".join(parts), markup=False, highlight=False)


def print_description(console: Console, description: pd.DataFrame) -> None:
    """One line per layer."""
    _print(console, description, _DESCRIBE)


def print_distances(console: Console, distances: pd.DataFrame) -> None:
    """One line per pair of layers; those without a partner say so."""
    frame = distances.assign(
        status=[f"{row['status']}: {row['reason']}" if row["reason"] else "" for row in distances.to_dict("records")],
        name=distances["name"].fillna(""),
        name_2=distances["name_2"].fillna(""),
    )
    _print(console, frame, _DISTANCES)


def print_smoothing(console: Console, table: pd.DataFrame) -> None:
    """One line per layer, and per weight that is none; those that were left as they are say why."""
    _print(console, table.rename(columns={"status": "outcome"}), _SMOOTHING)


def print_inventory(console: Console, inventory: pd.DataFrame) -> None:
    """One line per constant, then the share that was analysed."""
    frame = inventory.assign(outcome=[_outcome(row) for row in inventory.to_dict("records")])
    _print(console, frame, _INVENTORY)
    console.print(share(inventory), markup=False, highlight=False)


def print_analyses(console: Console, analyses: pd.DataFrame) -> None:
    """One line per analysis that a store holds."""
    if analyses.empty:
        console.print("no results are kept", markup=False, highlight=False)
        return
    _print(console, analyses, _ANALYSES)


def print_models(console: Console, summaries: pd.DataFrame) -> None:
    """One line per model: its means."""
    _print(console, summaries.reset_index(names="name"), _MODELS)


def print_correlations(console: Console, correlations: pd.DataFrame) -> None:
    """One line per metric, and per group where there are groups."""
    _print(console, correlations.reset_index().rename(columns={"metric": "name"}), _CORRELATIONS)


def print_skipped(console: Console, skipped: pd.DataFrame) -> None:
    """What was left out and why; nothing where nothing was."""
    if len(skipped):
        weights = "weight is" if len(skipped) == 1 else "weights are"
        console.print(f"{len(skipped)} {weights} not analysed:", markup=False, highlight=False)
        _print(console, skipped, _SKIPPED)


def print_note(console: Console, note: str) -> None:
    """What to know of the model as a whole."""
    if note:
        console.print("Note: " + note, markup=False, highlight=False, style="yellow")


def share(inventory: pd.DataFrame) -> str:
    """The share of the file's parameters that was analysed, in words."""
    total, analyzed = inventory.attrs["parameters"], inventory.attrs["parameters_analyzed"]
    percent = f" ({100 * analyzed / total:.1f} %)" if total else ""
    return f"{analyzed:,} of {total:,} parameters analysed{percent}; biases and other vectors count as parameters"


def verdict(row: Mapping[Any, Any]) -> str:
    """What is wrong with a row of the details; nothing where all is well."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    return ", ".join(filter(None, ["random-like" if row["status"] == "random-like" else "", row["warning"]]))


def style_of_verdict(words: str) -> str:
    """The colour of a row, by its verdict."""
    if words.startswith("failed"):
        return "red"
    return "yellow" if "trained" in words or "random" in words else ""


def _outcome(row: dict[Any, Any]) -> str:
    if not row["layer"]:
        return str(row["reason"])
    layer = f"layer {row['layer_id']} {row['layer']}"
    return f"{layer}: not analysed, {row['reason']}" if row["reason"] else layer


def _print(
    console: Console,
    frame: pd.DataFrame,
    wanted: Mapping[str, str],
    style: Callable[[dict[Any, Any]], str] | None = None,
) -> None:
    """Print the wanted columns that fit the width; the rest is left to the other formats."""
    from rich import box
    from rich.table import Table

    columns = {column: heading for column, heading in wanted.items() if column in frame.columns}
    columns = {column: heading for column, heading in columns.items() if column != "status" or frame["status"].any()}
    cells = {column: [cell(value) for value in frame[column]] for column in columns}
    shown = _fitting(cells, columns, console.width)
    table: Table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for column in shown:
        words = column in _WORDS
        table.add_column(
            columns[column],
            justify="left" if words else "right",
            no_wrap=column not in _LEAST,
            overflow="fold",
            min_width=_least_width(column, columns[column], cells[column]),
        )
    records = frame.to_dict("records")
    for index, record in enumerate(records):
        line = [cells[column][index].replace("[", r"\[") for column in shown]
        table.add_row(*line, style=style(record) if style else "")
    console.print(table)


def _fitting(cells: Mapping[str, list[str]], columns: Mapping[str, str], width: int) -> list[str]:
    """The first columns whose least widths fit, in the table's natural order."""
    shown: list[str] = []
    used = 0
    for column, values in cells.items():
        need = _least_width(column, columns[column], values) + 3  # padding on both sides and a separator
        if shown and used + need > width:
            break
        shown.append(column)
        used += need
    # The verdict reads best at the end of the line.
    return [column for column in shown if column != "status"] + [column for column in shown if column == "status"]


def _least_width(column: str, heading: str, values: list[str]) -> int:
    natural = max([len(heading), *(len(value) for value in values)])
    return min(natural, _LEAST.get(column, natural))


def cell(value: Any) -> str:
    """A value of any column in words."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list):
        return "x".join(map(str, value)) or "scalar"
    return "" if value is None or str(value) == "<NA>" else clean(value)


def number(value: float) -> str:
    """A number as people read it: three decimals, or powers of ten where they say more."""
    if math.isnan(value):
        return "-"
    if value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3f}" if 1e-2 <= abs(value) < 1e5 else f"{value:.2e}"

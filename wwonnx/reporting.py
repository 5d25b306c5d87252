"""Analyses models for the report, and writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .analysis import KEPT, Row
from .errors import OptionError
from .options import Options
from .report import page
from .report.pictures import Picture, picture
from .report.tables import share
from .watcher import WeightWatcher
from .whole_file import write_whole

if TYPE_CHECKING:
    from .execute.progress import ProgressOption
    from .graph.source import ModelLike

#: What a report shows unless it is told not to, or other options exclude it.
_THOROUGH = ("mp_fit", "randomize")


def write_report(
    models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
    path: str | os.PathLike[str],
    progress: ProgressOption = False,
    **options: Any,
) -> None:
    """Write the report of one model, or of several side by side: one HTML file that needs no network.

    Args:
        models: one model, several, or several by the names that the report calls them.
        path: the file to write. It appears whole or not at all.
        progress: as in `WeightWatcher.analyze`.
        options: of `WeightWatcher.analyze`. mp_fit and randomize are on unless given, or excluded by others.

    Raises:
        OptionError: an option that can't be, a file that can't be written, or jinja2 or plotly missing.
        ModelError: a model can't be opened.
    """
    page.require()
    target = writable(path)
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        several = list(models) if isinstance(models, (list, tuple)) else [cast("ModelLike", models)]
        watchers = [WeightWatcher(model) for model in several]
        labels = unique_labels([watcher.label for watcher in watchers])
        write([examine(watcher, label, progress, **options) for watcher, label in zip(watchers, labels)], target)
        return
    write([examine(WeightWatcher(model), label, progress, **options) for label, model in named.items()], target)


def examine(watcher: WeightWatcher, label: str, progress: ProgressOption = False, **options: Any) -> page.ModelReport:
    """Analyse a model as the report shows it; the arguments are those of `write_report`."""
    base = options.pop("base_model", None)
    plain = {name: value for name, value in options.items() if name not in ("layers", "model")}
    given = Options.make(base=base is not None, **plain)
    chosen = {**options, **{name: True for name in _THOROUGH if name not in options and given.allows(name)}}
    pictures: dict[tuple[int, int], Picture | None] = {}

    def see(row: Row) -> None:
        kept = row.get(KEPT)
        pictures[row["layer_id"], row.get("slice_id", 0)] = picture(row, kept) if kept is not None else None

    details = watcher.analyze_with(see, progress=progress, base_model=base, **chosen)
    rows: list[Row] = [{str(name): value for name, value in row.items()} for row in details.to_dict("records")]
    inventory = watcher.inventory(
        **{name: chosen[name] for name in ("min_evals", "max_evals", "pool") if name in chosen}
    )
    return page.ModelReport(
        label=label,
        sha256=watcher.sha256(),
        rows=rows,
        pictures=[pictures[row["layer_id"], row.get("slice_id", 0)] for row in rows],
        summary=watcher.get_summary(),
        skipped=[{str(name): value for name, value in row.items()} for row in watcher.get_skipped().to_dict("records")],
        note=watcher.get_note(),
        share=share(inventory),
        options=chosen,
    )

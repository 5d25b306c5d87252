"""Analyses models for the report, and writes it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .analysis import KEPT, Row
from .errors import OptionError
from .files import write_whole
from .graph.words import clean
from .options import Options
from .report import page
from .report.pictures import Picture, picture
from .report.tables import share
from .watcher import WeightWatcher

if TYPE_CHECKING:
    from .execute.progress import ProgressOption
    from .graph.source import ModelLike

#: What a report shows unless it is told not to, or other options exclude it.
_THOROUGH = ("mp_fit", "randomize")
#: With these, layers are not all of the model's own: no share of the model can be given.
_PARTIAL = ("layers", "base_model", "peft", "intra", "stacked")


def write_report(
    models: ModelLike | Sequence[ModelLike] | Mapping[str, ModelLike],
    path: str | os.PathLike[str],
    progress: ProgressOption = False,
    **options: Any,
) -> None:
    """Write the report of one model, or of several side by side: one HTML file that needs no network.

    Args:
        models: one model, several, or several by the names that the report is to call them.
        path: the file to write. It appears whole or not at all.
        progress: as in `WeightWatcher.analyze`.
        options: of `WeightWatcher.analyze`. mp_fit and randomize are on unless given, or excluded by others.

    Raises:
        OptionError: an option that can't be, a file that can't be written, or jinja2 or plotly missing.
        ModelError: a model can't be opened.
    """
    if isinstance(models, Mapping):
        write([WeightWatcher(model) for model in models.values()], path, progress, [*models], **options)
        return
    several = models if isinstance(models, (list, tuple)) else [models]
    write([WeightWatcher(cast("ModelLike", model)) for model in several], path, progress, **options)


def write(
    watchers: Sequence[WeightWatcher],
    path: str | os.PathLike[str],
    progress: ProgressOption = False,
    labels: Sequence[str] | None = None,
    **options: Any,
) -> None:
    """`write_report` of models that are open already."""
    if not watchers:
        raise OptionError("a report needs a model: give one")
    target = writable(path)
    labels = labels or short_labels([watcher.label for watcher in watchers])
    save([examine(one, label, progress, **options) for one, label in zip(watchers, labels, strict=True)], target)


def writable(path: str | os.PathLike[str]) -> Path:
    """The file of a report. Said before the work, not after it, where none can be made.

    Raises:
        OptionError: its folder, jinja2 or plotly is missing.
    """
    page.require()
    target = Path(path)
    if not target.parent.is_dir():
        raise OptionError(f"{target}: there is no directory {str(target.parent)!r}; make it first")
    return target


def save(reports: Sequence[page.ModelReport], target: Path) -> None:
    """Write the page.

    Raises:
        OptionError: it can't be written.
    """
    try:
        write_whole(target, page.render(reports).encode())
    except OSError as error:
        raise OptionError(f"{target}: can't be written ({error.strerror or error})") from None


def short_labels(labels: Sequence[str]) -> list[str]:
    """What to call models: their files' names where those differ, else their paths, numbered where those are equal."""
    names = [os.path.basename(label) for label in labels]
    short = [name if names.count(name) == 1 else label for name, label in zip(names, labels, strict=True)]
    seen: Counter[str] = Counter()
    numbered = []
    for label in short:
        seen[label] += 1
        numbered.append(label if short.count(label) == 1 else f"{label} ({seen[label]})")
    return numbered


def examine(watcher: WeightWatcher, label: str, progress: ProgressOption = False, **options: Any) -> page.ModelReport:
    """Analyse a model as the report shows it; the arguments are those of `write_report`."""
    own = {name: value for name, value in options.items() if name not in ("layers", "base_model")}
    base = options.get("base_model")
    given = Options.make(base=base is not None, **own)
    own |= {name: True for name in _THOROUGH if name not in own and given.allows(name)}
    pictures: dict[tuple[int, int], Picture | None] = {}

    def see(row: Row) -> None:
        kept = row.get(KEPT)
        pictures[row["layer_id"], row.get("slice_id", 0)] = picture(row, kept) if kept is not None else None

    # The inventory walks the graph its own way, and is first: the analysis has the last word on how layers are read.
    sizes = {name: own[name] for name in ("min_evals", "max_evals", "pool") if name in own}
    of_all = "" if any(options.get(name) for name in _PARTIAL) else share(watcher.inventory(**sizes))
    details = watcher.analyze_each(see, layers=options.get("layers"), base_model=base, progress=progress, **own)
    rows: list[Row] = [{str(name): value for name, value in row.items()} for row in details.to_dict("records")]
    effective = asdict(Options.make(base=base is not None, **own))
    shown = {name: value for name, value in effective.items() if name not in ("base", "keep")}
    base_label = "none" if base is None else clean(base) if isinstance(base, (str, os.PathLike)) else "in memory"
    return page.ModelReport(
        label=label,
        sha256=watcher.sha256(),
        rows=rows,
        pictures=[pictures[row["layer_id"], row.get("slice_id", 0)] for row in rows],
        summary=watcher.get_summary(),
        skipped=[{str(name): value for name, value in row.items()} for row in watcher.get_skipped().to_dict("records")],
        note=watcher.get_note(),
        share=of_all,
        options={"layers": options.get("layers") or "all", "base_model": base_label} | shown,
    )

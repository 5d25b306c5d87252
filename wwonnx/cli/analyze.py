"""`wwonnx analyze`: metrics of each layer."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

from ..errors import OptionError
from ..report.plots import DEFAULT_FOLDER
from ..reporting import short_labels
from ..watcher import WeightWatcher
from . import options as shared
from .command import over_models
from .output import Result


@click.command("analyze", short_help="Metrics of each layer.")
@shared.models
@shared.selection
@shared.metrics
@shared.resources
@shared.output
@click.option("--plot", is_flag=True, help="Draw each layer into the folder of --savefig, as WeightWatcher does.")
@click.option(
    "--savefig",
    metavar="FOLDER",
    default=None,
    help="With --plot: where to. Several models get a folder each in it.  [default: ww-img]",
)
@shared.progress
def command(
    models: tuple[str, ...],
    layers: tuple[str, ...],
    detx: bool,
    format_: str | None,
    output: Path | None,
    plot: bool,
    savefig: str | None,
    progress: bool | None,
    **options: Any,
) -> int:
    """Compute the metrics of each layer of one or more models."""
    options = shared.analysis_options(layers, detx, options)
    known = signature(WeightWatcher.analyze).parameters
    changed = {name: value for name, value in options.items() if value != known[name].default}
    bar = shared.shows_progress(progress)
    if savefig is not None and not plot:
        raise OptionError("--savefig belongs to --plot: give that too, or drop it")
    folders = dict(zip(models, _folders(models, savefig or DEFAULT_FOLDER), strict=True))

    def examine(model: str, watcher: WeightWatcher) -> Result:
        from ..report import tables

        details = watcher.analyze(progress=bar, plot=plot, savefig=folders[model], **options)
        summary, skipped = watcher.get_summary(), watcher.get_skipped()

        def show(console: Any) -> None:
            tables.print_details(console, details)
            tables.print_summary(console, summary)
            tables.print_skipped(console, skipped)
            tables.print_note(console, note)

        def card(versions: dict[str, str]) -> str:
            from ..report.model_card import section

            return section(model, watcher.sha256(), details, summary, skipped, note, changed, versions)

        note = watcher.get_note()
        extra = {"summary": summary, "notes": [note] if note else [], "skipped": skipped.to_dict("records")}
        return Result(model, watcher.sha256, details, extra, show, card)

    return over_models("analyze", models, examine, options, format_, output)


def _folders(models: tuple[str, ...], savefig: str) -> list[Path]:
    """Where the pictures of each model go: those of several would overwrite each other."""
    folder = Path(savefig)
    return [folder] if len(models) == 1 else [folder / name.replace("/", "_") for name in short_labels(models)]

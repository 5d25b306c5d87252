"""`wwonnx analyze`: metrics of each layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

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
@click.option("--progress/--no-progress", default=None, help="Progress bar on stderr. Default: only on a terminal.")
def command(
    models: tuple[str, ...],
    layers: tuple[str, ...],
    detx: bool,
    format_: str | None,
    output: Path | None,
    progress: bool | None,
    **options: Any,
) -> int:
    """Compute the metrics of each layer of one or more ONNX models."""
    options |= {"layers": shared.layer_filter(layers), "detX": detx}
    options["intra"] = options["intra"] or False
    if options["executor"] is not None:
        options["executor"] = "dask://" + options["executor"].rpartition("://")[2]
    options["peft"] = {None: False, "updates": True}.get(options["peft"], options["peft"])
    bar = sys.stderr.isatty() if progress is None else progress

    def examine(model: str, watcher: WeightWatcher) -> Result:
        from ..report import tables

        details = watcher.analyze(progress=bar, **options)
        summary, skipped = watcher.get_summary(), watcher.get_skipped()

        def show(console: Any) -> None:
            tables.print_details(console, details)
            tables.print_summary(console, summary)
            tables.print_skipped(console, skipped)
            tables.print_note(console, note)

        note = watcher.get_note()
        extra = {"summary": summary, "notes": [note] if note else [], "skipped": skipped.to_dict("records")}
        return Result(model, watcher.sha256(), details, extra, show)

    return over_models("analyze", models, examine, options, format_, output)

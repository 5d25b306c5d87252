"""`wwonnx analyze`: metrics of each layer."""

from __future__ import annotations

import sys
from inspect import signature
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
    options = shared.analysis_options(layers, detx, options)
    known = signature(WeightWatcher.analyze).parameters
    changed = {name: value for name, value in options.items() if value != known[name].default}
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

        def card(versions: dict[str, str]) -> str:
            from ..report.model_card import section

            return section(model, watcher.sha256(), details, summary, skipped, note, changed, versions)

        note = watcher.get_note()
        extra = {"summary": summary, "notes": [note] if note else [], "skipped": skipped.to_dict("records")}
        return Result(model, watcher.sha256(), details, extra, show, card)

    return over_models("analyze", models, examine, options, format_, output)

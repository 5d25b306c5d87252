"""`wwonnx report`: one HTML file to look at, send and print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import OptionError, WwonnxError
from ..watcher import WeightWatcher
from . import options as shared
from .main import complain


@click.command("report", short_help="One HTML file: verdict, correlation flow, every layer's spectrum.")
@shared.models
@shared.selection
@shared.thorough_metrics
@shared.resources
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
@shared.progress
def command(
    models: tuple[str, ...],
    layers: tuple[str, ...],
    detx: bool,
    output: Path,
    progress: bool | None,
    **options: Any,
) -> int:
    """Write a report of one model, or of several side by side: one HTML file that needs no network."""
    from .. import reporting

    target = reporting.writable(output)
    options = shared.analysis_options(layers, detx, options)
    # What was not chosen is left to the report.
    options = {name: value for name, value in options.items() if value is not None}
    bar = shared.shows_progress(progress)
    reports = []
    failed = False
    for model, label in zip(models, reporting.short_labels(models), strict=True):
        try:
            reports.append(reporting.examine(WeightWatcher(model), label, bar, **options))
        except OptionError:
            raise
        except WwonnxError as error:
            complain(str(error))
            failed = True
    if reports:
        reporting.save(reports, target)
        click.echo(f"{target}: {_described(len(reports), sum(len(report.rows) for report in reports))}", err=True)
    return 2 if failed else 0


def _described(models: int, rows: int) -> str:
    return f"report of {models} model{'s' * (models != 1)}, {rows} layer{'s' * (rows != 1)}"

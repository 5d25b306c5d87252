"""`wwonnx inventory`: every constant of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options import MIN_EVALS
from ..watcher import WeightWatcher
from . import options as shared
from .command import over_models
from .output import Result


@click.command("inventory", short_help="Every constant, and the layer it became or why not.")
@shared.models
@click.option("--min-evals", type=int, default=MIN_EVALS, show_default=True, help="As in analyze.")
@click.option("--max-evals", type=int, default=None, help="As in analyze.")
@click.option("--pool/--no-pool", default=True, show_default=True, help="As in analyze.")
@shared.output
def command(models: tuple[str, ...], format_: str | None, output: Path | None, **options: Any) -> int:
    """List every constant of two or more dimensions: what uses it, and the layer it became or the reason why not.

    The last line tells the share of the file's parameters that was analysed.
    """

    def examine(model: str, watcher: WeightWatcher) -> Result:
        from ..report import tables

        found = watcher.inventory(**options)
        extra = {key: found.attrs[key] for key in ("parameters", "parameters_analyzed")}
        return Result(model, watcher.sha256, found, extra, lambda console: tables.print_inventory(console, found))

    return over_models("inventory", models, examine, options, format_, output)

"""`wwonnx describe`: the layers of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..watcher import WeightWatcher
from . import options as shared
from .command import over_models
from .output import Result


@click.command("describe", short_help="The layers of a model, without reading them.")
@shared.models
@shared.selection
@shared.output
def command(
    models: tuple[str, ...], layers: tuple[str, ...], format_: str | None, output: Path | None, **options: Any
) -> int:
    """List the layers that analyze would analyse. Nothing of the weights is read."""
    options["layers"] = shared.layer_filter(layers)

    def examine(model: str, watcher: WeightWatcher) -> Result:
        from ..report import tables

        description = watcher.describe(**options)
        skipped = watcher.get_skipped()

        def show(console: Any) -> None:
            tables.print_description(console, description)
            tables.print_skipped(console, skipped)

        return Result(model, watcher.sha256, description, {"skipped": skipped.to_dict("records")}, show)

    return over_models("describe", models, examine, options, format_, output)

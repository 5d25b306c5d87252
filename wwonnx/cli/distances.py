"""`wwonnx distances`: what fine-tuning or quantisation did to each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..watcher import WeightWatcher
from . import options as shared
from .output import Result, chosen_format, write


@click.command("distances", short_help="How far the layers of two models are from each other.")
@click.argument("model_1")
@click.argument("model_2")
@click.option(
    "--method",
    type=click.Choice(["raw", "euclidean", "cka"]),
    default="raw",
    show_default=True,
    help="Frobenius norm of the difference (raw), its mean over a convolution's matrices (euclidean), or the overlap "
    "of the spaces (cka, 1 is equal).",
)
@click.option("--layers", multiple=True, metavar="LAYER", help="Only these layers of the first model, as in analyze.")
@shared.output
def command(
    model_1: str, model_2: str, method: str, layers: tuple[str, ...], format_: str | None, output: Path | None
) -> int:
    """Compare two models layer by layer, matched by name, or else by order and shape."""
    from ..report import tables

    chosen = chosen_format(format_, output)
    watcher = WeightWatcher(model_1)
    mean_w, mean_b, frame = watcher.distances(model_1, model_2, method=method, layers=shared.layer_filter(layers))

    def show(console: Any) -> None:
        tables.print_distances(console, frame)
        tables.print_summary(console, {"delta_W": mean_w, "delta_b": mean_b})

    extra = {"model_2": model_2, "delta_W": mean_w, "delta_b": mean_b}
    result = Result(model_1, watcher.sha256, frame, extra, show)
    write("distances", [result], {"method": method, "layers": shared.layer_filter(layers)}, chosen, output)
    return 0

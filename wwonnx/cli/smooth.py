"""`wwonnx smooth`: a new model whose weights keep what their spectra call signal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..options import MIN_EVALS
from ..smoothing import METHODS, PERCENT, SmoothingResult
from . import options as shared
from .output import Result, write

if TYPE_CHECKING:
    from rich.console import Console


@click.command("smooth", short_help="Cut weights down to their signal, in a new model.")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The model to write. External data goes into OUTPUT.data beside it.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How many singular values a layer keeps: those down to the trace-log condition's cut (detX), in its "
    "power law's tail (lambda_min), beyond its Marchenko-Pastur bulk (rmt), or a share of them (svd).  [default: detX]",
)
@click.option("--percent", type=float, help=f"Share that svd keeps, above 0, at most 1.  [default: {PERCENT}]")
@click.option("--factor", is_flag=True, help="Make two products of a MatMul's or Gemm's where that is smaller.")
@click.option("--sharpen", is_flag=True, help="Take correlation traps out instead.")
@click.option("--seed", type=int, help="For the permutations of --sharpen.  [default: 0]")
@click.option("--layers", multiple=True, metavar="LAYER", help="Only these layers, as in analyze.")
@click.option("--min-evals", type=int, default=MIN_EVALS, show_default=True, help="Leave smaller layers as they are.")
@click.option("--max-evals", type=int, default=None, help="Leave larger layers as they are.")
@click.option(
    "--format",
    "format_",
    type=click.Choice([name for name in shared.FORMATS if name != "parquet"]),
    default="table",
    show_default=True,
    help="How to print what was done.",
)
def command(
    model: str,
    output: Path,
    method: str | None,
    percent: float | None,
    factor: bool,
    sharpen: bool,
    seed: int | None,
    layers: tuple[str, ...],
    min_evals: int,
    max_evals: int | None,
    format_: str,
) -> int:
    """Write a model whose weights keep their leading singular triplets alone; MODEL stays as it is."""
    from .. import smoothing
    from ..converters.dispatch import open_source

    _check(method, percent, factor, sharpen, seed)
    source = open_source(model)
    wanted = shared.layer_filter(layers)
    sizes = {"min_evals": min_evals, "max_evals": max_evals}
    options: dict[str, Any]
    if sharpen:
        options = {"sharpen": True, "seed": seed or 0}
        result = smoothing.sharpen(source, wanted, output, seed or 0, min_evals, max_evals)
    else:
        options = {"method": method or METHODS[0], "percent": percent, "factor": factor}
        share = PERCENT if percent is None else percent
        result = smoothing.smooth(source, wanted, method or METHODS[0], share, factor, output, min_evals, max_evals)
    shown = Result(
        model,
        source.sha256,
        result.table,
        {"output": str(output), "note": result.note},
        lambda console: _show(console, result),
    )
    write("smooth", [shown], {**options, **sizes, "layers": wanted}, format_, None)
    return 0


def _check(method: str | None, percent: float | None, factor: bool, sharpen: bool, seed: int | None) -> None:
    """Refuse options that say nothing together.

    Raises:
        OptionError: there are some.
    """
    for name, given in (("--method", method is not None), ("--percent", percent is not None), ("--factor", factor)):
        if sharpen and given:
            raise OptionError(f"{name} does not go with --sharpen: drop one of them")
    if percent is not None and method != "svd":
        raise OptionError("--percent belongs to --method svd: give that too, or drop it")
    if seed is not None and not sharpen:
        raise OptionError("--seed belongs to --sharpen: nothing else is random")


def _show(console: Console, result: SmoothingResult) -> None:
    """One line per layer, then where the new model is and what it saved."""
    from ..report import tables

    table = result.table
    tables.print_smoothing(console, table)
    changed = sum(layer.changed for layer in result.layers)
    before, after = (int(table[name].sum()) for name in ("parameters", "parameters_after"))
    saved = f", {before:,} parameters became {after:,}" if after != before else ""
    console.print(
        f"{result.model}: {changed} of {len(result.layers)} layers changed{saved}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    tables.print_note(console, result.note)

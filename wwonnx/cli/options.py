"""Arguments that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..options import DEVICES, ESTIMATORS, FINGERS, FITS, GROUPS, MIN_EVALS, SVD_METHODS, TOLERANCE

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("table", "json", "csv", "parquet", "markdown")


def _apply(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


#: MODEL..., --format, -o: what every command takes.
models = click.argument("models", metavar="MODEL...", nargs=-1, required=True)
output = _apply(
    click.option(
        "--format",
        "format_",
        type=click.Choice(FORMATS),
        help="How to write the result. Default: table, or what the ending of -o says.",
    ),
    click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file."),
)
#: Which layers.
selection = _apply(
    click.option(
        "--layers",
        multiple=True,
        metavar="LAYER",
        help="Only these: ids, names, patterns (layer1.*) or types (conv2d), separated by commas; -ID and -NAME skip. "
        "Write --layers=-fc for one that begins with a dash. May be repeated.",
    ),
    click.option("--min-evals", type=int, default=MIN_EVALS, show_default=True, help="Leave out smaller layers."),
    click.option("--max-evals", type=int, default=None, help="Leave out larger layers."),
    click.option(
        "--pool/--no-pool", default=True, show_default=True, help="One row per convolution, or one per kernel position."
    ),
    click.option("--ww2x", is_flag=True, help="Older name of --no-pool."),
    click.option("--split-gates", is_flag=True, help="One layer per gate of recurrent weights."),
    click.option("--split-qkv", is_flag=True, help="Packed query, key and value projections as three layers."),
    click.option(
        "--groups",
        type=click.Choice(GROUPS),
        default=GROUPS[0],
        show_default=True,
        help="Grouped convolutions: one matrix per kernel position, or per group too.",
    ),
)
#: What analyze computes.
_metrics = _apply(
    click.option(
        "--conv2d-norm/--no-conv2d-norm",
        default=True,
        show_default=True,
        help="Scale convolutions as WeightWatcher does.",
    ),
    click.option("--detX", "--ERG", "detx", is_flag=True, help="Add the trace-log condition (detX_num, ERG_gap)."),
    click.option("--rand-replicas", type=int, default=None, help="How many shuffles.  [default: 20, fewer if large]"),
    click.option("--glorot-fix", is_flag=True, help="Scale by the inverse of Glorot's initialisation instead."),
    click.option("--vectors", is_flag=True, help="Add how localised the eigenvectors are."),
    click.option("--deltas", is_flag=True, help="Add the level spacings."),
    click.option("--fft", is_flag=True, help="Analyse the real part of each matrix's Fourier transform."),
    click.option("--conv2d-fft", is_flag=True, help="Analyse convolutions as maps of a periodic image."),
    click.option("--intra", is_flag=False, flag_value="size", help="Overlaps of neighbouring layers: size, or flow."),
    click.option("--sparsify", is_flag=True, help="With --intra: silence half of the units between two layers."),
    click.option("--stacked", is_flag=True, help="All layers as one matrix."),
    click.option(
        "--base-model",
        metavar="MODEL",
        help="Analyse the difference from this model. With --peft with_base: add the updates to it.",
    ),
    click.option("--peft", is_flag=False, flag_value="updates", help="LoRA updates B A, or with_base."),
    click.option("--fit", type=click.Choice(FITS), default="PL", show_default=True, help="Which law."),
    click.option("--estimator", type=click.Choice(ESTIMATORS), default="mle", show_default=True, help="Of alpha."),
    click.option("--xmin-pos", type=int, default=2, show_default=True, help="With hill: the upper 1/N are the tail."),
    click.option("--subsample", type=click.Choice(["farms"]), default=None, help="Fit square windows, pooled."),
    click.option("--fix-fingers", type=click.Choice(FINGERS), default=None, help="Against eigenvalues far out."),
    click.option("--max-fingers", type=int, default=10, show_default=True, help="With clip_xmax."),
    click.option("--finger-thresh", type=float, default=1.0, show_default=True, help="With clip_xmax."),
    click.option("--ci", is_flag=True, help="Add a 95 % bootstrap interval of alpha."),
    click.option("--gof", is_flag=True, help="Add the p-value of the power law."),
    click.option("--alternatives", is_flag=True, help="Add likelihood ratios against other laws."),
    click.option("--xmax", type=int, default=None, help="-K leaves the K largest eigenvalues out of the fit."),
    click.option("--inverse", is_flag=True, help="Analyse the spectrum of 1 / eigenvalue."),
    click.option(
        "--tolerance", type=float, default=TOLERANCE, show_default=True, help="Eigenvalues below it: weak_rank_loss."
    ),
    click.option("--device", type=click.Choice(DEVICES), default="cpu", show_default=True, help="For eigenvalues."),
    click.option(
        "--svd-method",
        type=click.Choice(SVD_METHODS),
        default="accurate",
        show_default=True,
        help="Eigenvalues in float64, or (fast) in float32 where no tail is touched.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="For everything random."),
)
metrics = _apply(
    click.option("--mp-fit", is_flag=True, help="Add the Marchenko-Pastur fit of the bulk."),
    click.option("--randomize", is_flag=True, help="Hold each layer against its own shuffled weights."),
    _metrics,
)
#: The same, with what a report shows unless it is told not to.
thorough_metrics = _apply(
    click.option(
        "--mp-fit/--no-mp-fit",
        default=None,
        help="The Marchenko-Pastur fit of the bulk. Default: yes, where other options don't exclude it.",
    ),
    click.option(
        "--randomize/--no-randomize",
        default=None,
        help="Each layer against its own shuffled weights, which costs as many analyses more as there are shuffles. "
        "Default: yes, where other options don't exclude it.",
    ),
    _metrics,
)
progress = click.option(
    "--progress/--no-progress", default=None, help="Progress bar on stderr. Default: only on a terminal."
)


def shows_progress(progress: bool | None) -> bool:
    """Whether to draw a bar: on a terminal, unless told otherwise."""
    return sys.stderr.isatty() if progress is None else progress


#: What an analysis may use.
resources = _apply(
    click.option("--jobs", type=int, default=None, help="So many layers at once.  [default: as many as cores]"),
    click.option("--memory", metavar="SIZE", help="What the process may hold, 8GB or 500MiB.  [default: 60 % of free]"),
    click.option("--dask", "executor", metavar="ADDRESS", help="Compute on the Dask workers of host:port."),
    click.option("--store", metavar="FILE", help="Keep each layer's results there, and compute none twice."),
)


def layer_filter(texts: tuple[str, ...]) -> list[int | str] | None:
    """The filter that --layers stands for: whole numbers are ids, the rest names, patterns or types."""
    items = [item.strip() for text in texts for item in text.split(",") if item.strip()]
    return [int(item) if re.fullmatch(r"-?\d+", item) else item for item in items] or None


def analysis_options(layers: tuple[str, ...], detx: bool, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `WeightWatcher.analyze` that `selection` and `metrics` stand for."""
    intra = given["intra"] or False
    peft = {None: False, "updates": True}.get(given["peft"], given["peft"])
    address = given.get("executor")
    executor = {} if address is None else {"executor": "dask://" + address.rpartition("://")[2]}
    return given | {"layers": layer_filter(layers), "detX": detx, "intra": intra, "peft": peft} | executor

"""`wwonnx store`: what a file of results holds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from . import options as shared
from .output import Result, chosen_format, write

if TYPE_CHECKING:
    import pandas as pd

    from ..execute.store import Kept, Store

_path = click.argument("store", type=click.Path(path_type=Path, dir_okay=False))
_model = click.option("--model", metavar="PATTERN", default="*", help="Only models whose path matches, with * and ?.")


@click.group("store", short_help="What a file of results holds.")
def command() -> None:
    """List, show, prune and export the results that `wwonnx analyze --store FILE` keeps."""


@command.command("ls")
@_path
@_model
@shared.output
def ls(store: Path, model: str, format_: str | None, output: Path | None) -> int:
    """List the analyses: one line per model, options and version."""
    import pandas as pd

    chosen = chosen_format(format_, output)
    with _opened(store) as opened:
        rows = [
            {
                "model": some[0].model,
                "options": _words(some[0].options),
                "layers": len(some),
                "version": some[0].version,
                "last": max(one.created for one in some),
            }
            for some in _analyses(opened, model)
        ]
    frame = pd.DataFrame(rows, columns=["model", "options", "layers", "version", "last"])

    def show(console: Any) -> None:
        from ..report import tables

        tables.print_analyses(console, frame)

    write("store ls", [Result(str(store), _no_hash, frame, {}, show)], {"model": model}, chosen, output)
    return 0


@command.command("show")
@_path
@_model
@shared.output
def show(store: Path, model: str, format_: str | None, output: Path | None) -> int:
    """Show the rows of each analysis, as analyze does."""
    chosen = chosen_format(format_, output)
    write("store show", _results(store, model), {"model": model}, chosen, output)
    return 0


@command.command("prune")
@_path
@click.option("--model", metavar="PATTERN", help="Drop the models whose path matches, with * and ?.")
@click.option("--other-versions", is_flag=True, help="Drop what other versions of wwonnx computed.")
def prune(store: Path, model: str | None, other_versions: bool) -> int:
    """Drop results that are not wanted any more. What another model needs stays."""
    if model is None and not other_versions:
        raise OptionError("nothing to prune: give --model PATTERN or --other-versions")
    with _opened(store) as opened:
        results, spectra = opened.prune(model, other_versions)
    click.echo(f"{store}: dropped the results of {results} layers and {spectra} spectra")
    return 0


@command.command("export")
@_path
@_model
@click.option("--esds", is_flag=True, help="The eigenvalues, as a NumPy archive (.npz), not the rows.")
@shared.output
def export(store: Path, model: str, esds: bool, format_: str | None, output: Path | None) -> int:
    """Write the rows of all analyses into one table, or their eigenvalues with --esds."""
    if not esds:
        chosen = chosen_format(format_, output)
        if chosen == "table":
            raise OptionError(
                "export writes csv, json, parquet or markdown: give --format, or -o FILE with such an ending"
            )
        write("store export", _results(store, model), {"model": model}, chosen, output)
        return 0
    import numpy as np

    from .output import put

    if output is None or format_ is not None:
        raise OptionError("--esds writes a NumPy archive: give -o FILE.npz, and no --format")
    arrays: dict[str, Any] = {}
    with _opened(store) as opened:
        for one in opened.all(model):
            values = opened.eigenvalues(one.spectrum)
            if values is not None:
                arrays[f"{one.model}/{one.about['name']}/{_words(one.options)}".rstrip("/")] = values
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    put(buffer.getvalue(), output)
    return 0


def _opened(path: Path) -> Store:
    from ..execute.store import Store

    return Store(path, create=False)


def _results(path: Path, model: str) -> list[Result]:
    """One result per analysis.

    Raises:
        OptionError: there is none.
    """
    from ..report import tables

    results = []
    with _opened(path) as opened:
        for some in _analyses(opened, model):
            frame = _frame(some)
            title = f"{some[0].model} {_words(some[0].options)}".rstrip()

            def show(console: Any, frame: pd.DataFrame = frame) -> None:
                tables.print_details(console, frame)

            results.append(Result(title, _no_hash, frame, {"options": some[0].options}, show))
    if not results:
        raise OptionError(f"{path}: holds nothing of a model {model!r}; 'wwonnx store ls' lists what it holds")
    return results


def _analyses(store: Store, model: str) -> Iterator[list[Kept]]:
    for _, some in groupby(store.all(model), key=lambda one: (one.model, sorted(one.options.items()), one.version)):
        yield list(some)


def _frame(some: list[Kept]) -> pd.DataFrame:
    import pandas as pd

    from ..columns import columns
    from ..options import Options

    order = columns(Options(**some[0].options))
    rows = [one.about | row for one in some for row in one.rows]
    frame: pd.DataFrame = pd.DataFrame(rows).reindex(columns=order)
    return frame


def _words(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def _no_hash() -> None:
    """A store has no file of the model's to hash."""

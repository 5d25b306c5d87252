"""`wwonnx compare`: several models, and their accuracies where they are known."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..errors import OptionError, WwonnxError
from ..watcher import SUMMARY, WeightWatcher
from . import options as shared
from .main import complain
from .output import chosen_format, document, markdown_table, printed, put

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from ..compare import Comparison

#: Headings that the columns of an accuracy file may have.
_MODEL, _ACCURACY, _GROUP = ("model", "name"), ("accuracy", "acc"), ("group", "family")


class _Accuracies(NamedTuple):
    """What an accuracy file says, by what it calls each model."""

    accuracies: dict[str, float]
    groups: dict[str, str]


@click.command("compare", short_help="Which of several models is better, and how metrics go with accuracy.")
@shared.models
@click.option(
    "--accuracy",
    "accuracy_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Columns model (a file's name, with or without .onnx), accuracy, and group if there are groups.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Draw each metric against accuracy and along the layers, as PNG files in this folder.",
)
@shared.selection
@shared.metrics
@click.option(
    "--format",
    "format_",
    type=click.Choice([name for name in shared.FORMATS if name != "parquet"]),
    help="How to write the result. Default: table, or what the ending of -o says.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@shared.progress
def command(
    models: tuple[str, ...],
    accuracy_file: Path | None,
    plot: Path | None,
    layers: tuple[str, ...],
    detx: bool,
    format_: str | None,
    output: Path | None,
    progress: bool | None,
    **options: Any,
) -> int:
    """Sum up two or more models of one family, and hold their metrics against their accuracies."""
    from ..compare import compare
    from ..report import plots

    chosen = chosen_format(format_, output)
    if plot is not None:
        plots.require()
        plots.make_folder(plot)
    if chosen == "parquet":
        raise OptionError(f"-o {output}: compare writes no Parquet; give .csv or .json")
    names = _names(models)
    known = _read(accuracy_file, names) if accuracy_file else _Accuracies({}, {})
    options = shared.analysis_options(layers, detx, options)
    bar = shared.shows_progress(progress)
    details = {}
    for name, model in zip(names, models, strict=True):
        try:
            details[name] = WeightWatcher(model).analyze(progress=bar, **options)
        except OptionError:
            raise
        except WwonnxError as error:
            complain(str(error))
    failed = len(details) < len(models)
    if len(details) < 2:
        return 2 if failed else complain("compare needs two models or more")
    accuracies = {name: value for name, value in known.accuracies.items() if name in details} or None
    groups = {name: value for name, value in known.groups.items() if name in details} or None
    result = compare(details, accuracies, groups)
    if plot is not None:
        _draw(result, plot)
    content = _content(result, options, chosen, output)
    if content is not None:
        put(content, output)
    return 2 if failed else 0


def _names(models: Sequence[str]) -> list[str]:
    """What to call each model: its file's name without the ending, or where that is not unique its path.

    Raises:
        OptionError: one is given twice.
    """
    twice = next((model for model in models if models.count(model) > 1), None)
    if twice:
        raise OptionError(f"{twice}: is given twice; name each model once")
    stems = [Path(model).stem for model in models]
    return [stem if stems.count(stem) == 1 else model for stem, model in zip(stems, models, strict=True)]


def _read(path: Path, names: Sequence[str]) -> _Accuracies:
    """Read an accuracy file.

    Raises:
        OptionError: it can't be read, has no such columns, or a line says no number.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise OptionError(f"--accuracy {path}: can't be read ({reason})") from None
    first = text.partition("\n")[0]
    rows = list(csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count), skipinitialspace=True))
    columns = {(heading or "").strip().lower(): heading for heading in (rows[0] if rows else ())}
    model, accuracy, group = (
        next((columns[n] for n in known if n in columns), None) for known in (_MODEL, _ACCURACY, _GROUP)
    )
    if model is None or accuracy is None:
        raise OptionError(
            f"--accuracy {path}: needs a first line with the columns model and accuracy, and lines below it"
        )
    found = _Accuracies({}, {})
    for line, row in enumerate(rows, start=2):
        name = _known_as((row[model] or "").strip(), names)
        value = (row[accuracy] or "").strip().rstrip("%")
        try:
            found.accuracies.update({name: float(value)} if value else {})
        except ValueError:
            raise OptionError(f"--accuracy {path}: line {line}: {value!r} is no number") from None
        if group is not None and row[group]:
            found.groups[name] = row[group].strip()
    if not set(found.accuracies) & set(names):
        raise OptionError(f"--accuracy {path}: names none of the models; it should say {', '.join(names)}")
    return found


def _known_as(name: str, names: Sequence[str]) -> str:
    """The name among those of the models that a file's line means: the name, a file name, or a path."""
    if name in names:
        return name
    same = [known for known in names if known == Path(name).stem or Path(known).stem == Path(name).stem]
    return same[0] if len(same) == 1 else name


def _draw(result: Comparison, folder: Path) -> None:
    """Write `accuracy.METRIC.png` for each metric that has a line, and `layers.METRIC.png` for each."""
    from ..report import plots

    for metric in (name for name in SUMMARY if name in result.summaries):
        plots.save(result.plot_layers(metric), folder / f"layers.{metric}.png")
        if metric in result.correlations.index:
            plots.save(result.plot_accuracy(metric), folder / f"accuracy.{metric}.png")


def _content(result: Comparison, options: dict[str, Any], format_: str, output: Path | None) -> bytes | None:
    """The result in a format; None where it has been printed already."""
    if format_ == "table":
        return printed(lambda console: _show(console, result), output)
    frames = {name: getattr(result, name).reset_index() for name in ("summaries", "ranking", "correlations", "groups")}
    if format_ == "csv":
        text: str = frames["summaries"].to_csv(index=False)
        return text.encode()
    if format_ == "json":
        rows = {name: frame.to_dict("records") for name, frame in frames.items()}
        return (document("compare", options, rows | {"notes": result.notes}) + "\n").encode()
    return _markdown(frames, result.notes).encode()


def _show(console: Console, result: Comparison) -> None:
    """The models, the order that each metric puts them in, how that goes with accuracy, and what limits it."""
    from ..report import tables

    def line(text: str = "") -> None:
        console.print(text, markup=False, highlight=False)

    tables.print_models(console, result.summaries)
    line("\nbest first, by the smaller mean:")
    for metric in result.ranking.columns:
        line(f"  {metric}: {', '.join(result.ranked(metric)) or '-'}")
    for heading, frame in (("against accuracy", result.correlations), ("within groups", result.groups)):
        if len(frame):
            line(f"\n{heading}:")
            tables.print_correlations(console, frame)
    line()
    for note in result.notes:
        tables.print_note(console, note)


def _markdown(frames: dict[str, pd.DataFrame], notes: Sequence[str]) -> str:
    parts = [f"### {name.capitalize()}\n\n{markdown_table(frame)}\n" for name, frame in frames.items() if len(frame)]
    return "\n".join([*parts, *(f"- {note}" for note in notes)]) + "\n"

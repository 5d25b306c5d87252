"""Writes results in the format that was asked for, to the terminal or to a file."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..files import write_whole
from ..version import versions

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

#: Version of the JSON that the commands write. It rises when a field changes its meaning or goes.
SCHEMA_VERSION = 1

_BY_ENDING = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".md": "markdown"}
#: Columns that hold numbers even where a row has none: Parquet wants one type per column.
_INSTALL_PARQUET = "Parquet needs pyarrow: pip install 'wwonnx[parquet]'"


@dataclass(frozen=True)
class Result:
    """What a command has to say of one model.

    Attributes:
        model: the model's path.
        sha256: gives the hash of the file or files; it is asked for where it is written, as it may take a while.
        frame: the rows.
        extra: further fields of the JSON object.
        show: prints the table for people.
        card: writes the section of a model card in Markdown, given the versions; without it Markdown is a table.
    """

    model: str
    sha256: Callable[[], str | None]
    frame: pd.DataFrame
    extra: dict[str, Any]
    show: Callable[[Console], None]
    card: Callable[[dict[str, str]], str] | None = None


def chosen_format(format_: str | None, output: Path | None) -> str:
    """The format to write: the one asked for, or else what the file's ending says.

    Raises:
        OptionError: Parquet to a terminal, or without pyarrow. Said before the work, not after it.
    """
    chosen = format_ or (_BY_ENDING.get(output.suffix.lower(), "table") if output else "table")
    if chosen == "parquet":
        if output is None and sys.stdout.isatty():
            raise OptionError("Parquet is binary: name a file with -o FILE.parquet")
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise OptionError(_INSTALL_PARQUET) from None
    if output is not None and not output.parent.is_dir():
        raise OptionError(f"-o {output}: there is no directory {str(output.parent)!r}; make it first")
    return chosen


def write(command: str, results: list[Result], options: dict[str, Any], format_: str, output: Path | None) -> None:
    """Write the results of a command.

    A file appears whole or not at all.
    """
    if format_ == "table":
        content = _tables(results, output)
        if content is None:
            return
    elif format_ == "json":
        content = (_json(command, results, options) + "\n").encode()
    elif format_ == "parquet":
        buffer = io.BytesIO()
        _joined(results, always_named=True).to_parquet(buffer, index=False, engine="pyarrow")
        content = buffer.getvalue()
    elif format_ == "csv":
        content = _joined(results).to_csv(index=False).encode()
    else:
        content = "\n\n".join(_markdown(result, titled=len(results) > 1) for result in results).encode() + b"\n"
    put(content, output)


def put(content: bytes, output: Path | None) -> None:
    """Write to standard output, or to a file that appears whole or not at all."""
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        write_whole(output, content)
    except OSError as error:
        raise OptionError(f"-o {output}: can't be written ({error.strerror or error})") from None


def _tables(results: list[Result], output: Path | None) -> bytes | None:
    """Print tables to the terminal, or render them for a file."""

    def show(console: Console) -> None:
        for index, result in enumerate(results):
            if len(results) > 1:
                console.print(f"{os.linesep if index else ''}{result.model}", markup=False, style="bold")
            result.show(console)

    return printed(show, output)


def printed(show: Callable[[Console], None], output: Path | None) -> bytes | None:
    """Print to the terminal, or render for a file what `show` prints."""
    from rich.console import Console

    text = io.StringIO()
    # Away from a terminal nothing has to fit: files and pipes get all columns.
    wide = None if output is None and sys.stdout.isatty() else int(os.environ.get("COLUMNS") or 240)
    show(Console(file=text if output else sys.stdout, width=wide, highlight=False, soft_wrap=False))
    return text.getvalue().encode() if output else None


def _joined(results: list[Result], always_named: bool = False) -> pd.DataFrame:
    """One frame of all rows; the first column names the model where there are several."""
    import pandas as pd

    frames = []
    for result in results:
        frame = result.frame.copy()
        frame.attrs = {}  # concat compares them
        if always_named or len(results) > 1:
            frame.insert(0, "model", result.model)
        for column in frame.columns:
            if column == "shape":
                frame[column] = ["x".join(map(str, shape)) for shape in frame[column]]
        frames.append(frame)
    joined: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return joined


def _json(command: str, results: list[Result], options: dict[str, Any]) -> str:
    models = [
        {"model": result.model, "sha256": result.sha256(), **result.extra, "rows": result.frame.to_dict("records")}
        for result in results
    ]
    return document(command, options, {"models": models})


def document(command: str, options: dict[str, Any], fields: dict[str, Any]) -> str:
    """The JSON of a command: what was done with which versions and options, and its own fields."""
    about = {"schema_version": SCHEMA_VERSION, "command": command, "versions": versions(), "options": options}
    return json.dumps(_plain(about | fields), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON's types: numpy scalars unwrapped, NaN and missing values null (JSON has no NaN)."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) else None


def _markdown(result: Result, titled: bool) -> str:
    if result.card is not None:
        return result.card(versions())
    table = markdown_table(result.frame)
    return f"### {result.model}\n\n{table}" if titled else table


def markdown_table(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    columns = list(frame.columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    rows = frame.to_dict("records")
    lines += ["| " + " | ".join(_markdown_cell(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _markdown_cell(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        return f"{plain:.6g}"
    if isinstance(plain, list):
        return "x".join(map(str, plain))
    return "" if plain is None else str(plain).replace("|", "\\|").replace("\n", " ")

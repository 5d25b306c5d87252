"""Details and summary as a notebook shows them: telling columns, readable numbers, rows to look at marked."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from ..columns import EVERY
from . import tables

#: What the details of an analysis have, and few other frames do.
_WHOLE = {"layer_id", "name", "alpha", "status", "warning", "reason"}
#: Over the page's own ground and under its own ink, so that both light and dark pages stay readable.
_GROUNDS = {"red": "rgba(220, 40, 40, 0.22)", "yellow": "rgba(230, 160, 0, 0.22)"}
_WORDS = {"name", "layer_type", "status"}


class Details(pd.DataFrame):
    """What `analyze` returns: a DataFrame like any other, which Jupyter shows as a table for people.

    Failed rows are red there, over- and under-trained and random-like ones yellow. Rows that are chosen or sorted stay
    Details; where columns are dropped, the rest is a plain DataFrame.
    """

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return _details_or_frame

    def _repr_html_(self) -> str | None:
        if not _is_whole(self):  # columns were renamed in place
            shown: str | None = super()._repr_html_()  # type: ignore[misc]  # the stubs don't know it
            return shown
        if not pd.get_option("display.notebook_repr_html"):
            return None
        columns = {name: heading or "verdict" for name, heading in tables.DETAILS.items() if name in self.columns}
        columns |= {name: str(name) for name in self.columns if name not in EVERY}  # the user's own
        most, least = pd.get_option("display.max_rows") or len(self), pd.get_option("display.min_rows")
        cut = len(self) > most
        half = max((least or most) // 2, 1)
        parts = [self.iloc[:half], self.iloc[-half:]] if cut else [self]
        rows = [_rows(part, columns) for part in parts]
        gap = f'<tr><td colspan="{len(columns)}" style="text-align: center">...</td></tr>'
        body = gap.join(rows)
        count = f"{len(self):,} {'row' if len(self) == 1 else 'rows'}"
        note = f"{count}, {len(columns)} of {self.shape[1]} columns; .columns names them all"
        return f'<div style="overflow-x: auto">{_table(columns.items(), body)}</div><p><small>{note}</small></p>'


def _details_or_frame(*arguments: Any, **named: Any) -> pd.DataFrame:
    """What pandas makes of details: details as long as they have their columns, otherwise a plain DataFrame."""
    frame: pd.DataFrame = pd.DataFrame(*arguments, **named)
    details: pd.DataFrame = Details(frame) if _is_whole(frame) else frame
    return details


def _is_whole(frame: pd.DataFrame) -> bool:
    return frame.columns.nlevels == 1 and frame.columns.is_unique and set(frame.columns) >= _WHOLE


class Summary(dict[str, float]):
    """What `get_summary` returns: a dict like any other, which Jupyter shows as a table."""

    def _repr_html_(self) -> str:
        row = "".join(_cell(name, tables.number(float(value))) for name, value in self.items())
        return f'<div style="overflow-x: auto">{_table(((name, name) for name in self), f"<tr>{row}</tr>")}</div>'


def _table(columns: Iterable[tuple[str, str]], body: str) -> str:
    head = "".join(f'<th style="text-align: {_side(name)}">{html.escape(heading)}</th>' for name, heading in columns)
    return f'<table style="color: inherit"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _rows(frame: pd.DataFrame, columns: Mapping[str, str]) -> str:
    return "".join(_row(row, columns) for row in frame.to_dict("records"))


def _row(row: dict[Any, Any], columns: Mapping[str, str]) -> str:
    words = tables.verdict(row)
    ground = _GROUNDS.get(tables.style_of_verdict(words), "")
    cells = "".join(_cell(name, words if name == "status" else tables.cell(row[name])) for name in columns)
    return f'<tr style="background-color: {ground}">{cells}</tr>' if ground else f"<tr>{cells}</tr>"


def _cell(name: str, text: str) -> str:
    room = "; min-width: 8em" if name == "status" else ""
    return f'<td style="text-align: {_side(name)}{room}">{html.escape(text)}</td>'


def _side(name: str) -> str:
    return "left" if name in _WORDS else "right"

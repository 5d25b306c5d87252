"""The report: one HTML file that needs nothing else, no network, and for everything but the large plots no script.

What comes from a model's file (the names of layers, reasons) is untrusted. Jinja escapes it in the markup, the data for
the script is JSON without any character that could end its element, and a content security policy lets no script run
but the two that are meant.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from ..analysis import Row
from ..errors import OptionError
from ..graph.words import clean
from ..version import versions
from . import findings, svg
from .pictures import Picture, as_json
from .plot_ids import plot_id
from .tables import number

_FOLDER = Path(__file__).with_name("templates")
#: Columns of the table of layers: their headings and what they mean. Those that an analysis has not are left out.
_COLUMNS = {
    "alpha": ("α", "exponent of the power law in the tail; 2 to 6 is well trained"),
    "alpha_weighted": ("α̂", "alpha-hat: alpha times log10 of the largest eigenvalue (alpha_weighted)"),
    "log_norm": ("log norm", "log10 of the squared Frobenius norm"),
    "stable_rank": ("stable rank", "squared Frobenius norm over the largest eigenvalue"),
    "D": ("D", "Kolmogorov-Smirnov distance between tail and fit"),
    "mp_softrank": ("MP soft rank", "upper edge of the Marchenko-Pastur bulk over the largest eigenvalue"),
    "num_spikes": ("spikes", "eigenvalues beyond the Marchenko-Pastur bulk"),
    "num_traps": ("traps", "eigenvalues beyond the bulk when the weights are shuffled"),
    "rand_p_value": ("p", "how probable such an ESD is for the layer's own weights in random order"),
    "ERG_gap": ("ERG gap", "eigenvalues down to the trace-log condition minus those in the tail"),
}
#: Beside another model there is room for these.
_NARROW = ("alpha", "alpha_weighted", "log_norm", "stable_rank")
_SUMMARY = {
    "alpha": "mean α",
    "alpha_weighted": "mean α̂ (alpha_weighted)",
    "log_alpha_norm": "mean log α-norm",
    "log_norm": "mean log norm",
    "log_spectral_norm": "mean log spectral norm",
    "stable_rank": "mean stable rank",
    "mp_softrank": "mean MP soft rank",
}
#: Values of alpha beyond it are drawn at the upper edge of the flow.
_MOST_ALPHA = 12.0


@dataclass(frozen=True)
class ModelReport:
    """What the page says of one model.

    Attributes:
        label: what to call it.
        sha256: of its file; None for a model that was built in memory.
        rows: of the analysis, in graph order.
        pictures: the spectrum of each row; None where it has none.
        summary: means, as `get_summary` gives them.
        skipped: what was left out, as the records of `get_skipped`.
        note: what to know of the model as a whole.
        share: how much of its parameters was analysed, in words.
        options: of the analysis.
    """

    label: str
    sha256: str | None
    rows: list[Row]
    pictures: list[Picture | None]
    summary: Mapping[str, float]
    skipped: list[dict[str, Any]]
    note: str
    share: str
    options: Mapping[str, Any]


def require() -> None:
    """The page needs jinja2 and plotly.

    Raises:
        OptionError: one is not installed.
    """
    try:
        import jinja2  # noqa: F401

        _plotly()
    except ImportError as error:
        raise OptionError(f"a report needs {error.name}: pip install 'wwonnx[report]'") from None


def render(models: Sequence[ModelReport]) -> str:
    """The page of one model, or of several side by side."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "clean": clean, "cell": _cell}
    script = (_FOLDER / "page.js").read_text("utf-8")
    library, library_hash = _plotly()
    many = len(models) > 1
    wanted = [name for name in _COLUMNS if not many or name in _NARROW]
    columns = {name: _COLUMNS[name] for name in wanted if any(name in row for model in models for row in model.rows)}
    return environment.get_template("page.html").render(
        models=[_model(model) for model in models],
        many=many,
        columns=columns,
        summary={name: words for name, words in _SUMMARY.items() if any(name in model.summary for model in models)},
        flows=_flows(models),
        kinds=sorted({str(row["layer_type"]) for model in models for row in model.rows}),
        flags=sorted({flag for model in models for row in model.rows for flag in findings.flags(row)}),
        options=models[0].options,
        versions=versions(),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        style=(_FOLDER / "page.css").read_text("utf-8"),
        script=script,
        script_hash=_hash(script.encode()),
        library=library,
        library_hash=library_hash,
        data=_script_json([_data(model) for model in models]),
    )


def _model(model: ModelReport) -> dict[str, Any]:
    """What the template shows of a model."""
    return {
        "label": model.label,
        "sha256": model.sha256,
        "verdict": findings.verdict(model.rows, folded=any(row["folded"] for row in model.rows)),
        "findings": findings.findings(model.rows, model.note),
        "summary": model.summary,
        "share": model.share,
        "skipped": model.skipped,
        "rows": [
            {
                "row": row,
                "id": plot_id(row),
                "flags": findings.flags(row),
                "thumbnail": svg.thumbnail(shown, float(row["xmin"])) if shown else None,
            }
            for row, shown in zip(model.rows, model.pictures, strict=True)
        ],
    }


def _flows(models: Sequence[ModelReport]) -> list[svg.Panel]:
    def of(metric: str) -> list[list[tuple[str, float]]]:
        return [[(f"{plot_id(row, ':')} {row['name']}", float(row[metric])) for row in model.rows] for model in models]

    panels = (
        svg.flow("α", of("alpha"), band=(findings.LEAST, findings.MOST), most=_MOST_ALPHA),
        svg.flow("α̂", of("alpha_weighted")),
    )
    return [panel for panel in panels if panel]


def _data(model: ModelReport) -> dict[str, Any]:
    """What the script needs of a model."""
    return {
        "label": model.label,
        "rows": [
            {
                "id": plot_id(row),
                "row": {name: _plain(value) for name, value in row.items()},
                "flags": findings.flags(row),
                "picture": as_json(shown) if shown else None,
            }
            for row, shown in zip(model.rows, model.pictures, strict=True)
        ],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinities are null."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _script_json(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js as plotly's Python package brings it, gzipped and in base64, and the hash that lets it run."""
    from plotly.offline import get_plotlyjs

    library: bytes = get_plotlyjs().encode()
    return base64.b64encode(gzip.compress(library, 9, mtime=0)).decode(), _hash(library)


def _hash(script: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode()


def _number(value: Any) -> str:
    return "–" if value is None or (isinstance(value, float) and not math.isfinite(value)) else number(float(value))


def _cell(value: Any) -> str:
    """Any value of a table: shapes as 3x3, missing ones empty."""
    if isinstance(value, list):
        return " × ".join(map(str, value)) or "scalar"
    return "" if value is None or str(value) in ("<NA>", "nan") else clean(value)

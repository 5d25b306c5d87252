"""A section on the weights for a model card, in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import MIN_EVALS
from . import tables

if TYPE_CHECKING:
    import pandas as pd

#: Columns of the layers' table, as far as the details have them.
_COLUMNS = (
    *("layer_id", "name", "slice_id", "layer_type", "N", "M", "num_evals", "alpha", "alpha_weighted", "log_norm"),
    *("log_spectral_norm", "stable_rank", "mp_softrank", "num_spikes", "rand_p_value", "num_traps", "detX_num", "D"),
)
#: What a reader of the card has to know of each number.
_MEANINGS = {
    "alpha": "exponent of a power law in the tail of the layer's eigenvalues; 2 to 6 is usual for well-trained layers, "
    "below 2 is over-trained, above 6 under-trained",
    "alpha_weighted": "alpha times log10 of the largest eigenvalue; the smaller, the better, within one family",
    "log_norm": "log10 of the sum of the eigenvalues (the squared Frobenius norm); the smaller, the better, within one "
    "family",
    "log_alpha_norm": "log10 of the sum of the eigenvalues to the power of alpha",
    "log_spectral_norm": "log10 of the largest eigenvalue",
    "stable_rank": "sum of the eigenvalues over the largest one",
    "mp_softrank": "upper edge of the random bulk over the largest eigenvalue; 1 for a random matrix",
    "num_spikes": "eigenvalues above the random bulk",
    "rand_p_value": "how probable such a spectrum is with the same weights in random order",
    "num_traps": "eigenvalues that stand out of the bulk even when the weights are shuffled",
    "detX_num": "eigenvalues in the tail by the trace-log condition",
    "D": "distance between the tail and the fitted law; the smaller, the better the fit",
}


def section(
    model: str,
    sha256: str | None,
    details: pd.DataFrame,
    summary: Mapping[str, float],
    skipped: pd.DataFrame,
    note: str,
    options: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """The section: a heading, what was found, the means, the layers, what the numbers mean, and how they were made.

    Args:
        model: path of the file; its name alone is told.
        sha256: of the file.
        details, summary, skipped: of one analysis.
        note: what to know of the model as a whole; may be empty.
        options: of the analysis that are not the defaults.
        versions: of what computed the numbers.
    """
    means = {name: value for name, value in summary.items() if name != "folded"}
    columns = [name for name in _COLUMNS if name in details.columns]
    layers = [[*(_text(row[name]) for name in columns), tables.verdict(row)] for row in details.to_dict("records")]
    meanings = {name: text for name, text in _MEANINGS.items() if name in {*means, *columns}}
    parts = [
        f"## Weight analysis of {_code(Path(model).name)}",
        "Computed by [wwonnx](https://pypi.org/project/wwonnx/) from the weights alone: no data was used, and nothing "
        "is said of a task or of its accuracy.",
        _found(details, len(skipped)),
        *([f"**Note:** {_escape(note)}"] if note else []),
        "### Means over the layers",
        _table(["metric", "mean"], [[name, _text(value)] for name, value in means.items()]),
        "### Layers",
        _table([*columns, "verdict"], layers) if layers else "No layer was analysed.",
        *(["### Not analysed", _skipped(skipped)] if len(skipped) else []),
        "### What the numbers mean",
        "\n".join(f"- {name}: {text}." for name, text in meanings.items()),
        "The metrics compare models of one architecture family that were trained on the same data; they don't rank "
        "different architectures. A layer with fewer than 50 eigenvalues (`short ESD`) has no reliable alpha. Theory: "
        "[arXiv:1810.01075](https://arxiv.org/abs/1810.01075), [arXiv:2002.06716](https://arxiv.org/abs/2002.06716).",
        "### How they were made",
        _made(sha256, options, versions),
    ]
    return "\n\n".join(parts)


def _found(details: pd.DataFrame, skipped: int) -> str:
    """The layers by their verdicts, in a sentence or two."""
    count = len(details)
    first = f"{count} {'row' if 'slice_id' in details.columns else 'layer'}{'s' * (count != 1)} analysed"
    first += f", {skipped} weight{'s' * (skipped != 1)} left out" if skipped else ""
    words = [word for row in details.to_dict("records") for word in _words(row)]
    counted = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    return f"{first}: {', '.join(counted)}." if counted else f"{first}; none is over- or under-trained."


def _words(row: Mapping[Any, Any]) -> list[str]:
    return ["failed"] if row["status"] == "failed" else list(filter(None, tables.verdict(row).split(", ")))


def _skipped(skipped: pd.DataFrame) -> str:
    rows = [[_text(row[name]) for name in ("name", "shape", "reason")] for row in skipped.to_dict("records")]
    return _table(["name", "shape", "reason"], rows)


def _made(sha256: str | None, options: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    lines = [f"- sha256 of the file: {_code(sha256)}"] if sha256 else []
    chosen = ", ".join(f"{name}={value!r}" for name, value in options.items()) or f"defaults (min_evals={MIN_EVALS})"
    lines.append(f"- options: {_code(chosen)}" if options else f"- options: {chosen}")
    lines.append("- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_line(header), "|" + "---|" * len(header)]
    return "\n".join([*lines, *(_line([_escape(cell) for cell in row]) for row in rows)])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(value: Any) -> str:
    return "" if isinstance(value, float) and math.isnan(value) else tables.cell(value)


def _code(text: str) -> str:
    """Text as code, whatever is in it."""
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}"


def _escape(text: str) -> str:
    """Text that Markdown and HTML leave as it is, in a table too."""
    text = re.sub(r"[\\`*|\[\]]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)  # inside a word _ stands for itself
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")

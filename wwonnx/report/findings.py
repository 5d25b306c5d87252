"""What the rows of a model say, in words: a verdict, and what needs a look."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..options import SHORT_ESD

#: Well trained layers have an alpha in this range (arXiv:2002.06716).
LEAST, MOST = 2.0, 6.0


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        level: "bad", "warn" or "note".
        title: what it is, with how many layers.
        meaning: what follows from it.
        rows: positions of the layers in question.
    """

    level: str
    title: str
    meaning: str
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The model in one sentence.

    Attributes:
        level: "good", "warn", "bad" or "note" where nothing can be said.
        headline: the sentence.
        detail: what it rests on.
    """

    level: str
    headline: str
    detail: str


def verdict(rows: Sequence[Mapping[str, Any]], folded: bool = False) -> Verdict:
    """Judge by alpha the layers that have a tail worth fitting; those with a short ESD only where there is no other.

    A layer that can't be told from its own shuffled weights is not well trained, whatever its alpha.

    Args:
        rows: of one analysis.
        folded: whether BatchNormalizations were folded into weights, so that no alpha is that of training.
    """
    fitted = [row for row in rows if math.isfinite(row["alpha"])]
    long = [row for row in fitted if row["num_evals"] >= SHORT_ESD]
    judged = long or fitted
    if not judged:
        return Verdict("note", "No verdict: no layer has a power law", "None has a tail that can be fitted.")
    told = [row for row in judged if row["status"] != "random-like"]
    over = sum(row["alpha"] < LEAST for row in told)
    under = sum(row["alpha"] > MOST for row in told)
    good, random = len(told) - over - under, len(judged) - len(told)
    share = good / len(judged)
    detail = f"Judged by alpha, {LEAST:g} to {MOST:g} being well trained, on {_layers(len(judged))}"
    left = len(rows) - len(judged)
    if left:
        why = f"fewer than {SHORT_ESD} eigenvalues or no power law" if long else "no power law"
        detail += f"; {left} with {why} not counted"
    if not long:
        detail += f", none of which has {SHORT_ESD} eigenvalues: read it with care"
    parts = [f"{good} of {len(judged)} layers well trained"]
    parts += [f"{over} over-trained"] if over else []
    parts += [f"{under} under-trained"] if under else []
    parts += [f"{random} like random"] if random else []
    if folded:
        detail += "; BatchNormalization is folded into weights, which changes their alpha"
    level = "bad" if share < 0.5 else "warn" if share < 0.8 or folded else "good"
    return Verdict(level if long else "note", ", ".join(parts), detail + ".")


def findings(rows: Sequence[Mapping[str, Any]], note: str) -> list[Finding]:
    """What needs a look, the worst first.

    Args:
        rows: of one analysis.
        note: what to know of the model as a whole.
    """
    found = []
    for level, one, many, meaning, holds in _RULES:
        which = tuple(index for index, row in enumerate(rows) if holds(row))
        if which:
            title = one if len(which) == 1 else many.format(len(which))
            found.append(Finding(level, title, meaning, which))
    if note:
        found.append(Finding("warn", "BatchNormalization is folded into weights", note))
    order = {"bad": 0, "warn": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def flags(row: Mapping[str, Any]) -> list[str]:
    """Short words for what is wrong with a row."""
    if row["status"] == "failed":
        return ["failed"]
    words = ["random-like"] if row["status"] == "random-like" else []
    words += [word for word in str(row["warning"]).split(", ") if word]
    if _number(row, "num_traps") > 0.0:
        words.append("traps")
    return words


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)


def _layers(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)}"


_RULES: tuple[tuple[str, str, str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    (
        "bad",
        "1 layer could not be analysed, or has no power law",
        "{} layers could not be analysed, or have no power law",
        "Their reasons stand in the table.",
        lambda row: bool(row["status"] == "failed"),
    ),
    (
        "bad",
        "1 layer can't be told from its own shuffled weights",
        "{} layers can't be told from their own shuffled weights",
        "Training left no correlations that this test can see: the alpha of such a layer says nothing.",
        lambda row: bool(row["status"] == "random-like"),
    ),
    (
        "bad",
        "1 layer is over-trained (alpha below 2)",
        "{} layers are over-trained (alpha below 2)",
        "Very heavy tails: the layer may have memorised its data, or a few outsized weights rule it.",
        lambda row: _number(row, "alpha") < LEAST and row["num_evals"] >= SHORT_ESD,
    ),
    (
        "warn",
        "1 layer is under-trained (alpha above 6)",
        "{} layers are under-trained (alpha above 6)",
        "Little correlation was learnt: a longer training, or fewer parameters, may serve it.",
        lambda row: _number(row, "alpha") > MOST and row["num_evals"] >= SHORT_ESD,
    ),
    (
        "note",
        "1 layer has correlation traps",
        "{} layers have correlation traps",
        "Even when shuffled, some eigenvalues stand out of the bulk: single outsized weights, or a mean far from zero.",
        lambda row: _number(row, "num_traps") > 0.0,
    ),
    (
        "note",
        "1 layer has a short ESD",
        "{} layers have a short ESD",
        f"With fewer than {SHORT_ESD} eigenvalues alpha is uncertain; the verdict leaves them out.",
        lambda row: row["num_evals"] < SHORT_ESD and row["status"] != "failed",
    ),
)

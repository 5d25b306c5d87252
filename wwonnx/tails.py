"""The tail of an ESD as the options ask for it: which law, which estimator, and how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .options import SHORT_ESD, Options
from .spectral.alternatives import compare_alternatives
from .spectral.esd import Array
from .spectral.fingers import clip_fingers, fit_from_peak
from .spectral.hill import fit_hill
from .spectral.norms import log_alpha_norm
from .spectral.power_law import PowerLaw, fit_power_law, fit_power_laws
from .spectral.truncated_power_law import fit_truncated_power_law
from .spectral.uncertainty import bootstrap_interval, goodness_of_fit

Row: TypeAlias = dict[str, Any]

OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0


@dataclass(frozen=True)
class Tail:
    """The law of a tail.

    Attributes:
        fit: its exponent and where it begins.
        extra: columns that only some fits have: Lambda, num_fingers, raw_alpha.
        notes: what the `warning` column says of it.
    """

    fit: PowerLaw
    extra: Row = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def tail_row(tail: Tail, esd: Array, fitted_esd: Array, options: Options, layer_id: int, notes: list[str]) -> Row:
    """The columns of the power law, what follows from it, and the verdict.

    Args:
        tail: the law that was fitted.
        esd: eigenvalues of the layer, ascending.
        fitted_esd: those whose tail is fitted: the same, or the pooled ones of windows (subsample="farms").
        options: which law and which estimator.
        layer_id: seeds what is random.
        notes: collects what the `warning` column says.
    """
    fit = tail.fit
    fitted = not fit.reason
    notes += tail.notes
    if fitted and fit.alpha < OVER_TRAINED:
        notes.insert(0, "over-trained")
    elif fitted and fit.alpha > UNDER_TRAINED:
        notes.insert(0, "under-trained")
    if esd.size < SHORT_ESD:
        notes.append("short ESD")
    row: Row = {
        "alpha": fit.alpha,
        "alpha_weighted": fit.alpha * math.log10(esd[-1]) if fitted else np.nan,
        "log_alpha_norm": log_alpha_norm(esd, fit.alpha) if fitted else np.nan,
        "D": fit.D,
        "sigma": fit.sigma,
        "xmin": fit.xmin,
        "xmax": fit.xmax,
        "num_pl_spikes": fit.num_pl_spikes if fitted else np.nan,
        "status": "success" if fitted else "failed",
        "reason": fit.reason,
        **tail.extra,
    }
    return row | (_certainty(fitted_esd, fit, options, layer_id) if fitted else {})


def fit_tails(esds: Sequence[Array], options: Options) -> list[Tail]:
    """Fit the law that the options ask for to each ESD; no bit of a fit depends on the others."""
    if options.fit == "PL" and options.estimator == "mle" and options.fix_fingers is None:
        return [Tail(fit) for fit in fit_power_laws(esds, options.ignore_largest)]
    return [_fit_tail(esd, options) for esd in esds]


def _fit_tail(esd: Array, options: Options) -> Tail:
    if options.fit != "PL":
        return _truncated(esd, options)
    if options.estimator == "hill":
        fit = fit_hill(esd, options.xmin_pos, options.ignore_largest)
        searched = fit_power_law(esd, options.ignore_largest)
        disagree = not fit.reason and not searched.reason and _verdict(fit.alpha) != _verdict(searched.alpha)
        note = f"estimators disagree: {fit.alpha:.2f} by Hill, {searched.alpha:.2f} by the search for xmin"
        return Tail(fit, notes=(note,) if disagree else ())
    if options.fix_fingers == "xmin_peak":
        return Tail(fit_from_peak(esd, options.ignore_largest))
    clipped = clip_fingers(esd, options.max_fingers, options.finger_thresh)
    return Tail(clipped.fit, {"num_fingers": clipped.num_fingers, "raw_alpha": clipped.raw_alpha})


def _truncated(esd: Array, options: Options) -> Tail:
    found = fit_truncated_power_law(esd, options.ignore_largest, near_peak=options.fit == "E_TPL")
    fit = PowerLaw(found.alpha, found.xmin, found.xmax, found.D, found.sigma, found.num_pl_spikes, found.reason)
    at_bound = (f"{found.at_bound} on its bound",) if found.at_bound else ()
    return Tail(fit, {"Lambda": found.Lambda}, at_bound)


def _verdict(alpha: float) -> int:
    return int(alpha >= OVER_TRAINED) + int(alpha > UNDER_TRAINED)


def _certainty(esd: Array, fit: PowerLaw, options: Options, layer_id: int) -> Row:
    """How far the exponent, and the law itself, can be trusted."""
    row: Row = {}
    if options.ci:
        interval = bootstrap_interval(esd, options.seed, layer_id, options.ignore_largest)
        row |= {"alpha_corrected": interval.alpha, "alpha_low": interval.low, "alpha_high": interval.high}
    if options.gof:
        row["gof_p_value"] = goodness_of_fit(esd, options.seed, layer_id, options.ignore_largest).p_value
    if options.alternatives:
        found = compare_alternatives(esd, fit)
        for name in ("lognormal", "exponential", "truncated_power_law"):
            ratio = getattr(found, name)
            row |= {f"R_{name}": ratio.R, f"p_{name}": ratio.p}
    return row

"""The columns of `details`, in order, and which option brings which."""

from __future__ import annotations

from .options import Options
from .spectral import transforms, vectors

#: Columns that are always there.
_LEADING = ("layer_id", "name", "slice_id", "layer_type", "N", "M", "Q", "rf", "num_evals")
_POWER_LAW = (
    *("alpha", "alpha_weighted", "log_alpha_norm", "alpha_null", "log_norm", "log_spectral_norm", "stable_rank"),
    *("D", "sigma", "xmin", "xmax", "num_pl_spikes"),
)
CERTAINTY = {
    "ci": ("alpha_corrected", "alpha_low", "alpha_high"),
    "gof": ("gof_p_value",),
    "alternatives": tuple(
        f"{sign}_{law}" for law in ("lognormal", "exponential", "truncated_power_law") for sign in "Rp"
    ),
}
_SCALE = (
    *("norm", "spectral_norm", "lambda_max", "sv_max", "sv_min"),
    *("matrix_rank", "rank_loss", "weak_rank_loss", "entropy"),
)
TRACE_LOG = ("detX_num", "detX_val", "num_ERG_spikes", "ERG_gap")
BULK = ("sigma_mp", "mp_softrank", "num_spikes", "bulk_min", "bulk_max", "W_scale")
RANDOMIZED = (
    *("rand_ks", "rand_p_value", "max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist"),
    *("num_traps", "rand_num_spikes", "rand_sigma_mp", "rand_mp_softrank", "rand_bulk_min", "rand_bulk_max"),
    "rand_W_scale",
)
APPROXIMATION = ("approximate", "num_lanczos", "alpha_error")
_CLOSING = ("has_esd", "status", "warning", "reason", "weight_dtype", "folded", "longname")

#: Columns of `describe`.
ABOUT = (*(column for column in _LEADING if column != "slice_id"), "weight_dtype", "folded", "longname")


def columns(options: Options) -> list[str]:
    """The columns that these options give."""
    chosen = [*_LEADING, *_POWER_LAW]
    if options.fit != "PL":
        chosen.append("Lambda")
    if options.fix_fingers == "clip_xmax":
        chosen += ["num_fingers", "raw_alpha"]
    for option, brought in CERTAINTY.items():
        chosen += brought if getattr(options, option) else ()
    chosen += _SCALE
    if options.pool:
        chosen.remove("slice_id")
    if options.detX:
        chosen += TRACE_LOG
    if options.mp_fit:
        chosen += BULK
    if options.randomize:
        chosen += RANDOMIZED
    if options.vectors:
        chosen += vectors.COLUMNS
    if options.svd_method == "fast" or options.lanczos_above is not None:
        chosen.append("esd_error")
    if options.lanczos_above is not None:
        chosen += APPROXIMATION
    if options.deltas:
        chosen += transforms.SPACING_COLUMNS
    return [*chosen, *_CLOSING]


#: Every column of an analysis, whatever its options.
EVERY = frozenset(
    columns(
        Options(
            pool=False,
            detX=True,
            mp_fit=True,
            randomize=True,
            vectors=True,
            deltas=True,
            fit="TPL",
            fix_fingers="clip_xmax",
            ci=True,
            gof=True,
            alternatives=True,
            lanczos_above=0,
        )
    )
)

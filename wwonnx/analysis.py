"""Layer in, rows out: which metrics run, and what stands in a row when one can't."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from .errors import WeightError
from .layer import WeightLayer
from .options import SHORT_ESD, Options
from .spectral.esd import Array, Spectrum, spectrum
from .spectral.norms import log_alpha_norm, norms
from .spectral.power_law import fit_power_law
from .spectral.trace_log import trace_log

Row: TypeAlias = dict[str, Any]

OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0

#: Columns of `details`, in order. Those of options that are off are left out.
COLUMNS = (
    *("layer_id", "name", "slice_id", "layer_type", "N", "M", "Q", "rf", "num_evals"),
    *("alpha", "alpha_weighted", "log_alpha_norm", "log_norm", "log_spectral_norm", "stable_rank"),
    *("D", "sigma", "xmin", "xmax", "num_pl_spikes"),
    *("norm", "spectral_norm", "lambda_max", "sv_max", "sv_min"),
    *("matrix_rank", "rank_loss", "weak_rank_loss", "entropy"),
    *("detX_num", "detX_val", "num_ERG_spikes", "ERG_gap"),
    *("has_esd", "status", "warning", "reason", "weight_dtype", "folded", "longname"),
)
#: Columns of `describe`.
ABOUT = ("layer_id", "name", "layer_type", "N", "M", "Q", "rf", "num_evals", "weight_dtype", "folded", "longname")
_TEXT = {"status": "failed", "warning": "", "has_esd": False}


def columns(options: Options) -> list[str]:
    """The columns that these options give."""
    left_out = set() if options.detX else {"detX_num", "detX_val", "num_ERG_spikes", "ERG_gap"}
    if options.pool:
        left_out.add("slice_id")
    return [column for column in COLUMNS if column not in left_out]


def folding_note(folded: int, layers: int) -> str:
    """What it means that BatchNormalizations were folded into weights, and what to do; empty where none were."""
    if not folded:
        return ""
    return (
        f"{folded} of {layers} layers have a BatchNormalization folded into their weights: their metrics are not those "
        "of the weights that were trained. Export again without folding, from PyTorch with "
        "torch.onnx.export(model.eval(), args, path, dynamo=True, optimize=False)."
    )


def num_evals(layer: WeightLayer, options: Options) -> int:
    """How many eigenvalues each row of a layer stands for."""
    return layer.M * layer.rf if options.pool else layer.M


def why_not(layer: WeightLayer, options: Options) -> str:
    """Why a layer is not analysed under these options; empty where it is."""
    count = num_evals(layer, options)
    if layer.parameters == 0:
        return f"empty: its shape is {list(layer.shape)}"
    if layer.depthwise:
        return "depthwise: each kernel position is a single column, M = 1, and has no spectrum"
    if count < options.min_evals:
        return f"{count} eigenvalue{'s' * (count != 1)}, fewer than min_evals={options.min_evals}"
    if options.max_evals is not None and count > options.max_evals:
        return f"{count} eigenvalues, more than max_evals={options.max_evals}"
    return ""


def describe_layer(layer: WeightLayer, options: Options) -> Row:
    """What is known of a layer without reading it."""
    return {
        "layer_id": layer.layer_id,
        "name": layer.name,
        "layer_type": layer.layer_type.label,
        "N": layer.N,
        "M": layer.M,
        "Q": layer.N / layer.M if layer.M else np.nan,
        "rf": layer.rf,
        "num_evals": num_evals(layer, options),
        "weight_dtype": layer.dtype,
        "folded": layer.folded,
        "longname": layer.longname,
    }


def analyze_layer(layer: WeightLayer, options: Options) -> list[Row]:
    """The rows of one layer: one, or one per kernel position where convolutions are not pooled.

    A layer that can't be analysed gives a row with status `failed` and the reason. It never raises for what is in
    the weights.
    """
    about = describe_layer(layer, options)
    try:
        whole = spectrum(layer.matrices, layer.eps)
    except WeightError as error:
        return [failed_row(about, str(error), options)]
    except MemoryError:
        return [failed_row(about, f"not enough memory for a layer of shape {list(layer.shape)}", options)]
    if layer.is_convolution and options.conv2d_norm:
        whole = whole.scaled(0.5 if options.pool else layer.rf / 2.0)
    if options.pool:
        return [about | _metrics(whole, options)]
    return [
        about | {"slice_id": index} | _metrics(Spectrum(values[None], whole.ranks[index : index + 1]), options)
        for index, values in enumerate(whole.eigenvalues)
    ]


def failed_row(about: Row, reason: str, options: Options) -> Row:
    """A row of a layer of which nothing could be computed."""
    row: Row = dict.fromkeys(columns(options), np.nan) | _TEXT | about | {"reason": reason}
    if not options.pool:
        row["slice_id"] = 0
    return row


def _metrics(matrices: Spectrum, options: Options) -> Row:
    """Every number of one row, from the eigenvalues of its matrices."""
    esd = matrices.pooled
    rank = int(matrices.ranks.sum())
    notes: list[str] = []
    own = norms(esd, rank, options.tolerance)
    row: Row = {
        "sv_max": float(np.sqrt(esd[-1])),
        "sv_min": float(np.sqrt(esd[0])),
        "matrix_rank": rank,
        "rank_loss": own.rank_loss,
        "weak_rank_loss": own.weak_rank_loss,
        "has_esd": True,
    }
    if options.inverse and rank:
        esd = _inverse(esd, rank, notes)
        own = norms(esd, rank, options.tolerance)
    row |= {
        "norm": own.norm,
        "log_norm": own.log_norm,
        "spectral_norm": own.spectral_norm,
        "log_spectral_norm": own.log_spectral_norm,
        "lambda_max": own.spectral_norm,
        "stable_rank": own.stable_rank,
        "entropy": own.entropy,
    }
    return row | _tail(esd, own.log_spectral_norm, options, notes)


def _tail(esd: Array, log_largest: float, options: Options, notes: list[str]) -> Row:
    """The power law, what follows from it, and the verdict."""
    fit = fit_power_law(esd, options.ignore_largest)
    fitted = not fit.reason
    if fitted and fit.alpha < OVER_TRAINED:
        notes.insert(0, "over-trained")
    elif fitted and fit.alpha > UNDER_TRAINED:
        notes.insert(0, "under-trained")
    if esd.size < SHORT_ESD:
        notes.append("short ESD")
    row: Row = {
        "alpha": fit.alpha,
        "alpha_weighted": fit.alpha * log_largest,
        "log_alpha_norm": log_alpha_norm(esd, fit.alpha) if fitted else np.nan,
        "D": fit.D,
        "sigma": fit.sigma,
        "xmin": fit.xmin,
        "xmax": fit.xmax,
        "num_pl_spikes": fit.num_pl_spikes if fitted else np.nan,
        "status": "success" if fitted else "failed",
        "warning": ", ".join(notes),
        "reason": fit.reason,
    }
    if options.detX:
        cut = trace_log(esd) if esd[-1] > 0.0 else None
        row |= {
            "detX_num": cut.num if cut else np.nan,
            "detX_val": cut.value if cut else np.nan,
            "num_ERG_spikes": cut.num if cut else np.nan,
            "ERG_gap": cut.num - fit.num_pl_spikes if cut and fitted else np.nan,
        }
    return row


def _inverse(esd: Array, rank: int, notes: list[str]) -> Array:
    """The ESD of the inverse: the `rank` largest eigenvalues inverted; zeros have no inverse and are left out."""
    if rank < esd.size:
        notes.append(f"{esd.size - rank} zero eigenvalues left out of the inverse")
    return np.sort(1.0 / esd[esd.size - rank :])

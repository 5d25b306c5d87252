"""Layer in, rows out: which metrics run, and what stands in a row when one can't."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .columns import BULK, columns
from .errors import WeightError
from .layer import WeightLayer
from .options import Options
from .spectral.accelerator import require
from .spectral.esd import Approximation, Array, Spectrum, spectra
from .spectral.farms import farms_spectrum
from .spectral.lanczos import REPLICATES, approximate_spectrum
from .spectral.marchenko_pastur import fit_marchenko_pastur
from .spectral.norms import norms
from .spectral.null import alpha_null, jensen_shannon_distance, shuffle_test
from .spectral.power_law import PowerLaw
from .spectral.randomize import permuted
from .spectral.resolution import tail_resolved
from .spectral.solver import Solver
from .spectral.trace_log import trace_log
from .spectral.transforms import convolution_spectrum, fft, glorot_factor, spacing_metrics
from .spectral.vectors import Localization, measure_vectors, vector_metrics
from .tails import Tail, fit_tails, tail_row

Row: TypeAlias = dict[str, Any]
Load: TypeAlias = Callable[[], NDArray[Any]]

#: Gram matrices of shuffles are decomposed together up to this size.
SHARED_BYTES = 8 << 20
#: Points along each axis of the image that conv2d_fft takes a convolution for a map of.
CONV2D_FFT_GRID = 32
#: A layer is random-like unless its distance from its shuffles would be this improbable for one more shuffle.
SIGNIFICANCE = 0.025
#: Where a row carries what pictures need, if the options say so. No column of the details.
KEPT = "_kept"
_UNKNOWN: Row = {"status": "failed", "warning": "", "has_esd": False}


@dataclass(frozen=True)
class Finding:
    """What was computed of a layer.

    Attributes:
        spectrum: its eigenvalues before any scaling, or why it has none.
        rows: its rows.
    """

    spectrum: Spectrum | WeightError
    rows: list[Row]


@dataclass(frozen=True)
class Kept:
    """The spectra behind a row, for pictures: a few times `num_evals` numbers.

    Attributes:
        esd: the eigenvalues that were analysed, ascending: inverted with the option `inverse`.
        fitted: those whose tail was fitted: the same, or the pooled ones of windows (subsample="farms").
        shuffle: those of the first shuffle, with the option `randomize`.
        vectors: how localised the eigenvectors are, with the option `vectors`.
    """

    esd: Array
    fitted: Array
    shuffle: Array | None = None
    vectors: Localization | None = None


@dataclass(frozen=True)
class _Case:
    """One row in the making: a layer, or one slice of it.

    Attributes:
        layer: the layer.
        own: its eigenvalues, ascending, scaled by conv2d_norm.
        rank: its matrix rank.
        spectrum: the same eigenvalues, matrix by matrix.
        rf: how many matrices are pooled in the row.
        shuffles: ESDs of the layer with its weights permuted.
        load: gives the matrices whose eigenvalues these are.
        factor: what their eigenvalues were multiplied by.
        options: the options.
        notes: collects what the `warning` column says.
    """

    layer: WeightLayer
    own: Array
    rank: int
    spectrum: Spectrum
    rf: int
    shuffles: tuple[Array, ...]
    load: Load
    factor: float
    options: Options
    notes: list[str] = field(default_factory=list)

    @cached_property
    def esd(self) -> Array:
        """The eigenvalues that are analysed: with the option `inverse` those of the inverse, zeros left out."""
        inverted = self.options.inverse and self.rank
        return 1.0 / self.spectrum.nonzero[::-1] if inverted else self.own

    @cached_property
    def fitted(self) -> Array:
        """The eigenvalues whose tail is fitted."""
        if self.options.subsample != "farms":
            return self.esd
        return farms_spectrum(self.load, self.layer.eps).scaled(self.factor).pooled


def check_device(options: Options) -> None:
    """Check that what shall compute eigenvalues is here.

    Raises:
        OptionError: it is not.
    """
    if options.device != "cpu":
        require(options.device)


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
    if _on_an_image(layer, options):
        kernel = _kernel(layer)
        points = math.prod([CONV2D_FFT_GRID] * len(kernel))
        return layer.M * (layer.rf // math.prod(kernel)) * points
    return layer.M * layer.rf if options.pool else layer.M


def why_not(layer: WeightLayer, options: Options) -> str:
    """Why a layer is not analysed under these options; empty where it is."""
    if layer.parameters == 0:
        return f"empty: its shape is {list(layer.shape)}"
    if layer.depthwise:
        return "depthwise: each kernel position is a single column, M = 1, and has no spectrum"
    count = num_evals(layer, options)
    if count < options.min_evals:
        return f"{count} eigenvalue{'s' * (count != 1)}, fewer than min_evals={options.min_evals}"
    if options.max_evals is not None and count > options.max_evals:
        return f"{count} eigenvalues, more than max_evals={options.max_evals}"
    return ""


def describe_layer(layer: WeightLayer, options: Options) -> Row:
    """What is known of a layer without reading it."""
    N, M = layer.N, layer.M
    return {
        "layer_id": layer.layer_id,
        "name": layer.name,
        "layer_type": layer.layer_type.label,
        "N": N,
        "M": M,
        "Q": N / M if M else np.nan,
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
    return analyze_layers([layer], options)[0]


def analyze_layers(layers: Sequence[WeightLayer], options: Options) -> list[list[Row]]:
    """The rows of each layer; the spectra of small layers are computed together."""
    return [found.rows for found in prepare(layers, options)]


def prepare(
    layers: Sequence[WeightLayer], options: Options, known: Sequence[Spectrum | None] | None = None
) -> list[Finding]:
    """What the analysis of some layers finds; their spectra and their fits are computed together where that is faster.

    Args:
        layers: of which.
        options: what to compute.
        known: spectra that were computed before, None where one was not.

    Returns:
        What was found of each layer. It never raises for what is in the weights.
    """
    try:
        found = _all_spectra(layers, options, known) if known and any(known) else _spectra(layers, options)
        return [Finding(each, rows) for each, rows in zip(found, _rows(layers, found, options), strict=True)]
    except MemoryError:
        if len(layers) > 1:
            each = known or [None] * len(layers)
            return [one for layer, own in zip(layers, each, strict=True) for one in prepare([layer], options, [own])]
        error = _no_memory(layers[0])
        return [Finding(error, refused(layers[0], str(error), options))]


def _all_spectra(
    layers: Sequence[WeightLayer], options: Options, known: Sequence[Spectrum | None]
) -> list[Spectrum | WeightError]:
    """The spectra that are known, and those that are not."""
    # What tells how sure an approximation is, is not kept.
    used = [None if options.approximates(layer.M) else own for layer, own in zip(layers, known, strict=True)]
    missing = iter(_spectra([layer for layer, own in zip(layers, used, strict=True) if own is None], options))
    return [next(missing) if own is None else own for own in used]


def refused(layer: WeightLayer, reason: str, options: Options) -> list[Row]:
    """The rows of a layer that is not computed, for this reason."""
    return [failed_row(describe_layer(layer, options), reason, options)]


def _rows(layers: Sequence[WeightLayer], found: Sequence[Spectrum | WeightError], options: Options) -> list[list[Row]]:
    """The rows of each layer; tails of equal size are fitted together."""
    cases = [_cases(layer, each, options) for layer, each in zip(layers, found, strict=True)]
    fitted = [case.fitted for some in cases if not isinstance(some, WeightError) for case in some]
    tails = iter(fit_tails(fitted, options))
    rows: list[list[Row]] = []
    for layer, some in zip(layers, cases, strict=True):
        about = describe_layer(layer, options)
        if isinstance(some, WeightError):
            rows.append([failed_row(about, str(some), options)])
            continue
        own = [next(tails) for _ in some]
        try:
            metrics = [_metrics(case, tail) for case, tail in zip(some, own, strict=True)]
        except WeightError as error:
            rows.append([failed_row(about, str(error), options)])
        except MemoryError:
            rows.append([failed_row(about, str(_no_memory(layer)), options)])
        else:
            slices: list[Row] = [{} if options.pool else {"slice_id": index} for index in range(len(some))]
            rows.append([about | which | row for which, row in zip(slices, metrics, strict=True)])
    return rows


def _cases(layer: WeightLayer, found: Spectrum | WeightError, options: Options) -> list[_Case] | WeightError:
    """The rows of a layer before they are filled; or why it has none."""
    if isinstance(found, WeightError):
        return found
    factor = scale(layer, options)
    whole = found.scaled(factor)
    load = partial(_transformed, layer.matrices, options)
    try:
        shuffles = [shuffle.scaled(factor) for shuffle in _shuffles(layer, options)] if whole.eigenvalues.any() else []
        if options.pool:
            esds = tuple(shuffle.pooled for shuffle in shuffles)
            rank = int(whole.ranks.sum())
            cases = [_Case(layer, whole.pooled, rank, whole, layer.rf, esds, load, factor, options)]
        else:
            cases = []
            for index, esd in enumerate(whole.eigenvalues):
                esds = tuple(shuffle.eigenvalues[index] for shuffle in shuffles)
                rank = int(whole.ranks[index])
                one = partial(_one_of, load, index)
                cases.append(_Case(layer, esd, rank, whole.slice(index), 1, esds, one, factor, options))
        for case in cases:
            _ = case.fitted  # computed here, where windows that are refused cost this layer alone
    except WeightError as error:
        return error
    except MemoryError:
        return _no_memory(layer)
    return cases


def _no_memory(layer: WeightLayer) -> WeightError:
    return WeightError(f"not enough memory for a layer of shape {list(layer.shape)}")


def failed_row(about: Row, reason: str, options: Options) -> Row:
    """A row of a layer of which nothing could be computed."""
    row: Row = dict.fromkeys(columns(options), np.nan) | _UNKNOWN | about | {"reason": reason}
    if not options.pool:
        row["slice_id"] = 0
    return row


def scale(layer: WeightLayer, options: Options) -> float:
    """What conv2d_norm or glorot_fix multiplies eigenvalues by."""
    if options.glorot_fix:
        return glorot_factor(layer.N, layer.M, math.prod(_kernel(layer)) if layer.is_convolution else 1)
    if not layer.is_convolution or not options.conv2d_norm:
        return 1.0
    return 0.5 if options.pool else layer.rf / 2.0


def _kernel(layer: WeightLayer) -> tuple[int, ...]:
    """Lengths of a convolution's kernel; a stack's axis 0 counts groups."""
    return tuple(layer.shape[axis] for axis in layer.layout.stack if axis)


def _on_an_image(layer: WeightLayer, options: Options) -> bool:
    return options.conv2d_fft and layer.is_convolution and len(_kernel(layer)) <= 2


def _spectra(layers: Sequence[WeightLayer], options: Options) -> list[Spectrum | WeightError]:
    """The spectra that the options ask for, before any scaling."""
    decomposed = [layer for layer in layers if not options.approximates(layer.M)]
    exact = iter(_decomposed(decomposed, options))
    return [
        _approximated(layer, layer.matrices, options, 0, REPLICATES) if options.approximates(layer.M) else next(exact)
        for layer in layers
    ]


def _approximated(
    layer: WeightLayer, load: Load, options: Options, draw: int, replicates: int
) -> Spectrum | WeightError:
    """The spectrum of a layer that is larger than what is decomposed; `draw` tells it from its shuffles."""
    try:
        return approximate_spectrum(load, layer.eps, (options.seed, draw), replicates)
    except WeightError as error:
        return error


def _decomposed(layers: Sequence[WeightLayer], options: Options) -> list[Spectrum | WeightError]:
    """The spectra of layers that are computed in full.

    A tail that float32 would touch is computed again in float64.
    """
    found = _spectra_of([(layer, layer.matrices) for layer in layers], options)
    if options.svd_method != "fast":
        return found
    precise = replace(options, svd_method="accurate", device="cpu" if options.device == "mps" else options.device)

    def resolved(layer: WeightLayer, each: Spectrum) -> bool:
        return tail_resolved(each.scaled(scale(layer, options)), options.pool, options.ignore_largest)

    return [
        _spectra_of([(layer, layer.matrices)], precise)[0]
        if isinstance(each, Spectrum) and not resolved(layer, each)
        else each
        for layer, each in zip(layers, found, strict=True)
    ]


def _spectra_of(wanted: Sequence[tuple[WeightLayer, Load]], options: Options) -> list[Spectrum | WeightError]:
    plain = [(layer, load) for layer, load in wanted if not _on_an_image(layer, options)]
    loads = [partial(_transformed, load, options) for _, load in plain]
    solver = Solver(options.device, options.svd_method == "fast")
    together = iter(spectra(loads, [layer.eps for layer, _ in plain], solver))
    found: list[Spectrum | WeightError] = []
    for layer, load in wanted:
        if not _on_an_image(layer, options):
            found.append(next(together))
            continue
        try:
            found.append(convolution_spectrum(load, _kernel(layer), layer.eps, CONV2D_FFT_GRID))
        except WeightError as error:
            found.append(error)
    # The ESD of an overlap is that of its singular values.
    return [_rooted(each) if options.intra and isinstance(each, Spectrum) else each for each in found]


def _rooted(found: Spectrum) -> Spectrum:
    return Spectrum(np.sqrt(found.eigenvalues), found.ranks)


def _transformed(load: Load, options: Options) -> NDArray[Any]:
    return fft(load()) if options.fft else load()


def _one_of(load: Load, index: int) -> NDArray[Any]:
    return load()[index : index + 1]


def _shuffled(layer: WeightLayer, options: Options, replica: int) -> NDArray[Any]:
    return permuted(layer.matrices(), options.seed, layer.layer_id, replica)


def _shuffles(layer: WeightLayer, options: Options) -> list[Spectrum]:
    """Spectra of the layer with its weights permuted, none where that is not asked for."""
    count = options.replicas(layer.M) if options.randomize else 0
    together = max(1, SHARED_BYTES // (8 * layer.rf * layer.M * layer.M + 1))
    found: list[Spectrum] = []
    for start in range(0, count, together):
        replicas = range(start, min(count, start + together))
        loads = [partial(_shuffled, layer, options, replica) for replica in replicas]
        spectra_of_them = (
            [_approximated(layer, load, options, 1 + start + i, 0) for i, load in enumerate(loads)]
            if options.approximates(layer.M)
            else _spectra_of([(layer, load) for load in loads], options)
        )
        for each in spectra_of_them:
            if isinstance(each, WeightError):
                raise each
            found.append(each)
    return found


def _metrics(case: _Case, tail: Tail) -> Row:
    """Every number of one row, from its eigenvalues and the law of their tail."""
    esd, rank, options, fit = case.esd, case.rank, case.options, tail.fit
    own = norms(case.own, rank, options.tolerance)
    row: Row = {
        "sv_max": math.sqrt(case.own[-1]),
        "sv_min": math.sqrt(case.own[0]),
        "matrix_rank": rank,
        "rank_loss": own.rank_loss,
        "weak_rank_loss": own.weak_rank_loss,
        "has_esd": True,
    }
    about = case.spectrum.approximation
    if options.svd_method == "fast" or options.lanczos_above is not None:
        row["esd_error"] = case.spectrum.error
    if options.lanczos_above is not None:
        row |= {"approximate": about is not None, "alpha_error": 0.0}
    if about is not None:
        row |= dict.fromkeys(("sv_min", "matrix_rank", "rank_loss", "weak_rank_loss"), np.nan)
        row["num_lanczos"] = int(about.tails.sum())
    elif not case.spectrum.ranked:
        row |= dict.fromkeys(("sv_min", "matrix_rank", "rank_loss"), np.nan)
        row["weak_rank_loss"] = own.weak_rank_loss if case.spectrum.error < options.tolerance else np.nan
        case.notes.append("rank below float32's resolution")
    if esd is not case.own:
        zeros = case.own.size - rank
        case.notes.extend([f"{zeros} zero eigenvalues left out of the inverse"] * bool(zeros))
        own = norms(esd, rank, options.tolerance)
    row |= {
        "norm": own.norm,
        "log_norm": own.log_norm,
        "spectral_norm": own.spectral_norm,
        "log_spectral_norm": own.log_spectral_norm,
        "lambda_max": own.spectral_norm,
        "stable_rank": own.stable_rank,
        "entropy": own.entropy,
        "alpha_null": alpha_null(case.layer.N, case.layer.M, case.rf),
    }
    row |= tail_row(tail, esd, case.fitted, options, case.layer.layer_id, case.notes)
    if about is not None:
        row["alpha_error"] = _alpha_error(about, fit, options)
        case.notes.append("approximate" if fit.reason else f"approximate: alpha ± {row['alpha_error']:.2g}")
    alive = esd[-1] > 0.0
    if options.detX:
        row |= _trace_log(esd, fit) if alive else {}
    if options.mp_fit:
        row |= _bulk(case, esd, "") if alive else {}
    if options.randomize:
        row |= _randomized(case, row) if alive else {}
    vectors = measure_vectors(case.load, case.factor) if options.vectors and options.keep else None
    if options.vectors:
        found = vectors.metrics(fit.xmin) if vectors else vector_metrics(case.load, case.factor, fit.xmin)
        row |= found.columns
    if options.deltas:
        row |= spacing_metrics(esd, fit.xmin).columns
    if options.keep:
        row[KEPT] = Kept(esd, case.fitted, case.shuffles[0] if case.shuffles else None, vectors)
    return row | {"warning": ", ".join(case.notes)}


def _alpha_error(about: Approximation, fit: PowerLaw, options: Options) -> float:
    """How far alpha may be from that of the exact eigenvalues: as far as that of any spectrum that is as likely."""
    if fit.reason:
        return np.nan
    tails = fit_tails([np.sort(other, axis=None) for other in about.replicates], options)
    return float(np.fmax.reduce(np.abs(np.array([tail.fit.alpha for tail in tails]) - fit.alpha)))


def _trace_log(esd: Array, fit: PowerLaw) -> Row:
    cut = trace_log(esd)
    return {
        "detX_num": cut.num,
        "detX_val": cut.value,
        "num_ERG_spikes": cut.num,
        "ERG_gap": cut.num - fit.num_pl_spikes if not fit.reason else np.nan,
    }


def _bulk(case: _Case, esd: Array, prefix: str) -> Row:
    """The Marchenko-Pastur fit of an ESD; without one the row says so and keeps its other numbers."""
    try:
        fit = fit_marchenko_pastur(esd, case.layer.N, case.layer.M)
    except WeightError:
        note = "no Marchenko-Pastur fit"
        if note not in case.notes:
            case.notes.append(note)
        return {}
    return {prefix + column: getattr(fit, column) for column in BULK}


def _randomized(case: _Case, row: Row) -> Row:
    """The layer against its own shuffles; the first of them stands for the randomised layer, as in WeightWatcher."""
    shuffle = case.shuffles[0]
    test = shuffle_test(case.own, case.shuffles)
    found: Row = {
        "rand_ks": test.distance,
        "rand_p_value": test.p_value,
        "max_rand_eval": float(shuffle[-1]),
        "rand_distance": jensen_shannon_distance(case.own, shuffle),
        "ww_softrank": float(shuffle[-1] / case.own[-1]),
        "ww_maxdist": float(case.own[-1] - shuffle[-1]),
        **_bulk(case, shuffle, "rand_"),
    }
    found["num_traps"] = found.get("rand_num_spikes", np.nan)
    if test.p_value >= SIGNIFICANCE and row["status"] == "success":
        found["status"] = "random-like"
        found["reason"] = f"its ESD can't be told from that of its shuffled weights (p = {test.p_value:.2g})"
    return found

"""Smoothed and sharpened models: weights cut down to what their spectra call signal, in a new ONNX model."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import filters
from .analysis import folding_note, num_evals, why_not
from .errors import OptionError, WeightError
from .layer import Skipped, WeightLayer
from .options import MIN_EVALS, Options, choice, flag
from .spectral.esd import spectrum
from .spectral.low_rank import factor as factorise
from .spectral.low_rank import kept_per_matrix, truncate_stack
from .spectral.low_rank import sharpen as without_traps
from .spectral.marchenko_pastur import fit_marchenko_pastur
from .spectral.power_law import fit_power_law
from .spectral.randomize import permuted
from .spectral.trace_log import trace_log

if TYPE_CHECKING:
    import onnx
    import pandas as pd

    from .filters import LayerFilter
    from .graph.rewrite import Editor
    from .graph.source import ModelLike, Source

logger = logging.getLogger("wwonnx")

#: How many singular triplets a layer keeps.
METHODS = ("detX", "svd", "lambda_min", "rmt")
#: In any case, and WeightWatcher's own word for lambda_min.
_METHOD_NAMES = {name.lower(): name for name in METHODS} | {"alpha_min": "lambda_min"}
#: WeightWatcher's share of the singular values that method "svd" keeps.
PERCENT = 0.8

COLUMNS = (
    *("layer_id", "name", "layer_type", "method", "k", "of", "rank", "rf", "change", "status", "reason"),
    *("parameters", "parameters_after", "longname"),
)
#: Bytes of float64 that are compared at a time.
_CHUNK = 1 << 24
#: From this M on a layer gets all BLAS threads.
_LARGE = 2048


@dataclass(frozen=True)
class SmoothedLayer:
    """What became of one weight.

    Attributes:
        layer_id, name, layer_type, longname: as in `analyze`; no id for weights that are no layers.
        method: what chose k: detX, svd, lambda_min, rmt or sharpen.
        k: singular values that the method keeps in the whole layer (of all its matrices); of `sharpen`, those that it
            drops. NaN where it was not asked.
        of: singular values that the layer has, M * rf.
        rank: singular values that each matrix keeps, ceil(k / rf) and M at most.
        rf: number of matrices.
        change: |W - W'|_F / |W|_F, of the values as they are stored.
        status: `smoothed`, `factored` (smoothed, as two matrix products), `sharpened`, `unchanged`, `refused` (this
            kind of weight can't be replaced) or `failed` (its values can't be used).
        reason: why it is unchanged, refused or failed, or why it was not factored.
        parameters, parameters_after: number of weights.
    """

    layer_id: int | None
    name: str
    layer_type: str
    method: str
    k: float
    of: float
    rank: float
    rf: int
    change: float
    status: str
    reason: str
    parameters: int
    parameters_after: int
    longname: str

    @property
    def changed(self) -> bool:
        """Whether the new model holds another weight here."""
        return self.status in ("smoothed", "factored", "sharpened")


@dataclass(frozen=True)
class SmoothingResult:
    """A new model, and what was done to it.

    Attributes:
        model: the file that was written, or an onnx.ModelProto where none was asked for.
        layers: one entry per chosen layer, in graph order, then the weights that are no layers.
        note: what to know of the model as a whole; often empty.
    """

    model: onnx.ModelProto | Path
    layers: tuple[SmoothedLayer, ...]
    note: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """One row per entry of `layers`, columns COLUMNS."""
        import pandas as pd

        rows = [[getattr(layer, column) for column in COLUMNS] for layer in self.layers]
        types = {"layer_id": "Int64", "k": "Int64", "of": "Int64", "rank": "Int64"}
        frame: pd.DataFrame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)
        return frame


def smooth(
    model: ModelLike | Source,
    layers: LayerFilter = None,
    method: str = "detX",
    percent: float = PERCENT,
    factor: bool = False,
    output: str | os.PathLike[str] | None = None,
    min_evals: int = MIN_EVALS,
    max_evals: int | None = None,
) -> SmoothingResult:
    """Make a model whose weights keep their leading singular triplets alone. The given one stays as it is.

    Each matrix W = U S V^T becomes its best approximation of rank k (`spectral.low_rank.truncate`), with k by method:

    - "detX": detX_num, where the determinant of the leading eigenvalues falls below one (`spectral.trace_log`);
    - "lambda_min": num_pl_spikes, the eigenvalues in the fitted power law's tail (`spectral.power_law`);
    - "rmt": num_spikes, those beyond the bulk of the fitted Marchenko-Pastur law (`spectral.marchenko_pastur`);
    - "svd": the share `percent` of them.

    k counts the singular values of all of a layer's matrices: a convolution keeps ceil(k / rf) in each. Biases stay.

    A weight that other nodes read for something else, or that is the result of an expression, gets a new initializer;
    otherwise its own is replaced. Uses that share a weight share the new one.

    Args:
        model: a model as `WeightWatcher` takes it, or an opened Source.
        layers: which layers, as in `WeightWatcher.analyze`; None for all.
        method: one of METHODS.
        percent: share of the singular values that "svd" keeps, above 0 and at most 1, as in WeightWatcher; 1 changes
            nothing.
        factor: make two products of a MatMul's or Gemm's whose weight of rank k needs fewer numbers as two factors,
            k (in + out) < in out.
        output: the file to write. External data stays external, in one file `<output>.data`, written tensor by tensor.
            None for a model in memory.
        min_evals, max_evals: leave layers with fewer or more eigenvalues as they are.

    Returns:
        The new model and one entry per layer, those that were left as they are with the reason.

    Raises:
        OptionError: an option that can't be, or an output that would overwrite what the model is read from.
        ModelError: the model, or data that it needs, can't be read.
    """
    word = _METHOD_NAMES.get(method.lower(), method) if isinstance(method, str) else method
    chosen = choice("method", word, METHODS)
    share = _share(percent)
    options = Options.make(min_evals=min_evals, max_evals=max_evals)
    factored = flag("factor", factor)

    def change(layer: WeightLayer, editor: Editor) -> _Outcome:
        from .graph.factoring import why_not_factored

        k, reason = _count(layer, chosen, share)
        if reason:
            return _Outcome("unchanged", reason, k)
        rank = min(kept_per_matrix(k, layer.rf), layer.M)
        if rank == layer.M:
            return _Outcome("unchanged", "every singular value is kept", k, rank)
        if factored:
            outcome = _factored(layer, editor, k, rank)
            if outcome is not None:
                return outcome
        old = layer.matrices()
        new = truncate_stack(old, k)
        editor.replace(layer, new)
        reason = why_not_factored(editor, layer, rank) if factored else ""
        return _Outcome("smoothed", reason, k, rank, _relative(old, lambda index, rows: new[index][rows]))

    return _rewrite(model, layers, options, output, chosen, change)


def sharpen(
    model: ModelLike | Source,
    layers: LayerFilter = None,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    min_evals: int = MIN_EVALS,
    max_evals: int | None = None,
) -> SmoothingResult:
    """Make a model without correlation traps. The given one stays as it is.

    Each layer's entries are permuted, which leaves no order that could make a singular value stand out. Those that do
    all the same, beyond the bulk of the Marchenko-Pastur law that fits the permuted matrices (rand_num_spikes of
    `analyze`), come from single outsized entries, or from a mean far from zero. Their triplets are dropped, and the
    rest is brought back into its order (`spectral.low_rank.sharpen`).

    Args:
        model, layers, output, min_evals, max_evals: as in `smooth`.
        seed: for the permutations.

    Returns:
        The new model and one entry per layer.

    Raises:
        OptionError: an option that can't be, or an output that would overwrite what the model is read from.
        ModelError: the model, or data that it needs, can't be read.
    """
    options = Options.make(min_evals=min_evals, max_evals=max_evals, seed=seed)

    def change(layer: WeightLayer, editor: Editor) -> _Outcome:
        shuffled = spectrum(lambda: permuted(layer.matrices(), options.seed, layer.layer_id), layer.eps).pooled
        if shuffled[-1] == 0.0:
            return _Outcome("unchanged", "every weight is zero", 0)
        traps = fit_marchenko_pastur(shuffled, layer.N, layer.M).num_spikes
        if traps == 0:
            return _Outcome("unchanged", "no correlation traps", 0)
        old = layer.matrices()
        new = without_traps(old, traps, options.seed, layer.layer_id)
        editor.replace(layer, new)
        return _Outcome("sharpened", "", traps, change=_relative(old, lambda index, rows: new[index][rows]))

    return _rewrite(model, layers, options, output, "sharpen", change)


@dataclass(frozen=True)
class _Outcome:
    """What was done to a layer; the numbers are SmoothedLayer's."""

    status: str
    reason: str = ""
    k: float = math.nan
    rank: float = math.nan
    change: float = 0.0
    parameters: int | None = None


def _share(percent: Any) -> float:
    try:
        share = float(percent)
    except (TypeError, ValueError):
        share = math.nan
    if not 0.0 < share <= 1.0:
        hint = f"; for {percent} % give {share / 100:g}" if 1.0 < share <= 100.0 else ""
        raise OptionError(
            f"percent={percent!r}: give the share of the singular values to keep, above 0, at most 1{hint}"
        )
    return share


def _count(layer: WeightLayer, method: str, share: float) -> tuple[int, str]:
    """How many singular values of a layer a method keeps, or why it keeps none.

    Raises:
        WeightError: its eigenvalues can't be computed, or no law fitted.
    """
    of = layer.M * layer.rf
    if method == "svd":
        k = int(share * of + 1e-9)  # 0.29 * 100 is 28.999999999999996
        return k, "" if k else f"{share:g} of {of} singular values is none"
    whole = spectrum(layer.matrices, layer.eps)
    # The threshold of a power law depends on the scale, and analyze fits it at this one.
    esd = (whole.scaled(0.5) if layer.is_convolution else whole).pooled
    if esd[-1] == 0.0:
        return 0, "every weight is zero"
    if method == "detX":
        return trace_log(esd).num, ""
    if method == "lambda_min":
        fit = fit_power_law(esd)
        return fit.num_pl_spikes, f"no power law: {fit.reason}" if fit.reason else ""
    k = fit_marchenko_pastur(esd, layer.N, layer.M).num_spikes
    return k, "" if k else "no singular value stands out of the Marchenko-Pastur bulk: nothing would be left"


def _factored(layer: WeightLayer, editor: Editor, k: int, rank: int) -> _Outcome | None:
    """Make two products of a layer's, or nothing where that can't be or saves nothing."""
    from .graph.factoring import factor, why_not_factored

    if why_not_factored(editor, layer, rank):
        return None
    old = layer.matrices()
    B, A = factorise(old[0], rank)
    factor(editor, layer, B, A)
    right = A.astype(np.float64)
    change = _relative(old, lambda _, rows: B[rows].astype(np.float64) @ right)
    return _Outcome("factored", "", k, rank, change, B.size + A.size)


def _relative(old: NDArray[Any], new: Callable[[int, slice], NDArray[Any]]) -> float:
    """|W - W'|_F / |W|_F, some rows at a time."""
    changed = norm = 0.0
    for index, matrix in enumerate(old):
        step = max(1, _CHUNK // (8 * max(1, matrix.shape[1])))
        for start in range(0, len(matrix), step):
            rows = slice(start, start + step)
            before = matrix[rows].astype(np.float64)
            norm += float(np.square(before).sum())
            changed += float(np.square(before - new(index, rows)).sum())
    return math.sqrt(changed / norm) if norm else 0.0


def _rewrite(
    model: ModelLike | Source,
    wanted: LayerFilter,
    options: Options,
    output: str | os.PathLike[str] | None,
    method: str,
    change: Callable[[WeightLayer, Editor], _Outcome],
) -> SmoothingResult:
    """Open a model, change the chosen layers of a copy, and save that."""
    import scipy.linalg  # noqa: F401  # before its BLAS can be told how many threads to take
    from threadpoolctl import ThreadpoolController

    from .converters.dispatch import open_source
    from .graph import save
    from .graph.rewrite import Editor
    from .graph.source import copied
    from .graph.walk import walk

    source = open_source(model)
    target = None if output is None else save.checked_output(source, Path(output))
    copy = copied(source.model, source.label)
    save.check_fits(copy, in_memory=target is None)
    found = walk(copy)
    chosen = filters.select(found.layers, wanted)
    rows: list[SmoothedLayer] = []
    threads = ThreadpoolController()
    try:
        with save.DataFile(target) as data:
            editor = Editor(copy, found, data)
            for layer in chosen:
                # As for analyze: a second thread costs small layers more than it gives, and moves their last bits.
                with threads.limit(limits=1 if layer.M < _LARGE else None, user_api="blas"):
                    rows.append(_attempt(layer, editor, options, method, change))
                logger.info("%s: %s, rank %s of %d", layer.name, rows[-1].status, rows[-1].rank, layer.M)
            editor.finish()
            new = save.to_proto(copy) if target is None else save.save_model(copy, target, data)
    except OSError as error:
        raise OptionError(f"output={str(target)!r}: can't be written ({error.strerror or error})") from None
    if wanted is None:
        rows += [_no_layer(skip, method) for skip in found.skipped]
    done = {row.layer_id for row in rows if row.changed}
    folded = sum(layer.folded for layer in chosen if layer.layer_id in done)
    return SmoothingResult(new, tuple(rows), folding_note(folded, len(done)))


def _no_layer(skip: Skipped, method: str) -> SmoothedLayer:
    """The entry of a weight that is no layer."""
    return SmoothedLayer(
        layer_id=None,
        name=skip.name,
        layer_type="",
        method=method,
        k=math.nan,
        of=math.nan,
        rank=math.nan,
        rf=0,
        change=0.0,
        status="refused",
        reason=f"no layer: {skip.reason}",
        parameters=math.prod(skip.shape),
        parameters_after=math.prod(skip.shape),
        longname=skip.longname,
    )


def _attempt(
    layer: WeightLayer,
    editor: Editor,
    options: Options,
    method: str,
    change: Callable[[WeightLayer, Editor], _Outcome],
) -> SmoothedLayer:
    """Change one layer, or say why not."""
    try:
        if reason := why_not(layer, options):
            outcome = _Outcome("unchanged", reason)
        elif reason := editor.refusal(layer):
            outcome = _Outcome("refused", reason)
        else:
            outcome = change(layer, editor)
    except WeightError as error:
        outcome = _Outcome("failed", str(error))
    except MemoryError:
        outcome = _Outcome("failed", f"not enough memory for a layer of shape {list(layer.shape)}")
    return SmoothedLayer(
        layer_id=layer.layer_id,
        name=layer.name,
        layer_type=layer.layer_type.label,
        method=method,
        k=outcome.k,
        of=num_evals(layer, options),
        rank=outcome.rank,
        rf=layer.rf,
        change=outcome.change,
        status=outcome.status,
        reason=outcome.reason,
        parameters=layer.parameters,
        parameters_after=layer.parameters if outcome.parameters is None else outcome.parameters,
        longname=layer.longname,
    )

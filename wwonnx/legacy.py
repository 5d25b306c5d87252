"""The interface of WeightWatcher 0.1 and 0.2 over the same engine.

    >>> import wwonnx.legacy as ww
    >>> watcher = ww.WeightWatcher(model="model.onnx")
    >>> results = watcher.analyze(compute_alphas=True)
    >>> watcher.get_summary()["alpha_weighted"]

Notebooks written for those versions run when this import and the line that makes the model are changed. Nothing is
pooled: each matrix of a layer, one per kernel position of a convolution, is a slice with numbers of its own, and
matrices are not scaled. Layers have the ids that `wwonnx describe` lists.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from .layer import LAYER_TYPE, WeightLayer
from .options import Options, flag, whole
from .version import __version__
from .watcher import WeightWatcher as _Engine

if TYPE_CHECKING:
    import pandas as pd

    from .graph.source import ModelLike

__all__ = ["LAYER_TYPE", "WeightWatcher", "__version__"]

#: What stands under the id of a layer: its slices by number, and what is said of the layer itself by name.
LayerResult: TypeAlias = "dict[int | str, Any]"
Results: TypeAlias = "dict[int, LayerResult]"
LegacyFilter: TypeAlias = "int | LAYER_TYPE | Iterable[int | LAYER_TYPE]"

_NOT_REQUESTED_ID = "Skipping (Layer id not requested to analyze)"
_NOT_REQUESTED_TYPE = "Skipping (Layer type not requested to analyze)"
_NOT_SUPPORTED = "Skipping (Layer not supported)"
_EMPTY = "Skipping (No weights to analyze)"

#: What is averaged, and what `print_results` calls it.
METRICS = {
    "norm": "Norm",
    "lognorm": "LogNorm",
    "alpha": "Alpha",
    "alpha_weighted": "Alpha Weighted",
    "spectralnorm": "Spectral Norm",
    "logspectralnorm": "Log Spectral Norm",
    "softrank": "Softrank",
    "softranklog": "Softrank Log",
    "softranklogratio": "Softrank Log Ratio",
    "sigma_mp": "Marchenko-Pastur Sigma",
    "numofSpikes": "Marchenko-Pastur Spikes",
    "ratio_numofSpikes": "Marchenko-Pastur Spikes Ratio",
    "softrank_mp": "Marchenko-Pastur Softrank",
}


@dataclass(frozen=True)
class _Wanted:
    """Which numbers a slice gets.

    Attributes:
        alphas, lognorms, spectralnorms, softranks, mp_fit: groups of them.
        normalize: whether eigenvalues are divided by N.
    """

    alphas: bool
    lognorms: bool
    spectralnorms: bool
    softranks: bool
    mp_fit: bool
    normalize: bool


class WeightWatcher:
    """Analyses the weight matrices of a model, as versions 0.1 and 0.2 of WeightWatcher did.

    Example:
        >>> import wwonnx.legacy as ww
        >>> watcher = ww.WeightWatcher(model="examples/digits_cnn.onnx", log=False)
        >>> results = watcher.analyze(min_size=10)
        >>> sorted(watcher.get_summary())
        ['lognorm', 'lognorm_compound', 'norm', 'norm_compound']
    """

    def __init__(self, model: ModelLike | None = None, log: bool = True, logger: logging.Logger | None = None) -> None:
        """Open a model.

        Args:
            model: a path, the bytes of a file, an onnx.ModelProto or an onnx_ir.Model.
            log: False for silence.
            logger: where messages go; None for the logger `wwonnx.legacy`. No level and no handler is changed: what of
                it appears is for your own logging configuration to say.

        Raises:
            ModelError: the model can't be opened.
        """
        if flag("log", log):
            self.logger = logging.getLogger("wwonnx.legacy") if logger is None else logger
        else:
            self.logger = logging.Logger("wwonnx.legacy.silent")
            self.logger.disabled = True
        self._engine = _Engine(model)
        self._engine.logger = self.logger
        self.results: Results = {}
        self.logger.info(banner())

    def analyze(
        self,
        model: ModelLike | None = None,
        layers: LegacyFilter = (),
        min_size: int = 50,
        max_size: int = 0,
        compute_alphas: bool = False,
        compute_lognorms: bool = True,
        normalize: bool = False,
        compute_spectralnorms: bool = False,
        compute_softranks: bool = False,
        plot: bool = False,
        glorot_fix: bool = False,
        mp_fit: bool = False,
        *,
        alphas: bool = False,
        lognorms: bool = True,
        spectralnorms: bool = False,
        softranks: bool = False,
        savefig: bool | str | os.PathLike[str] = True,
    ) -> Results:
        """Compute the numbers of each matrix, and log their averages.

        Args:
            model: analyse this one from now on.
            layers: ids or LAYER_TYPEs, one or a list of them; empty for all. Both together: those ids, of those types.
            min_size: matrices whose smaller dimension M is below it are skipped.
            max_size: those whose M is above it are skipped; 0 for no limit.
            compute_alphas, alphas: the power law: alpha, alpha_weighted, D, lambda_min, lambda_max, rank_loss.
            compute_lognorms, lognorms: norm (Frobenius norm of W) and lognorm (log10 of it).
            normalize: divide eigenvalues by N. Norms stay as they are.
            compute_spectralnorms, spectralnorms: spectralnorm (the largest eigenvalue) and logspectralnorm.
            compute_softranks, softranks: softrank (norm² / the largest eigenvalue), its log10, and lognorm over log10
                of the largest singular value.
            plot: draw each matrix: its ESD with the fit on three kinds of axes, D and alpha against xmin. A notebook
                shows the pictures.
            glorot_fix: scale every matrix by the inverse of its Glorot initialisation.
            mp_fit: the Marchenko-Pastur fit: sigma_mp, numofSpikes, ratio_numofSpikes, softrank_mp.
            savefig: the folder for the PNG files of the plots; True for "ww-img", False to save none.

        Returns:
            {layer id: {slice: {"N", "M", "Q", "summary", ...}, "layer_type": ...}}. A layer that was not asked for has
            a "message" in place of slices. Of a matrix that is too small or too big, and of a number that can't be had,
            "summary" says why, and there is no other trace. Weights that are no layers come last.

        Raises:
            OptionError: an option that can't be.
            ModelError: the model can't be opened.
        """
        whole("min_size", min_size, minimum=0)
        whole("max_size", max_size, minimum=0)
        softly = flag("compute_softranks", compute_softranks) or flag("softranks", softranks)
        wanted = _Wanted(
            alphas=flag("compute_alphas", compute_alphas) or flag("alphas", alphas),
            lognorms=(flag("compute_lognorms", compute_lognorms) and flag("lognorms", lognorms)) or softly,
            spectralnorms=flag("compute_spectralnorms", compute_spectralnorms) or flag("spectralnorms", spectralnorms),
            softranks=softly,
            mp_fit=flag("mp_fit", mp_fit),
            normalize=flag("normalize", normalize),
        )
        self._engine._open(model)
        walk = self._engine._walked(Options())
        ids, types = _criteria(layers)
        self._warn_of_unknown(ids, len(walk.layers))
        self.logger.info("Analyzing model %r with %d layers", self._engine._opened().label, len(walk.layers))
        chosen = [layer for layer in walk.layers if not _message(layer, ids, types)]
        fitting = {layer.layer_id for layer in chosen if layer.rf and not _misfit(layer, min_size, max_size)}
        rows = self._rows(sorted(fitting), wanted, glorot_fix=glorot_fix, plot=plot, savefig=savefig)
        results: Results = {}
        for layer in walk.layers:
            message = _message(layer, ids, types)
            if message:
                about: LayerResult = {"id": layer.layer_id, "type": layer.uses[0].op_type}
                typed: LayerResult = {"layer_type": layer.layer_type}
                result = (about if message == _NOT_REQUESTED_ID else typed) | {"message": message}
            else:
                misfit = _misfit(layer, min_size, max_size)
                slices = [_slice(layer, index, misfit, rows, wanted) for index in range(layer.rf)]
                result = {"layer_type": layer.layer_type, **dict(enumerate(slices))}
                if not slices:
                    result["message"] = _EMPTY
            results[layer.layer_id] = result
            self._log_layer(layer, result)
        for layer_id, skip in enumerate(walk.skipped, start=len(walk.layers) + 1):
            message = _NOT_REQUESTED_ID if ids and layer_id not in ids else _NOT_SUPPORTED
            results[layer_id] = {"id": layer_id, "type": skip.op_type, "message": message}
            self.logger.debug("Layer %d: %s: %s: %s", layer_id, skip.longname, message, skip.reason)
        self.results = results
        self.print_results()
        return results

    @overload
    def get_summary(self, pandas: Literal[False] = False) -> dict[str, float]: ...

    @overload
    def get_summary(self, pandas: Literal[True]) -> pd.DataFrame: ...

    def get_summary(self, pandas: bool = False) -> dict[str, float] | pd.DataFrame:
        """Means of what the last `analyze` computed.

        Args:
            pandas: as a data frame of one row instead.

        Returns:
            Each metric's mean over all matrices under its name, and the mean over layers of each layer's own mean under
            its name and `_compound`: norm, norm_compound, lognorm, ... Metrics that no matrix has are not in it.
        """
        summary = summarize(self.results)
        if not pandas:
            return summary
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([summary])
        return frame

    def get_details(self, results: Results | None = None) -> pd.DataFrame:
        """What `analyze` returned as a table: one row per matrix.

        Args:
            results: of any analysis; None for the last one.

        Returns:
            Index layer_id; columns layer_type, slice, slice_count, N, M, Q, the metrics, and summary, which says why a
            matrix has none.
        """
        import pandas as pd

        rows = [
            {"layer_id": layer_id, "layer_type": result["layer_type"].name, "slice": index, "slice_count": len(slices)}
            | slices[index]
            for layer_id, result in (self.results if results is None else results).items()
            for slices in [_slices(result)]
            for index in slices
        ]
        header = ["layer_id", "layer_type", "slice", "slice_count", "N", "M", "Q"]
        there = dict.fromkeys(key for row in rows for key in row if key not in {*header, "summary"})
        details: pd.DataFrame = pd.DataFrame(rows, columns=[*header, *there, "summary"]).set_index("layer_id")
        return details

    def print_results(self, results: Results | None = None) -> None:
        """Log the minimum, maximum and mean of each metric, over matrices and over layers.

        Args:
            results: of any analysis; None for the last one.
        """
        results = self.results if results is None else results
        if not results:
            self.logger.warning("No results to print: call analyze() first")
            return
        self.logger.info("### Printing results ###")
        for metric, heading in METRICS.items():
            for values, kind in zip(_values(results, metric), ("", " compound"), strict=True):
                if values:
                    low, high, mean = min(values), max(values), statistics.fmean(values)
                    self.logger.info("%s%s: min: %s, max: %s, avg: %s", heading, kind, low, high, mean)

    def __repr__(self) -> str:
        return f"{header()}\nAnalysis done: {bool(self.results)}"

    def _rows(self, ids: list[int], wanted: _Wanted, **options: Any) -> dict[tuple[int, int], dict[Any, Any]]:
        """The engine's rows, by layer id and slice; of a layer that failed as a whole, its one row."""
        if not ids:
            return {}
        details = self._engine.analyze(
            layers=ids, min_evals=0, pool=False, conv2d_norm=False, mp_fit=wanted.mp_fit, **options
        )
        left_out = self._engine.get_skipped().dropna(subset="layer_id")
        rows = {(row["layer_id"], row["slice_id"]): row for row in details.to_dict("records")}
        return rows | {(row["layer_id"], 0): row | {"status": "failed"} for row in left_out.to_dict("records")}

    def _warn_of_unknown(self, ids: set[int], known: int) -> None:
        unknown = sorted(layer_id for layer_id in ids if not 1 <= layer_id <= known)
        if unknown:
            there = f"ids go from 1 to {known}" if known else "the model has no layers"
            self.logger.warning("layers=%s: no layer has such an id; %s; 'wwonnx describe' lists them", unknown, there)

    def _log_layer(self, layer: WeightLayer, result: LayerResult) -> None:
        lines = [result["message"]] if "message" in result else []
        for each in _slices(result).values():
            lines += each["summary"].splitlines()
        for line in lines:
            self.logger.debug("Layer %d: %s: %s", layer.layer_id, layer.name, line)


def header() -> str:
    """Name and version of the tool, and what it is for."""
    return f"wwonnx v{__version__}, the interface of WeightWatcher 0.1 and 0.2\nJudge networks from their weights alone"


def banner() -> str:
    """What is logged when a watcher is made: the header and the versions of what computes."""
    from importlib.metadata import version

    lines = [header(), f"python      version {platform.python_version()}"]
    lines += [f"{package:11} version {version(package)}" for package in ("numpy", "scipy", "onnx", "onnx-ir")]
    return "\n" + "\n".join(lines)


def summarize(results: Mapping[int, LayerResult]) -> dict[str, float]:
    """The summary of an analysis.

    Args:
        results: what `WeightWatcher.analyze` returned.

    Returns:
        For each metric that a slice has: the mean over all slices, and under `METRIC_compound` the mean over layers of
        the mean over each layer's slices.
    """
    summary: dict[str, float] = {}
    for metric in METRICS:
        for values, kind in zip(_values(results, metric), ("", "_compound"), strict=True):
            if values:
                summary[metric + kind] = statistics.fmean(values)
    return summary


def _values(results: Mapping[int, LayerResult], metric: str) -> tuple[list[float], list[float]]:
    """A metric's values over all slices, and its mean over the slices of each layer."""
    layers = [[each[metric] for each in _slices(result).values() if metric in each] for result in results.values()]
    return [value for layer in layers for value in layer], [statistics.fmean(layer) for layer in layers if layer]


def _slices(result: LayerResult) -> dict[int, dict[str, Any]]:
    return {key: value for key, value in result.items() if isinstance(key, int)}


def _criteria(layers: Any) -> tuple[set[int], list[LAYER_TYPE]]:
    """The ids and the types that a filter names."""
    several = isinstance(layers, Iterable) and not isinstance(layers, (str, LAYER_TYPE))
    items = list(layers) if several else [layers]
    types = [item for item in items if isinstance(item, LAYER_TYPE)]
    ids = {whole("layers", item, minimum=0) for item in items if not isinstance(item, LAYER_TYPE)}
    return ids, types


def _message(layer: WeightLayer, ids: set[int], types: list[LAYER_TYPE]) -> str:
    """Why a filter leaves a layer out; empty where it doesn't."""
    if ids and layer.layer_id not in ids:
        return _NOT_REQUESTED_ID
    if types and not any(layer.layer_types & kind for kind in types):
        return _NOT_REQUESTED_TYPE
    return ""


def _misfit(layer: WeightLayer, min_size: int, max_size: int) -> str:
    """Why the matrices of a layer are skipped for their size; empty where they aren't."""
    if min_size > layer.M:
        return f"Skipping: too small (<{min_size})"
    if 0 < max_size < layer.M:
        return f"Skipping: too big (testing) (>{max_size})"
    return ""


def _slice(
    layer: WeightLayer, index: int, misfit: str, rows: Mapping[tuple[int, int], dict[Any, Any]], wanted: _Wanted
) -> dict[str, Any]:
    """The numbers of one matrix of a layer."""
    N, M = layer.N, layer.M
    title = f"Weight matrix {index + 1}/{layer.rf} ({M},{N})"
    about: dict[str, Any] = {"N": N, "M": M, "Q": N / M if M else math.nan}
    if misfit:
        return about | {"summary": f"{title}: {misfit}"}
    row = rows.get((layer.layer_id, index), rows.get((layer.layer_id, 0), {}))
    if not math.isfinite(row.get("norm", math.nan)):
        return about | {"summary": f"{title}: Skipping: {row['reason']}"}
    numbers = _numbers(row, N, M, wanted)
    lines = []
    if wanted.alphas:
        fitted = [
            f"{METRICS.get(name, name)}: {numbers[name]}"
            for name in ("alpha", "alpha_weighted", "D")
            if name in numbers
        ]
        lines.append(f"{title}: {', '.join(fitted) or 'Alpha: ' + row['reason']}")
    if wanted.lognorms:
        lines.append(f"{title}: Lognorm: {numbers.get('lognorm', 'every weight is zero')}")
    return about | numbers | {"summary": "\n".join(lines)}


def _numbers(row: Mapping[Any, Any], N: int, M: int, wanted: _Wanted) -> dict[str, float]:
    """The numbers that were asked for, by their old names. One that could not be computed is not there."""
    evals = 1.0 / N if wanted.normalize else 1.0
    largest, alpha = row["lambda_max"] * evals, row["alpha"]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_largest = np.log10(largest)
        numbers: dict[str, Any] = {}
        if wanted.alphas:
            numbers |= {"alpha": alpha, "alpha_weighted": alpha * log_largest, "D": row["D"]}
            numbers |= {"lambda_min": row["sv_min"] ** 2 * evals, "lambda_max": largest, "rank_loss": row["rank_loss"]}
        if wanted.spectralnorms:
            numbers |= {"spectralnorm": largest, "logspectralnorm": log_largest}
        if wanted.lognorms:
            # The engine's norm is the sum of the eigenvalues: the square of the Frobenius norm.
            numbers |= {"norm": math.sqrt(row["norm"]), "lognorm": row["log_norm"] / 2.0}
        if wanted.softranks:
            ratio = np.float64(row["log_norm"]) / np.log10(row["lambda_max"])
            numbers |= {"softrank": row["stable_rank"], "softranklog": np.log10(row["stable_rank"])}
            numbers |= {"softranklogratio": ratio}
        if wanted.mp_fit:
            spikes = row["num_spikes"]
            numbers |= {"sigma_mp": row["sigma_mp"], "numofSpikes": spikes, "ratio_numofSpikes": spikes / M}
            numbers |= {"softrank_mp": row["mp_softrank"]}
    return {name: float(value) for name, value in numbers.items() if np.isfinite(value)}

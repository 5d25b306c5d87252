"""WeightWatcher: the object that users of the original tool know, over any ONNX model. It holds no mathematics."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import analysis, columns, execute, filters
from .errors import OptionError, WwonnxError
from .execute.memory import MemoryOption
from .execute.progress import ProgressOption, reporter
from .options import MIN_EVALS, TOLERANCE, Options, flag, nearest
from .spectral.esd import spectrum
from .spectral.randomize import permuted

if TYPE_CHECKING:
    import pandas as pd

    from .filters import LayerFilter
    from .graph.operators import Splits
    from .graph.source import ModelLike, Source
    from .graph.walk import Walk
    from .layer import WeightLayer
    from .report.figures import LayerFigure
    from .smoothing import SmoothingResult

logger = logging.getLogger("wwonnx")

#: Arguments of `analyze` that go to `Options.make` as they are.
_OPTIONS = (*(field.name for field in fields(Options) if field.name not in ("base", "keep")), "ww2x", "ERG", "channels")

#: Metrics that a summary averages, where the details have them.
SUMMARY = ("log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm", "stable_rank", "mp_softrank")


class WeightWatcher:
    """Analyses the weight matrices of a model: spectra, power laws, scale and shape metrics.

    The names, defaults and numbers are WeightWatcher's wherever those are right; the documentation lists the
    differences.

    Example:
        >>> import wwonnx as ww
        >>> watcher = ww.WeightWatcher(model="examples/digits_cnn.onnx")
        >>> details = watcher.analyze()
        >>> summary = watcher.get_summary(details)
    """

    def __init__(self, model: ModelLike | None = None, log_level: int | str | None = None) -> None:
        """Open a model.

        Args:
            model: a path, the bytes of an ONNX file, an onnx.ModelProto or an onnx_ir.Model; or what
                `wwonnx.converters.to_onnx` takes, which is converted in memory: a torch module, a Keras model, a
                checkpoint, a Hugging Face model folder, a LoRA adapter. Each method takes one as well.
            log_level: level for the logger `wwonnx`; None leaves it alone.

        Raises:
            ModelError: the model can't be opened.
            ConversionError: it can't be converted faithfully, or a package for that is missing.
        """
        if log_level is not None:
            try:
                logger.setLevel(log_level)
            except (ValueError, TypeError):
                raise OptionError(f"log_level={log_level!r}: give a level of logging, such as 'INFO'") from None
        #: Where this object's messages go; put a logger of your own here to have them apart.
        self.logger = logger
        self._source: Source | None = None
        self._walk: tuple[Splits, Walk] | None = None
        self._options = Options()
        self._details: pd.DataFrame | None = None
        self._note = ""
        self._skipped: list[analysis.Row] | None = None
        self._analyzed: tuple[Options, list[WeightLayer]] | None = None
        self._drawn: tuple[WeightLayer, Options, list[analysis.Row]] | None = None
        if model is not None:
            self._open(model)

    def analyze(
        self,
        model: ModelLike | None = None,
        layers: LayerFilter = None,
        min_evals: int = MIN_EVALS,
        max_evals: int | None = None,
        pool: bool = True,
        ww2x: bool = False,
        conv2d_norm: bool = True,
        glorot_fix: bool = False,
        detX: bool = False,
        ERG: bool = False,
        mp_fit: bool = False,
        randomize: bool = False,
        rand_replicas: int | None = None,
        vectors: bool = False,
        deltas: bool = False,
        fft: bool = False,
        conv2d_fft: bool = False,
        intra: bool | str = False,
        sparsify: bool = False,
        stacked: bool = False,
        base_model: ModelLike | None = None,
        peft: bool | str = False,
        fit: str = "PL",
        estimator: str = "mle",
        xmin_pos: int = 2,
        subsample: str | None = None,
        fix_fingers: str | None = None,
        max_fingers: int = 10,
        finger_thresh: float = 1.0,
        ci: bool = False,
        gof: bool = False,
        alternatives: bool = False,
        xmax: int | None = None,
        inverse: bool = False,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        split_gates: bool = False,
        split_qkv: bool = False,
        groups: str = "stack",
        channels: None = None,
        plot: bool = False,
        savefig: bool | str | os.PathLike[str] = True,
        device: str = "cpu",
        svd_method: str = "accurate",
        progress: ProgressOption = False,
        jobs: int | None = None,
        memory: MemoryOption = None,
        executor: Any = None,
        store: str | os.PathLike[str] | None = None,
    ) -> pd.DataFrame:
        """Compute the metrics of each layer.

        Args:
            model: analyse this one from now on.
            layers: which layers: ids, names (patterns with * and ? too) or LAYER_TYPEs, one or a list of them.
                Negative ids and names with a leading "-" are left out. None for all.
            min_evals: leave out layers with fewer eigenvalues.
            max_evals: leave out layers with more.
            pool: one row per convolution, the spectra of its kernel positions pooled; False for one row each.
            ww2x: the older name of pool=False.
            conv2d_norm: scale the matrices of convolutions by sqrt(1/2), or by sqrt(rf/2) where they are not pooled.
            glorot_fix: scale every matrix by the inverse of its Glorot initialisation instead of conv2d_norm.
            detX: add the trace-log condition: detX_num, detX_val, num_ERG_spikes, ERG_gap.
            ERG: another name of detX.
            mp_fit: add the Marchenko-Pastur fit of the bulk: sigma_mp, mp_softrank, num_spikes, bulk_min, bulk_max.
            randomize: hold each layer against its own weights in random order: rand_ks and rand_p_value tell whether it
                differs at all (status `random-like` where not), num_traps counts correlation traps. Costs as many
                eigenvalue computations more as there are replicas.
            rand_replicas: how many shuffles; None for 20, 10 from M = 512 on, 5 from 2048 on.
            vectors: how localised the eigenvectors of tail and bulk are. Costs the eigenvectors.
            deltas: mean and variance of the log10 level spacings of tail and bulk.
            fft: analyse the real part of each matrix's two-dimensional discrete Fourier transform.
            conv2d_fft: the exact singular values of 1-D and 2-D convolutions on a periodic image of 32 points a side.
            intra: the overlaps of neighbouring layers, by WeightWatcher's rule (True) or as the network composes them
                ("flow").
            sparsify: with intra, a random half of the units between two layers is silenced.
            stacked: all layers as one matrix.
            base_model: analyse W - W_base, layers matched by name and shape. With peft="with_base", the model whose
                weights the updates are added to.
            peft: the low-rank updates B A of LoRA factors; "with_base" adds the weight that they update. An adapter's
                layers are its updates in any case.
            fit: "PL", a power law; "TPL", one with an exponential cut-off (column Lambda); "E_TPL", that with xmin near
                the peak of the ESD.
            estimator: "mle" searches xmin; "hill" takes the upper n // xmin_pos eigenvalues, as TempBalance does.
            xmin_pos: for estimator="hill".
            subsample: "farms" fits the pooled spectra of square windows, against the bias of the aspect ratio.
            fix_fingers: "xmin_peak" searches xmin near the peak; "clip_xmax" drops the largest eigenvalues until alpha
                falls by more than finger_thresh: num_fingers, raw_alpha.
            max_fingers, finger_thresh: for "clip_xmax".
            ci: alpha_corrected and its 95 % bootstrap interval, alpha_low to alpha_high. 0.1 to 0.4 s a layer.
            gof: gof_p_value, how probable so bad a fit is if the law holds. 0.1 to 0.4 s a layer.
            alternatives: log likelihood ratios R (above 0 for the power law) and p against other laws.
            xmax: -k leaves the k largest eigenvalues out of the power law fit.
            inverse: analyse the ESD of 1 / eigenvalue.
            tolerance: eigenvalues below it count into weak_rank_loss.
            seed: for everything random.
            split_gates: one layer per gate of LSTM, GRU and RNN weights.
            split_qkv: packed query, key and value projections as three layers.
            groups: "stack" reads a grouped convolution as WeightWatcher does, one (out x in/groups) matrix per kernel
                position; "split" gives each group its own, whose spectra together are the map's true one.
            channels: only for WeightWatcher's sake: an ONNX operator says which axis is which.
            plot: draw each layer: its ESD on three kinds of axes, D and alpha against xmin, and what the options detX,
                mp_fit, randomize, deltas and vectors add. In a notebook the pictures are shown.
            savefig: the folder for their PNG files, `ww.layer3.esd.png` and so on; True for "ww-img", False for none.
            device: what computes eigenvalues: "cpu", numpy; "torch", PyTorch on the CPU; "cuda" or "mps", PyTorch on an
                accelerator. All but "cpu" need the extra [torch].
            svd_method: "accurate", in float64; "fast", layers of M = 256 and more in float32, those whose tail that
                would touch in float64 again. Adds esd_error, a bound of the error of every eigenvalue.
            progress: True for a bar on stderr, or a function that takes each execute.progress.Progress.
            jobs: at most so many layers at once; None for as many as there are cores. It changes no bit of any number.
            memory: what this process may hold in all, model and imports included, in bytes or as "8GB" (10^9 bytes) or
                "8GiB" (2^30). A layer that needs more has status `failed` and says so. None for 60 % of what is free
                for layers side by side, and all of it for one.
            executor: where the work is done: a concurrent.futures.Executor, a dask.distributed.Client, or
                "dask://host:port". Workers open the model themselves where they find it at its path, else they are
                sent the layer's values. None for this process.
            store: a file in which each layer's results are kept as soon as they are there. What it holds already, by
                the weights' content, the options that matter and wwonnx's version, is not computed again.

        Returns:
            One row per layer (or slice), in graph order; a layer that could not be analysed has status `failed` and a
            reason. Layers that these options leave out are in `get_skipped()`.

        Raises:
            OptionError: an option that can't be.
            ModelError: the model can't be opened.
        """
        given = locals()
        options = {name: given[name] for name in _OPTIONS}
        see = self._drawing(Options.make(**options), savefig) if flag("plot", plot) else None
        resources = execute.Resources.make(jobs, memory, executor, store)
        return self._analyze(see, model, layers, base_model, progress, options, resources)

    def analyze_each(
        self,
        see: Callable[[analysis.Row], None],
        model: ModelLike | None = None,
        layers: LayerFilter = None,
        base_model: ModelLike | None = None,
        progress: ProgressOption = False,
        **options: Any,
    ) -> pd.DataFrame:
        """`analyze`, and give each row to a function, together with the spectra behind it, as soon as it is finished.

        Spectra are freed after that: what is not kept by the function costs no memory.

        Args:
            see: called in this thread, in the order in which layers are finished. The row holds under `analysis.KEPT`
                an `analysis.Kept`, where the layer could be analysed.
            model, layers, base_model, progress: as in `analyze`.
            options: its others but plot and savefig.

        Returns:
            As `analyze`.

        Raises:
            OptionError: an option that can't be.
            ModelError: the model can't be opened.
        """
        resources = execute.Resources.make(*(options.pop(name, None) for name in execute.RESOURCES))
        for name in options:
            if name not in _OPTIONS:
                raise OptionError(f"{name}: there is no such option; {nearest(name, list(_OPTIONS))}")
        return self._analyze(see, model, layers, base_model, progress, options, resources)

    def _analyze(
        self,
        see: Callable[[analysis.Row], None] | None,
        model: ModelLike | None,
        layers: LayerFilter,
        base_model: ModelLike | None,
        progress: ProgressOption,
        given: dict[str, Any],
        resources: execute.Resources,
    ) -> pd.DataFrame:
        from .report.frames import Details

        options = Options.make(base=base_model is not None, keep=see is not None, **given)
        analysis.check_device(options)
        chosen = self._select(model, layers, options, base_model, portable=resources.executor is not None)
        self._analyzed = options, chosen
        self.logger.info("analysing %d layers of %s", len(chosen), self._opened().label)

        def looked_at(rows: list[analysis.Row]) -> None:
            for row in rows:
                if see is not None:
                    see(row)
                row.pop(analysis.KEPT, None)

        with reporter(progress) as report:
            outcome = execute.run(chosen, options, resources, self._opened().label, report, looked_at)
        rows = outcome.rows
        flat = [row for some in rows for row in some]
        details: pd.DataFrame = Details(
            {column: [row.get(column, np.nan) for row in flat] for column in columns.columns(options)}
        )
        self._details = details
        folding = analysis.folding_note(sum(layer.folded for layer in chosen), len(chosen))
        own = " ".join(filter(None, (self._opened().note, folding)))
        self._note = " ".join(filter(None, (own, *outcome.notes)))
        if own:
            self.logger.warning(own)
        return details

    def plot(
        self,
        layer: int | str | None = None,
        kind: str = "esd",
        slice_id: int | None = None,
        model: ModelLike | None = None,
    ) -> LayerFigure:
        """Draw one layer, as the last `analyze` analysed it: its options hold, and those that the picture needs.

        Args:
            layer: its id or name.
            kind: which picture, one of `wwonnx.report.plots.KINDS`: "esd", "linear", "log", "D", "alpha", "detX", "mp",
                "mp_square", "randomized", "randomized_log", "mp_shuffled", "spacings", "level_stats", "vectors",
                "vector_histograms"; or the name of its files, such as "esd4".
            slice_id: which kernel position, where the analysis had pool=False.
            model: take the layer from this model from now on.

        Returns:
            A matplotlib Figure that is not among pyplot's. Notebooks show it; `figure.savefig("layer.png")` keeps it.

        Raises:
            OptionError: there is no such layer, slice or kind, or the layer has no such picture.
        """
        from .report import plots

        plots.require()
        needed = plots.KINDS[plots.kind_of(kind)].option
        self._open(model)
        if self._analyzed is None:
            options = Options()
            self._analyzed = options, self._select(None, None, options)
        options, layers = self._analyzed
        one = filters.one(layers, layer)
        if needed and not options.allows(needed):
            raise OptionError(f"kind={kind!r}: {needed} contradicts the options of the last analysis")
        more: dict[str, Any] = {needed: True} if needed else {}
        options = replace(options, keep=True, **more)
        if self._drawn is None or self._drawn[:2] != (one, options):
            self._drawn = one, options, analysis.analyze_layer(one, options)
        rows = self._drawn[2]
        if len(rows) == 1 and slice_id is None:
            return plots.draw(rows[0], kind)
        by_slice = {row.get("slice_id"): row for row in rows}
        if slice_id not in by_slice:
            raise OptionError(f"slice_id={slice_id!r}: {one.name} has slices 0 to {len(rows) - 1}; give one of them")
        return plots.draw(by_slice[slice_id], kind)

    def _drawing(self, options: Options, savefig: Any) -> Callable[[analysis.Row], None]:
        """What draws every picture of a row: into a folder, and in a notebook."""
        from .report import notebook, plots

        plots.require()
        folder = plots.make_folder(savefig)
        if folder is None and not notebook.is_running():
            raise OptionError(
                "plot=True with savefig=False: outside a notebook there is nowhere to show figures; "
                "give a folder, or call plot()"
            )

        def see(row: analysis.Row) -> None:
            for name, figure in plots.draw_all(row, options):
                if folder is not None:
                    plots.save(figure, folder / name)
                if notebook.is_running():
                    notebook.show(figure)

        return see

    def report(
        self,
        path: str | os.PathLike[str],
        model: ModelLike | None = None,
        progress: ProgressOption = False,
        **options: Any,
    ) -> None:
        """Write a report of the model: one HTML file; `wwonnx.write_report` documents it, and takes several models.

        Args:
            path: the file to write.
            model: report on this one from now on.
            progress: as in `analyze`.
            options: of `analyze`.

        Raises:
            OptionError: an option that can't be, or a file that can't be written.
            ModelError: the model can't be opened.
        """
        from . import reporting

        self._open(model)
        reporting.write([self], path, progress, **options)

    def describe(
        self,
        model: ModelLike | None = None,
        layers: LayerFilter = None,
        min_evals: int = MIN_EVALS,
        max_evals: int | None = None,
        pool: bool = True,
        ww2x: bool = False,
        split_gates: bool = False,
        split_qkv: bool = False,
        groups: str = "stack",
    ) -> pd.DataFrame:
        """List the layers that `analyze` would analyse, without reading them.

        Returns:
            Columns layer_id, name, layer_type, N, M, Q, rf, num_evals, weight_dtype, folded, longname.
        """
        import pandas as pd

        options = Options.make(
            min_evals=min_evals,
            max_evals=max_evals,
            pool=pool,
            ww2x=ww2x,
            split_gates=split_gates,
            split_qkv=split_qkv,
            groups=groups,
        )
        chosen = self._select(model, layers, options)
        rows = [analysis.describe_layer(layer, options) for layer in chosen]
        description: pd.DataFrame = pd.DataFrame(rows, columns=list(columns.ABOUT))
        return description

    def inventory(
        self,
        model: ModelLike | None = None,
        min_evals: int = MIN_EVALS,
        max_evals: int | None = None,
        pool: bool = True,
    ) -> pd.DataFrame:
        """List every constant of two or more dimensions, and the layer that it became or the reason why not.

        Returns:
            Columns name, shape, dtype, bytes, ops, layer_id, layer, analyzed, reason. `attrs` holds `parameters` (all
            that could be trained, biases included) and `parameters_analyzed`.
        """
        import pandas as pd

        from .graph.inventory import inventory

        options = Options.make(min_evals=min_evals, max_evals=max_evals, pool=pool)
        self._open(model)
        walk = self._walked(options)
        found = inventory(self._opened().model, walk)
        rows = []
        for entry in found.entries:
            layers = [walk.layers[layer_id - 1] for layer_id in entry.layer_ids]
            refusals = [analysis.why_not(layer, options) for layer in layers]
            rows.append(
                {
                    "name": entry.name,
                    "shape": list(entry.shape),
                    "dtype": entry.dtype,
                    "bytes": entry.bytes,
                    "ops": entry.ops,
                    "layer_id": layers[0].layer_id if layers else None,
                    "layer": ", ".join(layer.name for layer in layers),
                    "analyzed": "" in refusals,
                    "reason": next(filter(None, refusals), "") if layers else entry.reason,
                }
            )
        header = ["name", "shape", "dtype", "bytes", "ops", "layer_id", "layer", "analyzed", "reason"]
        frame: pd.DataFrame = pd.DataFrame(rows, columns=header).astype({"layer_id": "Int64", "analyzed": bool})
        analyzed = sum(e.parameters for e, row in zip(found.entries, rows, strict=True) if row["analyzed"])
        frame.attrs.update(parameters=found.parameters, parameters_analyzed=analyzed)
        return frame

    def get_details(self) -> pd.DataFrame:
        """The result of the last `analyze`.

        Raises:
            WwonnxError: nothing was analysed yet.
        """
        if self._details is None:
            raise WwonnxError("there are no details yet: call analyze() first")
        return self._details

    def get_summary(self, details: pd.DataFrame | None = None) -> dict[str, float]:
        """Plain means of the metrics over all rows; rows in which a metric could not be computed are left out of it.

        Args:
            details: of any analysis; None for the last one.

        Returns:
            Means of log_norm, alpha, alpha_weighted, log_alpha_norm, log_spectral_norm, stable_rank, and of mp_softrank
            where it was fitted. NaN where no row has a value. Where BatchNormalizations were folded into weights,
            `folded` counts the rows of such layers.
        """
        from .report.frames import Summary

        details = self.get_details() if details is None else details
        summary = {metric: float(details[metric].mean()) for metric in SUMMARY if metric in details.columns}
        folded = int(details["folded"].sum()) if "folded" in details.columns else 0
        return Summary(summary | ({"folded": folded} if folded else {}))

    def get_skipped(self) -> pd.DataFrame:
        """The weights that the last `analyze` or `describe` left out.

        Returns:
            Columns layer_id (missing for what is no layer), name, shape, dtype, op_type, reason, longname.
        """
        if self._skipped is None:
            raise WwonnxError("nothing was left out yet: call analyze() or describe() first")
        import pandas as pd

        header = ["layer_id", "name", "shape", "dtype", "op_type", "reason", "longname"]
        skipped: pd.DataFrame = pd.DataFrame(self._skipped, columns=header).astype({"layer_id": "Int64"})
        return skipped

    def distances(
        self,
        model_1: ModelLike,
        model_2: ModelLike,
        method: str = "raw",
        layers: LayerFilter = None,
    ) -> tuple[float, float, pd.DataFrame]:
        """How far the layers of two models are from each other.

        Layers are matched by name, what is left by order and shape.

        Args:
            model_1, model_2: as in `analyze`; this object's own model stays.
            method: "raw", |W_1 - W_2|_F of the whole weights; "euclidean", its mean over a convolution's matrices;
                "cka", the centred kernel alignment, 1 for equal spaces.
            layers: of the first model.

        Returns:
            The means of delta_W and of delta_b, and one row per pair and per layer without a partner.

        Raises:
            OptionError: there is no such method or layer.
            ModelError: a model can't be opened.
        """
        from . import distances

        first, second = (WeightWatcher(model)._walked(Options()).layers for model in (model_1, model_2))
        frame = distances.compare_layers(filters.select(first, layers), second, method)
        return float(frame["delta_W"].mean()), float(frame["delta_b"].mean()), frame

    def SVDSmoothing(
        self,
        model: ModelLike | None = None,
        percent: float = 0.8,
        layers: LayerFilter = None,
        method: str = "detX",
        factor: bool = False,
        output: str | os.PathLike[str] | None = None,
        min_evals: int = MIN_EVALS,
        max_evals: int | None = None,
    ) -> SmoothingResult:
        """Make a model whose weights keep their leading singular triplets alone; `smoothing.smooth` documents how.

        Args:
            model: smooth this one from now on. It stays as it is.
            percent: share of the singular values that method "svd" keeps, above 0 and at most 1.
            layers: which layers, as in `analyze`; None for all.
            method: what chooses how many a layer keeps: "detX", "svd", "lambda_min" or "rmt".
            factor: make two products of a MatMul's or Gemm's where that needs fewer numbers.
            output: the file to write; None for a model in memory.
            min_evals, max_evals: leave layers with fewer or more eigenvalues as they are.

        Returns:
            The new model and one entry per layer.

        Raises:
            OptionError: an option that can't be, or an output that would overwrite what the model is read from.
            ModelError: the model, or data that it needs, can't be read.
        """
        from . import smoothing

        self._open(model)
        return smoothing.smooth(self._opened(), layers, method, percent, factor, output, min_evals, max_evals)

    def SVDSharpness(
        self,
        model: ModelLike | None = None,
        layers: LayerFilter = None,
        output: str | os.PathLike[str] | None = None,
        seed: int = 0,
        min_evals: int = MIN_EVALS,
        max_evals: int | None = None,
    ) -> SmoothingResult:
        """Make a model without correlation traps; `smoothing.sharpen` documents how.

        Args:
            model: sharpen this one from now on. It stays as it is.
            layers: which layers, as in `analyze`; None for all.
            output: the file to write; None for a model in memory.
            seed: for the permutations.
            min_evals, max_evals: leave layers with fewer or more eigenvalues as they are.

        Returns:
            The new model and one entry per layer.

        Raises:
            OptionError: an option that can't be, or an output that would overwrite what the model is read from.
            ModelError: the model, or data that it needs, can't be read.
        """
        from . import smoothing

        self._open(model)
        return smoothing.sharpen(self._opened(), layers, output, seed, min_evals, max_evals)

    def get_note(self) -> str:
        """What to know of the last analysis as a whole, such as folded BatchNormalizations; often empty."""
        return self._note

    def get_ESD(
        self,
        model: ModelLike | None = None,
        layer: int | str | None = None,
        random: bool = False,
        pool: bool = True,
        conv2d_norm: bool = False,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """The eigenvalues of one layer, ascending. As in WeightWatcher, conv2d_norm is off here unless asked for.

        Args:
            model: take the layer from this model from now on.
            layer: its id or name.
            random: of the layer with its weights permuted.
            pool: shape (n,), all matrices together; False for shape (matrices, M).
            conv2d_norm: scale as `analyze` does.
            seed: for the permutation.

        Raises:
            OptionError: there is no such layer.
            WeightError: its weights can't be read, or are not finite.
        """
        chosen = self._one(model, layer)

        def load() -> NDArray[Any]:
            return permuted(chosen.matrices(), seed, chosen.layer_id) if random else chosen.matrices()

        options = Options(pool=pool, conv2d_norm=conv2d_norm)
        result = spectrum(load, chosen.eps).scaled(analysis.scale(chosen, options))
        return result.pooled if pool else result.eigenvalues

    def get_weights(self, model: ModelLike | None = None, layer: int | str | None = None) -> list[NDArray[Any]]:
        """The matrices of one layer, (outputs, inputs) each: one, or one per kernel position.

        Args:
            model: take the layer from this model from now on.
            layer: its id or name.

        Raises:
            OptionError: there is no such layer.
            WeightError: its weights can't be read.
        """
        return [np.array(matrix) for matrix in self._one(model, layer).matrices()]

    get_Weights = get_weights

    @property
    def label(self) -> str:
        """What messages call the model: its path, or its kind where it was built in memory."""
        return self._opened().label

    def sha256(self) -> str | None:
        """Hash of the model's file or files, as `graph.source.Source.sha256` defines it; None for one in memory."""
        return self._opened().sha256()

    def __repr__(self) -> str:
        return f"WeightWatcher(model={self._source.label!r})" if self._source else "WeightWatcher()"

    def _open(self, model: ModelLike | None) -> None:
        if model is None:
            return
        from .converters.dispatch import open_source

        self._source, self._walk, self._options = open_source(model), None, Options()
        self._details = self._skipped = self._analyzed = self._drawn = None

    def _opened(self) -> Source:
        if self._source is None:
            raise WwonnxError("no model: give one, WeightWatcher(model='model.onnx') or analyze(model='model.onnx')")
        return self._source

    def _walked(self, options: Options) -> Walk:
        """The model's weights, taken apart as the options say; walked again only where that changes."""
        from .graph.operators import Splits

        splits = Splits(options.split_gates, options.split_qkv, options.groups == "split")
        if self._walk is None or self._walk[0] != splits:
            from .graph.walk import walk

            self._walk = splits, walk(self._opened().model, splits)
        self._options = options
        return self._walk[1]

    def _one(self, model: ModelLike | None, layer: int | str | None) -> WeightLayer:
        self._open(model)
        return filters.one(self._walked(self._options).layers, layer)

    def _layers(self, options: Options, portable: bool) -> tuple[WeightLayer, ...]:
        """The model's layers; where asked, such that they can be sent to other processes."""
        layers = self._walked(options).layers
        if not portable:
            return layers
        from .execute import carry

        assert self._walk is not None
        return carry.portable(layers, self._opened(), self._walk[0])

    def _select(
        self,
        model: ModelLike | None,
        wanted: LayerFilter,
        options: Options,
        base_model: ModelLike | None = None,
        portable: bool = False,
    ) -> list[WeightLayer]:
        """The layers to analyse, derived ones where asked for; those left out are noted with the reason."""
        from . import derive

        self._open(model)
        walk = self._walked(options)
        left_out: list[tuple[WeightLayer, str]] = []

        def take(derived: derive.Derived) -> tuple[WeightLayer, ...]:
            left_out.extend((*derived.left_out, *derived.base_left_out))
            return derived.layers

        layers = self._layers(options, portable)
        if options.peft:
            with_base = options.peft == "with_base"
            find = self._opened().base
            belongs = find(base_model) if with_base and find is not None else base_model
            base = WeightWatcher(belongs)._layers(options, portable) if belongs is not None else ()
            layers = take(derive.peft(layers, with_base, base=base))
        elif base_model is not None:
            layers = take(derive.delta(layers, WeightWatcher(base_model)._layers(options, portable)))
        chosen: Sequence[WeightLayer] = filters.select(layers, wanted)
        if options.intra or options.stacked:
            plain = replace(options, intra=False, stacked=False)
            usable = [layer for layer in chosen if not analysis.why_not(layer, plain)]
            left_out += [(layer, analysis.why_not(layer, plain)) for layer in chosen if layer not in usable]
            alignment = options.intra if isinstance(options.intra, str) else "size"
            chosen = take(
                derive.intra(usable, options.sparsify, alignment, options.seed)
                if options.intra
                else derive.stacked(usable)
            )
        reasons = [(layer, analysis.why_not(layer, options)) for layer in chosen]
        left_out += [(layer, reason) for layer, reason in reasons if reason]
        rows = [_left_out(layer, reason) for layer, reason in left_out]
        rows += [{**vars(skip), "shape": list(skip.shape)} for skip in walk.skipped]
        self._skipped = rows
        if rows:
            self.logger.info("%d weights are left out; get_skipped() lists them with the reasons", len(rows))
        return [layer for layer, reason in reasons if not reason]


def _left_out(layer: WeightLayer, reason: str) -> analysis.Row:
    return {
        "layer_id": layer.layer_id,
        "name": layer.name,
        "shape": list(layer.shape),
        "dtype": layer.dtype,
        "op_type": layer.uses[0].op_type,
        "reason": reason,
        "longname": layer.longname,
    }


def analyze(model: ModelLike, **options: Any) -> pd.DataFrame:
    """Compute the metrics of each layer of a model; `WeightWatcher.analyze` documents the options and the columns."""
    return WeightWatcher(model).analyze(**options)


def describe(model: ModelLike, **options: Any) -> pd.DataFrame:
    """List the layers of a model without reading them; `WeightWatcher.describe` documents the options."""
    return WeightWatcher(model).describe(**options)

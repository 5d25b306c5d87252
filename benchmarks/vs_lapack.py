"""wwonnx over the bare work of LAPACK on the same matrices, in one process, in turn; and where its time goes.

Bare is what no analysis can do without: for each matrix a float64 copy, the smaller Gram matrix and its eigenvalues,
one after the other with numpy's own choice of BLAS threads. wwonnx is an analysis of a model in memory,
from its graph to the table.

python -m benchmarks.vs_lapack
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx

import wwonnx
from wwonnx.errors import WeightError
from wwonnx.execute import local
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk
from wwonnx.spectral.esd import spectra

from .timing import alternate, machine
from .weights import SETS, Array32, weight_set, write_onnx

_DEFAULT_SETS = ("resnet56", "minilm", "square768", "mlp768", "square4096")


def main() -> None:
    """Print one line per set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_lapack", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=_DEFAULT_SETS)
    parser.add_argument("--repeats", type=int, help="runs of each (default: 5, for square4096 3)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    compare("tiny", args.seed, repeats=1)  # imports, thread pools: not timed
    print(machine())
    print(f"{'':<45}| where the time of wwonnx goes, s")
    header = f"{'set':<12}{'layers':>7}{'bare, s':>9}{'wwonnx, s':>10}{'ratio':>7}"
    print(f"{header}|{'open, walk':>11}{'spectra':>9}{'rest':>8}")
    for name in args.sets:
        print(compare(name, args.seed, args.repeats or (3 if name == "square4096" else 5)), flush=True)


def compare(name: str, seed: int, repeats: int) -> str:
    """Time both on one set of weights, then the stages of wwonnx; one line of the table."""
    weights = weight_set(name, seed)
    matrices = [matrix for weight in weights for matrix in weight.matrices()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.onnx")
        write_onnx(weights, path)
        proto = onnx.load(path)
        opening: list[float] = []
        bare, ours, parts = alternate(
            repeats,
            lambda: bare_lapack(matrices),
            lambda: wwonnx.WeightWatcher(proto).analyze(),
            lambda: opening.append(until_spectra(proto)),
        )
    opened = statistics.median(opening)
    return (
        f"{name:<12}{len(weights):>7}{bare.median:>9.4f}{ours.median:>10.4f}{ours.median / bare.median:>7.2f}"
        f"|{opened:>11.4f}{parts.median - opened:>9.4f}{ours.median - parts.median:>8.4f}"
        f"   spread {bare.spread:.2f}, {ours.spread:.2f}"
    )


def bare_lapack(matrices: Sequence[Array32]) -> None:
    """Eigenvalues of the smaller Gram matrix of each, in float64."""
    for matrix in matrices:
        exact = matrix.astype(np.float64)
        tall = exact if exact.shape[0] >= exact.shape[1] else exact.T
        np.linalg.eigvalsh(tall.T @ tall)


def until_spectra(model: onnx.ModelProto) -> float:
    """An analysis without its fits and table: open, walk, and every layer's eigenvalues, scheduled as wwonnx does.

    Returns:
        Seconds until the layers were known.
    """
    start = time.perf_counter()
    layers = walk(open_model(model).model).layers
    opened = time.perf_counter() - start
    steps = local.Steps(
        job=lambda some: partial(spectra, [layer.matrices for layer in some], [layer.eps for layer in some]),
        complete=lambda _, found: found,
        refuse=lambda _, reason: WeightError(reason),
    )
    local.run(layers, steps)
    return opened


if __name__ == "__main__":
    main()

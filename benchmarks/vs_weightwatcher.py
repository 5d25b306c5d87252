"""wwonnx beside WeightWatcher: the same weights, one process, in turn; and whether both give the same alpha.

python -m benchmarks.vs_weightwatcher
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

import wwonnx

from .timing import alternate, machine
from .weights import SETS, torch_model, weight_set, write_onnx

if TYPE_CHECKING:
    import pandas as pd
    import torch

#: WeightWatcher takes another estimator for fewer eigenvalues; alphas of such layers can't be compared.
_COMPARABLE = 20
_DEFAULT_SETS = ("resnet56", "minilm", "square4096")


def main() -> None:
    """Print one line per set."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_weightwatcher", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=_DEFAULT_SETS)
    parser.add_argument("--repeats", type=int, help="runs of each tool (default: 5, for square4096 3)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    compare("tiny", args.seed, repeats=1)  # imports, thread pools: not timed
    print(machine())
    print(f"{'set':<12}{'layers':>7}{'WW, s':>10}{'wwonnx, s':>11}{'ratio':>8}{'from file':>11}{'max d alpha':>14}")
    for name in args.sets:
        print(compare(name, args.seed, args.repeats or (3 if name == "square4096" else 5)), flush=True)


def compare(name: str, seed: int, repeats: int) -> str:
    """Time both tools on one set of weights and compare their alphas; one line of the table."""
    weights = weight_set(name, seed)
    model = torch_model(weights)
    results: dict[str, pd.DataFrame] = {}

    def run_weightwatcher() -> None:
        results["theirs"] = weightwatcher_details(model)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.onnx")
        write_onnx(weights, path)
        proto = onnx.load(path)

        def run_wwonnx() -> None:
            results["ours"] = wwonnx.WeightWatcher(proto).analyze()

        theirs, ours, read = alternate(repeats, run_weightwatcher, run_wwonnx, lambda: wwonnx.analyze(path))
    apart = difference(results["theirs"], results["ours"], "alpha")
    return (
        f"{name:<12}{len(weights):>7}{theirs.median:>10.3f}{ours.median:>11.4f}{theirs.median / ours.median:>8.1f}"
        f"{theirs.median / read.median:>11.1f}{apart:>14.1e}   spread {theirs.spread:.2f}, {ours.spread:.2f}"
    )


def weightwatcher_details(model: torch.nn.Module, **options: Any) -> pd.DataFrame:
    """What WeightWatcher finds with these options, its defaults for all others."""
    with _silence():
        import weightwatcher

        details: pd.DataFrame = weightwatcher.WeightWatcher(model=model).analyze(**options)
    return details


def difference(theirs: pd.DataFrame, ours: pd.DataFrame, column: str) -> float:
    """Largest relative difference of a column over the layers with 20 eigenvalues or more; rows are matched by order.

    Raises:
        RuntimeError: the tools do not see the same layers.
    """
    if theirs["num_evals"].tolist() != ours["num_evals"].tolist():
        raise RuntimeError(f"the tools see different layers: {len(theirs)} and {len(ours)} rows")
    long = ours["num_evals"].to_numpy() >= _COMPARABLE
    values = ours[column].to_numpy()[long]
    return float(np.abs(theirs[column].to_numpy()[long] / values - 1.0).max())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Drop prints, progress bars, log records and warnings; what is computed stays as it is."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


if __name__ == "__main__":
    main()

"""wwonnx beside WeightWatcher with options that cost it more: the same weights, one process, in turn.

python -m benchmarks.vs_weightwatcher_options [--model resnet20.onnx]

WeightWatcher's TPL needs powerlaw < 2. Without it that line is left out.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

import wwonnx

from .timing import alternate, machine
from .vs_weightwatcher import difference, weightwatcher_details
from .weights import Weight, model_weights, torch_model, weight_set, write_onnx

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        name: of the line.
        theirs, ours: options of both tools.
        compared: a column that both give.
    """

    name: str
    theirs: dict[str, Any]
    ours: dict[str, Any]
    compared: str


#: WeightWatcher shuffles a layer twice, once for each of two uses; wwonnx 20 times by default.
CASES = (
    Case("mp_fit", {"mp_fit": True}, {"mp_fit": True}, "sigma_mp"),
    Case("mp_fit, randomize", {"mp_fit": True, "randomize": True}, {"mp_fit": True, "randomize": True}, "sigma_mp"),
    Case(
        "the same, 3 shuffles",
        {"mp_fit": True, "randomize": True},
        {"mp_fit": True, "randomize": True, "rand_replicas": 3},
        "sigma_mp",
    ),
)
TPL = Case("TPL", {"fit": "TPL", "pl_package": "powerlaw"}, {"fit": "TPL"}, "D")


def main() -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_weightwatcher_options", description=__doc__)
    parser.add_argument("--model", type=Path, help="an ONNX file with convolutions and linear layers alone")
    parser.add_argument("--set", default="resnet20", help="drawn weights, where no model is given")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--tpl-layers", type=int, nargs="*", default=[2, 8, 14], help="positions, from 1 (default: one of each size)"
    )
    parser.add_argument("--tpl-repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    weights = model_weights(args.model) if args.model else weight_set(args.set, args.seed)
    compare(CASES[1], weights[:1], repeats=1)  # imports, thread pools: not timed
    print(machine())
    print(f"{args.model.name if args.model else args.set}: {len(weights)} layers")
    print(f"{'options':<22}{'layers':>7}{'WW, s':>10}{'wwonnx, s':>11}{'ratio':>8}{'max difference':>24}")
    for case in CASES:
        print(compare(case, weights, args.repeats), flush=True)
    if not args.tpl_layers:
        return
    if int(version("powerlaw").partition(".")[0]) >= 2:
        print(f"TPL is left out: WeightWatcher's needs powerlaw < 2, here is {version('powerlaw')}")
        return
    print(compare(TPL, [weights[position - 1] for position in args.tpl_layers], args.tpl_repeats))


def compare(case: Case, weights: list[Weight], repeats: int) -> str:
    """Time both tools on the same weights; one line of the table."""
    model = torch_model(weights)
    found: dict[str, pd.DataFrame] = {}

    def keep(tool: str, work: Callable[[], pd.DataFrame]) -> Callable[[], None]:
        def run() -> None:
            found[tool] = work()

        return run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.onnx")
        write_onnx(weights, path)
        proto = onnx.load(path)
    theirs, ours = alternate(
        repeats,
        keep("theirs", lambda: weightwatcher_details(model, **case.theirs)),
        keep("ours", lambda: wwonnx.WeightWatcher(proto).analyze(**case.ours)),
    )
    return (
        f"{case.name:<22}{len(weights):>7}{theirs.median:>10.3f}{ours.median:>11.4f}{theirs.median / ours.median:>8.0f}"
        f"{difference(found['theirs'], found['ours'], case.compared):>15.1e} {case.compared:<8}"
        f"   spread {theirs.spread:.2f}, {ours.spread:.2f}"
    )


if __name__ == "__main__":
    main()

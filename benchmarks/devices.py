"""What computes eigenvalues: numpy or PyTorch, in float64 or float32, in one process, in turn.

Beside the ratio to the default stands that to bare numpy: its Gram matrices and its eigvalsh, without any analysis.

python -m benchmarks.devices [--set square4096] [--devices torch cuda]
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import wwonnx

from .timing import alternate, machine
from .vs_lapack import bare_lapack
from .weights import weight_set, write_onnx

_WAYS = (("cpu", "accurate"), ("cpu", "fast"))


def main() -> None:
    """Print one line per way."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.devices", description=__doc__)
    parser.add_argument("--set", default="square4096", help="weights: square4096, mlp768, ...")
    parser.add_argument("--devices", nargs="*", default=["torch"], help="beside cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    ways = [*_WAYS, *((device, method) for device in args.devices for method in ("accurate", "fast"))]
    details: dict[tuple[str, str], pd.DataFrame] = {}

    def analyze(path: Path, way: tuple[str, str]) -> None:
        details[way] = wwonnx.analyze(path, device=way[0], svd_method=way[1])

    print(machine())
    print(
        f"{'device':<8}{'svd_method':<12}{'s':>8}{'ratio':>7}{'numpy':>7}{'max d alpha':>13}{'in float32':>12}  spread"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        weights = weight_set(args.set, args.seed)
        matrices = [matrix for weight in weights for matrix in weight.matrices()]
        write_onnx(weights, path)
        small = Path(folder, "small.onnx")
        write_onnx(weight_set("tiny", args.seed), small)
        for way in ways:
            analyze(small, way)  # imports, thread pools: not timed
        bare, *timings = alternate(
            args.repeats, lambda: bare_lapack(matrices), *(partial(analyze, path, way) for way in ways)
        )
    print(
        f"{'numpy':<8}{'eigvalsh':<12}{bare.median:>8.3f}{timings[0].median / bare.median:>7.2f}{1.0:>7.2f}"
        f"{'':>29}{bare.spread:.2f}"
    )
    exact = details[ways[0]].alpha.to_numpy()
    for way, timing in zip(ways, timings, strict=True):
        found = details[way]
        difference = float(np.abs(found.alpha.to_numpy() / exact - 1.0).max())
        single = int((found.esd_error > 1e-10 * found.lambda_max).sum()) if way[1] == "fast" else 0
        print(
            f"{way[0]:<8}{way[1]:<12}{timing.median:>8.3f}{timings[0].median / timing.median:>7.2f}"
            f"{bare.median / timing.median:>7.2f}{difference:>13.1e}"
            f"{single:>7} of {len(found)}  {timing.spread:.2f}"
        )


if __name__ == "__main__":
    main()

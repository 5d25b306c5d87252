"""What pictures cost: five PNG files for each of a hundred layers, and the report of the same layers.

python -m benchmarks.plots
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import wwonnx

from .timing import machine, seconds
from .weights import weight_set, write_onnx


def main() -> None:
    """Print the seconds and the sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine())
    weights = [weight for name in ("resnet56", "minilm", "square768") for weight in weight_set(name, args.seed)][:100]
    with tempfile.TemporaryDirectory() as folder:
        model, images, page = (Path(folder) / name for name in ("model.onnx", "images", "report.html"))
        # An embedding comes first, or nothing has the indices that it reads.
        write_onnx(sorted(weights, key=lambda weight: weight.kind != "embedding"), model)
        plain = seconds(lambda: wwonnx.analyze(model))
        plotted = seconds(lambda: wwonnx.analyze(model, plot=True, savefig=images))
        files = list(images.iterdir())
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"analysis alone: {plain:.1f} s; with {len(files)} figures, {size:.1f} MB: {plotted:.1f} s")
        for randomize in (False, True):
            took = seconds(lambda: wwonnx.write_report(model, page, randomize=randomize))  # noqa: B023
            print(f"report, randomize={randomize}: {took:.1f} s, {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

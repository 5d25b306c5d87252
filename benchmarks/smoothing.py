"""What smoothing costs a small trained network: accuracy on the digits that it never saw, by method and percent.

The network is examples/digits_cnn.onnx, the images are the 450 test images of its training script (which needs torch
and scikit-learn), and onnxruntime runs every model. The last layer has ten outputs for ten digits, and few of them to
spare: a second column smooths all layers but that.

python -m benchmarks.smoothing
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from examples.train_digits_cnn import load_split
from wwonnx.smoothing import SmoothingResult, sharpen, smooth

MODEL = Path(__file__).resolve().parent.parent / "examples" / "digits_cnn.onnx"
PERCENTS = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoothing", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()

    split = load_split()
    images, labels = split.test_images.numpy(), split.test_labels.numpy()
    print(f"{args.model.name} as it is: {accuracy(logits(args.model, images), labels)}\n")
    print("| method | kept in conv2, conv3, fc1, fc2 | accuracy | fc2 left as it is | parameters, factored |")
    print("|---|---|---|---|---|")
    for percent in PERCENTS:
        show(f"svd, {percent:.0%}", partial(smooth, args.model, method="svd", percent=percent), images, labels)
    for method in ("detX", "lambda_min", "rmt"):
        show(method, partial(smooth, args.model, method=method), images, labels)
    show("sharpen", partial(sharpen, args.model), images, labels)


def show(
    name: str, change: Callable[..., SmoothingResult], images: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Print one row."""
    whole, but_the_last = change(), change(layers="-fc2")
    accuracies = [accuracy(logits(result.model, images), labels) for result in (whole, but_the_last)]
    factored = whole if name == "sharpen" else change(factor=True)
    before, after = (int(factored.table[column].sum()) for column in ("parameters", "parameters_after"))
    size = f"{after:,} of {before:,}" if after < before else ""
    print(f"| {name} | {kept(whole)} | {' | '.join(accuracies)} | {size} |", flush=True)


def kept(result: SmoothingResult) -> str:
    """Singular values that each matrix of a layer keeps, of how many; layers of single columns left out."""
    parts = []
    for layer in result.layers:
        width = int(layer.of) // layer.rf
        rank = width if math.isnan(layer.rank) else int(layer.rank)
        parts += [f"{rank} of {width}"] if width > 1 else []
    return ", ".join(parts)


def logits(model: onnx.ModelProto | Path, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What onnxruntime computes, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result


def accuracy(found: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """Share of the images that are classified correctly."""
    return f"{np.mean(found.argmax(axis=1) == labels):.1%}"


if __name__ == "__main__":
    main()

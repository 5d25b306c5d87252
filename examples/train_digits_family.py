"""Train four depths of one small CNN on distorted digits, export them to ONNX and measure how well they do.

    pip install torch scikit-learn onnx onnxruntime onnxscript
    python examples/train_digits_family.py

The data is that of train_digits_cnn.py, made hard enough for depth to matter: every image, in training and in the
test, is turned by up to 60 degrees, zoomed by up to 30 %, shifted by up to a pixel and covered with noise, differently
each time that it is shown. The networks differ in the number of convolutions alone.

Written are ``family/depth<d>.onnx``, with unfolded weights, and ``family/accuracies.csv``: for each network the share
of 20 distorted copies of each of the 450 test images that onnxruntime, running the exported file, classifies correctly.
Every depth is trained from several seeds. The first one is exported; the columns ``mean`` and ``std`` are over all of
them, so that a difference between depths can be held against that between two runs of one depth.

Training is seeded and single-threaded, so running the script twice on one machine gives the same weights bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from train_digits_cnn import (
    SEED,
    accuracy,
    augment,
    check_no_paths,
    check_outputs,
    check_weights,
    export,
    load_split,
    train,
)

DEPTHS = (2, 3, 4, 8)
WIDTH = 28
EPOCHS = 80
SEEDS = 4
COPIES = 20
NOISE = 0.2


class FamilyCNN(nn.Module):
    """Some 3x3 convolutions with batch normalization, the image halved twice on the way, then two linear layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(WIDTH if index else 1, WIDTH, 3, padding=1, bias=False) for index in range(depth)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(depth))
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(WIDTH * 2 * 2, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x, depth = image, len(self.convs)
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            x = torch.relu(norm(conv(x)))
            if number in (depth // 2, depth):
                x = self.pool(x)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned, zoomed and shifted at random, with Gaussian noise on every pixel."""
    moved = augment(images, generator, rotation=torch.pi / 3, zoom=0.3)
    return moved + NOISE * torch.randn(moved.shape, generator=generator)


def load_test() -> tuple[Tensor, Tensor]:
    """The distorted test images, the same for every network, and their labels."""
    split = load_split()
    generator = torch.Generator().manual_seed(SEED)
    images = torch.cat([distort(split.test_images, generator) for _ in range(COPIES)])
    return images, split.test_labels.repeat(COPIES)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a family of CNNs on distorted digits and export it to ONNX.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("family"), help="folder to write to")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()

    args.output.mkdir(exist_ok=True)
    split, (images, labels) = load_split(), load_test()
    rows = []
    for depth in args.depths:
        path = args.output / f"depth{depth}.onnx"
        shares = []
        # The first seed comes last, so that the file that stays is its network.
        for seed in reversed(range(SEED, SEED + args.seeds)):
            build = partial(FamilyCNN, depth)
            model = train(build, split.train_images, split.train_labels, args.epochs, distort, seed)
            export(model, path)
            correct, total = accuracy(path, images, labels)
            shares.append(100 * correct / total)
        check_weights(model, onnx.load(path))
        check_no_paths(path)
        check_outputs(model, path, images)
        spread = statistics.stdev(shares) if len(shares) > 1 else float("nan")
        rows.append(
            {
                "model": path.stem,
                "accuracy": f"{shares[-1]:.2f}",
                "mean": f"{statistics.mean(shares):.2f}",
                "std": f"{spread:.2f}",
                "depth": depth,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            }
        )
        print(f"{path.name}: {path.stat().st_size} bytes, {shares[-1]:.2f} % of {total} test images")
    with (args.output / "accuracies.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

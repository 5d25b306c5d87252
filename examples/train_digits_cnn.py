"""Train a small CNN on scikit-learn's bundled 8x8 digits and export it to ONNX with unfolded weights.

    pip install torch scikit-learn onnx onnxruntime onnxscript
    python examples/train_digits_cnn.py

The data is ``sklearn.datasets.load_digits`` (1797 images, nothing is downloaded), three quarters for training and one
quarter for testing. The test images play no part in training; the accuracy on them, printed at the end, is measured
with onnxruntime on the exported file.

The export keeps every weight as it was trained: ``optimize=False`` leaves BatchNormalization in the graph instead of
folding it into the convolutions, and each initializer has the name it has in ``model.state_dict()``. The script checks
this, and removes stack traces, which would put paths of the exporting machine into the file.

Training is seeded and single-threaded, so running the script twice on one machine gives the same weights bit for bit.
Another CPU or another version of torch may round differently.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 0
EPOCHS = 80
BATCH_SIZE = 32
LEARNING_RATE = 0.05
WEIGHT_DECAY = 5e-4
STACK_TRACE_KEY = "pkg.torch.onnx.stack_trace"


class Split(NamedTuple):
    """Training and test data: images are float32 (n, 1, 8, 8) in [0, 1], labels are int64 (n,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions with batch normalization, then two linear layers; 8x8 images in, 10 logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        x = self.pool(torch.relu(self.bn3(self.conv3(x))))
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def load_split() -> Split:
    """The fixed, stratified split of the digits data: 1347 images to train on, 450 to test on."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    return Split(*(torch.from_numpy(array) for array in (train_x, train_y, test_x, test_y)))


def augment(images: Tensor, generator: torch.Generator, rotation: float = torch.pi / 18, zoom: float = 0.1) -> Tensor:
    """Each image shifted by up to 1 pixel, rotated by up to 10 degrees and scaled by up to 10 %, at random."""
    angle, scale, dx, dy = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle = angle * rotation
    scale = 1 + zoom * scale
    shift = 2 / images.shape[-1]  # one pixel in affine_grid's coordinates, which run from -1 to 1
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack([cos, -sin, shift * dx, sin, cos, shift * dy], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(
    build: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    epochs: int,
    distort: Callable[[Tensor, torch.Generator], Tensor] = augment,
    seed: int = SEED,
) -> nn.Module:
    """A network trained with SGD, weight decay and a cosine learning rate for a fixed number of epochs."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build().train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(1, epochs + 1):
        total_loss = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(distort(images[batch], generator)), labels[batch])
            loss.backward()
            optimizer.step()
            total_loss += loss.item() * len(batch)
        scheduler.step()
        if epoch % 10 == 0 or epoch == epochs:
            print(f"epoch {epoch:3d}/{epochs}: training loss {total_loss / len(images):.4f}")
    return model.eval()


def nodes_of(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes of the main graph and of the model's local functions."""
    yield from proto.graph.node
    for function in proto.functions:
        yield from function.node


def strip_stack_traces(proto: onnx.ModelProto) -> None:
    """Remove, in place, what the exporter writes down about source files; all other metadata stays."""
    for node in nodes_of(proto):
        node.ClearField("doc_string")
        kept = [prop for prop in node.metadata_props if prop.key != STACK_TRACE_KEY]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def export(model: nn.Module, path: Path) -> None:
    """Write the model to one ONNX file, unoptimized, with a dynamic batch dimension and without stack traces."""
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 1, 8, 8),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        optimize=False,
        external_data=False,
        verbose=False,
    )
    proto = onnx.load(path)
    strip_stack_traces(proto)
    onnx.save(proto, path)


def run_onnx(path: Path, images: Tensor) -> np.ndarray:
    """The logits that onnxruntime computes from the exported file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images.numpy()})[0]


def accuracy(path: Path, images: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many images the exported file classifies correctly, and how many there are."""
    predicted = run_onnx(path, images).argmax(axis=1)
    return int((predicted == labels.numpy()).sum()), len(labels)


def check_weights(model: nn.Module, proto: onnx.ModelProto) -> None:
    """Every weight is in the file bit for bit under its name, and every batch normalization is still a node."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, tensor in model.state_dict().items():
        if name.endswith(".num_batches_tracked"):  # a training counter that inference does not use
            continue
        expected = tensor.numpy()
        found = stored.get(name)
        if found is None:
            raise RuntimeError(f"{name} is not among the initializers")
        if (found.dtype, found.shape, found.tobytes()) != (expected.dtype, expected.shape, expected.tobytes()):
            raise RuntimeError(f"{name} was changed by the export")
    wanted = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    present = sum(node.op_type == "BatchNormalization" for node in nodes_of(proto))
    if present != wanted:
        raise RuntimeError(f"{present} BatchNormalization nodes instead of {wanted}")


def check_outputs(model: nn.Module, path: Path, images: Tensor, tolerance: float = 1e-4) -> float:
    """The largest difference between the logits of torch and onnxruntime, which must be below the tolerance."""
    with torch.no_grad():
        expected = model(images).numpy()
    difference = float(np.abs(run_onnx(path, images) - expected).max())
    if not difference < tolerance:
        raise RuntimeError(f"onnxruntime and torch differ by {difference:.2e}")
    return difference


def check_no_paths(path: Path) -> None:
    """No directory of this machine and no stack trace is written in the file."""
    directories = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parent, Path.home(), Path.cwd()}
    traces = {"site-packages", 'File "', STACK_TRACE_KEY}
    needles = traces | {str(directory) for directory in directories if len(directory.parts) > 1}
    content = path.read_bytes()
    found = sorted(needle for needle in needles if needle.encode() in content)
    if found:
        raise RuntimeError(f"the file contains {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small CNN on the digits data and export it to ONNX.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("digits_cnn.onnx"))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()

    split = load_split()
    model = train(DigitsCNN, split.train_images, split.train_labels, args.epochs)
    export(model, args.output)

    check_weights(model, onnx.load(args.output))
    check_no_paths(args.output)
    difference = check_outputs(model, args.output, split.test_images)
    correct, total = accuracy(args.output, split.test_images, split.test_labels)
    print(f"{args.output.name}: {args.output.stat().st_size} bytes, all weights unchanged")
    print(f"largest difference between onnxruntime and torch: {difference:.1e}")
    print(f"test accuracy through onnxruntime: {correct / total:.2%} ({correct} of {total})")


if __name__ == "__main__":
    main()

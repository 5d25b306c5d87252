"""Peak memory of an analysis: a model with gigabytes of external data, one process, the kernel's own count.

The bound is 8 (N M + M^2) bytes for the largest layer, its float64 copy and its Gram matrix, and 200 MB for the rest.

python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

ALLOWANCE = 200e6
_ALIGNMENT = 4096
#: Elements written at once.
BLOCK = 1 << 18

# ru_maxrss is in KiB on Linux, in bytes on macOS.
_PEAK = "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)"
BASELINE = f"import wwonnx, pandas, onnx, onnx_ir, resource, sys; {_PEAK}; print(peak)"
ANALYSIS = f"""
import resource, sys, time
import wwonnx
start = time.perf_counter()
details = wwonnx.analyze(sys.argv[1])
seconds = time.perf_counter() - start
{_PEAK}
print(peak, seconds, int((details["status"] == "success").sum()), len(details))
"""


def main() -> None:
    """Write the model, analyse it in a process of its own, print the peak beside the bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the external data (10^9 bytes)")
    parser.add_argument("--largest", type=int, default=4096, help="M = N of the largest layer")
    parser.add_argument("--folder", type=Path, help="where to put the model (default: the temporary directory)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        shapes = list(layer_shapes(round(args.gigabytes * 1e9), args.largest))
        path = write_model(shapes, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"model: {len(shapes)} layers, {size / 1e9:.2f} GB, largest {args.largest} x {args.largest}")
        baseline = float(run_python(BASELINE)[0])
        peak, seconds, succeeded, rows = map(float, run_python(ANALYSIS, str(path)))
    working = 8 * max(math.prod(shape) + min(shape) ** 2 for shape in shapes)
    bound = working + ALLOWANCE
    print(f"imports alone (wwonnx, pandas, onnx, onnx_ir): {megabytes(baseline)}")
    print(f"analysis: {seconds:.1f} s, {succeeded:.0f} of {rows:.0f} rows succeeded")
    print(
        f"bound: {megabytes(working)} (float64 copy and Gram matrix of the largest layer) + 200 MB = {megabytes(bound)}"
    )
    print(f"peak: {megabytes(peak)}, {peak / bound:.2f} of the bound; {megabytes(peak - baseline)} above the imports")


def layer_shapes(size: int, largest: int) -> Iterator[tuple[int, int]]:
    """Shapes of float32 layers that fill `size` bytes: one of largest x largest, then wide, tall and smaller ones."""
    unit = largest // 8
    yield 8 * unit, 8 * unit
    left = size - 4 * (8 * unit) ** 2
    for rows, columns in cycle(((4, 8), (2, 8), (2, 2), (16, 2), (1, 16), (4, 4), (64, 1))):
        shape = rows * unit, columns * unit
        left -= 4 * math.prod(shape)
        if left < 0:
            return
        yield shape


def write_model(shapes: list[tuple[int, int]], folder: Path) -> Path:
    """Write a MatMul per shape with its Gaussian weight in `model.data`, each in a range of its own, in small blocks.

    This process must stay smaller than those that it measures: Linux starts a child's ru_maxrss at its parent's peak.
    """
    import numpy as np
    from onnx import TensorProto, helper, save_model

    rng = np.random.default_rng(0)
    nodes, initializers = [], []
    with Path(folder, "model.data").open("wb") as file:
        for index, shape in enumerate(shapes):
            file.seek(-file.tell() % _ALIGNMENT, 1)
            name = f"layers.{index}.weight"
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
            length = 4 * math.prod(shape)
            for key, value in (("location", "model.data"), ("offset", file.tell()), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            scale = np.float32(1.0 / math.sqrt(shape[0]))
            for start in range(0, math.prod(shape), BLOCK):
                file.write(scale * rng.standard_normal(min(BLOCK, math.prod(shape) - start), dtype=np.float32))
            initializers.append(tensor)
            nodes.append(helper.make_node("MatMul", [f"input.{index}", name], [f"output.{index}"]))
    inputs = [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, None) for node in nodes]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    graph = helper.make_graph(nodes, "memory", inputs, outputs, initializers)
    path = folder / "model.onnx"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"


def run_python(code: str, *arguments: str) -> list[str]:
    """The words that a fresh Python process prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()


if __name__ == "__main__":
    main()

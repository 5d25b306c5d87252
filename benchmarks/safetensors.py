"""A sharded safetensors folder: seconds to convert it, size of the .onnx, and peak memory of analysing it.

The bound is that of benchmarks.memory. Exit code 1 where a limit is passed: 2 s, 1 MB, the bound.

python -m benchmarks.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from benchmarks.memory import ALLOWANCE, ANALYSIS, BASELINE, BLOCK, layer_shapes, megabytes, run_python

_CONVERSION = """
import sys, time
from pathlib import Path
start = time.perf_counter()
from wwonnx.converters import to_onnx
to_onnx(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, Path(sys.argv[2]).stat().st_size)
"""
_SECONDS, _BYTES = 2.0, 1_000_000


def main() -> int:
    """Write the folder, convert it and analyse it in a process of its own each, print the figures beside the limits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safetensors", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of all shards (10^9 bytes)")
    parser.add_argument("--largest", type=int, default=4096, help="M = N of the largest layer")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="where to put it (default: the temporary directory)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        shapes = list(layer_shapes(round(2 * args.gigabytes * 1e9), args.largest))  # those are of 4 bytes an element
        write_folder(shapes, folder, args.shards)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        print(f"folder: {len(shapes)} layers of bfloat16, {size / 1e9:.2f} GB in {args.shards} shards")
        seconds, written = map(float, run_python(_CONVERSION, name, str(folder / "model.onnx")))
        print(f"conversion: {seconds:.2f} s with all imports, .onnx of {written / 1e3:.0f} kB")
        baseline = float(run_python(BASELINE)[0])
        peak, duration, succeeded, rows = map(float, run_python(ANALYSIS, name))
    bound = 8 * max(math.prod(shape) + min(shape) ** 2 for shape in shapes) + ALLOWANCE
    print(f"analysis: {duration:.1f} s, {succeeded:.0f} of {rows:.0f} rows succeeded")
    print(f"peak: {megabytes(peak)}, {peak / bound:.2f} of the bound of {megabytes(bound)}")
    print(f"imports alone: {megabytes(baseline)}")
    fits = seconds < _SECONDS and written < _BYTES and peak < bound and succeeded == rows == len(shapes)
    return 0 if fits else 1


def write_folder(shapes: list[tuple[int, int]], folder: Path, shards: int) -> None:
    """Write Gaussian weights in bfloat16, `layers.N.weight`, and the index; in small blocks, as `memory` explains."""
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(0)
    places: dict[str, str] = {}
    each = -(-len(shapes) // shards)
    for number in range(shards):
        own = {f"layers.{index}.weight": shapes[index] for index in range(len(shapes))[number * each :][:each]}
        header, end = {}, 0
        for tensor, shape in own.items():
            length = 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + length]}
            end += length
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        with (folder / name).open("wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            for shape in own.values():
                scale, left = np.float32(1.0 / math.sqrt(shape[0])), math.prod(shape)
                for start in range(0, left, BLOCK):
                    block = scale * rng.standard_normal(min(BLOCK, left - start), dtype=np.float32)
                    file.write(block.astype(ml_dtypes.bfloat16).tobytes())
        places |= dict.fromkeys(own, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


if __name__ == "__main__":
    sys.exit(main())

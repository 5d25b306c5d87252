"""Past one core and one machine: speed against jobs, peak memory against model size, hours for large models.

python -m benchmarks.scale speed
python -m benchmarks.scale memory
python -m benchmarks.scale project
"""

from __future__ import annotations

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.timing import alternate, machine

#: Matrices of one block of a Llama-like model, (rows, columns, how often), how many blocks, and the two vocabularies.
_MODELS = {
    "7B (Llama 2)": (
        ((4096, 4096, 4), (11008, 4096, 3)),
        32,
        ((32000, 4096, 2),),
    ),
    "70B (Llama 2)": (
        ((8192, 8192, 2), (1024, 8192, 2), (28672, 8192, 3)),
        80,
        ((32000, 8192, 2),),
    ),
}
#: Shapes of the memory model, in turn. The first needs the most to be computed.
_SHAPES = ((4096, 4096), (8192, 2048), (1 << 18, 256), (1 << 19, 256), (1 << 16, 128))
#: Bytes of the memory model's one data file. Its weights are ranges of it that overlap, each at its own place: what
#: a process holds of a mapped file does not depend on whether another range shows the same bytes.
_DATA = 1 << 30

_ANALYSIS = """
import resource, sys, time
import wwonnx
start = time.perf_counter()
details = wwonnx.analyze(sys.argv[1], memory=sys.argv[2] if sys.argv[2] != "None" else None)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak, seconds, int((details["status"] == "success").sum()), len(details))
"""


def main() -> None:
    """Print what the first argument asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("what", choices=["speed", "memory", "project"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 4, 16], help="for memory")
    parser.add_argument("--budgets", nargs="+", default=["600MB", "2GB"], help="for memory")
    parser.add_argument("--folder", type=Path, help="where to put models (default: the temporary directory)")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.what == "speed":
            speed(Path(folder), args.repeats)
        elif args.what == "memory":
            memory(Path(folder), args.gigabytes, args.budgets)
        else:
            project(args.repeats)


def speed(folder: Path, repeats: int) -> None:
    """Layers and bytes per second: 24 layers of 768 to 3072, jobs 1 and 2, Dask with 1 and 2 workers."""
    import wwonnx

    shapes = [(n, m) for m in (768, 1024, 2048, 3072) for n in (m, 3072)] * 3
    path = matmuls(folder / "speed.onnx", shapes)
    size = sum(4 * math.prod(shape) for shape in shapes)
    ways: dict[str, Callable[[], object]] = {
        "jobs=1": lambda: wwonnx.analyze(path, jobs=1),
        "jobs=2": lambda: wwonnx.analyze(path, jobs=2),
    }
    with contextlib.ExitStack() as stack:
        for count in (1, 2):
            client = stack.enter_context(cluster(count))
            ways[f"Dask, {count} worker{'s' * (count > 1)}"] = lambda client=client: wwonnx.analyze(
                path, executor=client
            )
        for way in ways.values():
            way()  # imports, and the workers' first opening
        timings = alternate(repeats, *ways.values())
    print(f"{len(shapes)} layers of 768 x 768 to 3072 x 3072, {size / 1e6:.0f} MB of float32, one BLAS thread a layer")
    print(f"{'':16}{'median, s':>10}{'layers/s':>10}{'MB/s':>8}{'against jobs=1':>16}{'spread':>8}")
    for name, timing in zip(ways, timings, strict=True):
        median = timing.median
        print(
            f"{name:16}{median:10.2f}{len(shapes) / median:10.1f}{size / 1e6 / median:8.0f}"
            f"{timings[0].median / median:16.2f}{timing.spread:8.2f}"
        )


def memory(folder: Path, sizes: list[float], budgets: list[str]) -> None:
    """Peak of a process (ru_maxrss) that analyses models of several sizes within several budgets."""
    data = folder / "model.data"
    rng = np.random.default_rng(0)
    with data.open("wb") as file:
        for _ in range(_DATA // (1 << 22)):
            file.write(rng.standard_normal(1 << 20, dtype=np.float32))
    print(f"largest layers {_SHAPES[0][0]} x {_SHAPES[0][1]}; weights are overlapping ranges of one file of 1.07 GB")
    print(f"{'GB':>6}{'layers':>8}{'budget':>10}{'peak, MB':>10}{'of budget':>11}{'s':>8}{'rows':>10}")
    for size in sizes:
        path, layers = overlapping(folder, data.name, size * 1e9)
        for budget in budgets:
            command = [sys.executable, "-c", _ANALYSIS, str(path), budget]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, seconds, good, rows = map(float, done.stdout.split())
            bound = wwonnx_bytes(budget)
            print(
                f"{size:6.0f}{layers:8}{budget:>10}{peak / 1e6:10.0f}{peak / bound:11.2f}{seconds:8.1f}"
                f"{good:6.0f}/{rows:.0f}",
                flush=True,
            )


def wwonnx_bytes(budget: str) -> float:
    from wwonnx.execute.memory import parse

    return float(parse(budget) or math.inf)


def project(repeats: int) -> None:
    """Hours for 7B and 70B shapes from layers that were measured, with the arithmetic."""
    from wwonnx.spectral.esd import spectrum

    rng = np.random.default_rng(0)
    rates = {}
    for rows, columns in ((4096, 4096), (11008, 4096), (8192, 4096)):
        weight = rng.standard_normal((1, rows, columns), dtype=np.float32)
        (timing,) = alternate(repeats, lambda weight=weight: spectrum(lambda: weight, 2.0**-23))
        rates[rows, columns] = operations(rows, columns) / timing.median
        print(
            f"measured {rows} x {columns}: {timing.median:.2f} s for {operations(rows, columns):.3g} operations, "
            f"{rates[rows, columns] / 1e9:.1f} GFLOP/s, spread {timing.spread:.2f}"
        )
    pace = min(rates.values())
    print(f"operations of N x M: N M^2 + 4/3 M^3; at the slowest of these, {pace / 1e9:.1f} GFLOP/s:")
    for name, (block, blocks, rest) in _MODELS.items():
        total, layers, parameters = 0.0, 0, 0
        for rows, columns, count in [*((r, c, n * blocks) for r, c, n in block), *rest]:
            M, N = sorted((rows, columns))
            each = operations(N, M)
            total += count * each
            layers += count
            parameters += count * rows * columns
            print(f"  {name}: {count:4} of {rows} x {columns}: {each:.3g} each, {count * each / pace / 60:8.1f} min")
        hours = total / pace / 3600
        print(f"{name}: {layers} layers, {parameters / 1e9:.1f}e9 weights, {total:.3g} operations: {hours:.2f} hours")


def operations(N: int, M: int) -> float:
    return N * M**2 + 4 / 3 * M**3


def matmuls(path: Path, shapes: list[tuple[int, int]]) -> Path:
    """A MatMul per shape with its Gaussian weight, in external data."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    weights = [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(arrays)]
    ends = [
        helper.make_tensor_value_info(f"{end}{i}", TensorProto.FLOAT, None) for end in "xy" for i in range(len(shapes))
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"y{i}"]) for i in range(len(shapes))]
    graph = helper.make_graph(nodes, "scale", ends[: len(shapes)], ends[len(shapes) :], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    save_model(model, path, save_as_external_data=True, location=path.name + ".data", size_threshold=0)
    return path


def overlapping(folder: Path, data: str, size: float) -> tuple[Path, int]:
    """A model of so many bytes whose weights are ranges of one file; and how many layers it has."""
    from onnx import TensorProto, helper, save_model

    weights, nodes = [], []
    left, index = size, 0
    while left > 0:
        shape = _SHAPES[index % len(_SHAPES)]
        length = 4 * math.prod(shape)
        tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        offset = (4096 * 37 * index) % (_DATA - length)
        for key, value in (("location", data), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        weights.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"y{index}"]))
        left, index = left - length, index + 1
    ends = [[helper.make_tensor_value_info(f"{end}{i}", TensorProto.FLOAT, None) for i in range(index)] for end in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "memory", *ends, weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    save_model(model, folder / f"model{size / 1e9:.0f}.onnx")
    return folder / f"model{size / 1e9:.0f}.onnx", index


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[object]:
    """A Dask cluster of so many worker processes on this machine, one thread each."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=40) as local,
        Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers)
        yield client


if __name__ == "__main__":
    main()

"""Small models, whole and broken, and a process to try them in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def random_matrix(rows: int, columns: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def as_tensor(name: str, values: NDArray[Any] | TensorProto) -> TensorProto:
    if isinstance(values, TensorProto):
        values.name = name
        return values
    return numpy_helper.from_array(np.ascontiguousarray(values), name)


def claimed(
    dims: Sequence[int], data_type: int = TensorProto.FLOAT, raw: bytes | None = None, typed: Iterable[float] = ()
) -> TensorProto:
    """A tensor whose shape need not fit its data."""
    tensor = TensorProto(dims=dims, data_type=data_type)
    if raw is not None:
        tensor.raw_data = raw
    tensor.float_data.extend(typed)
    return tensor


def external(dims: Sequence[int], location: str, **entries: int | str) -> TensorProto:
    """A tensor whose data is said to lie in a file."""
    tensor = TensorProto(dims=dims, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_of(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, NDArray[Any] | TensorProto],
    opset: int = 18,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of these nodes with the input `x` and the output `y`. Nothing is checked."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], [as_tensor(name, values) for name, values in tensors.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], functions=functions)
    model.ir_version = 10
    return model


def dense(weights: Mapping[str, NDArray[Any] | TensorProto]) -> onnx.ModelProto:
    """A MatMul per weight, one after the other."""
    names = list(weights)
    values = ["x", *(f"h{index}" for index in range(1, len(names))), "y"]
    nodes = [
        helper.make_node("MatMul", [values[index], name], [values[index + 1]], name=f"node_{index}")
        for index, name in enumerate(names)
    ]
    return model_of(nodes, weights)


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@dataclass(frozen=True)
class Run:
    """What the command line did."""

    code: int
    out: str
    err: str


def command_line(*arguments: object, cwd: Path | None = None, seconds: float = 60) -> Run:
    """Run `wwonnx` as a user would, in a process of its own."""
    command = [sys.executable, "-c", "from wwonnx.cli.main import run; run()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=cwd, check=False)
    return Run(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Sandboxed:
    """How the analysis of a hostile file ended, and what it cost."""

    died: str = ""
    error: str = ""
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    inventory: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0


_SANDBOX = r"""
import json, os, resource, signal, sys, time
import numpy as np, onnx, onnx_ir, pandas, powerlaw, scipy.stats
import onnx.reference, onnx_ir.passes.common, wwonnx as ww

def peak():
    # ru_maxrss would be that of the process that started this one, where that was larger.
    status = open('/proc/self/status').read()
    return int(status.split('VmHWM:')[1].split()[0]) / 1024

def work(path, prepare):
    answer = {}
    baseline, start = peak(), time.perf_counter()
    try:
        watcher = ww.WeightWatcher(path)
        exec(prepare)
        rows = watcher.analyze(min_evals=0)
        answer['rows'] = {row.longname: (row.status, row.reason) for row in rows.itertuples()}
        answer['skipped'] = {row.longname: row.reason for row in watcher.get_skipped().itertuples()}
        found = watcher.inventory(min_evals=0)
        answer['inventory'] = {row.name_: row.reason for row in found.rename(columns={'name': 'name_'}).itertuples()}
        answer['parameters'] = found.attrs['parameters']
    except ww.WwonnxError as error:
        answer = {'error': f'{type(error).__name__}: {error}'}
    return answer | {'seconds': time.perf_counter() - start, 'megabytes': peak() - baseline}

ww.analyze(sys.argv[1], min_evals=0)
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
print('ready', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        try:
            signal.alarm(job['seconds'])
            resource.setrlimit(resource.RLIMIT_AS, (size + (3 << 30),) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(1, json.dumps(work(job['path'], job['prepare'])).encode() + b'\n')
            os._exit(0)
        except BaseException:
            import traceback
            text = traceback.format_exc()
            os.write(1, json.dumps({'died': text[:1500] + ' ... ' + text[-1500:]}).encode() + b'\n')
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        late = ' (too slow)' if status == -signal.SIGALRM else ''
        os.write(1, json.dumps({'died': f'ended with {status}{late}'}).encode() + b'\n')
"""


class Sandbox:
    """A process that forks one child per file; each may take 3 GB more address space than the process at rest."""

    def __init__(self, healthy: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SANDBOX, str(healthy)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._read() == "ready\n"

    def run(self, path: Path, prepare: str = "", seconds: int = 20) -> Sandboxed:
        """Analyse a file.

        Args:
            path: the file.
            prepare: Python to run between opening and analysing.
            seconds: the child is killed after so long.
        """
        assert self._process.stdin is not None
        print(
            json.dumps({"path": str(path), "prepare": prepare, "seconds": seconds}),
            file=self._process.stdin,
            flush=True,
        )
        answer = json.loads(self._read())
        answer["rows"] = {name: tuple(row) for name, row in answer.get("rows", {}).items()}
        return Sandboxed(**answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

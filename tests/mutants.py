"""Broken models by the thousand: a mutator with a seed, and the process in which its mutants are analysed.

`python mutants.py` is that process: it takes jobs on stdin and answers each with a line of JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto, helper

SECONDS = 5.0
MEGABYTES = 500
#: A mutant may reserve so much more address space than the idle process; what it touches is bounded by MEGABYTES.
_ADDRESS_SPACE = 3 << 30

NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 64, 127, 255, 4096, 65536, 10**9, 2**31, 2**31 - 1, -(2**31), 2**62, -(2**63))
DIMS = (0, 1, -1, 2, 3, 5, 8, 16, 64, 100, 4097, 10**6, 10**9, 2**31, 2**62, 2**63 - 1, -(2**63))
OP_TYPES = (
    *("MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN", "Einsum", "Constant", "Identity"),
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Expand", "Shape", "Flatten", "Cast"),
    *("Add", "Mul", "Div", "Pow", "Where", "Clip", "Softmax", "Trilu", "ReduceSum", "ReduceMean", "QuantizeLinear"),
    *("DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "If", "Loop", "Scan"),
    *("BatchNormalization", "RandomNormal", "ConstantOfShape", "Tile", "CastLike", "Quant", "BipolarQuant", "MoE"),
    *("MatMulNBits", "GatherBlockQuantized", "Attention", "QAttention", "QGemm", "EmbedLayerNormalization", "QMoE"),
    *("LinearClassifier", "LinearRegressor", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "NoSuchOperator", ""),
)
DOMAINS = ("", "ai.onnx", "com.microsoft", "ai.onnx.ml", "qonnx.custom_op.general", "no.such.domain")
TEXTS = (
    "",
    "a",
    "\n",
    "é\u0000",
    "[bold]",
    "x" * 100_000,
    "bij,bjk->bik",
    "ij,jk->ik",
    "ii,ij->j",
    "->",
    "ROUND",
    "../x",
)
LOCATIONS = ("weights.bin", "missing.bin", "../weights.bin", "/dev/zero", "", ".", "a\0b", "weights.bin/x", "x" * 5000)
ATTRIBUTES = (
    *("perm", "axis", "axes", "to", "group", "transA", "transB", "value", "value_ints", "value_float", "shape"),
    *("keepdims", "start", "end", "allowzero", "block_size", "bits", "K", "N", "equation", "hidden_size", "split"),
    *("num_scan_inputs", "coefficients", "intercepts", "classlabels_ints", "targets", "qkv_hidden_sizes", "min"),
    *("quantize_axis", "signed", "rounding_mode", "noop_with_empty_axes", "sparse_value", "body", "then_branch"),
)


@dataclass(frozen=True)
class Mutant:
    """A broken model, how it came about, and the options to analyse it with."""

    content: bytes
    origin: str
    options: dict[str, Any]


def mutant(models: dict[str, bytes], seed: int, number: int) -> Mutant:
    """The mutant of this number, always the same for the same models."""
    rng = random.Random(f"{seed}/{number}")
    names = sorted(models)
    name = rng.choices(names, [1.0 / (1.0 + len(models[name]) / 1e5) for name in names])[0]
    steps: list[str] = []
    content = models[name]
    if rng.random() < 0.7:
        content = _structural(rng, content, steps)
    if not steps or rng.random() < 0.15:
        content = _bytewise(rng, content, models[rng.choice(names)], steps)
    options = {
        "pool": rng.random() < 0.7,
        "split_gates": rng.random() < 0.3,
        "split_qkv": rng.random() < 0.3,
        "groups": rng.choice(("stack", "split")),
        "detX": rng.random() < 0.3,
        "inverse": rng.random() < 0.1,
        "min_evals": rng.choice((0, 0, 1, 8)),
    }
    return Mutant(content, f"{name}: {', '.join(steps)}", options)


def _bytewise(rng: random.Random, content: bytes, other: bytes, steps: list[str]) -> bytes:
    data = bytearray(content)
    kind = rng.choice(("flip", "flip", "cut", "splice", "delete", "repeat", "numbers"))
    steps.append(kind)
    if not data:
        return bytes(data)
    spot = rng.randrange(len(data))
    if kind == "flip":
        # The structure of a file is in its small part: most flips go to the front.
        reach = len(data) if rng.random() < 0.5 else min(len(data), 4000)
        for _ in range(rng.choice((1, 1, 2, 5, 50))):
            data[rng.randrange(reach)] = rng.randrange(256)
    elif kind == "cut":
        del data[spot:]
    elif kind == "splice":
        start = rng.randrange(len(other)) if other else 0
        data[spot : spot + rng.randrange(200)] = other[start : start + rng.randrange(2000)]
    elif kind == "delete":
        del data[spot : spot + rng.randrange(1, 50)]
    elif kind == "repeat":
        data[spot:spot] = data[spot : spot + rng.randrange(1, 500)]
    else:
        data[spot : spot + 8] = struct.pack("<q", rng.choice(NUMBERS))
    return bytes(data)


def _structural(rng: random.Random, content: bytes, steps: list[str]) -> bytes:
    proto = onnx.ModelProto.FromString(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        change = rng.choice(_CHANGES)
        with contextlib.suppress(IndexError, ValueError):  # nothing there to change, or not a possible value
            change(rng, proto)
            steps.append(change.__name__.strip("_"))
    return proto.SerializeToString()


def _graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    found = [proto.graph]
    for graph in found:
        for node in graph.node:
            for attribute in node.attribute:
                found += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
    return found


def _node_lists(proto: onnx.ModelProto) -> list[Any]:
    return [graph.node for graph in _graphs(proto) if graph.node] + [f.node for f in proto.functions if f.node]


def _node(rng: random.Random, proto: onnx.ModelProto) -> onnx.NodeProto:
    return rng.choice(rng.choice(_node_lists(proto)))


def _tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    found = [tensor for graph in _graphs(proto) for tensor in graph.initializer]
    return found + [a.t for nodes in _node_lists(proto) for node in nodes for a in node.attribute if a.HasField("t")]


def _names(proto: onnx.ModelProto) -> list[str]:
    nodes = [node for nodes in _node_lists(proto) for node in nodes]
    found = [name for node in nodes for name in (*node.input, *node.output)]
    return ["", "no such value", *sorted(set(found))]


def _dims(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = rng.choice(_tensors(proto))
    what = rng.randrange(5)
    if what == 0 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(DIMS)
    elif what == 1:
        tensor.dims.append(rng.choice(DIMS))
    elif what == 2 and tensor.dims:
        del tensor.dims[rng.randrange(len(tensor.dims))]
    elif what == 3:
        shuffled = list(tensor.dims)
        rng.shuffle(shuffled)
        tensor.dims[:] = shuffled
    else:
        tensor.dims[:] = [rng.choice(DIMS) for _ in range(rng.randrange(6))]


def _data_type(rng: random.Random, proto: onnx.ModelProto) -> None:
    rng.choice(_tensors(proto)).data_type = rng.choice([*TensorProto.DataType.values(), 99, -1])


def _data(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = rng.choice(_tensors(proto))
    what = rng.randrange(5)
    if what == 0:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif what == 1:
        tensor.raw_data = bytes(rng.randrange(256) for _ in range(16)) * (len(tensor.raw_data) // 16)
    elif what == 2:
        pattern = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\0\0", b"\0\0\x80\x3f", b"\xff\xff\x7f\x7f"))
        tensor.raw_data = pattern * (len(tensor.raw_data) // 4)
    elif what == 3:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.5] * rng.choice((0, 1, 10, 1000)))
    else:
        tensor.ClearField("raw_data")
        tensor.int32_data.extend([rng.choice((0, 1, 2**31 - 1, -1))] * rng.choice((0, 1, 10, 1000)))


def _external(rng: random.Random, proto: onnx.ModelProto) -> None:
    tensor = rng.choice(_tensors(proto))
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    location = rng.choice(LOCATIONS) if rng.random() < 0.5 else LOCATIONS[0]
    entries = {"location": location, "offset": str(rng.choice(NUMBERS)), "length": str(rng.choice(NUMBERS))}
    for key, value in entries.items():
        if rng.random() < 0.8:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value if rng.random() < 0.9 else rng.choice(("x", "", "1e3", " 1"))


def _op_type(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if rng.random() < 0.8:
        node.op_type = rng.choice(OP_TYPES)
    if rng.random() < 0.4:
        node.domain = rng.choice(DOMAINS)


def _inputs(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    names = _names(proto)
    what = rng.randrange(4)
    if what == 0:
        node.input.append(rng.choice(names))
    elif what == 1 and node.input:
        del node.input[rng.randrange(len(node.input))]
    elif what == 2:
        order = list(node.input)
        rng.shuffle(order)
        node.input[:] = order
    else:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _outputs(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    what = rng.randrange(3)
    if what == 0:
        node.output.append(rng.choice([*_names(proto), "new"]))
    elif what == 1:
        del node.output[rng.randrange(len(node.output))]
    else:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(proto))


def _attribute(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if not node.attribute or rng.random() < 0.4:
        name = rng.choice(ATTRIBUTES)
        value = rng.choice(
            (rng.choice(NUMBERS), 0.5, rng.choice(TEXTS), [rng.choice(NUMBERS) for _ in range(3)], [0.5])
        )
        node.attribute.append(helper.make_attribute(name, value))
        return
    attribute = rng.choice(node.attribute)
    what = rng.randrange(7)
    if what == 0:
        attribute.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif what == 1:
        attribute.i = rng.choice(NUMBERS)
    elif what == 2:
        attribute.ints[:] = [rng.choice(NUMBERS) for _ in range(rng.randrange(6))]
    elif what == 3:
        attribute.name = rng.choice(ATTRIBUTES)
    elif what == 4:
        attribute.s = rng.choice(TEXTS).encode() if rng.random() < 0.8 else b"\xff\xfe"
    elif what == 5:
        attribute.ref_attr_name = rng.choice(ATTRIBUTES)
    else:
        node.attribute.remove(attribute)


def _axes(rng: random.Random, proto: onnx.ModelProto) -> None:
    lists = [a for nodes in _node_lists(proto) for node in nodes for a in node.attribute if a.ints]
    attribute = rng.choice(lists)
    attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)


def _drop_node(rng: random.Random, proto: onnx.ModelProto) -> None:
    nodes = rng.choice(_node_lists(proto))
    del nodes[rng.randrange(len(nodes))]


def _double_node(rng: random.Random, proto: onnx.ModelProto) -> None:
    nodes = rng.choice(_node_lists(proto))
    nodes.add().CopyFrom(rng.choice(nodes))


def _constant_chain(rng: random.Random, proto: onnx.ModelProto) -> None:
    """An operator between an initializer and the nodes that read it, so that it joins a constant expression."""
    graph = rng.choice([graph for graph in _graphs(proto) if graph.initializer and graph.node])
    source = rng.choice(graph.initializer).name
    others = [rng.choice(graph.initializer).name for _ in range(rng.randrange(3))]
    made = f"made_{len(graph.node)}"
    for node in graph.node:
        node.input[:] = [made if name == source else name for name in node.input]
    new = helper.make_node(rng.choice(OP_TYPES), [source, *others], [made])
    for _ in range(rng.randrange(2)):
        value = rng.choice((rng.choice(NUMBERS), [rng.choice((0, 1, 2, -1, 8)) for _ in range(rng.randrange(1, 4))]))
        new.attribute.append(helper.make_attribute(rng.choice(ATTRIBUTES), value))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([new, *rest])


def _initializer(rng: random.Random, proto: onnx.ModelProto) -> None:
    graph = rng.choice([graph for graph in _graphs(proto) if graph.initializer])
    index = rng.randrange(len(graph.initializer))
    tensor = graph.initializer[index]
    what = rng.randrange(5)
    if what == 0:
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        if rng.random() < 0.5:
            del graph.initializer[index]
    elif what == 1:
        graph.initializer.add().CopyFrom(tensor)
    elif what == 2:
        tensor.name = rng.choice(_names(proto))
    elif what == 3:
        sparse = graph.sparse_initializer.add()
        sparse.values.CopyFrom(tensor)
        sparse.indices.CopyFrom(rng.choice(graph.initializer))
        sparse.dims[:] = [rng.choice(DIMS) for _ in range(2)] if rng.random() < 0.5 else tensor.dims
        del graph.initializer[index]
    else:
        del graph.initializer[index]


def _names_changed(rng: random.Random, proto: onnx.ModelProto) -> None:
    node = _node(rng, proto)
    if rng.random() < 0.5:
        node.name = rng.choice(TEXTS)
    else:
        entry = node.metadata_props.add()
        entry.key = rng.choice(
            ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.fx_node")
        )
        entry.value = rng.choice(
            ("[", "[1, 2]", "{}", "[" * 500, "args = (%x, %y)", "['a', 'b', None]", "None", "-" * 5000)
        )


def _header(rng: random.Random, proto: onnx.ModelProto) -> None:
    what = rng.randrange(4)
    if what == 0:
        proto.ir_version = rng.choice(NUMBERS)
    elif what == 1 and proto.opset_import:
        rng.choice(proto.opset_import).version = rng.choice((*NUMBERS, 7, 13, 999))
    elif what == 2:
        del proto.opset_import[:]
    else:
        proto.opset_import.add().domain = rng.choice(DOMAINS)


def _function(rng: random.Random, proto: onnx.ModelProto) -> None:
    if proto.functions and rng.random() < 0.7:
        function = rng.choice(proto.functions)
        what = rng.randrange(4)
        if what == 0:
            function.name = rng.choice(OP_TYPES)
        elif what == 1:
            function.input[:] = [*function.input, "more"][rng.randrange(2) :]
        elif what == 2:
            function.output.append(rng.choice(_names(proto)))
        else:  # calls itself
            node = rng.choice(function.node)
            node.op_type, node.domain = function.name, function.domain
        return
    node = _node(rng, proto)  # what a node does, as a function
    function = proto.functions.add()
    function.domain, function.name = node.domain or "local", node.op_type
    function.input.extend(f"in{index}" for index in range(len(node.input)))
    function.output.extend(f"out{index}" for index in range(len(node.output)))
    inner = function.node.add()
    inner.CopyFrom(node)
    inner.input[:], inner.output[:] = function.input, function.output
    node.domain = function.domain
    function.opset_import.extend(proto.opset_import)


def _wrap_in_if(rng: random.Random, proto: onnx.ModelProto) -> None:
    """A node moves into both branches of an If."""
    graph = rng.choice(_graphs(proto))
    index = rng.randrange(len(graph.node))
    inner = onnx.NodeProto()
    inner.CopyFrom(graph.node[index])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner.output]
    body = helper.make_graph([inner], "branch", [], outputs)
    wrapped = helper.make_node(
        "If", [rng.choice(_names(proto))], list(inner.output), then_branch=body, else_branch=body
    )
    graph.node[index].CopyFrom(wrapped)


_CHANGES: tuple[Callable[[random.Random, onnx.ModelProto], None], ...] = (
    *(_dims, _dims, _data_type, _data, _external, _op_type, _op_type, _inputs, _inputs, _outputs, _attribute),
    *(_attribute, _axes, _drop_node, _double_node, _constant_chain, _constant_chain, _constant_chain, _initializer),
    *(_names_changed, _header, _function, _wrap_in_if),
)


@dataclass(frozen=True)
class Outcome:
    """How the analysis of a mutant ended.

    Attributes:
        kind: `rows` or `refused`, which are right; `exception`, `warning`, `wrong`, `slow`, `memory` or `died`.
        message: the error in one line.
        where: the innermost line of the package in the traceback.
        detail: the traceback, or what the process wrote before it died.
        seconds: how long it took.
    """

    kind: str
    message: str = ""
    where: str = ""
    detail: str = ""
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        return self.kind in ("rows", "refused")

    @property
    def signature(self) -> str:
        """Equal for failures of one cause, as far as can be told."""
        return (
            f"{self.kind} {self.message.split(':')[0][:80]} at {self.where}" if self.kind == "exception" else self.kind
        )


class Worker:
    """A process that analyses one model after the other. It is replaced when it dies, hangs or grows too large."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory(prefix="mutants")
        self._process: subprocess.Popen[bytes] | None = None
        (Path(self._folder.name) / "weights.bin").write_bytes(random.Random(0).randbytes(1 << 16))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def analyse(self, job: Mutant) -> Outcome:
        """Analyse one mutant; what seems slow gets a second chance in a fresh process."""
        outcome = self._once(job)
        return self._once(job) if outcome.kind == "slow" else outcome

    def _once(self, job: Mutant) -> Outcome:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        start, late = time.perf_counter(), threading.Event()

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._seconds, kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({"size": len(job.content), "options": job.options}).encode() + b"\n")
            process.stdin.write(job.content)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        finally:
            timer.cancel()
        seconds = time.perf_counter() - start
        if answer:
            outcome = Outcome(**json.loads(answer), seconds=seconds)
            if outcome.kind == "memory":
                self._stop()
            return outcome
        code = process.wait()
        errors = (Path(self._folder.name) / "stderr").read_text(errors="replace")[-3000:]
        self._stop()
        if late.is_set():
            return Outcome("slow", f"no answer after {self._seconds:g} s", detail=errors, seconds=seconds)
        return Outcome("died", f"the process ended with {code}", detail=errors, seconds=seconds)

    def _start(self) -> subprocess.Popen[bytes]:
        folder = Path(self._folder.name)
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        with (folder / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=environment,
            )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is ready
        return self._process

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None


def fuzz(models: dict[str, bytes], seed: int, numbers: Sequence[int]) -> Iterator[tuple[int, Mutant, Outcome]]:
    """Analyse mutants one after the other."""
    with Worker() as worker:
        for number in numbers:
            job = mutant(models, seed, number)
            yield number, job, worker.analyse(job)


def analyse(path: Path, options: dict[str, Any]) -> None:
    """What a user may do with a model: list, analyse, print."""
    import pandas as pd
    from rich.console import Console

    import wwonnx as ww
    from wwonnx.report import tables

    watcher = ww.WeightWatcher(path)
    sizes = {"min_evals": options["min_evals"], "pool": options["pool"]}
    splits = {name: options[name] for name in ("split_gates", "split_qkv", "groups")}
    described = watcher.describe(**sizes, **splits)
    inventory = watcher.inventory(**sizes)
    details = watcher.analyze(**options)
    for frame in (described, inventory, details, watcher.get_skipped()):
        assert isinstance(frame, pd.DataFrame)
    rows = details if options["pool"] else details.drop_duplicates("layer_id")
    assert list(rows["layer_id"]) == list(described["layer_id"]), "describe and analyze disagree"
    assert set(details["status"]) <= {"success", "failed"}
    assert (details["reason"] != "")[details["status"] == "failed"].all(), "a layer failed without a reason"
    assert (inventory["analyzed"] | (inventory["reason"] != "")).all(), "a constant is left out without a reason"
    if len(details) + len(inventory) < 100:
        console = Console(file=io.StringIO(), width=240, highlight=False)
        tables.print_details(console, details)
        tables.print_summary(console, watcher.get_summary())
        tables.print_skipped(console, watcher.get_skipped())
        tables.print_inventory(console, inventory)
        tables.print_description(console, described)


def attempt(path: Path, options: dict[str, Any]) -> dict[str, str]:
    """Analyse a model and tell how it ended, as an Outcome's fields."""
    import wwonnx as ww

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            analyse(path, options)
    except ww.WwonnxError as error:
        message = str(error)
        if "\n" in message or not message or len(message) > 2000:
            return {"kind": "wrong", "message": f"{len(message)} characters, or not one line: {message[:300]!r}"}
        return {"kind": "refused", "message": message}
    except AssertionError as error:
        return {"kind": "wrong", "message": str(error), "detail": traceback.format_exc()}
    except BaseException as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)
        inner = [f"{f.filename.rpartition('wwonnx/')[2]}:{f.lineno}" for f in frames if "/wwonnx/" in f.filename]
        lines = str(error).splitlines() or [""]
        message = f"{type(error).__name__}: {lines[0][:300]}"
        return {"kind": "exception", "message": message, "where": inner[-1] if inner else "", "detail": _short()}
    if caught:
        first = caught[0]
        where = f"{'/'.join(Path(first.filename).parts[-2:])}:{first.lineno}"
        return {"kind": "warning", "message": f"{first.category.__name__}: {first.message}", "where": where}
    return {"kind": "rows"}


def _short() -> str:
    text = traceback.format_exc()
    return text if len(text) < 6000 else text[:3000] + "\n...\n" + text[-3000:]


def _peak() -> int:
    """Most memory that this process ever held, in KB. (ru_maxrss starts with what the process that began it held.)"""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def _main() -> None:
    """Serve jobs until stdin ends."""
    import resource

    import numpy as np

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warm = helper.make_tensor("w", TensorProto.FLOAT, [8, 8], np.eye(8, dtype=np.float32).tobytes(), raw=True)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 8]) for name in "xy")
    path = Path("model.onnx").resolve()
    onnx.save_model(helper.make_model(helper.make_graph([node], "g", [x], [y], [warm])), path)
    attempt(path, mutant({"warm": path.read_bytes()}, 0, 0).options)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE,) * 2)
    baseline = _peak()
    answers = sys.stdout.buffer
    answers.write(b"ready\n")
    answers.flush()
    while line := sys.stdin.buffer.readline():
        job = json.loads(line)
        path.write_bytes(sys.stdin.buffer.read(job["size"]))
        answer = attempt(path, job["options"])
        grown = (_peak() - baseline) >> 10
        if grown > MEGABYTES:
            answer = {"kind": "memory", "message": f"{grown} MB more than at rest", "detail": str(answer)}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _main()

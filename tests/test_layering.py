"""Who may import whom, and what importing the package does to a process: nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Parts of the package from the bottom up: a part imports its own row and those above it in this list, none below.
LAYERS = (
    {"errors", "files", "layer", "options", "version", "filters", "maps", "matching"},
    {"graph", "spectral", "converters"},
    {"analysis", "columns", "derive", "tails"},
    {"execute", "report"},
    {"watcher", "compare", "correlation", "distances", "legacy", "reporting", "smoothing", "advice"},
    {"check"},
    {"callbacks", "cli"},
    {"__init__", "__main__"},
)
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
FRAMEWORKS = {
    "torch",
    "torchvision",
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnxscript",
    "lightning",
    "pytorch_lightning",
    "transformers",
}


@dataclass(frozen=True)
class Import:
    """One name that a module imports."""

    target: str
    line: int
    in_function: bool
    for_types: bool


def imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import in a source file, relative ones resolved."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def base(node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parents = package[: len(package) - node.level + 1]
        return ".".join([*parents, *([node.module] if node.module else [])])

    def visit(node: ast.AST, in_function: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, in_function, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"{base(node)}.{alias.name}".lstrip(".") for alias in node.names)
            yield from (Import(name, node.lineno, in_function, for_types) for name in names)
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield Import(str(first.value), node.lineno, in_function, for_types)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            body = node.body if isinstance(node.body, list) else [node.body]
            outside = [child for child in ast.iter_child_nodes(node) if child not in body]
            for child in outside:
                yield from visit(child, in_function, for_types)
            for child in body:
                yield from visit(child, True, for_types)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, in_function, True)
            for child in node.orelse:
                yield from visit(child, in_function, for_types)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, in_function, for_types)

    return list(visit(ast.parse(source), False, False))


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for folder, prefix in ((ROOT / "wwonnx", "wwonnx"), (ROOT / "converters", "wwonnx.converters")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((prefix, *parts))] = path
    return found


MODULES = modules()
IMPORTS = {name: imports(path.read_text("utf-8"), name, path.name == "__init__.py") for name, path in MODULES.items()}


def part(target: str) -> str:
    """The part of the package that a module, or a name in one, belongs to."""
    pieces = target.split(".")
    known = len(pieces) > 1 and any(name.split(".")[1:2] == [pieces[1]] for name in MODULES)
    return pieces[1] if known else "__init__"


def top(target: str) -> str:
    return target.split(".", maxsplit=1)[0]


def is_ours(target: str) -> bool:
    return top(target) == "wwonnx"


def is_allowed(importer: str, target: str) -> bool:
    """Whether a module may import this; only what is in the package is judged."""
    own, other = part(importer), part(target)
    return not is_ours(target) or (HEIGHT[other] <= HEIGHT[own] and {own, other} != {"graph", "spectral"})


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_layer(module: str) -> None:
    assert part(module) in HEIGHT, f"say in LAYERS where {module} belongs"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_from_a_layer_above(module: str) -> None:
    wrong = [f"line {found.line}: {found.target}" for found in IMPORTS[module] if not is_allowed(module, found.target)]
    assert not wrong


def test_graph_and_spectral_do_not_know_each_other() -> None:
    for own, other in (("graph", "spectral"), ("spectral", "graph")):
        importers = [name for name in MODULES if part(name) == own]
        assert importers
        for name in importers:
            assert not [found for found in IMPORTS[name] if found.target.startswith(f"wwonnx.{other}")], name


def test_the_spectral_engine_knows_no_onnx() -> None:
    for name in MODULES:
        if part(name) == "spectral":
            outside = {top(found.target) for found in IMPORTS[name] if not is_ours(found.target)}
            torch = {"torch"} if name.endswith("accelerator") else set()
            assert outside <= sys.stdlib_module_names | {"numpy", "scipy", "powerlaw"} | torch, name


@pytest.mark.parametrize("module", MODULES)
def test_the_original_is_never_imported(module: str) -> None:
    assert not [found for found in IMPORTS[module] if top(found.target) == "weightwatcher"]


@pytest.mark.parametrize("module", MODULES)
def test_frameworks_are_imported_in_functions_alone(module: str) -> None:
    eager = [found for found in IMPORTS[module] if not found.in_function and not found.for_types]
    if (
        part(module) == "callbacks"
    ):  # a callback is a class of its framework, whose module nothing imports before it is used
        own = {"lightning", "pytorch_lightning"} if module.endswith(".lightning") else {module.rsplit(".", 1)[-1]}
        eager = [found for found in eager if top(found.target) not in own]
        others = [found for found in eager if is_ours(found.target) and part(found.target) == "callbacks"]
        assert {found.target.split(".")[2] for found in others} <= {"loggers", "monitor"}
    assert not [f"line {found.line}: {found.target}" for found in eager if top(found.target) in FRAMEWORKS]


SAMPLE = """
import os, torch.nn as nn
from typing import TYPE_CHECKING
from . import errors
from .spectral.esd import spectrum
from .. import other
if TYPE_CHECKING:
    import keras
try:
    import tensorflow
except ImportError:
    pass
class Inner:
    import scipy
    def method(self, default=__import__("json")):
        from weightwatcher import WeightWatcher
        if True:
            import_module("torch.fx")
"""


def test_imports_are_found_wherever_they_stand() -> None:
    found = {(one.target, one.in_function, one.for_types) for one in imports(SAMPLE, "wwonnx.analysis")}
    assert found == {
        ("os", False, False),
        ("torch.nn", False, False),
        ("typing.TYPE_CHECKING", False, False),
        ("wwonnx.errors", False, False),
        ("wwonnx.spectral.esd.spectrum", False, False),
        ("other", False, False),
        ("keras", False, True),
        ("tensorflow", False, False),
        ("scipy", False, False),
        ("json", False, False),
        ("weightwatcher.WeightWatcher", True, False),
        ("torch.fx", True, False),
    }


@pytest.mark.parametrize(
    ("source", "module", "is_package", "target"),
    [
        ("from ..errors import WeightError", "wwonnx.spectral.esd", False, "wwonnx.errors.WeightError"),
        ("from .esd import Array", "wwonnx.spectral.norms", False, "wwonnx.spectral.esd.Array"),
        ("from . import dense", "wwonnx.graph.operators", True, "wwonnx.graph.operators.dense"),
        ("from ...layer import Layout", "wwonnx.graph.operators", True, "wwonnx.layer.Layout"),
        ("from wwonnx import analyze", "wwonnx.graph.walk", False, "wwonnx.analyze"),
    ],
)
def test_relative_imports_are_resolved(source: str, module: str, is_package: bool, target: str) -> None:
    (found,) = imports(source, module, is_package)
    assert found.target == target


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("wwonnx.graph.walk", "wwonnx.spectral.esd.spectrum", False),
        ("wwonnx.spectral.esd", "wwonnx.graph.walk", False),
        ("wwonnx.spectral.esd", "wwonnx.analysis", False),
        ("wwonnx.analysis", "wwonnx.execute.local", False),
        ("wwonnx.execute.local", "wwonnx.watcher", False),
        ("wwonnx.layer", "wwonnx.graph", False),
        ("wwonnx.graph.walk", "wwonnx.analyze", False),
        ("wwonnx.watcher", "wwonnx", False),
        ("wwonnx.watcher", "wwonnx.execute.local", True),
        ("wwonnx.analysis", "wwonnx.spectral.esd", True),
        ("wwonnx.analysis", "wwonnx.graph.walk", True),
        ("wwonnx.graph.walk", "wwonnx.graph.names.Namer", True),
        ("wwonnx", "wwonnx.watcher.analyze", True),
        ("wwonnx.spectral.esd", "numpy.linalg", True),
    ],
)
def test_the_rule_itself(importer: str, target: str, allowed: bool) -> None:
    assert is_allowed(importer, target) is allowed


IMPORT = """
import json, logging, os, sys, threading, warnings
import numpy as np

logging.getLogger("someone.else")
np.random.seed(7)

def state():
    kind, keys, *rest = np.random.get_state()
    return {
        "handlers": [repr(handler) for handler in logging.root.handlers],
        "level": logging.root.level,
        "disabled": logging.root.manager.disable,
        "other": [logging.getLogger("someone.else").level, logging.getLogger("someone.else").propagate],
        "capture": repr(warnings.showwarning),
        "filters": [repr(one) for one in warnings.filters],
        "random": [kind, keys.tolist(), repr(rest)],
        "floats": np.geterr(),
        "printing": repr(np.get_printoptions()),
        "environment": dict(os.environ),
        "threads": threading.active_count(),
        "hook": repr(sys.excepthook),
    }

before = state()
import wwonnx
after = state()
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"changed": changed, "modules": sorted({name.split(".", 1)[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def imported() -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KMP_", "OMP_", "MKL_"))}
    command = [sys.executable, "-W", "default", "-c", IMPORT]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)


def test_importing_changes_nothing(imported: subprocess.CompletedProcess[str]) -> None:
    assert json.loads(imported.stdout)["changed"] == []


def test_importing_says_nothing(imported: subprocess.CompletedProcess[str]) -> None:
    assert imported.stderr == ""
    assert imported.stdout.count("\n") == 1


def test_importing_is_light(imported: subprocess.CompletedProcess[str]) -> None:
    loaded = set(json.loads(imported.stdout)["modules"])
    assert {"numpy", "wwonnx"} <= loaded
    heavy = {"torch", "tensorflow", "keras", "matplotlib", "sklearn", "powerlaw", "scipy", "onnx_ir"}
    assert not loaded & heavy


def test_a_source_tree_has_its_converters() -> None:
    """An interpreter that is started in a checkout imports it from there, where converters/ lies beside the package."""
    root = Path(__file__).resolve().parent.parent
    code = "import wwonnx.converters.dispatch as d; from wwonnx.converters import to_onnx; print(d.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == root / "converters" / "dispatch.py"

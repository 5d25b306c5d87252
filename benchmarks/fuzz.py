"""Thousands of broken models: each must end in rows or in a WwonnxError, soon and in little memory.

    python -m benchmarks.fuzz --mutants 20000 --models DIR --seed 0
    python -m benchmarks.fuzz --seed 0 --mutant 1234 --save broken.onnx

The mutator is that of the tests, in tests/mutants.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_mutants() -> ModuleType:
    """The module tests/mutants.py."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000, help="how many (20000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (0)")
    parser.add_argument("--models", type=Path, default=ROOT / "examples", help="folder of .onnx files to mutate")
    parser.add_argument("--seed", type=int, default=0, help="seed (0)")
    parser.add_argument("--mutant", type=int, help="only this one, with its traceback")
    parser.add_argument("--save", type=Path, help="with --mutant: write its file here")
    arguments = parser.parse_args()
    mutants = load_mutants()
    models = {str(path.relative_to(arguments.models)): path.read_bytes() for path in arguments.models.rglob("*.onnx")}
    if not models:
        parser.error(f"{arguments.models} holds no .onnx file")
    if arguments.mutant is not None:
        return one(mutants, models, arguments.seed, arguments.mutant, arguments.save)
    numbers = range(arguments.first, arguments.first + arguments.mutants)
    start = time.perf_counter()
    kinds: Counter[str] = Counter()
    failures: dict[str, list[str]] = {}
    for number, job, outcome in mutants.fuzz(models, arguments.seed, numbers):
        kinds[outcome.kind] += 1
        if not outcome.fine:
            line = f"  --seed {arguments.seed} --mutant {number}  [{job.origin}] {outcome.message}"
            failures.setdefault(outcome.signature, []).append(line)
            print(f"{outcome.signature}\n{line}", flush=True)
    print(f"\n{len(numbers)} mutants of {len(models)} models in {time.perf_counter() - start:.0f} s: {dict(kinds)}")
    for signature, lines in sorted(failures.items(), key=lambda item: -len(item[1])):
        print(f"{len(lines)} x {signature}\n" + "\n".join(lines[:3]))
    return 1 if failures else 0


def one(mutants: ModuleType, models: dict[str, bytes], seed: int, number: int, save: Path | None) -> int:
    """Analyse one mutant and tell all about it."""
    if save is not None:
        save.write_bytes(mutants.mutant(models, seed, number).content)
    for _, job, outcome in mutants.fuzz(models, seed, [number]):
        print(f"{job.origin}\noptions: {job.options}\n{outcome.kind} in {outcome.seconds:.2f} s: {outcome.message}")
        print(outcome.where, outcome.detail, sep="\n")
        return 0 if outcome.fine else 1
    return 1


if __name__ == "__main__":
    sys.exit(main())

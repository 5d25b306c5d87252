"""Mutants of real models end in rows or in a WwonnxError. The long run is benchmarks/fuzz.py."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from building import dense, random_matrix
from mutants import fuzz, mutant

ROOT = Path(__file__).resolve().parent.parent
MUTANTS, SEED = 300, 7


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """The shared models where there are any, and in any case the one that the project ships and one built here."""
    built = dense({f"w{index}": random_matrix(12, 12, index) for index in range(3)}).SerializeToString()
    folder = Path(os.environ.get("WWONNX_SHARED") or ROOT.parent / "shared") / "models"
    paths = [ROOT / "examples" / "digits_cnn.onnx", *sorted(folder.rglob("*.onnx"))]
    return {"built": built} | {path.name: path.read_bytes() for path in paths}


def test_a_mutant_can_be_made_again(models: dict[str, bytes]) -> None:
    assert [mutant(models, 1, number) for number in range(20)] == [mutant(models, 1, number) for number in range(20)]
    assert mutant(models, 1, 0) != mutant(models, 2, 0)


def test_mutants_end_in_rows_or_a_refusal(models: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    for number, job, outcome in fuzz(models, SEED, range(MUTANTS)):
        kinds[outcome.kind] += 1
        if not outcome.fine:
            failures.append(
                f"seed {SEED}, mutant {number} ({job.origin}): {outcome.signature}: {outcome.message[:200]}"
            )
    with capsys.disabled():
        print(f"\n{MUTANTS} mutants in {time.perf_counter() - start:.0f} s: {dict(kinds)}")  # noqa: T201
    assert not failures, "\n".join(failures)
    assert kinds["rows"] > MUTANTS / 4, "most mutants are refused outright: the mutator no longer reaches the analysis"

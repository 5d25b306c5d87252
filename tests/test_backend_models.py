"""Every model of the onnx package's own backend tests: odd, tiny, of all operators, and none may surprise."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import wwonnx as ww


def backend_models() -> Iterator[tuple[str, Path | onnx.ModelProto]]:
    """The files that the package ships, and the models of its node tests, which newer versions make in memory."""
    from onnx.backend.test.case.node import collect_testcases

    for path in sorted(Path(onnx.__file__).parent.glob("backend/test/data/**/model.onnx")):
        yield f"{path.parent.parent.name}/{path.parent.name}", path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = list(collect_testcases(None))
    for case in cases:
        yield case.name, case.model


def test_every_backend_model_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    models = list(backend_models())
    refused: Counter[str] = Counter()
    broken: list[str] = []
    slowest = (0.0, "")
    layers = failed = 0
    start = time.perf_counter()
    for name, model in models:
        began = time.perf_counter()
        try:
            watcher = ww.WeightWatcher(model)
            inventory = watcher.inventory(min_evals=0)
            details = watcher.analyze(min_evals=0)
            assert len(watcher.analyze()) <= len(details)
            assert (inventory["analyzed"] | (inventory["reason"] != "")).all(), "left out without a reason"
            assert list(watcher.describe(min_evals=0)["layer_id"]) == list(details["layer_id"])
            layers += len(details)
            failed += int((details["status"] == "failed").sum())
        except ww.WwonnxError as error:
            refused[f"{name}: {error}"] += 1
        except Exception as error:  # noqa: BLE001
            broken.append(f"{name}: {type(error).__name__}: {error}"[:300])
        slowest = max(slowest, (time.perf_counter() - began, name))
    with capsys.disabled():
        print(  # noqa: T201
            f"\n{len(models)} backend models in {time.perf_counter() - start:.1f} s, slowest {slowest[1]} "
            f"({slowest[0]:.2f} s); {layers} layers, {failed} failed; {refused.total()} refused: {list(refused)}"
        )
    assert len(models) > 1000
    assert not broken, f"{len(broken)} models:\n" + "\n".join(broken)
    assert not refused, "the checker passes all of these, so none should be refused"

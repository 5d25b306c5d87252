"""How layers are run on one machine: order, memory, threads, interruption."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from wwonnx import LAYER_TYPE
from wwonnx.execute import local
from wwonnx.execute.progress import Progress, reporter
from wwonnx.layer import MATRIX, Use, WeightLayer


def layer(number: int, rows: int, columns: int) -> WeightLayer:
    return WeightLayer(
        layer_id=number,
        name=f"layer{number}",
        longname=f"layer{number}.weight",
        shape=(rows, columns),
        dtype="float",
        uses=(Use("Gemm", "", 1, LAYER_TYPE.DENSE),),
        layout=MATRIX,
        eps=2.0**-23,
        folded=False,
        depthwise=False,
        read=lambda: np.zeros((rows, columns), dtype=np.float32),
    )


def run(
    layers: list[WeightLayer], work: Callable[[WeightLayer], Any], progress: Callable[[Progress], None] | None = None
) -> list[Any]:
    """One layer at a time."""
    return local.run(layers, lambda some: [work(one) for one in some], lambda _, found: found, progress)


def test_results_come_back_in_the_order_of_the_layers() -> None:
    layers = [layer(number, 10 * number, 8) for number in (3, 1, 2, 5, 4)]
    assert run(layers, lambda one: one.layer_id) == [3, 1, 2, 5, 4]
    assert run([], lambda one: one.layer_id) == []


def test_large_layers_come_first_and_alone() -> None:
    running, together, order = [0], [0], []
    lock = threading.Lock()

    def work(one: WeightLayer) -> int:
        with lock:
            running[0] += 1
            together[0] = max(together[0], running[0] if one.M >= 2048 else 0)
            order.append(one.layer_id)
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return one.layer_id

    layers = [layer(1, 64, 64), layer(2, 2048, 2048), layer(3, 100, 64), layer(4, 4096, 4096)]
    run(layers, work)
    assert order[:2] == [4, 2]
    assert together[0] == 1


def test_small_layers_have_one_blas_thread_and_the_setting_is_given_back() -> None:
    before = [pool["num_threads"] for pool in threadpool_info()]

    def threads(_: WeightLayer) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    small, large = run([layer(1, 64, 64), layer(2, 2048, 2048)], threads)
    assert set(small) == {1}
    assert max(large) == max(before)
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_layers_side_by_side_stay_within_the_memory_of_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SHARED_BYTES", 0)
    monkeypatch.setattr(local, "_cores", lambda: 8)
    held, peak = [0], [0]
    lock = threading.Lock()

    def memory(one: WeightLayer) -> int:
        return local._Task(0, one).memory

    def work(one: WeightLayer) -> None:
        with lock:
            held[0] += memory(one)
            peak[0] = max(peak[0], held[0])
        time.sleep(0.005)
        with lock:
            held[0] -= memory(one)

    layers = [layer(number, 50 + 7 * number, 50) for number in range(30)]
    run(layers, work)
    assert peak[0] <= max(map(memory, layers))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_ends_the_run(error: type[BaseException]) -> None:
    started = []

    def work(one: WeightLayer) -> None:
        started.append(one.layer_id)
        if one.layer_id == 3:
            raise error
        time.sleep(0.001)

    with pytest.raises(error):
        run([layer(number, 64, 64) for number in range(200)], work)
    assert len(started) < 200


def test_progress_counts_layers_and_work() -> None:
    seen: list[Progress] = []
    run([layer(1, 64, 64), layer(2, 128, 64)], lambda one: None, seen.append)
    assert [(p.layers, p.all_layers) for p in seen] == [(1, 2), (2, 2)]
    assert seen[-1].work == pytest.approx(seen[-1].all_work)


@pytest.mark.parametrize("option", [False, True, lambda progress: None])
def test_reporter(option: bool | Callable[[Progress], None], capfd: pytest.CaptureFixture[str]) -> None:
    with reporter(option) as listener:
        assert (listener is None) == (option is False)
        if listener is not None:
            listener(Progress(1, 2, 0.5, 1.0, "a[b]c"))
    assert not capfd.readouterr().out


def test_small_layers_of_equal_M_are_computed_together() -> None:
    batches: list[int] = []

    def work(some: list[WeightLayer]) -> list[int]:
        assert len({one.M for one in some}) == 1
        batches.append(len(some))
        return [one.layer_id for one in some]

    layers = [layer(number, 40 + number, 16 if number % 2 else 32) for number in range(100)]
    assert local.run(layers, work, lambda one, found: (one.layer_id, found)) == [(n, n) for n in range(100)]
    assert max(batches) > 10


def test_results_are_completed_in_the_callers_thread() -> None:
    here = threading.get_ident()
    layers = [layer(number, 64, 64) for number in range(20)]
    seen = local.run(layers, lambda some: [None] * len(some), lambda *_: threading.get_ident())
    assert set(seen) == {here}

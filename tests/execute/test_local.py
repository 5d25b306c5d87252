"""How layers are run on one machine: order, memory, threads, interruption."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from wwonnx import LAYER_TYPE
from wwonnx.execute import blas, local
from wwonnx.execute.memory import Budget
from wwonnx.execute.progress import Progress, Tracker, reporter
from wwonnx.execute.tasks import ALONE, Task, batches
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


def run(layers: list[WeightLayer], work: Callable[[WeightLayer], Any], **given: Any) -> list[Any]:
    """One layer at a time."""
    return local.run(layers, steps(lambda some: [work(one) for one in some]), **given)


def steps(
    work: Callable[[Any], list[Any]], complete: Callable[[WeightLayer, Any], Any] = lambda _, found: found, **more: Any
) -> local.Steps[Any, Any]:
    return local.Steps(lambda some: partial(work, some), complete, more.pop("refuse", lambda _, reason: reason), **more)


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
            together[0] = max(together[0], running[0] if one.M >= ALONE else 0)
            order.append(one.layer_id)
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return one.layer_id

    layers = [layer(1, 64, 64), layer(2, 4096, 4096), layer(3, 100, 64), layer(4, 4096, 5000)]
    run(layers, work)
    assert order[:2] == [4, 2]
    assert together[0] == 1


def test_small_layers_have_one_blas_thread_and_the_setting_is_given_back() -> None:
    import scipy.linalg.cython_blas  # noqa: F401  # layers of this size bring it in

    with blas.all_threads():  # once no layer of an interrupted run is left that others did not wait for
        before = [pool["num_threads"] for pool in threadpool_info()]

    def threads(_: WeightLayer) -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    small, medium, large = run([layer(1, 64, 64), layer(2, 4095, 4095), layer(3, 4096, 4096)], threads)
    assert set(small) == {1}
    assert set(medium) == {1}
    assert max(large) == max(before)
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@pytest.mark.parametrize("share", [1.0, 2.5])
def test_layers_side_by_side_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(local, "cores", lambda: 8)
    layers = [layer(number, 50 + 7 * number, 50 + number) for number in range(30)]
    memory = {one.layer_id: Task(0, one).memory for one in layers}
    budget = Budget(share * max(memory.values()), share * max(memory.values()))
    monkeypatch.setattr(local.memory, "budget", lambda _: budget)
    held, peak, most = [0], [0], [0, 0]
    lock = threading.Lock()

    def work(one: WeightLayer) -> None:
        with lock:
            held[0] += memory[one.layer_id]
            most[0] += 1
            peak[0], most[1] = max(peak[0], held[0]), max(most)
        time.sleep(0.005)
        with lock:
            held[0] -= memory[one.layer_id]
            most[0] -= 1

    run(layers, work, memory_limit=1)
    assert peak[0] <= budget.together
    assert most[1] >= 2


def test_a_smaller_layer_goes_first_where_the_next_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 2)
    layers = [layer(1, 1000, 1000), layer(2, 999, 999), layer(3, 600, 600)]
    budget = Budget(Task(0, layers[0]).memory * 1.5, math.inf)
    monkeypatch.setattr(local.memory, "budget", lambda _: budget)
    order = []
    run(layers, lambda one: (order.append(one.layer_id), time.sleep(0.02)), memory_limit=1)
    assert order == [1, 3, 2]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_layers_at_once_than_jobs(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.setattr(local, "cores", lambda: 4)
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_: WeightLayer) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1

    run([layer(number, 600, 600) for number in range(12)], work, jobs=jobs)
    assert most[0] == jobs


def test_a_layer_beyond_the_budget_is_refused_and_the_others_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [layer(1, 64, 64), layer(2, 9000, 9000)]
    monkeypatch.setattr(local.memory, "held", lambda: 500_000_000)
    seen: list[Progress] = []
    small, large = run(layers, lambda _: "computed", memory_limit=1_000_000_000, tracker=Tracker(seen.append, layers))
    assert small == "computed"
    assert large == (
        "needs about 1.3 GB of memory to be computed, and memory=1 GB leaves 399 MB beside what the process holds "
        "already; raise memory"
    )
    assert seen[-1].layers == 2


def test_layers_that_are_not_admitted_have_no_result() -> None:
    layers = [layer(number, 64, 64) for number in range(6)]
    found = local.run(layers, steps(lambda some: [1] * len(some), admit=lambda one: one.layer_id % 2 == 0))
    assert found == [1, None, 1, None, 1, None]


def test_an_interruption_does_not_wait_for_what_is_running() -> None:
    release = threading.Event()

    def work(one: WeightLayer) -> None:
        if one.layer_id:
            release.wait(20)
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run([layer(0, 700, 700), layer(1, 700, 700)], work)
    assert time.monotonic() - start < 10
    release.set()


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
    layers = [layer(1, 64, 64), layer(2, 128, 64)]
    run(layers, lambda one: None, tracker=Tracker(seen.append, layers))
    assert [(p.layers, p.all_layers) for p in seen] == [(1, 2), (2, 2)]
    assert seen[-1].work == pytest.approx(seen[-1].all_work)
    assert [(p.bytes, p.all_bytes) for p in seen] == [(4 * 128 * 64, 4 * 192 * 64), (4 * 192 * 64, 4 * 192 * 64)]
    assert seen[0].seconds_left > 0.0
    assert seen[-1].seconds_left == 0.0


@pytest.mark.parametrize("option", [False, True, lambda progress: None])
def test_reporter(option: bool | Callable[[Progress], None], capfd: pytest.CaptureFixture[str]) -> None:
    with reporter(option) as listener:
        assert (listener is None) == (option is False)
        if listener is not None:
            listener(Progress(1, 2, 0.5, 1.0, "a[b]c"))
    assert not capfd.readouterr().out


def test_small_layers_of_equal_M_are_computed_together() -> None:
    together: list[int] = []

    def work(some: list[WeightLayer]) -> list[int]:
        assert len({one.M for one in some}) == 1
        together.append(len(some))
        return [one.layer_id for one in some]

    layers = [layer(number, 40 + number, 16 if number % 2 else 32) for number in range(100)]
    assert local.run(layers, steps(work, lambda one, found: (one.layer_id, found))) == [(n, n) for n in range(100)]
    assert max(together) > 10


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 100])
def test_workers_start_with_small_layers_of_different_length(workers: int) -> None:
    """Those of equal length would want the interpreter at the same moments."""
    sizes = [(700, 600), (700, 500)] + [(300, 256)] * 4 + [(256, 64)] * 20 + [(64, 64)] * 40 + [(9, 7)] * 30
    some = [Task(index, layer(index, *size)) for index, size in enumerate(sizes)]
    found = batches(some, workers, math.inf)
    assert sorted(task.index for batch in found for task in batch) == list(range(len(sizes)))
    assert [task.index for task in found[0]] == [0]
    work = [sum(task.work for task in batch) for batch in found[1:]]
    assert work[0] == max(work)
    if workers <= 3:  # for more, layers of one size alone are that many
        assert all(one > 1.3 * other for one, other in itertools.pairwise(work[:workers]))


def test_results_are_completed_in_the_callers_thread() -> None:
    here = threading.get_ident()
    layers = [layer(number, 64, 64) for number in range(20)]
    seen = local.run(layers, steps(lambda some: [None] * len(some), lambda *_: threading.get_ident()))
    assert set(seen) == {here}

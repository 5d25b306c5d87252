"""Work on executors: processes, Dask on loopback, workers that die, models that they can't open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from building import command_line, dense, random_matrix, save

import wwonnx as ww
from wwonnx.execute import remote
from wwonnx.execute.carry import Carried, Referred, UnreachableError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {f"fc{index}": random_matrix(60 + 5 * index, 50, index) for index in range(12)}
    return save(dense(weights), tmp_path_factory.mktemp("models") / "net.onnx")


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


class Sent(Executor):
    """Runs nothing elsewhere, but keeps what would be sent."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def submit(self, function: Any, /, *given: Any, **named: Any) -> Future[Any]:
        import pickle

        content = pickle.dumps((function, given, named))
        self.bytes.append(len(content))
        arrived, values, names = pickle.loads(content)
        future: Future[Any] = Future()
        try:
            future.set_result(arrived(*values, **names))
        except UnreachableError as error:
            future.set_exception(error)
        return future


def test_workers_open_the_model_themselves(tmp_path: Path) -> None:
    path = save(dense({"a": random_matrix(400, 300), "b": random_matrix(400, 290)}), tmp_path / "net.onnx")
    executor = Sent()
    same(ww.analyze(path, executor=executor), ww.analyze(path))
    assert max(executor.bytes) < 5000
    in_memory = Sent()
    same(ww.analyze(path.read_bytes(), executor=in_memory), ww.analyze(path))
    assert [4 * 400 * 290 < size < 4 * 400 * 310 for size in in_memory.bytes] == [True, True]


def test_a_model_that_workers_do_not_find_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(dense({"a": random_matrix(400, 300), "b": random_matrix(400, 290)}), tmp_path / "net.onnx")
    watcher = ww.WeightWatcher(path)
    plain = watcher.analyze()
    hidden = path.rename(tmp_path / "moved.onnx")
    executor = Sent()
    same(watcher.analyze(executor=executor), plain)
    assert "2 layers were sent to workers that don't find the model" in watcher.get_note()
    assert sum(size > 400 * 290 * 4 for size in executor.bytes) == 2
    hidden.rename(path)
    watcher = ww.WeightWatcher(path)
    os.utime(path, (1, 1))  # the driver's is of 1970 now; a worker's copy that is newer is another file
    monkeypatch.setattr("wwonnx.execute.carry._layers", lambda *_: (_ for _ in ()).throw(UnreachableError("other")))
    same(watcher.analyze(executor=Sent()), plain)


@pytest.mark.parametrize(
    "options", [{}, {"base_model": True}, {"intra": True}, {"stacked": True}, {"ci": True}, {"pool": False}], ids=str
)
def test_processes_give_every_bit(model: Path, processes: ProcessPoolExecutor, options: dict[str, Any]) -> None:
    if "base_model" in options:
        options = {"base_model": model.read_bytes()}
    seen: list[Any] = []
    found = ww.analyze(model, executor=processes, progress=seen.append, **options)
    same(found, ww.analyze(model, **options))
    assert seen[-1].layers == seen[-1].all_layers == len(found)


def test_threads_of_this_process_and_a_store(model: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        same(ww.analyze(model, executor=threads, store=tmp_path / "r.sqlite"), ww.analyze(model))
        seen: list[Any] = []
        same(ww.analyze(model, executor=threads, store=tmp_path / "r.sqlite", progress=seen.append), ww.analyze(model))
    assert seen[-1].reused == 12


def test_joblibs_executor(model: Path) -> None:
    loky = pytest.importorskip("joblib.externals.loky")
    executor = loky.get_reusable_executor(max_workers=1)
    same(ww.analyze(model, executor=executor), ww.analyze(model))
    executor.shutdown(kill_workers=True)


@pytest.mark.parametrize("stored", [False, True])
def test_the_rest_is_computed_here_when_a_process_is_killed(tmp_path: Path, stored: bool) -> None:
    weights = {f"fc{index}": random_matrix(520, 500 + index, index) for index in range(12)}
    path = save(dense(weights), tmp_path / "net.onnx")
    watcher = ww.WeightWatcher(path)
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    killed = []

    def kill(progress: Any) -> None:
        if not killed:
            killed.append(next(iter(pool._processes)))
            os.kill(killed[0], signal.SIGKILL)

    found = watcher.analyze(executor=pool, progress=kill, store=tmp_path / "r.sqlite" if stored else None)
    pool.shutdown()
    same(found, ww.analyze(path))
    assert killed
    assert "a worker died and the executor with it" in watcher.get_note()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"executor": 3}, "executor=3: give a concurrent.futures.Executor"),
        ({"executor": "http://host"}, "give 'dask://host:port'"),
        ({"executor": Sent(), "jobs": 2}, "jobs is for this process"),
        ({"executor": Sent(), "memory": "8GB"}, "memory is for this process"),
        ({"jobs": 0}, "jobs=0: give a whole number of 1 or more"),
    ],
)
def test_what_can_not_be(model: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ww.OptionError, match=words):
        ww.analyze(model, **given)


def test_another_version_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = remote.compute

    def other(job: Any, threads: Any, _: str) -> Any:
        return submitted(job, threads, "0.0.1")

    monkeypatch.setattr(remote, "compute", other)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ww.WwonnxError, match=r"not 0\.0\.1: install the same version"):
        ww.analyze(model, executor=pool)


# Dask: a scheduler and two workers on loopback, processes of their own.

_WORKER = "from distributed.cli.dask_worker import main; main()"
_SCHEDULER = "from distributed.cli.dask_scheduler import main; main()"


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Its address, and the processes of two workers."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    file = folder / "scheduler.json"

    def start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", code, *arguments, "--no-dashboard"]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    running = [start(_SCHEDULER, "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))]
    try:
        worker = ["--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
        running += [start(_WORKER, *worker) for _ in range(2)]
        deadline = time.monotonic() + 40
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(2, timeout=40)
            yield client.scheduler.address.replace("tcp", "dask"), running[1:]
    finally:
        for process in reversed(running):
            process.kill()
            process.wait()


def test_a_dask_worker_that_is_killed_costs_no_row(
    scheduler: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = scheduler
    weights = {f"fc{index}": random_matrix(720, 700 + index, index) for index in range(40)}
    path = save(dense(weights), tmp_path / "net.onnx")
    plain = ww.analyze(path)
    same(ww.analyze(path, executor=address), plain)

    watcher = ww.WeightWatcher(path)
    seen: list[Any] = []

    def kill(progress: Any) -> None:
        seen.append(progress)
        if progress.layers == 10:
            workers[0].kill()

    store = tmp_path / "r.sqlite"
    found = watcher.analyze(executor=address, progress=kill, store=store)
    assert workers[0].wait(10) == -signal.SIGKILL
    same(found, plain)
    assert seen[-1].layers == 40
    assert "is gone: what it was at was computed elsewhere" in watcher.get_note()
    command = command_line("analyze", path, "--dask", address, "--store", store, "--format", "csv")
    assert command.code == 0, command.err


def test_a_scheduler_that_is_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("wwonnx.execute.dask._PATIENCE", 0.5)
    with pytest.raises(ww.OptionError, match="no Dask scheduler answers there"):
        ww.analyze(model, executor="dask://127.0.0.1:9")


def test_references_travel_light_and_values_whole() -> None:
    import pickle

    read = Carried(lambda: random_matrix(5, 4))
    assert pickle.loads(pickle.dumps(read))().tolist() == random_matrix(5, 4).tolist()
    referred = Referred("m.onnx", (("m.onnx", 1, 2),), None, (3, (5, 4)), read)  # type: ignore[arg-type]
    assert len(pickle.dumps(referred)) < 300

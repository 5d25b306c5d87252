"""Results that survive: reused where they may be, never where not, through SIGKILL, full disks and foreign files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from building import command_line, dense, random_matrix, save
from hypothesis import given, settings
from hypothesis import strategies as st

import wwonnx as ww
from wwonnx import analysis
from wwonnx.errors import StoreError
from wwonnx.execute import store as store_module
from wwonnx.execute.claims import Claims
from wwonnx.execute.content import content_hash
from wwonnx.execute.store import Store


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = {f"fc{index}": random_matrix(60 + 5 * index, 50, index) for index in range(6)}
    return save(dense(weights), tmp_path_factory.mktemp("models") / "net.onnx")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers whose eigenvalues are computed, in order."""
    names: list[str] = []
    spectra = analysis._spectra

    def counted(layers: Any, options: Any) -> Any:
        names.extend(layer.name for layer in layers)
        return spectra(layers, options)

    monkeypatch.setattr(analysis, "_spectra", counted)
    return names


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_second_run_computes_nothing_and_gives_every_bit(model: Path, tmp_path: Path, computed: list[str]) -> None:
    plain = ww.analyze(model)
    computed.clear()
    same(ww.analyze(model, store=tmp_path / "r.sqlite"), plain)
    assert len(computed) == 6
    computed.clear()
    seen = []
    same(ww.analyze(model, store=tmp_path / "r.sqlite", progress=seen.append), plain)
    assert computed == []
    assert [(p.layers, p.reused, p.seconds_left) for p in seen] == [(n, n, None) for n in range(1, 7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.sqlite"]


@pytest.mark.parametrize(
    "options",
    [
        *({"detX": True}, {"mp_fit": True}, {"fit": "TPL"}, {"estimator": "hill"}, {"ci": True, "seed": 3}),
        *({"randomize": True, "rand_replicas": 3}, {"vectors": True}, {"inverse": True}, {"pool": False}),
    ],
    ids=str,
)
def test_new_fits_take_the_kept_eigenvalues_and_give_every_bit(
    model: Path, tmp_path: Path, computed: list[str], options: dict[str, Any]
) -> None:
    plain = ww.analyze(model, **options)
    ww.analyze(model, store=tmp_path / "r.sqlite")
    computed.clear()
    same(ww.analyze(model, store=tmp_path / "r.sqlite", **options), plain)
    assert computed == []


@pytest.mark.parametrize("options", [{"fft": True}, {"intra": True}, {"stacked": True}])
def test_other_spectra_are_computed(model: Path, tmp_path: Path, computed: list[str], options: dict[str, Any]) -> None:
    plain = ww.analyze(model, **options)
    ww.analyze(model, store=tmp_path / "r.sqlite")
    computed.clear()
    same(ww.analyze(model, store=tmp_path / "r.sqlite", **options), plain)
    assert len(computed) == len(plain)
    computed.clear()
    same(ww.analyze(model, store=tmp_path / "r.sqlite", **options), plain)
    assert computed == []


def test_numbers_from_a_seed_belong_to_their_layer(tmp_path: Path) -> None:
    first = save(dense({"a": random_matrix(70, 50, 1), "b": random_matrix(60, 50, 2)}), tmp_path / "1.onnx")
    turned = save(dense({"b": random_matrix(60, 50, 2), "a": random_matrix(70, 50, 1)}), tmp_path / "2.onnx")
    ww.analyze(first, store=tmp_path / "r.sqlite", ci=True)
    same(ww.analyze(turned, store=tmp_path / "r.sqlite", ci=True), ww.analyze(turned, ci=True))


def test_a_fine_tuned_model_computes_what_changed(model: Path, tmp_path: Path, computed: list[str]) -> None:
    weights = {f"fc{index}": random_matrix(60 + 5 * index, 50, index) for index in range(6)}
    weights["fc3"][0, 0] += 1.0
    tuned = save(dense(weights), tmp_path / "tuned.onnx")
    ww.analyze(model, store=tmp_path / "r.sqlite")
    computed.clear()
    found = ww.analyze(tuned, store=tmp_path / "r.sqlite")
    assert computed == ["fc3"]
    same(found, ww.analyze(tuned))


def test_a_layer_that_failed_is_tried_again(tmp_path: Path, computed: list[str]) -> None:
    broken = random_matrix(60, 50)
    broken[0, 0] = np.nan
    path = save(dense({"good": random_matrix(70, 50), "bad": broken}), tmp_path / "net.onnx")
    for expected in (["good", "bad"], ["bad"]):
        found = ww.analyze(path, store=tmp_path / "r.sqlite")
        assert found.status.tolist() == ["success", "failed"]
        assert sorted(computed) == sorted(expected)
        computed.clear()


def test_equal_layers_of_one_model_are_computed_once(tmp_path: Path, computed: list[str]) -> None:
    base = random_matrix(60, 50)
    path = save(dense({"a": base, "b": random_matrix(60, 50, 1)}), tmp_path / "net.onnx")
    ww.analyze(path, base_model=path, store=tmp_path / "r.sqlite")  # both differences are zero, of one shape
    assert len(computed) == 2  # but made of different weights
    doubled = save(dense({"a": base, "b": base + 0}), tmp_path / "tied.onnx")
    computed.clear()
    assert len(ww.analyze(doubled, store=tmp_path / "r2.sqlite")) == len(computed) == 1


def test_many_eigenvalues_are_kept_in_float32_and_not_fitted_anew(
    model: Path, tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "EXACT", 10)
    plain = ww.analyze(model)
    ww.analyze(model, store=tmp_path / "r.sqlite")
    computed.clear()
    same(ww.analyze(model, store=tmp_path / "r.sqlite", detX=True), ww.analyze(model, detX=True))
    assert len(computed) == 12  # by the store's run and by the plain one
    with Store(tmp_path / "r.sqlite") as store:
        (kept, *_) = store.all()
        values = store.eigenvalues(kept.spectrum)
        assert values is not None
        assert values[-1] == np.float32(values[-1]) == pytest.approx(plain.lambda_max[0], rel=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple),
    dtype=st.sampled_from(["f4", "f8", "f2", "i1"]),
    seed=st.integers(0, 9),
    where=st.integers(0, 10**6),
)
def test_content_hash_tells_contents_apart(shape: tuple[int, ...], dtype: str, seed: int, where: int) -> None:
    array = np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)
    assert content_hash(array) == content_hash(array.copy())
    other = array.copy()
    other.flat[where % other.size] += 1
    assert content_hash(other) != content_hash(array)
    assert content_hash(array.reshape(1, *shape)) != content_hash(array)
    assert content_hash(array.view(f"V{array.itemsize}").copy().view("u1")) != content_hash(array)


def test_content_hash_reads_in_blocks_in_the_order_in_which_values_lie() -> None:
    large = np.random.default_rng(0).standard_normal((3000, 3000)).astype("f4")
    assert content_hash(large) == content_hash(np.array(large, order="C"))
    assert content_hash(large.T) == content_hash(np.array(large.T, order="F"))
    large[-1, -1] += 1
    assert content_hash(large.T) != content_hash(np.zeros_like(large.T))


# Runs that are killed.

_RUNS = r"""
import json, os, signal, sys, time
import numpy, pandas, onnx, onnx_ir, powerlaw, scipy.linalg
import wwonnx as ww
from wwonnx import analysis
from wwonnx.execute.store import Store

path, store, log = sys.argv[1:4]
spectra = analysis._spectra

def logged(layers, options):
    with open(log, 'a') as file:
        file.writelines(layer.name + '\n' for layer in layers)
    return spectra(layers, options)

analysis._spectra = logged

def committed():
    if not os.path.exists(store):
        return []
    with Store(store) as opened:
        assert opened._connection.execute('PRAGMA integrity_check').fetchone() == ('ok',)
        return [kept.about['name'] for kept in opened.all()]

start = time.perf_counter()
ww.analyze(path)
whole = time.perf_counter() - start
answer = []
for part in map(float, sys.argv[4:]):
    before = committed()
    open(log, 'w').close()
    child = os.fork()
    if not child:
        ww.analyze(path, store=store)
        os._exit(0)
    time.sleep(part * whole)
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answer.append({'before': before, 'started': open(log).read().split(), 'status': status, 'after': committed()})
print(json.dumps(answer))
"""


def test_runs_that_are_killed_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    weights = {f"fc{index}": random_matrix(620 + index, 600 + index, index) for index in range(40)}
    path, store = save(dense(weights), tmp_path / "net.onnx"), tmp_path / "r.sqlite"
    plain = ww.analyze(path)
    moments = np.random.default_rng(7).uniform(0.05, 0.8, 10)  # as parts of an uninterrupted run
    command = [sys.executable, "-c", _RUNS, path, store, tmp_path / "log", *moments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    rounds = json.loads(done.stdout)
    assert len(rounds) == 10
    for one in rounds:
        assert not set(one["started"]) & set(one["before"]), "computed twice"
        assert set(one["before"]) <= set(one["after"]), "lost"
    assert sum(one["status"] == -signal.SIGKILL for one in rounds) >= 2
    assert any(0 < len(one["after"]) < 40 for one in rounds)
    same(ww.analyze(path, store=store), plain)
    with sqlite3.connect(store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (40,)
    connection.close()


def test_two_processes_share_a_store_and_the_work(tmp_path: Path) -> None:
    weights = {f"fc{index}": random_matrix(520 + index, 500 + index, index) for index in range(30)}
    path, store = save(dense(weights), tmp_path / "net.onnx"), tmp_path / "r.sqlite"
    code = _RUNS.split("def committed", maxsplit=1)[0] + "ww.analyze(path, store=store).to_pickle(log + '.pickle')"
    logs = [tmp_path / "log1", tmp_path / "log2"]
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), str(store), str(log)]) for log in logs]
    assert [one.wait(100) for one in both] == [0, 0]
    started = [log.read_text().split() if log.exists() else [] for log in logs]
    assert sorted(started[0] + started[1]) == sorted(weights), "each layer once, by one of the two"
    plain = ww.analyze(path)
    for log in logs:
        same(pd.read_pickle(f"{log}.pickle"), plain)


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks")
def test_claims_end_with_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from wwonnx.execute.claims import Claims\n"
        "claims = Claims(Path(sys.argv[1])); print(claims.take(b'12345678'), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        with Claims(tmp_path / "r") as claims:
            assert not claims.take(b"12345678")
            assert claims.take(b"87654321")
            other.kill()
            other.wait()
            assert claims.take(b"12345678")
    assert not list(tmp_path.iterdir())


# Disks that are full.


@pytest.fixture(params=["limit", "disk"])
def no_room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder in which a file can't grow beyond 100 KB, and what a shell must do first."""
    if request.param == "disk":
        folder = tmp_path / "disk"
        folder.mkdir()
        mounted = (
            shutil.which("mount")
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)], capture_output=True, check=False
            ).returncode
        )
        if mounted:
            yield folder, ""
            subprocess.run(["umount", str(folder)], check=True)
            return
    # Where no disk may be mounted, the limit on a file's size is the fuller test: SQLite sees a failing write.
    yield tmp_path, "ulimit -f 100; " if request.param == "limit" else "ulimit -f 60; "


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_full_disk_ends_in_one_line_and_the_store_opens(no_room: tuple[Path, str], tmp_path: Path) -> None:
    folder, before = no_room
    weights = {f"fc{index}": random_matrix(300 + index, 300, index) for index in range(80)}
    path, store = save(dense(weights), tmp_path / "net.onnx"), folder / "r.sqlite"
    script = f"{before}exec {sys.executable} -c 'from wwonnx.cli.main import run; run()' analyze {path} --store {store}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "the disk is full, or the file may grow no more: make room, and run again" in done.stderr
    with Store(store) as opened:
        kept = len(opened.all())
        assert 0 < kept < 80
        assert opened._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    moved = tmp_path / "moved.sqlite"
    shutil.copy(store, moved)
    seen: list[Any] = []
    same(ww.analyze(path, store=moved, progress=seen.append), ww.analyze(path))
    assert seen[-1].reused == kept


# Files that are no stores.


def _text(path: Path) -> None:
    path.write_text("layer,alpha\n" * 50)


def _other(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()


def _newer(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _damaged(path: Path) -> None:
    Store(path).close()
    content = bytearray(path.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_text, "is no store of results, and is left alone; name another file"),
        (_other, "is an SQLite file of something else, and is left alone; name another file"),
        (_newer, "was made by a newer wwonnx (schema 99); upgrade, or name another file"),
        (_damaged, "is damaged"),
        (_folder, "can't be opened"),
    ],
)
def test_what_is_no_store_is_left_alone(model: Path, tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "r.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    done = command_line("analyze", model, "--store", path)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert words in done.err
    assert (path.read_bytes() if path.is_file() else None) == before
    assert "Traceback" not in done.err


def test_a_store_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no directory"):
        Store(tmp_path / "no" / "r.sqlite")
    with pytest.raises(StoreError, match="no such store"):
        Store(tmp_path / "r.sqlite", create=False)
    assert not list(tmp_path.iterdir())


# The command line.


def test_the_commands_on_a_store(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "r.sqlite"
    plain = ww.analyze(model)
    ww.analyze(model, store=store)
    ww.analyze(model, store=store, detX=True)
    listed = json.loads(command_line("store", "ls", store, "--format", "json").out)["models"][0]["rows"]
    assert [(row["model"], row["options"], row["layers"]) for row in listed] == [
        (str(model), "", 6),
        (str(model), "detX=True", 6),
    ]
    shown = json.loads(command_line("store", "show", store, "--format", "json").out)["models"]
    assert [row["alpha"] for row in shown[0]["rows"]] == plain.alpha.tolist()
    assert command_line("store", "show", store).out.count("fc3") == 2
    exported = command_line("store", "export", store, "-o", tmp_path / "all.csv")
    assert exported.code == 0
    assert pd.read_csv(tmp_path / "all.csv").alpha.tolist() == pytest.approx([*plain.alpha, *plain.alpha], rel=1e-12)
    assert command_line("store", "export", store, "--esds", "-o", tmp_path / "esds.npz").code == 0
    with np.load(tmp_path / "esds.npz") as esds:
        np.testing.assert_array_equal(esds[f"{model}/fc2"], ww.WeightWatcher(model).get_ESD(layer="fc2"))
    assert command_line("store", "prune", store).code == 2
    pruned = command_line("store", "prune", store, "--model", "*net.onnx")
    assert "dropped the results of 12 layers and 6 spectra" in pruned.out
    assert "no results are kept" in command_line("store", "ls", store).out
    assert command_line("store", "show", store).code == 2


def test_ctrl_c_leaves_a_store_to_go_on_from_and_one_line(tmp_path: Path) -> None:
    weights = {f"fc{index}": random_matrix(820, 800 + index, index) for index in range(60)}
    path, store = save(dense(weights), tmp_path / "net.onnx"), tmp_path / "r.sqlite"
    command = [sys.executable, "-c", "from wwonnx.cli.main import run; run()", "analyze", path, "--store", store]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not store.exists() or store.stat().st_size < 60_000):
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.count("\n") == 1
    with Store(store) as opened:
        kept = len(opened.all())
    assert 0 < kept < 60
    assert f"wwonnx: interrupted: {kept} of 60 layers are in {store}; the same call goes on from there" in err

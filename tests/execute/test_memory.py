"""What memory there is, and what a user means by a size."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from wwonnx import OptionError
from wwonnx.execute import memory
from wwonnx.maps import let_go


@pytest.mark.parametrize(
    ("given", "size"),
    [
        *((None, None), (1, 1), (2.5e9, 2_500_000_000), ("8GB", 8 * 10**9), ("8 gb", 8 * 10**9), ("8GiB", 8 << 30)),
        *(("500M", 500_000_000), (".5k", 500), ("1.5 TiB", 3 << 39), ("17", 17), (np.int64(5), 5)),
    ],
)
def test_sizes(given: Any, size: int | None) -> None:
    assert memory.parse(given) == size


@pytest.mark.parametrize(
    "given", ["", "GB", "8 GBs", "-1GB", "8 G B", -1, 0, True, "0", float("nan"), float("inf"), []]
)
def test_what_is_no_size(given: Any) -> None:
    with pytest.raises(OptionError, match=r"memory=.*: give bytes, or a size such as '8GB'"):
        memory.parse(given)


def test_what_is_free_and_held() -> None:
    assert 0 < memory.available() <= psutil.virtual_memory().total
    before = memory.held()
    ballast = np.ones(1 << 24)
    assert 100e6 < memory.held() - before < 200e6
    del ballast


def test_a_container_may_take_less_than_the_machine_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 200000\nactive_file 0\n")
    monkeypatch.setattr(memory, "_CGROUPS", {str(tmp_path): ("memory.max", "memory.current")})
    assert memory.available() == 500_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 1_000_000


def test_a_budget_counts_what_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "held", lambda: 2 * 10**9)
    monkeypatch.setattr(memory, "available", lambda: 10e9)
    given = memory.budget(3 * 10**9)
    assert given.together == given.alone
    assert 0.8e9 < given.together < 1e9
    assert memory.budget(10**9).together == 0
    unasked = memory.budget(None)
    assert (unasked.together, unasked.alone) == (6e9, 10e9)
    assert unasked.refusal(int(11e9)).startswith("needs about 11 GB of memory to be computed, and 10 GB is free")
    assert not unasked.refusal(int(9e9))


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="not on this system")
def test_pages_of_a_map_are_given_back_and_read_again(tmp_path: Path) -> None:
    np.arange(1 << 23, dtype="f8").tofile(tmp_path / "data")
    mapped = np.memmap(tmp_path / "data", dtype="f8", mode="r", shape=(1 << 11, 1 << 12))
    total = mapped.sum()
    before = memory.held()
    let_go(mapped.T[5:])
    assert before - memory.held() > 50e6
    assert mapped.sum() == total


def test_a_map_that_holds_more_than_its_file_keeps_it(tmp_path: Path) -> None:
    np.zeros(1 << 12).tofile(tmp_path / "data")
    private = np.memmap(tmp_path / "data", dtype="f8", mode="c")
    private[:] = 1.0
    let_go(private)
    assert private.sum() == 1 << 12

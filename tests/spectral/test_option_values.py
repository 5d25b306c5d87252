"""Values of options: good ones arrive, bad ones are named in one line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from wwonnx.errors import OptionError, WwonnxError
from wwonnx.options import Options

FIELDS = ("pool", "conv2d_norm", "detX", "mp_fit", "randomize", "inverse", "split_gates", "split_qkv")
FLAGS = (*FIELDS, "ww2x", "ERG")
NAN, INF = float("nan"), float("inf")
WHOLE = ["2", "x", 2.0, 2.5, NAN, True, False, -1, [8], np.float64(8.0), np.bool_(True)]

BAD: list[tuple[str, Any]] = [
    *(("min_evals", value) for value in WHOLE),
    *(("max_evals", value) for value in [*WHOLE, 0]),
    *(("seed", value) for value in [*WHOLE, None]),
    *(("xmax", value) for value in [0, 3, 1.5, -1.5, True, "force", "-1", NAN, [-1], np.int64(2)]),
    *(("tolerance", value) for value in [NAN, INF, -INF, -1e-9, None, "x", [1.0], 10**400]),
    *((name, value) for name in FLAGS for value in ("yes", None, 2)),
    *(("groups", value) for value in ["Split", "", None, True, 1, ["stack"]]),
    *(("rand_replicas", value) for value in [*WHOLE, 0, 2]),
]


def test_defaults() -> None:
    options = Options.make()
    assert options == Options()
    known = {
        "min_evals": 8,
        "max_evals": None,
        "pool": True,
        "conv2d_norm": True,
        "detX": False,
        "xmax": None,
        "inverse": False,
        "tolerance": 1e-6,
        "seed": 0,
        "mp_fit": False,
        "randomize": False,
        "rand_replicas": None,
        "split_gates": False,
        "split_qkv": False,
        "groups": "stack",
    }
    assert dataclasses.asdict(options) | known == dataclasses.asdict(options)
    assert options.ignore_largest == 0


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value!r:.12}" for name, value in BAD])
def test_bad_values(name: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        Options.make(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert "\n" not in message


def test_errors_are_value_errors_too() -> None:
    assert issubclass(OptionError, ValueError)
    assert issubclass(OptionError, WwonnxError)


@pytest.mark.parametrize(("least", "most"), [(50, 49), (8, 1), (None, 7)])
def test_max_evals_below_min_evals(least: int | None, most: int) -> None:
    with pytest.raises(OptionError, match=rf"max_evals={most} .*min_evals={least or 8}") as caught:
        Options.make(min_evals=least, max_evals=most)
    assert "\n" not in str(caught.value)


def test_max_evals_may_equal_min_evals() -> None:
    options = Options.make(min_evals=50, max_evals=50)
    assert (options.min_evals, options.max_evals) == (50, 50)


def test_max_evals_of_zero_is_refused() -> None:
    with pytest.raises(OptionError, match="max_evals=0"):
        Options.make(min_evals=0, max_evals=0)


def test_min_evals() -> None:
    assert Options.make(min_evals=0).min_evals == 0
    assert Options.make(min_evals=None).min_evals == 8


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_numpy_integers(kind: Any) -> None:
    options = Options.make(min_evals=kind(10), max_evals=kind(20), xmax=kind(-3), seed=kind(7))
    assert (options.min_evals, options.max_evals, options.xmax, options.seed) == (10, 20, -3, 7)
    assert all(type(value) is int for value in (options.min_evals, options.max_evals, options.xmax, options.seed))


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), 0.25])
def test_tolerances(value: Any) -> None:
    options = Options.make(tolerance=value)
    assert options.tolerance == 0.25
    assert type(options.tolerance) is float
    assert Options.make(tolerance=0).tolerance == 0.0


@pytest.mark.parametrize("groups", ["stack", "split"])
def test_groups(groups: str) -> None:
    assert Options.make(groups=groups).groups == groups


def test_replicas() -> None:
    few, many = Options.make(), Options.make(rand_replicas=30)
    assert [few.replicas(M) >= 3 for M in (1, 511, 512, 2048, 20_000)] == [True] * 5
    assert [many.replicas(M) for M in (1, 20_000)] == [30, 30]
    assert Options.make(rand_replicas=3).replicas(4096) == 3


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
@pytest.mark.parametrize("name", FIELDS)
def test_flags(name: str, value: Any) -> None:
    found = getattr(Options.make(**{name: value}), name)
    assert found is bool(value)


@pytest.mark.parametrize(
    ("pool", "ww2x", "expected"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_ww2x_is_another_name_of_not_pooling(pool: bool, ww2x: bool, expected: bool) -> None:
    assert Options.make(pool=pool, ww2x=ww2x).pool is expected


@pytest.mark.parametrize("detX", [True, False])
@pytest.mark.parametrize("ERG", [True, False])
def test_erg_is_another_name_of_detX(detX: bool, ERG: bool) -> None:
    assert Options.make(detX=detX, ERG=ERG).detX is (detX or ERG)


@pytest.mark.parametrize(("pool", "ww2x"), [(False, "yes"), (True, "yes")])
def test_an_alias_is_checked_whatever_the_other_says(pool: bool, ww2x: Any) -> None:
    with pytest.raises(OptionError, match="ww2x="):
        Options.make(pool=pool, ww2x=ww2x)


def test_the_other_alias_is_checked_too() -> None:
    with pytest.raises(OptionError, match="ERG="):
        Options.make(detX=True, ERG="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(("xmax", "ignored"), [(None, 0), (False, 0), (-1, 1), (-12, 12)])
def test_xmax(xmax: Any, ignored: int) -> None:
    assert Options.make(xmax=xmax).ignore_largest == ignored


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options.make().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["mp_fit", "randomize", "vectors", "deltas", "detX"])
@pytest.mark.parametrize(
    "given",
    [{}, {"inverse": True}, {"intra": True}, {"conv2d_fft": True}, {"fft": True}, {"pool": False}, {"ci": True}],
)
def test_what_options_allow_is_what_is_not_refused(given: dict[str, Any], name: str) -> None:
    allowed = Options.make(**given).allows(name)
    if allowed:
        Options.make(**given, **{name: True})
    else:
        with pytest.raises(OptionError, match="contradict"):
            Options.make(**given, **{name: True})

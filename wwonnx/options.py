"""The options of an analysis, checked once, as one frozen object that travels with the work."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import OptionError

#: Defaults that are WeightWatcher's too.
MIN_EVALS = 8
TOLERANCE = 1e-6
#: How grouped convolutions may be read.
GROUPS = ("stack", "split")
#: ESDs of fewer eigenvalues carry little: their rows warn.
SHORT_ESD = 50


@dataclass(frozen=True)
class Options:
    """How layers are analysed. `Options.make` checks values; METRICS of the documentation define them.

    Attributes:
        min_evals: layers with fewer eigenvalues are left out.
        max_evals: layers with more are left out; None for no limit.
        pool: convolutions as one spectrum (True) or one row per kernel position (False).
        conv2d_norm: scale the matrices of convolutions by sqrt(1/2), or sqrt(rf/2) where they are not pooled.
        detX: add the trace-log condition.
        mp_fit: add the Marchenko-Pastur fit of the bulk.
        randomize: hold each layer against its own shuffles.
        rand_replicas: how many shuffles; None for 20, fewer for large layers.
        xmax: -k leaves the k largest eigenvalues out of the power law fit.
        inverse: analyse 1 / eigenvalue.
        tolerance: eigenvalues below it count into weak_rank_loss.
        seed: for everything random.
        split_gates: one layer per gate of a recurrent weight.
        split_qkv: three layers of a packed query, key and value projection.
        groups: "stack" reads a grouped convolution as one matrix per kernel position, "split" as one per group too.
    """

    min_evals: int = MIN_EVALS
    max_evals: int | None = None
    pool: bool = True
    conv2d_norm: bool = True
    detX: bool = False
    mp_fit: bool = False
    randomize: bool = False
    rand_replicas: int | None = None
    xmax: int | None = None
    inverse: bool = False
    tolerance: float = TOLERANCE
    seed: int = 0
    split_gates: bool = False
    split_qkv: bool = False
    groups: str = "stack"

    @classmethod
    def make(
        cls,
        *,
        min_evals: int | None = MIN_EVALS,
        max_evals: int | None = None,
        pool: bool = True,
        ww2x: bool = False,
        conv2d_norm: bool = True,
        detX: bool = False,
        ERG: bool = False,
        mp_fit: bool = False,
        randomize: bool = False,
        rand_replicas: int | None = None,
        xmax: int | None = None,
        inverse: bool = False,
        tolerance: float = TOLERANCE,
        seed: int = 0,
        split_gates: bool = False,
        split_qkv: bool = False,
        groups: str = "stack",
    ) -> Options:
        """Options from the arguments of `analyze`.

        Raises:
            OptionError: a value that can't be, or two that contradict each other.
        """
        least = whole("min_evals", MIN_EVALS if min_evals is None else min_evals, minimum=0)
        most = None if max_evals is None else whole("max_evals", max_evals, minimum=1)
        if most is not None and most < least:
            raise OptionError(f"max_evals={most} is below min_evals={least}: no layer can be analysed; raise max_evals")
        return cls(
            min_evals=least,
            max_evals=most,
            pool=flag("pool", pool) & (not flag("ww2x", ww2x)),
            conv2d_norm=flag("conv2d_norm", conv2d_norm),
            detX=flag("detX", detX) | flag("ERG", ERG),
            mp_fit=flag("mp_fit", mp_fit),
            randomize=flag("randomize", randomize),
            rand_replicas=None if rand_replicas is None else whole("rand_replicas", rand_replicas, minimum=3),
            xmax=_xmax(xmax),
            inverse=flag("inverse", inverse),
            tolerance=_tolerance(tolerance),
            seed=whole("seed", seed, minimum=0),
            split_gates=flag("split_gates", split_gates),
            split_qkv=flag("split_qkv", split_qkv),
            groups=choice("groups", groups, GROUPS),
        )

    def replicas(self, M: int) -> int:
        """How many shuffles to hold a layer of this size against: few are enough where there are many eigenvalues."""
        if self.rand_replicas is not None:
            return self.rand_replicas
        return 20 if M < 512 else 10 if M < 2048 else 5

    @property
    def ignore_largest(self) -> int:
        """How many of the largest eigenvalues the fit leaves out."""
        return abs(self.xmax or 0)


def flag(name: str, value: Any) -> bool:
    """A yes or no.

    Raises:
        OptionError: it is neither.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name}={value!r}: give True or False")
    return bool(value)


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """One of several words.

    Raises:
        OptionError: it is none of them.
    """
    if value not in known:
        raise OptionError(f"{name}={value!r}: give {' or '.join(map(repr, known))}")
    return str(value)


def whole(name: str, value: Any, minimum: int) -> int:
    """A whole number, numpy's integers among them.

    Raises:
        OptionError: it is none, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise OptionError(f"{name}={value!r}: give a whole number") from None
    if isinstance(value, bool) or number < minimum:
        raise OptionError(f"{name}={value!r}: give a whole number of {minimum} or more")
    return number


def _xmax(value: Any) -> int | None:
    if value is None or value is False:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number >= 0 or value is True:
        raise OptionError(f"xmax={value!r}: give a negative number, -k leaves out the k largest eigenvalues, or None")
    return number


def _tolerance(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise OptionError(f"tolerance={value!r}: give a number of 0 or more")
    return number


def nearest(wanted: str, known: list[str]) -> str:
    """A hint for a name that does not exist."""
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(map(repr, close))}?" if close else f"there are {len(known)}"

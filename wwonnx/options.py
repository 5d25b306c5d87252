"""The options of an analysis, checked once, as one frozen object that travels with the work."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .errors import OptionError

#: Defaults that are WeightWatcher's too.
MIN_EVALS = 8
TOLERANCE = 1e-6
#: ESDs of fewer eigenvalues carry little: their rows warn.
SHORT_ESD = 50
#: How grouped convolutions may be read, and how neighbouring layers are multiplied.
GROUPS = ("stack", "split")
ALIGNMENTS = ("size", "flow")
#: Laws, estimators, and what may be done about fingers.
FITS = ("PL", "TPL", "E_TPL")
ESTIMATORS = ("mle", "hill")
FINGERS = ("xmin_peak", "clip_xmax")
#: "cpu": numpy and LAPACK; "torch": PyTorch on the CPU; "cuda", "mps": PyTorch on an accelerator.
DEVICES = ("cpu", "torch", "cuda", "mps")
SVD_METHODS = ("accurate", "fast")


@dataclass(frozen=True)
class Options:
    """How layers are analysed. `Options.make` checks values; docs/metrics.md defines them.

    Attributes:
        min_evals: layers with fewer eigenvalues are left out.
        max_evals: layers with more are left out; None for no limit.
        pool: convolutions as one spectrum (True) or one row per kernel position (False).
        conv2d_norm: scale the matrices of convolutions by sqrt(1/2), or sqrt(rf/2) where they are not pooled.
        glorot_fix: scale every matrix as if it had been initialised by Glorot and Bengio, instead of conv2d_norm.
        detX: add the trace-log condition.
        mp_fit: add the Marchenko-Pastur fit of the bulk.
        randomize: hold each layer against its own shuffles.
        rand_replicas: how many shuffles; None for 20, fewer for large layers.
        vectors: add how localised the eigenvectors of tail and bulk are.
        deltas: add the level spacings of tail and bulk.
        fft: analyse the real part of each matrix's discrete Fourier transform.
        conv2d_fft: analyse the exact singular values of convolutions as maps of an image.
        intra: analyse the overlaps of neighbouring layers; "flow" composes them as the network does.
        sparsify: with intra, silence a random half of the units between two layers.
        stacked: analyse all layers as one matrix.
        peft: analyse the low-rank updates B A; "with_base" with the base added.
        fit: "PL", a power law; "TPL", one with an exponential cut-off; "E_TPL", that with xmin searched near the peak.
        estimator: "mle" searches xmin, "hill" takes the upper n // xmin_pos eigenvalues.
        xmin_pos: for estimator="hill".
        subsample: "farms" fits the pooled spectra of square windows.
        fix_fingers: "xmin_peak" searches xmin near the peak, "clip_xmax" drops the largest eigenvalues.
        max_fingers, finger_thresh: for "clip_xmax": how many at most, and by how much alpha must fall.
        ci: add a 95 % bootstrap interval of alpha.
        gof: add the p-value of the power law.
        alternatives: add likelihood ratios against other laws.
        xmax: -k leaves the k largest eigenvalues out of the power law fit.
        inverse: analyse 1 / eigenvalue.
        tolerance: eigenvalues below it count into weak_rank_loss.
        seed: for everything random.
        split_gates: one layer per gate of a recurrent weight.
        split_qkv: three layers of a packed query, key and value projection.
        groups: "stack" reads a grouped convolution as one matrix per kernel position, "split" as one per group too.
        base: whether a base model is subtracted.
        keep: whether rows carry the spectra behind them (analysis.KEPT), for pictures.
        device: what computes eigenvalues: "cpu", "torch", "cuda" or "mps".
        svd_method: "accurate", in float64, or "fast", in float32 where the tail stays as it is.
    """

    min_evals: int = MIN_EVALS
    max_evals: int | None = None
    pool: bool = True
    conv2d_norm: bool = True
    glorot_fix: bool = False
    detX: bool = False
    mp_fit: bool = False
    randomize: bool = False
    rand_replicas: int | None = None
    vectors: bool = False
    deltas: bool = False
    fft: bool = False
    conv2d_fft: bool = False
    intra: bool | str = False
    sparsify: bool = False
    stacked: bool = False
    peft: bool | str = False
    fit: str = "PL"
    estimator: str = "mle"
    xmin_pos: int = 2
    subsample: str | None = None
    fix_fingers: str | None = None
    max_fingers: int = 10
    finger_thresh: float = 1.0
    ci: bool = False
    gof: bool = False
    alternatives: bool = False
    xmax: int | None = None
    inverse: bool = False
    tolerance: float = TOLERANCE
    seed: int = 0
    split_gates: bool = False
    split_qkv: bool = False
    groups: str = "stack"
    base: bool = False
    keep: bool = False
    device: str = "cpu"
    svd_method: str = "accurate"

    @classmethod
    def make(cls, *, ww2x: bool = False, ERG: bool = False, channels: None = None, **given: Any) -> Options:
        """Options from the arguments of `analyze`.

        Args:
            ww2x: older name of pool=False.
            ERG: another name of detX.
            channels: refused: an ONNX operator says which axis is which.
            given: fields of this class.

        Raises:
            OptionError: a value that can't be, or two that contradict each other.
        """
        checked = {name: _CHECKS[name](name, value) for name, value in given.items()}
        if flag("ww2x", ww2x):
            checked["pool"] = False
        if flag("ERG", ERG):
            checked["detX"] = True
        if channels is not None:
            raise OptionError(
                "channels: an ONNX operator says which axis is which: there is nothing to choose; drop it"
            )
        options = cls(**checked)
        if options.max_evals is not None and options.max_evals < options.min_evals:
            raise OptionError(
                f"max_evals={options.max_evals} is below min_evals={options.min_evals}: no layer can be analysed; "
                "raise max_evals"
            )
        options._refuse_contradictions()
        return options

    def allows(self, name: str) -> bool:
        """Whether an option that is off may be turned on beside these."""
        on = self._on()
        return name not in {other for first in on for other in _CONTRADICTIONS.get(first, ())} and not (
            on & set(_CONTRADICTIONS.get(name, ()))
        )

    def _on(self) -> set[str]:
        """What is not as it is by default, by the names that contradictions have."""
        on = {name for name in _CHECKS if getattr(self, name) and name != "pool"}
        on |= {"pool=False"} if not self.pool else set()
        return on | ({"base_model"} if self.base else set())

    def _refuse_contradictions(self) -> None:
        on = self._on()
        for first, others in _CONTRADICTIONS.items():
            clash = sorted(on & set(others)) if first in on else []
            if self.peft == "with_base" and first == "peft":
                clash = [other for other in clash if other != "base_model"]  # the model that the updates belong to
            if clash:
                raise OptionError(f"{first} and {clash[0]} contradict each other; drop one of them")
        if self.fit != "PL":
            for name in ("fix_fingers", "ci", "gof", "alternatives"):
                if getattr(self, name):
                    raise OptionError(f"fit={self.fit!r} and {name} contradict each other; drop one of them")
            if self.estimator != "mle":
                raise OptionError(f"fit={self.fit!r} and estimator={self.estimator!r} contradict each other; drop one")
        if self.svd_method == "fast":
            for name in ("inverse", "deltas", "intra", "conv2d_fft"):
                if getattr(self, name):
                    raise OptionError(
                        f"svd_method='fast' and {name} contradict each other: float32 can't resolve the small "
                        "eigenvalues; drop one of them"
                    )
        if self.device == "mps" and self.svd_method != "fast":
            raise OptionError("device='mps': Apple's GPUs have no float64; give svd_method='fast' too, or device='cpu'")
        if self.sparsify and not self.intra:
            raise OptionError("sparsify belongs to intra: give intra=True too, or drop it")

    def replicas(self, M: int) -> int:
        """How many shuffles to hold a layer of this size against: few are enough where there are many eigenvalues."""
        if self.rand_replicas is not None:
            return self.rand_replicas
        return 20 if M < 512 else 10 if M < 2048 else 5

    @property
    def is_random(self) -> bool:
        """Whether numbers depend on the seed and the layer's id."""
        return self.randomize or self.ci or self.gof

    @property
    def ignore_largest(self) -> int:
        """How many of the largest eigenvalues the fit leaves out."""
        return abs(self.xmax or 0)


#: Options that choose layers or take weights apart: nothing that is computed of a layer depends on them.
SELECTING = frozenset({"keep", "min_evals", "max_evals", "split_gates", "split_qkv", "groups"})
#: Options of what is made of a spectrum. All that stand in neither list change the spectrum itself.
FROM_SPECTRUM = frozenset(
    {
        *("pool", "conv2d_norm", "glorot_fix", "detX", "mp_fit", "randomize", "rand_replicas", "vectors", "deltas"),
        *("fit", "estimator", "xmin_pos", "subsample", "fix_fingers", "max_fingers", "finger_thresh", "ci", "gof"),
        *("alternatives", "xmax", "inverse", "tolerance", "seed"),
    }
)

#: What can't be had together: each name, and those that it excludes.
_CONTRADICTIONS = {
    "intra": ("stacked", "peft", "base_model", "vectors", "randomize", "fft", "conv2d_fft", "glorot_fix"),
    "stacked": ("peft", "base_model", "pool=False", "conv2d_fft", "glorot_fix"),
    "peft": ("base_model", "conv2d_fft"),
    "conv2d_fft": ("pool=False", "fft", "vectors", "glorot_fix"),
    "fix_fingers": ("ci", "gof", "xmax"),
    "subsample": ("conv2d_fft", "inverse", "intra"),
    "inverse": ("vectors", "deltas", "randomize", "mp_fit"),
}


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


def nearest(wanted: str, known: list[str]) -> str:
    """A hint for a name that does not exist."""
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(map(repr, close))}?" if close else f"there are {len(known)}"


def _optional_whole(name: str, value: Any, minimum: int) -> int | None:
    return None if value is None else whole(name, value, minimum)


def _least(name: str, value: Any) -> int:
    return MIN_EVALS if value is None else whole(name, value, minimum=0)


def _flag_or(name: str, value: Any, *words: str) -> bool | str:
    if isinstance(value, str) and value in words:
        return value
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name}={value!r}: give True, False or {' or '.join(map(repr, words))}")
    return bool(value)


def _xmax(name: str, value: Any) -> int | None:
    if value is None or value is False:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number >= 0:
        raise OptionError(f"{name}={value!r}: give a negative number, -k leaves out the k largest eigenvalues, or None")
    return number


def _word(name: str, value: Any, known: tuple[str, ...]) -> str | None:
    return None if value is None or value is False else choice(name, value, known)


def _fit(name: str, value: Any) -> str:
    return "PL" if value in ("power_law", "powerlaw") else choice(name, value, FITS)


def _tolerance(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise OptionError(f"{name}={value!r}: give a number of 0 or more")
    return number


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "min_evals": _least,
    "max_evals": partial(_optional_whole, minimum=1),
    "rand_replicas": partial(_optional_whole, minimum=3),
    "seed": partial(whole, minimum=0),
    "xmax": _xmax,
    "tolerance": _tolerance,
    "finger_thresh": _tolerance,
    "max_fingers": partial(whole, minimum=3),
    "xmin_pos": partial(whole, minimum=1),
    "fit": _fit,
    "estimator": partial(choice, known=ESTIMATORS),
    "subsample": partial(_word, known=("farms",)),
    "fix_fingers": partial(_word, known=FINGERS),
    "groups": partial(choice, known=GROUPS),
    "device": partial(choice, known=DEVICES),
    "svd_method": partial(choice, known=SVD_METHODS),
    "intra": lambda name, value: _flag_or(name, value, *ALIGNMENTS),
    "peft": lambda name, value: _flag_or(name, value, "with_base"),
    **dict.fromkeys(
        (
            *("pool", "conv2d_norm", "glorot_fix", "detX", "mp_fit", "randomize", "vectors", "deltas", "fft"),
            *(
                "conv2d_fft",
                "sparsify",
                "stacked",
                "inverse",
                "ci",
                "gof",
                "alternatives",
                "split_gates",
                "split_qkv",
                "base",
                "keep",
            ),
        ),
        flag,
    ),
}

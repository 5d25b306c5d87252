"""An analysis with a store: what is in it is not computed again, what is computed is in it at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from .. import analysis
from ..analysis import Finding, Row
from ..errors import Interrupted
from ..layer import WeightLayer
from ..options import Options
from ..spectral.esd import Spectrum
from .claims import Claims
from .content import Keys, important, keys
from .job import Job
from .local import Steps, cores
from .progress import Tracker
from .refusal import refuse
from .store import Store, Use

Rows: TypeAlias = list[Row]
Engine: TypeAlias = Callable[[Sequence[WeightLayer], Steps[Finding, Rows]], list["Rows | None"]]

#: Seconds between two looks at what another process is computing.
_PAUSE = 0.25


def run(
    layers: Sequence[WeightLayer],
    options: Options,
    path: Path,
    model: str,
    engine: Engine,
    tracker: Tracker | None,
    jobs: int | None,
    see: Callable[[Rows], None] | None = None,
) -> list[Rows]:
    """The rows of each layer, in the order of the layers.

    Args:
        layers: what to analyse.
        options: what to compute.
        path: the store.
        model: what to call the model in it.
        engine: runs the layers that are left.
        tracker: told of each layer.
        jobs: how many weights are read at once for their hashes.
        see: given the rows of each layer as soon as they are there.

    Raises:
        StoreError: the store can't be opened, read or written. What is in it stays.
        Interrupted: Ctrl-C.
    """
    with Store(path) as store, Claims(path) as claims:
        run_ = _Run(layers, options, store, claims, model, tracker, see)
        try:
            run_.look_up(keys(list(layers), options, min(cores(), jobs or cores())))
            run_.compute(engine)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: {run_.kept()} of {len(layers)} layers are in {path}; the same call goes on from there"
            ) from None
        return [rows or [] for rows in run_.results]


@dataclass
class _Run:
    """One call of `run`."""

    layers: Sequence[WeightLayer]
    options: Options
    store: Store
    claims: Claims
    model: str
    tracker: Tracker | None
    see: Callable[[Rows], None] | None
    results: list[Rows | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.results = [None] * len(self.layers)
        self._keys: dict[int, Keys | None] = {}
        self._spectra: dict[int, Spectrum | None] = {}
        self._place = {id(layer): index for index, layer in enumerate(self.layers)}
        self._started: dict[bytes, int] = {}
        self._important = important(self.options)

    def look_up(self, found: list[Keys | None]) -> None:
        """Take what is in the store."""
        for layer, own in zip(self.layers, found, strict=True):
            self._keys[id(layer)] = own
            self._reuse(layer)

    def kept(self) -> int:
        """How many of the layers are in the store: an interrupt may come between a commit and what would count it."""
        return sum(own is not None and self.store.result(own.result) is not None for own in self._keys.values())

    def compute(self, engine: Engine) -> None:
        """Compute the rest; what another process is computing comes last, when it may be there."""
        steps = Steps[Finding, Rows](
            job=self._job,
            complete=self._complete,
            refuse=self._refuse,
            admit=self._admit,
            lanczos_above=self.options.lanczos_above,
        )
        while waiting := [layer for layer in self.layers if self.results[self._place[id(layer)]] is None]:
            before = len(waiting)
            engine(waiting, steps)
            if before == sum(rows is None for rows in self.results):
                time.sleep(_PAUSE)

    def _job(self, layers: Sequence[WeightLayer]) -> Job:
        return Job(tuple(layers), self.options, tuple(self._spectra.pop(id(layer), None) for layer in layers))

    def _admit(self, layer: WeightLayer) -> bool:
        own = self._keys[id(layer)]
        if own is None:
            return True
        if self._reuse(layer):
            return False
        # Equal content elsewhere in the model waits for the first; the first may be asked again when its worker died.
        first = self._started.setdefault(own.result, id(layer))
        if first != id(layer):
            return False
        if not self.claims.take(own.result):
            return False
        if self._reuse(layer):  # between the look and the claim
            self.claims.release(own.result)
            return False
        self._spectra[id(layer)] = self.store.spectrum(own.spectrum)
        return True

    def _reuse(self, layer: WeightLayer) -> bool:
        own = self._keys[id(layer)]
        # What pictures are drawn from is not among the rows that are kept: those fits are done again.
        rows = None if own is None or self.options.keep else self.store.result(own.result)
        if own is None or rows is None:
            return False
        about = analysis.describe_layer(layer, self.options)
        self.store.keep(Use(self.model, about, own), self._important)
        self._found(layer, [about | row for row in rows])
        if self.tracker is not None:
            self.tracker.finished(layer, reused=True)
        return True

    def _complete(self, layer: WeightLayer, finding: Finding) -> Rows:
        own = self._keys[id(layer)]
        # A layer that failed is tried again: what was wrong, memory or a file, may have been mended.
        if own is not None and isinstance(finding.spectrum, Spectrum):
            about = analysis.describe_layer(layer, self.options)
            rest = [
                {name: value for name, value in row.items() if name not in about and name != analysis.KEPT}
                for row in finding.rows
            ]
            self.store.keep(Use(self.model, about, own), self._important, rest, finding.spectrum)
            self.claims.release(own.result)
        return self._found(layer, finding.rows)

    def _refuse(self, layer: WeightLayer, reason: str) -> Rows:
        return self._found(layer, refuse(layer, reason, self.options))

    def _found(self, layer: WeightLayer, rows: Rows) -> Rows:
        if self.see is not None:
            self.see(rows)
        self.results[self._place[id(layer)]] = rows
        return rows

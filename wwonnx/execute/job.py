"""The work on some layers, as an object that can be sent to where it is done."""

from __future__ import annotations

from dataclasses import dataclass

from .. import analysis
from ..layer import WeightLayer
from ..options import Options
from ..spectral.esd import Spectrum


@dataclass(frozen=True)
class Job:
    """A pure function of layers and options, with its arguments.

    Attributes:
        layers: what to compute, in one go.
        options: of the analysis.
        known: for each layer the spectrum that was computed before, None where it was not; empty where none was.
    """

    layers: tuple[WeightLayer, ...]
    options: Options
    known: tuple[Spectrum | None, ...] = ()

    def __call__(self) -> list[analysis.Finding]:
        """What was found of each layer. It never raises for what is in the weights."""
        return analysis.prepare(self.layers, self.options, self.known)

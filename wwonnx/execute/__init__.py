"""Runs an analysis: layers in, rows out, in the order of the layers, wherever the work is done."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from .. import analysis
from ..layer import WeightLayer
from ..options import Options, whole
from . import local, memory
from .memory import MemoryOption
from .progress import Listener

logger = logging.getLogger("wwonnx")


@dataclass(frozen=True)
class Resources:
    """What an analysis may use.

    Attributes:
        jobs: at most so many layers at once on this machine; None for as many as there are cores.
        memory: bytes that this process may hold; None for a share of what is free.
    """

    jobs: int | None = None
    memory: int | None = None

    @classmethod
    def make(cls, jobs: int | None, given: MemoryOption) -> Resources:
        """Resources from the arguments of `analyze`.

        Raises:
            OptionError: a value that can't be.
        """
        return cls(None if jobs is None else whole("jobs", jobs, minimum=1), memory.parse(given))


def run(
    layers: Sequence[WeightLayer], options: Options, resources: Resources, progress: Listener | None = None
) -> list[list[analysis.Row]]:
    """The rows of each layer, in the order of the layers.

    Args:
        layers: what to analyse.
        options: what to compute.
        resources: what may be used for it.
        progress: called after each layer, in this thread.
    """

    def refuse(layer: WeightLayer, reason: str) -> list[analysis.Row]:
        logger.warning("%s is not computed: it %s", layer.name, reason)
        return analysis.refused(layer, reason, options)

    steps = local.Steps(
        work=lambda some: analysis.prepare(some, options),
        complete=lambda layer, finding: analysis.complete(layer, finding, options),
        refuse=refuse,
    )
    return [rows or [] for rows in local.run(layers, steps, progress, resources.jobs, resources.memory)]

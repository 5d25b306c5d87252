"""Layers that are not computed."""

from __future__ import annotations

import logging

from ..analysis import Row, refused
from ..errors import WeightError
from ..layer import WeightLayer
from ..options import Options
from .tasks import is_computed

logger = logging.getLogger("wwonnx")


def refuse(layer: WeightLayer, reason: str, options: Options) -> list[Row]:
    """The rows of a layer that is not computed, which is said at once too: the run may go on for hours."""
    reason = _unreadable(layer) or reason
    logger.warning("%s is not computed: it %s", layer.name, reason)
    return refused(layer, reason, options)


def _unreadable(layer: WeightLayer) -> str:
    """Why a weight can't be read at all: a shape beyond all memory is often that of a broken file.

    Stored weights are looked at, which reads nothing; those that are computed would take memory.
    """
    if is_computed(layer):
        return ""
    try:
        layer.read()
    except (WeightError, MemoryError) as error:
        return str(error)
    return ""

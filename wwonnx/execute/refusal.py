"""Layers that are not computed."""

from __future__ import annotations

import logging

from ..analysis import Row, refused
from ..layer import WeightLayer
from ..options import Options

logger = logging.getLogger("wwonnx")


def refuse(layer: WeightLayer, reason: str, options: Options) -> list[Row]:
    """The rows of a layer that is not computed, which is said at once too: the run may go on for hours."""
    logger.warning("%s is not computed: it %s", layer.name, reason)
    return refused(layer, reason, options)

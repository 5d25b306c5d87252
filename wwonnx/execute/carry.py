"""Layers that can be sent to another process: as a reference where that can open the model, else as bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, WwonnxError
from ..layer import WeightLayer

if TYPE_CHECKING:
    from ..graph.operators import Splits
    from ..graph.source import Source

Read: TypeAlias = Callable[[], NDArray[Any]]
#: Name, size and time of change in seconds of each file of a model.
Stamp: TypeAlias = "tuple[tuple[str, int, int], ...]"


#: The id and the shape of a layer.
Which: TypeAlias = "tuple[int, tuple[int, ...]]"


class UnreachableError(WwonnxError):
    """A worker doesn't find the model, or finds another one at its path."""


class Referred:
    """Reads a layer. It travels as (path, files, splits, layer id); the process that it arrives in opens the model."""

    def __init__(self, path: str, stamp: Stamp, splits: Splits, which: Which, read: Read | None = None) -> None:
        self._where = path, stamp, splits, which
        self._read = read

    def __call__(self) -> NDArray[Any]:
        """The layer's values.

        Raises:
            UnreachableError: the model is not to be had here.
            WeightError: the values can't be read.
        """
        if self._read is None:
            *model, (layer_id, shape) = self._where
            with _opening:
                found = _layers(*model)[layer_id - 1 : layer_id]
            if not found or found[0].shape != shape:
                raise UnreachableError(f"{model[0]}: is opened as another model here")
            self._read = found[0].read
        return self._read()

    def __reduce__(self) -> tuple[type[Referred], tuple[Any, ...]]:
        return Referred, self._where


class Carried:
    """Reads a layer. It travels as the layer's values, which are read when it is sent."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def __call__(self) -> NDArray[Any]:
        """The layer's values."""
        return self._read()

    def __reduce__(self) -> tuple[type[_Arrived], tuple[NDArray[Any]]]:
        return _Arrived, (np.array(self._read()),)


class _Arrived:
    """Values that were sent along."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values

    def __call__(self) -> NDArray[Any]:
        return self._values


def portable(layers: Sequence[WeightLayer], source: Source, splits: Splits) -> tuple[WeightLayer, ...]:
    """The layers of a model such that they can be sent: as references where the model is a file, else as values."""
    if len(source.files) != 1:  # in memory, or made of many files: workers open what is one file
        return tuple(carried(layer) for layer in layers)
    path, stamp = str(source.files[0].resolve()), stamp_of(source)
    return tuple(
        replace(layer, read=Referred(path, stamp, splits, (layer.layer_id, layer.shape), layer.read), read_bias=None)
        for layer in layers
    )


def carried(layer: WeightLayer) -> WeightLayer:
    """The layer such that it is sent as its values."""
    return replace(layer, read=Carried(layer.read), read_bias=None, parts=())


def stamp_of(source: Source) -> Stamp:
    """The files of a model as they are now: whoever sees the same ones reads the same weights."""
    from ..graph.source import data_files

    return tuple(_stamp(path) for path in (*(file.resolve() for file in source.files), *data_files(source)))


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError:
        return path.name, -1, 0
    return path.name, status.st_size, int(status.st_mtime)


_opening = threading.Lock()


@lru_cache(maxsize=2)
def _layers(path: str, stamp: Stamp, splits: Splits) -> tuple[WeightLayer, ...]:
    """The layers of a model in this process."""
    from ..graph.source import open_model
    from ..graph.walk import walk

    try:
        source = open_model(path)
    except ModelError as error:
        raise UnreachableError(str(error)) from None
    if stamp_of(source) != stamp:
        raise UnreachableError(f"{path}: is not the file that it is where the analysis was started")
    return walk(source.model, splits).layers

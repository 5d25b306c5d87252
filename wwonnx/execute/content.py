"""What a layer's numbers follow from, as keys: its weights' content, the options that matter, the engine's version."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightError
from ..layer import WeightLayer
from ..maps import let_go
from ..options import FROM_SPECTRUM, SELECTING, Options
from ..version import __version__

#: Elements that are hashed at once: of a map of a file no more than those are held.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Keys:
    """Under what a layer is found in a store.

    Attributes:
        spectrum: the eigenvalues: content, shape, how it reads as matrices, options that change the spectrum, version.
        result: the rows: that, and every other option that matters.
    """

    spectrum: bytes
    result: bytes


def keys(layers: list[WeightLayer], options: Options, workers: int) -> list[Keys | None]:
    """The keys of each layer; None for one that can't be read, which says so itself when it is computed.

    Args:
        layers: they are read once, in blocks.
        options: of the analysis.
        workers: how many are read at once.
    """
    parts = {id(part): part for layer in layers for part in (layer.parts or (layer,))}
    with ThreadPoolExecutor(workers, thread_name_prefix="wwonnx") as pool:
        hashes = dict(zip(parts, pool.map(_content, parts.values()), strict=True))
    return [_keys(layer, [hashes[id(part)] for part in (layer.parts or (layer,))], options) for layer in layers]


def important(options: Options) -> dict[str, Any]:
    """The options that matter to a layer's rows and are not at their defaults; the seed only where it is used."""
    defaults = {field.name: field.default for field in fields(Options)}
    chosen = {name: value for name, value in asdict(options).items() if value != defaults[name]}
    return {
        name: value
        for name, value in sorted(chosen.items())
        if name not in SELECTING and (name != "seed" or options.is_random)
    }


def _changes_spectrum(name: str, options: Options) -> bool:
    """Whether an option does; where float32 is tried, the tail, which any may move, decides whether it is enough."""
    return name not in FROM_SPECTRUM or options.svd_method == "fast"


def _keys(layer: WeightLayer, contents: list[bytes | None], options: Options) -> Keys | None:
    if any(content is None for content in contents):
        return None
    given = important(options)
    layout = layer.layout
    about = {
        "version": __version__,
        "recipe": layer.recipe,
        "shape": layer.shape,
        "layout": [layout.stack, layout.rows, layout.columns],
        "eps": layer.eps,
        "convolution": layer.is_convolution,
        "options": {name: value for name, value in given.items() if _changes_spectrum(name, options)},
    }
    spectrum = _digest(json.dumps(about, sort_keys=True).encode(), *(content or b"" for content in contents))
    rest = {name: value for name, value in given.items() if not _changes_spectrum(name, options)}
    who = layer.layer_id if options.is_random else None
    return Keys(spectrum, _digest(json.dumps([rest, who], sort_keys=True).encode(), spectrum))


def _content(layer: WeightLayer) -> bytes | None:
    try:
        return content_hash(layer.read())
    except (WeightError, MemoryError):
        return None


def content_hash(array: NDArray[Any]) -> bytes:
    """BLAKE2b of an array's values in the order in which they lie in memory, of its shape and its element type."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    lying = array.transpose(order)
    digest = hashlib.blake2b(f"{array.dtype.name} {array.shape} {order}".encode(), digest_size=32)
    step = max(1, _BLOCK // max(1, int(np.prod(lying.shape[1:]))))
    for start in range(0, len(lying) if lying.ndim else 0, step):
        block = np.ascontiguousarray(lying[start : start + step])
        digest.update(block.reshape(-1).view(np.uint8).data)
        let_go(array)
    return digest.digest()


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()

"""Which layers to analyse: by id, by name, by type."""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .errors import OptionError
from .layer import LAYER_TYPE, WeightLayer
from .options import nearest

LayerFilter: TypeAlias = "int | str | LAYER_TYPE | Iterable[int | str | LAYER_TYPE] | None"

_HINT = "'wwonnx describe' lists the layers"


@dataclass
class _Wanted:
    """What a filter keeps and what it drops; everything is kept where nothing is named."""

    keep: set[int] = field(default_factory=set)
    drop: set[int] = field(default_factory=set)
    selective: bool = False


def select(layers: Sequence[WeightLayer], wanted: LayerFilter) -> tuple[WeightLayer, ...]:
    """The layers that a filter keeps, in their own order.

    Args:
        layers: all layers of the model.
        wanted: an id, a name (or a pattern with * or ?), a LAYER_TYPE mask or the name of one, or a list, tuple, set or
            array of them. Negative ids and names with a leading "-" drop layers. Several criteria that keep add up.

    Raises:
        OptionError: an id or a name that no layer has, or ids of both signs.
    """
    items = _items(wanted)
    found = _Wanted()
    ids = [number for number in map(_as_id, items) if number is not None]
    if any(number < 0 for number in ids) and any(number >= 0 for number in ids):
        raise OptionError(
            f"layers={ids}: ids of both signs; give positive ids to keep or negative ids to skip, not both"
        )
    for item in items:
        number = _as_id(item)
        if isinstance(item, LAYER_TYPE):
            found.selective = True
            found.keep |= {layer.layer_id for layer in layers if layer.layer_types & item}
        elif isinstance(item, str):
            _by_name(layers, item, found)
        elif number is not None:
            _by_id(layers, number, found)
        else:
            raise OptionError(f"layers={item!r}: give ids, names or LAYER_TYPEs")
    return tuple(
        layer
        for layer in layers
        if (layer.layer_id in found.keep or not found.selective) and layer.layer_id not in found.drop
    )


def one(layers: Sequence[WeightLayer], layer: int | str | None) -> WeightLayer:
    """The layer with this id or name.

    Raises:
        OptionError: there is none, or more than one.
    """
    if layer is None:
        raise OptionError(f"which layer? give layer=ID or layer=NAME; {_HINT}")
    matching = select(layers, layer)
    if len(matching) != 1:
        raise OptionError(f"layer={layer!r} stands for {len(matching)} layers; give one id or name; {_HINT}")
    return matching[0]


def _items(wanted: Any) -> list[Any]:
    if wanted is None:
        return []
    if isinstance(wanted, (str, LAYER_TYPE)) or _as_id(wanted) is not None:
        return [wanted]
    if isinstance(wanted, Iterable):
        return list(wanted)
    raise OptionError(f"layers={wanted!r}: give ids, names or LAYER_TYPEs, or a list of them")


def _as_id(item: Any) -> int | None:
    if isinstance(item, (bool, str, LAYER_TYPE)):
        return None
    try:
        return operator.index(item)
    except TypeError:
        return None


def _by_id(layers: Sequence[WeightLayer], number: int, found: _Wanted) -> None:
    known = {layer.layer_id for layer in layers}
    if abs(number) not in known:
        there = f"ids go from {min(known)} to {max(known)}" if known else "the model has no layers"
        raise OptionError(f"layers={number}: no layer has that id; {there}; {_HINT}")
    if number < 0:
        found.drop.add(-number)
    else:
        found.keep.add(number)
        found.selective = True


def _by_name(layers: Sequence[WeightLayer], text: str, found: _Wanted) -> None:
    matching = _named(layers, text)
    if matching or not text.startswith("-"):
        found.keep |= matching
        found.selective = True
    else:
        text = text[1:]
        matching = _named(layers, text)
        found.drop |= matching
    if matching:
        return
    label = text.upper()
    if label in LAYER_TYPE.__members__:  # a type that the model happens not to have is no mistake
        return
    raise OptionError(
        f"layers={text!r}: no layer has that name; {nearest(text, [layer.name for layer in layers])}; {_HINT}"
    )


def _named(layers: Sequence[WeightLayer], text: str) -> set[int]:
    exact = {layer.layer_id for layer in layers if text in (layer.name, layer.longname)}
    if exact:
        return exact
    if "*" in text or "?" in text:
        return {layer.layer_id for layer in layers if fnmatch.fnmatchcase(layer.name, text)}
    kind = LAYER_TYPE.__members__.get(text.upper())
    return {layer.layer_id for layer in layers if kind is not None and layer.layer_types & kind}

"""Tables that are looked up."""

from __future__ import annotations

from collections.abc import Iterator

from ...layer import LAYER_TYPE
from .base import MICROSOFT, Operand, Reading, Site, operator
from .quantized import dequantized_lookup


def read_table(shape: tuple[int, ...]) -> list[Reading]:
    """(entries, width).

    Raises:
        ValueError: it is no matrix.
    """
    if len(shape) != 2:
        raise ValueError(f"an embedding is a matrix, this has shape {list(shape)}")
    return [Reading()]


@operator("Gather")
def lookup(site: Site) -> Iterator[Operand]:
    """A constant matrix of which rows or columns are gathered is an embedding.

    A table of codes is one where what is gathered is dequantised later; without a scale it is a table of integers.
    """
    table = site.constant(0)
    if table is not None and not table.is_float:
        yield from site.operand(0, LAYER_TYPE.EMBEDDING, read_table, weight=dequantized_lookup(site, table) or table)
    else:
        yield from site.operand(0, LAYER_TYPE.EMBEDDING, read_table)


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(site: Site) -> Iterator[Operand]:
    """Word, position and segment tables."""
    for index, role in ((2, "word_embedding"), (3, "position_embedding"), (4, "segment_embedding")):
        yield from site.operand(index, LAYER_TYPE.EMBEDDING, read_table, role=role)

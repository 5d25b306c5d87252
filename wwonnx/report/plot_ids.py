"""What a layer, or a slice of one, is called in files and titles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plot_id(row: Mapping[str, Any], separator: str = ":") -> str:
    """The layer's id, and its slice's where it is one."""
    slice_id = row.get("slice_id")
    return f"{row['layer_id']}{separator}{slice_id}" if slice_id is not None else str(row["layer_id"])

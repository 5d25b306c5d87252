"""Showing pictures where the user is: in a Jupyter notebook."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .figures import LayerFigure


def is_running() -> bool:
    """Whether the code runs in a notebook's kernel, which can show pictures; a terminal's IPython can't."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def show(figure: LayerFigure) -> None:
    """Show a figure below the cell that runs."""
    from IPython.display import display

    display(figure)

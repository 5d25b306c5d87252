"""A converted model goes to its file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from wwonnx.graph.save import DataFile, checked_output, save_model
from wwonnx.graph.source import Source, open_model

#: Bytes of weights from which they go to a file of their own beside the model, to be mapped instead of read.
_MOST_INLINE = 1 << 26


def saved(model: ir.Model, path: str | os.PathLike[str] | None, label: str) -> ir.Model:
    """Save a converted model where that is asked for.

    Args:
        model: the model; it is not to be used afterwards where it is saved.
        path: the file; None to leave the model in memory. Where the weights are large they go beside it, to
            `path.data`.
        label: what to call the source in messages.

    Returns:
        The model in memory, or the saved one, opened.

    Raises:
        OptionError: there is no such directory, or `path` is part of the source.
        OSError: the file can't be written.
    """
    if path is None:
        return model
    output = checked_output(Source(model, label), Path(path))
    with DataFile(output) as data:
        save_model(model, output, data, most_inline=_MOST_INLINE)
    return open_model(output).model

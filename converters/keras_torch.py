"""Keras models on the torch backend: through PyTorch's dynamo exporter, with nothing optimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.words import first_line, root_cause

from .keras_model import FAILURES, LENGTHS, Call, Unsupported, Variable, infer
from .messages import collected, unwarned

if TYPE_CHECKING:
    import keras


def export(model: keras.Layer, call: Call, variables: Sequence[Variable]) -> ir.Model:
    """The ONNX model of a model, its weights still inputs.

    Raises:
        Unsupported: it can't be exported.
        ConversionError: onnxscript is missing.
    """
    import torch

    try:
        import onnxscript  # noqa: F401 (torch.onnx needs it, and says so only when it is called)
    except ImportError as error:
        raise ConversionError(
            f"onnxscript is needed and can't be imported ({first_line(error)}): pip install 'wwonnx[torch]'"
        ) from None
    reason = ""
    for length in LENGTHS if any(None in spec.shape[1:] for spec in call.specs) else LENGTHS[:1]:
        for dynamic in (True, False):
            try:
                return _exported(model, call, variables, length, dynamic)
            except (*FAILURES, torch.onnx.errors.OnnxExporterError) as error:
                reason = reason or root_cause(error)
    raise Unsupported(f"torch.onnx can't export it ({reason})")


def _exported(model: keras.Layer, call: Call, variables: Sequence[Variable], length: int, dynamic: bool) -> ir.Model:
    """Exported with inputs of this length where it is unknown, and with axes of unknown length or with fixed ones."""
    import keras
    import torch

    class Inference(torch.nn.Module):
        def forward(self, *flat: Any) -> tuple[Any, ...]:
            return tuple(infer(model, call, variables, flat))

    generator = np.random.default_rng(0)
    examples = [keras.ops.convert_to_tensor(spec.random(length, generator), dtype=spec.dtype) for spec in call.specs]
    axes = [
        {axis: torch.export.Dim.AUTO for axis, size in enumerate(spec.shape) if size is None} for spec in call.specs
    ]
    weights = [variable.source.value.detach() for variable in variables]
    with torch.no_grad(), unwarned(), collected("torch.onnx"):
        program = torch.onnx.export(
            Inference().eval(),
            (*examples, *weights),
            input_names=[*(spec.name for spec in call.specs), *(variable.name for variable in variables)],
            dynamo=True,
            optimize=False,
            verbose=False,
            dynamic_shapes={"flat": (*axes, *({} for _ in weights))} if dynamic else None,
        )
    assert program is not None, "the dynamo exporter gives a program"
    converted: ir.Model = program.model
    return converted

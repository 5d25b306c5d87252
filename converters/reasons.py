"""Why tensors that look like weights are no layers."""

from __future__ import annotations

from wwonnx.graph.tensors import FLOATS, shape_of

from .weights_graph import Embedding, Module, Stored, Weight

#: What quantisers call the codes of a weight, their zero points and scales.
_CODES = ("qweight", "qzeros", "g_idx", "weight_packed", "absmax", "quant_map", "quant_state", "blocks", "scales")


def explained(module: Module, method: str = "") -> Module:
    """The module, or where its matrix is of a type or a size that no weight has, the tensor with the reason.

    Args:
        module: as `kinds.modules` tells it.
        method: what quantised the model, where its configuration says so.
    """
    weight = module.table if isinstance(module, Embedding) else getattr(module, "weight", None)
    if not isinstance(weight, Weight):
        return module
    shape, dtype = shape_of(weight.tensor), weight.dtype
    if len(shape) < 2 or (dtype in FLOATS and 0 not in shape):
        return module
    kind = f"elements are {dtype.name.lower()}"
    if 0 in shape:
        reason = f"empty: its shape is {list(shape)}"
    elif method or weight.name.endswith(_CODES):
        reason = f"{kind}: {method or 'quantised'} codes, not decoded; analyse the model as it was before quantisation"
    else:
        reason = f"{kind}: no trained weight"
    return Stored(module.name, Weight(weight.tensor), reason)

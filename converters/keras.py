"""From Keras to ONNX: live models on any backend, .keras and HDF5 files, SavedModels and frozen TensorFlow graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from wwonnx.errors import ConversionError

from . import keras_layers, keras_model, weights_graph
from .keras_model import Unsupported

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("wwonnx")

def _convert(model, args=None):
    import keras
    keras_model.ensure_built(model,args)
    layers, variables = keras_model.read_model(model)
    call = keras_model.how_called(model,args)
    if keras.backend.backend()=="tensorflow":
        from . import keras_tensorflow as kt
        traced=kt.trace(model,call,variables)
        m=ir.from_proto(kt.export(traced))
    else:
        from . import keras_torch as kt
        m=kt.export(model,call,variables)
    from .keras_names import store_weights
    store_weights(m,variables)
    return m, layers, variables, [], {}, call

"""From Keras to ONNX: live models on any backend, .keras and HDF5 files, SavedModels and frozen TensorFlow graphs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean, first_line

from . import keras_files, keras_layers, keras_model, weights_graph
from . import verify as verification
from .keras_model import FAILURES, LENGTHS, Call, Unsupported, Variable
from .keras_names import store_weights
from .keras_state import unchanged
from .saving import saved

if TYPE_CHECKING:
    import keras

logger = logging.getLogger("wwonnx")

#: Where a weights-only model notes why it is no full graph.
NOTE = "wwonnx.note"


def to_onnx(
    source: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    args: Any = None,
    verify: bool = False,
    weights_only: bool = False,
) -> ir.Model:
    """Convert a Keras model or file, or a TensorFlow model; no weight is changed, and the source is left as it was.

    On the tensorflow and torch backends the model's graph is exported, with nothing folded. On other backends, and
    where the backend can't export a model, a weights-only model is made: one node of the right operator for each layer,
    which wwonnx analyses as it does the graph, but which computes nothing of use. `metadata_props["wwonnx.note"]` and
    the log say why. Layers bear their Keras names, with the names of the models and layers that hold them:
    `encoder.dense`; a layer with several weights also the weight's: `lstm.lstm_cell.recurrent_kernel`.

    Args:
        source: a live model or layer of Keras 3; the path of a .keras, .h5 or .hdf5 file (Keras 1 and 2 too, with the
            model or with weights alone), of a folder that holds a SavedModel or an unpacked .keras file, or of a frozen
            .pb graph.
        path: where to save the model; large weights go beside it, to `path.data`.
        args: example inputs, or objects with their shape and dtype, for a live model that doesn't tell its inputs; a
            tuple holds several positional arguments. A model that was never called is called on them once.
        verify: compare the weights bit for bit and what onnxruntime and the model compute from random inputs;
            `metadata_props` of the result tell what was found.
        weights_only: make the weights-only model. For files it takes no more than h5py.

    Returns:
        The model, or the saved file opened.

    Raises:
        ConversionError: the source can't be converted faithfully, or verify found a difference.
        OptionError: the path can't be written.
    """
    with unchanged():
        if keras_model.is_keras(source):
            converted = _live(source, args, verify, weights_only)
        elif isinstance(source, (str, os.PathLike)):
            converted = _file(Path(source), verify, weights_only)
        else:
            raise ConversionError(
                f"can't convert a {type(source).__module__}.{type(source).__qualname__}: give a model of Keras 3, or the "
                "path of a .keras, .h5, .hdf5 or .pb file or of a SavedModel folder"
            )
        return saved(converted, path, str(source) if isinstance(source, (str, os.PathLike)) else "<Keras model>")


def _live(model: keras.Layer, args: Any, verify: bool, weights_only: bool) -> ir.Model:
    """A live model: its graph where its backend can export it, otherwise its weights."""
    import keras

    keras_model.ensure_built(model, args)
    layers, variables = keras_model.read_model(model)
    if not variables:
        raise ConversionError(f"{keras_model.describe(model)} has no weights")
    converted, difference = None, None
    if not weights_only:
        call = keras_model.how_called(model, args)
        try:
            if call is None:
                raise Unsupported("nothing tells its inputs; give args=...")
            converted = _exported(model, call, variables)
            if verify:
                difference = _difference(converted, model, call)
            else:
                _check_loads(converted)
        except Unsupported as why:
            reason = f"weights only: {why} (backend {keras.backend.backend()})"
            converted = None
        if converted is None:
            logger.warning("%s: %s", keras_model.describe(model), reason)
    if converted is None:
        converted = weights_graph.build(keras_layers.modules(layers))
        converted.metadata_props[NOTE] = reason if not weights_only else "weights only, as was asked for"
    if verify:
        expected = {variable.name: keras_model.to_numpy(variable.source) for variable in variables}
        verification.note(converted, verification.verify_weights(converted, expected), difference)
    return converted


def _exported(model: keras.Layer, call: Call, variables: Sequence[Variable]) -> ir.Model:
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        from . import keras_tensorflow

        proto = keras_tensorflow.export(keras_tensorflow.trace(model, call, variables))
        converted = ir.from_proto(proto)
    elif backend == "torch":
        from . import keras_torch

        converted = keras_torch.export(model, call, variables)
    else:
        raise Unsupported("this backend has no exporter")
    store_weights(converted, variables)
    return converted


def _check_loads(model: ir.Model) -> None:
    """Exporters write files with operators that nothing knows.

    Raises:
        Unsupported: the model has some.
    """
    import onnx

    from wwonnx.graph.traverse import nodes

    version = model.opset_imports.get("", 18)
    for node in nodes(model.graph):
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(
                f"the exporter wrote {clean(f'{node.domain}.{node.op_type}')}, which is no operator of ONNX"
            )
        if not onnx.defs.has(node.op_type, version, ""):
            raise Unsupported(f"the exporter wrote {clean(node.op_type)}, which ONNX has not")


def _difference(converted: ir.Model, model: keras.Layer, call: Call) -> float:
    """The largest difference between the outputs of onnxruntime and of the model.

    Raises:
        Unsupported: onnxruntime can't load the model.
        ConversionError: the outputs differ.
    """
    import keras

    _check_loads(converted)
    generator = np.random.default_rng(0)
    kept = [(variable, keras_model.to_numpy(variable).copy()) for variable in model.variables]

    def compute(inputs: Sequence[verification.Array]) -> list[verification.Array]:
        tensors = [
            keras.ops.convert_to_tensor(array, dtype=spec.dtype) for spec, array in zip(call.specs, inputs, strict=True)
        ]
        outputs = keras.tree.flatten(keras_model.invoke(model, call.arguments(tensors)))
        return [keras_model.to_numpy(output) for output in outputs]

    reason = ""
    try:
        for length in LENGTHS if any(None in spec.shape[1:] for spec in call.specs) else LENGTHS[:1]:
            examples = [spec.random(length, generator) for spec in call.specs]
            try:
                compute(examples)
            except FAILURES as error:
                reason = reason or first_line(error)
                continue
            return verification.verify_outputs(converted, compute, examples)
    finally:
        for variable, values in kept:  # a stateful layer keeps what it has seen
            if not np.array_equal(keras_model.to_numpy(variable), values, equal_nan=values.dtype.kind == "f"):
                variable.assign(values)
    raise ConversionError(f"{keras_model.describe(model)} can't be run on random inputs ({reason}): give args=...")


def _file(path: Path, verify: bool, weights_only: bool) -> ir.Model:
    """What a path names."""
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _tensorflow(path, verify)
    if path.suffix == ".pb":
        return _tensorflow(path.parent if path.name == "saved_model.pb" else path, verify)
    if path.is_dir() and not (path / keras_files.WEIGHTS).is_file():
        raise ConversionError(f"{path}: holds neither a SavedModel nor {keras_files.WEIGHTS}; name the model's file")
    layers = keras_files.read_layers(path)
    model = None if weights_only else _loaded(path)
    if model is not None:
        return _live(model, None, verify, weights_only)
    converted = weights_graph.build(keras_layers.modules(layers))
    if not weights_only:
        converted.metadata_props[NOTE] = "weights only: the file holds no model that Keras can load"
    if verify:
        expected = {tensor.name or "": tensor.numpy() for layer in layers for tensor in layer.weights.values()}
        verification.note(converted, verification.verify_weights(converted, expected))
    return converted


def _loaded(path: Path) -> keras.Model | None:
    """The model in a file, loaded by Keras; None where Keras is missing, can't load it, or would have to run its code."""
    config = keras_files.read_config(path)
    if not config or not _is_harmless(json.loads(config)):
        return None
    try:
        import keras
    except ImportError:
        return None
    try:
        model: keras.Model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (*FAILURES, OSError) as error:
        logger.info("%s: Keras can't load it (%s); its weights are read", path, first_line(error))
        return None
    return model


def _is_harmless(config: object) -> bool:
    """Whether a configuration names nothing but what Keras has: no code, no module, no class of someone else's."""
    return not any(
        one.get("class_name") in ("Lambda", "__lambda__", "__typespec__", "__numpy__")
        or str(one.get("module") or "keras").split(".")[0] not in ("keras", "builtins")
        or ("registered_name" in one and ">" in str(one["registered_name"]))
        for one in _mappings(config)
    )


def _mappings(config: object) -> Iterator[dict[str, Any]]:
    waiting = [config]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _tensorflow(path: Path, verify: bool) -> ir.Model:
    """A SavedModel folder or a frozen graph, by TensorFlow."""
    try:
        import tensorflow  # noqa: F401 (what is missing is said here, once)
    except ImportError as error:
        raise ConversionError(
            f"{path}: TensorFlow is needed and can't be imported ({first_line(error)}): pip install tensorflow"
        ) from None
    from . import keras_tensorflow

    try:
        traced = keras_tensorflow.trace_saved_model(path) if path.is_dir() else keras_tensorflow.read_frozen(path)
        converted = ir.from_proto(keras_tensorflow.export(traced))
        store_weights(converted, traced.weights)
        _check_loads(converted)
    except Unsupported as why:
        raise ConversionError(f"{path}: {why}") from None
    if verify:
        arrays = {weight.name: weight.tensor.numpy() for weight in traced.weights}
        difference = keras_tensorflow.difference(traced, converted)
        verification.note(converted, verification.verify_weights(converted, arrays), difference)
    return converted

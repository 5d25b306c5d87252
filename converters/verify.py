"""Is a converted model the source's? Its weights bit for bit, and what onnxruntime computes against the source."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from wwonnx.errors import ConversionError
from wwonnx.graph.save import DataFile, save_model
from wwonnx.graph.tensors import read_tensor
from wwonnx.graph.words import clean, first_line

#: Where a verified model notes what was found.
DIFFERENCE, WEIGHTS = "wwonnx.verify.max_abs_diff", "wwonnx.verify.weights"

Array: TypeAlias = NDArray[Any]
#: Largest difference that is taken for rounding, as a part of the largest output (of 1, where that is smaller).
_TOLERANCES = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 1e-3, np.dtype(np.float16): 5e-2}
_LOOSEST = 0.2
#: How onnxruntime fails.
_FAILURES = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")


def verify_weights(model: ir.Model, weights: Mapping[str, Array]) -> int:
    """Compare the source's weights with the model's, bit for bit.

    Args:
        model: the converted model.
        weights: the source's arrays, by the names of their initializers.

    Returns:
        How many weights (elements) were compared.

    Raises:
        ConversionError: one is missing or differs.
    """
    compared = 0
    for name, array in weights.items():
        value = model.graph.initializers.get(name)
        if value is None or value.const_value is None:
            raise ConversionError(f"weight {clean(name)!r} is not in the converted model; please report this")
        found = read_tensor(value.const_value)
        if found.shape != array.shape or found.dtype.itemsize != array.dtype.itemsize:
            raise ConversionError(
                f"weight {clean(name)!r} is {list(array.shape)}, but {list(found.shape)} in the converted model; "
                "please report this"
            )
        if not _same_bits(found, array):
            raise ConversionError(f"weight {clean(name)!r} was changed by the conversion; please report this")
        compared += array.size
    return compared


def verify_tensors(model: ir.Model, tensors: Iterable[ir.TensorProtocol]) -> int:
    """As `verify_weights`, one tensor in memory at a time.

    Args:
        model: the converted model.
        tensors: the source's, named as their initializers.
    """
    return sum(verify_weights(model, {tensor.name or "": tensor.numpy()}) for tensor in tensors)


def verify_outputs(
    model: ir.Model,
    source: Callable[[Sequence[Array]], Sequence[Array]],
    examples: Sequence[Array],
    seed: int = 0,
    tolerance: float | None = None,
) -> float:
    """Run the model in onnxruntime against the source on random inputs.

    Args:
        model: the converted model; its inputs are those of the source, in order.
        source: takes the inputs, gives the outputs in the model's order.
        examples: inputs of the right shapes and types. Random numbers take their place; integers, which may be
            indices, are dealt anew among their places.
        seed: of the random numbers.
        tolerance: the largest difference that may be, as a part of the largest output; None for what the outputs'
            type allows.

    Returns:
        The largest absolute difference.

    Raises:
        ConversionError: onnxruntime can't run the model, or the difference is above the tolerance.
    """
    rng = np.random.default_rng(seed)
    inputs = [random_like(example, rng) for example in examples]
    expected = source(inputs)
    found = _run(model, inputs)
    if len(found) != len(expected):
        raise ConversionError(f"the converted model has {len(found)} outputs, the source {len(expected)}")
    largest = 0.0
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one.shape != other.shape:
            raise ConversionError(
                f"output {index} is {list(one.shape)} in onnxruntime, {list(other.shape)} in the source"
            )
        if one.size == 0:
            continue
        mine, theirs = one.astype(np.float64), other.astype(np.float64)
        if not np.array_equal(np.isfinite(mine), np.isfinite(theirs)):
            raise ConversionError(
                f"output {index} is not finite in onnxruntime where the source's is; please report this"
            )
        finite = np.isfinite(mine)
        difference = float(np.abs(mine - theirs)[finite].max(initial=0.0))
        scale = max(1.0, float(np.abs(theirs)[finite].max(initial=0.0)))
        allowed = _TOLERANCES.get(other.dtype, _LOOSEST) if tolerance is None else tolerance
        if difference > allowed * scale:
            raise ConversionError(
                f"output {index} differs by {difference:.3g} between onnxruntime and the source, more than "
                f"{allowed * scale:.3g}; don't use this conversion, and please report it"
            )
        largest = max(largest, difference)
    return largest


def note(model: ir.Model, weights: int, difference: float | None = None) -> None:
    """Write into a model's metadata what was verified.

    Args:
        model: the model.
        weights: how many weights were compared.
        difference: largest absolute difference of the outputs; None where they were not compared.
    """
    model.metadata_props[WEIGHTS] = str(weights)
    if difference is not None:
        model.metadata_props[DIFFERENCE] = repr(difference)


def random_like(example: Array, rng: np.random.Generator) -> Array:
    """A random array of the shape and type of an example."""
    if example.dtype.kind in "iub":
        return rng.permutation(example.reshape(-1)).reshape(example.shape)
    return rng.standard_normal(example.shape).astype(example.dtype)


def _same_bits(one: Array, other: Array) -> bool:
    """Equal in every bit, NaNs and signs of zeros included."""
    code = np.dtype(f"u{min(8, one.dtype.itemsize)}")
    return all(
        np.array_equal(
            np.ascontiguousarray(mine).reshape(-1).view(code), np.ascontiguousarray(theirs).reshape(-1).view(code)
        )
        for mine, theirs in _rows(one, other)
    )


def _rows(one: Array, other: Array) -> list[tuple[Array, Array]]:
    """Some rows of each at a time: they may be maps of large files."""
    if one.ndim == 0 or not one.size:
        return [(one, other)]
    step = max(1, (1 << 24) // (one.size // len(one)))
    return [(one[start : start + step], other[start : start + step]) for start in range(0, len(one), step)]


def _run(model: ir.Model, inputs: Sequence[Array]) -> list[Array]:
    """What onnxruntime computes, unoptimised and in silence. The model goes through a file: it may be of any size."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with DataFile(path) as data:
            save_model(model.clone(), path, data)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            names = [each.name for each in session.get_inputs()]
            results = session.run(None, dict(zip(names, inputs, strict=True)))
        except tuple(getattr(errors, kind) for kind in _FAILURES) as error:
            raise ConversionError(f"onnxruntime can't run the converted model: {first_line(error)}") from None
    return [np.asarray(result) for result in results]

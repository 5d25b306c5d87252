"""A live PyTorch model becomes an ONNX model: its graph, given example inputs, or its weights alone, without."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.source import open_model
from wwonnx.graph.tensors import shape_of
from wwonnx.graph.traverse import constant_tensor
from wwonnx.graph.words import clean, first_line, root_cause

from . import torch_modules
from . import verify as verification
from .saving import saved
from .weights_graph import build

if TYPE_CHECKING:
    import torch

#: Whose loggers are silent while a model is exported.
_LOGGERS = ("torch", "onnxscript", "onnx_ir", "onnx")
_OPSET = 18


def to_onnx(
    model: torch.nn.Module,
    args: Any = None,
    path: str | os.PathLike[str] | None = None,
    verify: bool = False,
    tolerance: float | None = None,
) -> ir.Model:
    """Convert a PyTorch model; no weight is changed, and the model is left as it was.

    With example inputs the model's graph is exported, nothing folded into the weights. Without, a weights-only model is
    made: one node of the right operator per module, which wwonnx analyses as it does the graph, but which computes
    nothing of use. Weights bear their names in the state_dict; a weight that is computed from others (weight_norm,
    spectral_norm, any parametrization) is the effective one.

    Args:
        model: an nn.Module or ScriptModule, on any device, of any floating point type.
        args: example inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        path: where to save the model; large weights go beside it, to `path.data`. Without it the model in memory
            shares the weights' memory: it changes when they do.
        verify: compare the weights bit for bit and, with args, what onnxruntime and the model compute from random
            inputs; `metadata_props` of the result tell what was found.
        tolerance: largest difference for verify, as a part of the largest output; None for what the type allows.

    Returns:
        The model, or the saved file opened.

    Raises:
        ConversionError: the model can't be converted faithfully, or verify found a difference.
        OptionError: the path can't be written.
    """
    try:
        import torch
    except ImportError:
        raise ConversionError("PyTorch is not installed: pip install 'wwonnx[torch]'") from None
    if not isinstance(model, torch.nn.Module):
        raise ConversionError(
            f"{type(model).__module__}.{type(model).__qualname__} is no torch.nn.Module; give the model"
        )
    inner = torch_modules.unwrapped(model)
    torch_modules.check(inner)
    label = f"<{type(model).__name__}>"
    with torch_modules.evaluated(inner), torch_modules.without_caches(inner), _random_state():
        if args is None:
            converted = build(torch_modules.modules(inner))
            if verify:
                verification.note(converted, verification.verify_tensors(converted, torch_modules.weights(inner)))
        else:
            positional, named = _arguments(inner, args)
            with torch_modules.baked(inner):
                converted = _exported(inner, positional, named)
                _name_tied(converted, torch_modules.first_names(inner))
                used = [one for one in torch_modules.weights(inner) if one.name in converted.graph.initializers]
                compared = verification.verify_tensors(converted, used)
            if verify:
                difference = _difference(converted, inner, positional, named, tolerance)
                verification.note(converted, compared, difference)
    return saved(converted, path, label)


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    """What is drawn inside is not drawn from the user's sequences."""
    import torch

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _arguments(model: torch.nn.Module, args: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, on the model's device."""
    import torch
    from torch.utils import _pytree as pytree

    devices = {tensor.device for tensor in model.parameters()} | {tensor.device for tensor in model.buffers()}

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().to(next(iter(devices))) if len(devices) == 1 else value.detach()
        return value

    if isinstance(args, Mapping):
        return (), {name: pytree.tree_map(moved, value) for name, value in args.items()}
    positional = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    return tuple(pytree.tree_map(moved, value) for value in positional), {}


def _exported(model: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> ir.Model:
    """The model's graph, with nothing optimised.

    Raises:
        ConversionError: the exporter can't, or is known to write a wrong graph.
    """
    import torch

    hint = "leave out args to convert its weights alone"
    for name in torch_modules.tensors(model):
        if "weight_hr_l" in name:
            raise ConversionError(
                f"{clean(name)!r} is of an LSTM with proj_size, which ONNX has not and PyTorch exports wrong: {hint}"
            )
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConversionError("onnxscript is not installed: pip install 'wwonnx[torch]'") from None
    try:
        with _quiet():
            if isinstance(model, torch.jit.ScriptModule):
                return _exported_script(model, args, named)
            program = torch.onnx.export(
                model, args, kwargs=named, dynamo=True, optimize=False, verbose=False, opset_version=_OPSET
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ConversionError(f"PyTorch can't export the model ({root_cause(error)}): {hint}") from None
    assert program is not None, "dynamo gives a program"
    exported: ir.Model = program.model
    return exported


def _exported_script(model: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> ir.Model:
    """A ScriptModule's graph, by the older exporter: the newer one takes none."""
    import torch

    if named:
        raise ConversionError("a ScriptModule is exported with positional arguments: give args as a tuple")
    file = io.BytesIO()
    torch.onnx.export(
        model,
        args,
        file,
        dynamo=False,
        do_constant_folding=False,
        opset_version=_OPSET,
        verbose=False,
    )
    exported = open_model(file.getvalue()).model
    _name_constants(exported, torch_modules.weights(model))
    return exported


def _name_constants(model: ir.Model, tensors: Sequence[ir.TensorProtocol]) -> None:
    """Make the source's tensors that the older exporter wrote as nameless constants initializers of their own names.

    They are found by their values. Of several equal ones each is taken once, in order.
    """
    waiting: dict[Hashable, list[ir.TensorProtocol]] = {}
    for tensor in tensors:
        if tensor.name not in model.graph.initializers and tensor.shape.rank():
            waiting.setdefault(_content(tensor), []).append(tensor)
    for node in list(model.graph):
        constant = constant_tensor(node)
        if constant is None or not constant.shape.rank():
            continue
        alike = waiting.get(_content(constant))
        if not alike:
            continue
        tensor = alike.pop(0) if len(alike) > 1 else alike[0]
        value = model.graph.initializers.get(tensor.name or "")
        if value is None:
            kind = ir.TensorType(tensor.dtype)
            value = ir.Value(name=tensor.name, shape=ir.Shape(shape_of(tensor)), type=kind, const_value=constant)
            constant.name = tensor.name
            model.graph.register_initializer(value)
        ir.convenience.replace_all_uses_with(node.outputs[0], value)
        model.graph.remove(node)


def _content(tensor: ir.TensorProtocol) -> Hashable:
    return shape_of(tensor), tensor.dtype, hashlib.sha256(tensor.tobytes()).digest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor log records of the exporter reach the user; those of others do."""

    def is_others(record: logging.LogRecord) -> bool:
        return record.name.split(".")[0] not in _LOGGERS

    known = [logging.root, *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    handlers = {handler for logger in known for handler in logger.handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for handler in handlers:
            handler.addFilter(is_others)
        try:
            yield
        finally:
            for handler in handlers:
                handler.removeFilter(is_others)


def _name_tied(model: ir.Model, first: Mapping[str, str]) -> None:
    """Give tied tensors their first name, as in weights-only models; the exporter takes another."""
    for name, value in list(model.graph.initializers.items()):
        better = first.get(name, name)
        if better != name and better not in model.graph.initializers:
            value.name = better


def _difference(
    model: ir.Model, source: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any], tolerance: float | None
) -> float:
    """The largest difference between the outputs of onnxruntime and of the model."""
    import torch
    from torch.utils import _pytree as pytree

    leaves, structure = pytree.tree_flatten((args, named))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bfloat16:
            raise ConversionError("onnxruntime can't run bfloat16 on a CPU: verify the model in float32")

    def compute(inputs: Sequence[verification.Array]) -> list[verification.Array]:
        given = list(leaves)
        for place, array in zip(places, inputs, strict=True):
            given[place] = torch.from_numpy(array).to(leaves[place].device)
        positional, keywords = pytree.tree_unflatten(given, structure)
        outputs = pytree.tree_leaves(source(*positional, **keywords))
        return [output.cpu().numpy() for output in outputs if isinstance(output, torch.Tensor)]

    examples = [leaves[place].cpu().numpy() for place in places]
    try:
        return verification.verify_outputs(model, compute, examples, tolerance=tolerance)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ConversionError(f"the model can't be run on random inputs: {first_line(error)}") from None

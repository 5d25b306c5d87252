"""The modules of a live PyTorch model, as `weights_graph` has them: each weight as its module computes with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import onnx_ir as ir

from wwonnx.errors import ConversionError
from wwonnx.graph.words import clean

from . import kinds
from .weights_graph import (
    BatchNormalization,
    Cell,
    Convolution,
    Dense,
    Embedding,
    Module,
    Recurrent,
    Scaling,
    Stored,
    Weight,
)

if TYPE_CHECKING:
    import torch

#: A module's own weights by their names in it.
Weights: TypeAlias = "dict[str, Weight]"

_GATES: dict[str, tuple[Cell, str]] = {"LSTM": ("LSTM", "ifco"), "GRU": ("GRU", "rzh"), "RNN": ("RNN", "")}
#: Hooks of the older functions that compute a weight before each call, and what they call its parts.
_HOOKED = {"WeightNorm": ("g", "v"), "SpectralNorm": ("orig", "u", "v")}


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inside = dict(model.named_children())
        inner = inside.get("_orig_mod")
        if inner is None and type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
            inner = inside.get("module")
        if inner is None:
            return model
        model = inner


@contextlib.contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients, and afterwards each module in the mode that it was in."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def without_caches(model: torch.nn.Module) -> Iterator[None]:
    """Hugging Face's models without their caches of keys and values, which no graph can return."""
    configs = {
        id(config): config for module in model.modules() if (config := getattr(module, "config", None)) is not None
    }
    cached = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    for config in cached:
        config.use_cache = False
    try:
        yield
    finally:
        for config in cached:
            config.use_cache = True


def check(model: torch.nn.Module) -> None:
    """Refuse what holds no values, or none that are the weights.

    Raises:
        ConversionError: naming the tensor and the mend.
    """
    for name, module in model.named_modules():
        if hasattr(module, "_packed_params") or ".quantized." in f"{type(module).__module__}.":
            raise _refused(name or type(module).__name__, "is quantised", "convert the model before it is quantised")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        refuse(name, tensor)


def refuse(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that holds no values, or none that are the weights.

    Raises:
        ConversionError: naming the tensor and the mend.
    """
    import torch
    from onnx_ir import tensor_adapters

    if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
        raise _refused(name, "is not initialised: its module is lazy", "call the model once with an example input")
    if tensor.is_meta:
        raise _refused(name, "is on the meta device and has no values", "load the weights first")
    if tensor.is_quantized:
        raise _refused(name, "is quantised", "convert the model before it is quantised")
    try:
        tensor_adapters.from_torch_dtype(tensor.dtype)
    except TypeError:
        raise _refused(name, f"is of type {tensor.dtype}, which ONNX has not", "convert it to another first") from None
    if tensor.layout != torch.strided:
        raise _refused(name, f"is stored as {tensor.layout}", "make it dense first, with to_dense()")
    foreign = type(tensor).__module__.startswith("bitsandbytes")
    if foreign or type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = type(tensor).__name__
        raise _refused(name, f"is a {kind}, no plain tensor", "convert the model before it is quantised or sharded")


def _refused(name: str, what: str, mend: str) -> ConversionError:
    return ConversionError(f"tensor {clean(name)!r} {what}: {mend}")


def modules(model: torch.nn.Module) -> list[Module]:
    """What the model's modules are, in its own order; the model is in evaluation mode.

    Returns:
        Modules for `weights_graph.build`. Tensors are not copied; tied ones are one under their first name.

    Raises:
        ConversionError: a weight can't be computed.
    """
    import torch

    store = Store()
    if isinstance(model, torch.jit.ScriptModule):
        return _scripted(model, store)
    return [one for name, module, weights in _owners(model, store) for one in _one(name, module, weights)]


def weights(model: torch.nn.Module) -> list[ir.TensorProtocol]:
    """Each weight as its module computes with it, under the name that it has in the converted model."""
    import torch

    store = Store()
    if isinstance(model, torch.jit.ScriptModule):
        _scripted(model, store)
    else:
        list(_owners(model, store))
    return store.every()


def _owners(model: torch.nn.Module, store: Store) -> Iterator[tuple[str, torch.nn.Module, Weights]]:
    """Every module with its own weights."""
    inner: set[str] = set()
    for name, module in model.named_modules():
        if name in inner:
            continue
        if _is_parametrized(module):
            prefix = _path(name, "parametrizations")
            inner |= {_path(prefix, below) for below, _ in module.parametrizations.named_modules()}
        yield name, module, store.weights(name, module)


class Store:
    """Tensors of the model as onnx_ir has them, tied ones once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], ir.TensorProtocol] = {}

    def every(self) -> list[ir.TensorProtocol]:
        """All that it holds."""
        return list(self._known.values())

    def weights(self, name: str, module: torch.nn.Module) -> Weights:
        """A module's own tensors, each as the module computes with it; buffers that are not saved are no weights."""
        own = {**module._parameters, **module._buffers}
        computed, parts = _computed(module)
        parts |= set(module._non_persistent_buffers_set)
        own |= computed
        kept = {key: value for key, value in own.items() if value is not None and key not in parts}
        return {key: Weight(self.tensor(_path(name, key), value)) for key, value in kept.items()}

    def tensor(self, name: str, values: torch.Tensor) -> ir.TensorProtocol:
        """The tensor under its first name."""
        from onnx_ir import tensor_adapters

        values = values.detach()
        place: tuple[Any, ...] = (values.device, values.data_ptr(), values.dtype, values.shape, values.stride())
        if not values.numel():
            place = (name,)
        if place not in self._known:
            adapted = tensor_adapters.TorchTensor(values, name=name)
            self._known[place] = cast(ir.TensorProtocol, adapted)
        return self._known[place]


def _computed(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], set[str]]:
    """The weights that a module computes from others before each call, and the names of those others in it."""
    made: dict[str, torch.Tensor] = {}
    parts: set[str] = set()
    if _is_parametrized(module):
        made |= {key: getattr(module, key) for key in module.parametrizations}
    for hook in module._forward_pre_hooks.values():
        kind = type(hook).__name__
        if kind in _HOOKED and hasattr(hook, "compute_weight"):
            # Not with spectral_norm's power iteration, which would change its buffers.
            name, weight = hook.name, hook.compute_weight(module, *((False,) if kind == "SpectralNorm" else ()))
            parts |= {f"{name}_{part}" for part in _HOOKED[kind]}
        elif hasattr(hook, "apply_mask") and hasattr(hook, "_tensor_name"):
            name, weight = hook._tensor_name, hook.apply_mask(module)
            parts |= {f"{name}_orig", f"{name}_mask"}
        else:
            continue
        made[name] = weight
    return made, parts


@contextlib.contextmanager
def baked(model: torch.nn.Module) -> Iterator[None]:
    """The model with computed weights as plain parameters, so that a graph of it holds those; restored afterwards."""
    import torch

    with contextlib.ExitStack() as stack:
        for module in list(model.modules()):
            made, parts = _computed(module)
            if not made:
                continue
            stack.callback(_restore, module, type(module), dict(vars(module)))
            state = vars(module)
            for holder in ("_parameters", "_buffers", "_modules", "_forward_pre_hooks"):
                state[holder] = state[holder].copy()
            if _is_parametrized(module):
                state["_modules"].pop("parametrizations")
                module.__class__ = type(module).__bases__[0]
            for key, hook in list(state["_forward_pre_hooks"].items()):
                if type(hook).__name__ in _HOOKED or hasattr(hook, "apply_mask"):
                    del state["_forward_pre_hooks"][key]
            for part in parts:
                state["_parameters"].pop(part, None)
                state["_buffers"].pop(part, None)
            for name, weight in made.items():
                state.pop(name, None)
                state["_parameters"][name] = torch.nn.Parameter(weight, requires_grad=False)
            if "_flat_weights_names" in state:  # a recurrent module keeps a list of its own
                state["_flat_weights"] = [getattr(module, name, None) for name in state["_flat_weights_names"]]
        yield


def _restore(module: torch.nn.Module, kind: type, state: dict[str, Any]) -> None:
    module.__class__ = kind
    vars(module).clear()
    vars(module).update(state)


def _is_parametrized(module: torch.nn.Module) -> bool:
    from torch.nn.utils import parametrize

    return bool(parametrize.is_parametrized(module))


def _path(name: str, key: str) -> str:
    return f"{name}.{key}" if name and key else name or key


def _one(name: str, module: torch.nn.Module, weights: Weights) -> Iterator[Module]:
    """What one module is: by its class, else by its tensors' names and shapes."""
    for base in type(module).__mro__:
        known = _KNOWN.get((base.__module__.rpartition(".")[0], base.__name__))
        if known is not None:
            yield from known(name, module, weights)
            break
    yield from kinds.modules({_path(name, key): weight.tensor for key, weight in weights.items()})


def _linear(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    if "weight" in weights:
        yield Dense(name, weights.pop("weight"), weights.pop("bias", None))


def _bilinear(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    """A matrix for each output."""
    if "weight" in weights:
        yield Dense(name, weights.pop("weight"))


def _conv1d(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    """Hugging Face's: (inputs, outputs)."""
    if "weight" in weights:
        yield Dense(name, weights.pop("weight"), weights.pop("bias", None), inputs_first=True)


def _convolution(name: str, module: Any, weights: Weights) -> Iterator[Module]:
    if "weight" in weights:
        bias = weights.pop("bias", None)
        yield Convolution(name, weights.pop("weight"), bias, int(module.groups), bool(module.transposed))


def _embedding(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    if "weight" in weights:
        yield Embedding(name, weights.pop("weight"))


def _batch_norm(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    names = ("weight", "bias", "running_mean", "running_var")
    if all(key in weights for key in names):
        yield BatchNormalization(name, *(weights.pop(key) for key in names))
    yield from _scaling(name, _, weights)


def _scaling(name: str, _: Any, weights: Weights) -> Iterator[Module]:
    """A normalisation; what it tracks is kept."""
    scale, bias = weights.pop("weight", None), weights.pop("bias", None)
    if scale is not None or bias is not None:
        yield Scaling(name, scale, bias)
    for key in list(weights):
        yield Stored(_path(name, key), weights.pop(key))


def _attention(name: str, module: Any, weights: Weights) -> Iterator[Module]:
    """Query, key and value projections, packed or not; the output's is a module of its own."""
    bias, width = weights.pop("in_proj_bias", None), int(module.embed_dim)
    packed = weights.pop("in_proj_weight", None)
    if packed is not None:
        yield Dense(name, packed, bias, packed=(width,) * 3)
    elif bias is not None:
        yield Scaling(_path(name, "in_proj_bias"), bias)
    for key in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        if key in weights:
            yield Dense(_path(name, key), weights.pop(key))
    for key in ("bias_k", "bias_v"):
        if key in weights:
            yield Scaling(_path(name, key), weights.pop(key))


def _recurrent(name: str, module: Any, weights: Weights) -> Iterator[Module]:
    """A layer and direction each; a projected LSTM, which ONNX has not, is left to its names."""
    cell, gates = _GATES[next(base.__name__ for base in type(module).__mro__ if base.__name__ in _GATES)]
    if getattr(module, "proj_size", 0):
        return
    for layer in range(module.num_layers):
        for direction in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            end = f"l{layer}{direction}"
            if not {f"weight_ih_{end}", f"weight_hh_{end}"} <= weights.keys():
                continue
            biases = [weights.pop(f"bias_{of}_{end}", None) for of in ("ih", "hh")]
            yield Recurrent(
                name,
                cell,
                weights.pop(f"weight_ih_{end}"),
                weights.pop(f"weight_hh_{end}"),
                tuple(bias for bias in biases if bias is not None),
                gates,
                reverse=bool(direction),
            )


_TORCH = {
    "Linear": _linear,
    "Bilinear": _bilinear,
    "_ConvNd": _convolution,
    "Embedding": _embedding,
    "EmbeddingBag": _embedding,
    "_BatchNorm": _batch_norm,
    "LayerNorm": _scaling,
    "GroupNorm": _scaling,
    "RMSNorm": _scaling,
    "MultiheadAttention": _attention,
    **dict.fromkeys(_GATES, _recurrent),
}
#: By package and class. A subclass may hold less, or more, than its base.
_KNOWN: dict[tuple[str, str], Callable[[str, Any, Weights], Iterator[Module]]] = {
    ("transformers", "Conv1D"): _conv1d,
    **{("torch.nn.modules", name): known for name, known in _TORCH.items()},
}


def _scripted(model: torch.nn.Module, store: Store) -> list[Module]:
    """A ScriptModule's: its classes are gone but for their names, so that names and shapes tell."""
    owners = {name: getattr(module, "original_name", "") for name, module in model.named_modules()}
    tensors = {name: store.tensor(name, values) for name, values in model.state_dict().items()}
    found: list[Module] = []
    for one in kinds.modules(tensors):
        origin = owners.get(one.name, "")
        if isinstance(one, Dense) and origin in ("Embedding", "EmbeddingBag"):
            found.append(Embedding(one.name, one.weight))
        elif isinstance(one, Embedding) and origin == "Linear":
            found.append(Dense(one.name, one.table))
        else:
            found.append(one)
    return found


def tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's parameters and buffers, tied ones under each of their names."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def first_names(model: torch.nn.Module) -> dict[str, str]:
    """For each further name of a tied tensor, its first."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors(model).items()}

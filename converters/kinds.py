"""What each tensor of a checkpoint is, told by its name and shape: one rule for every format that stores no graph.

A checkpoint names tensors `module.parameter` and says nothing of what the modules compute. The rule, first match first:

| tensors | module |
|---|---|
| `weight_ih_l0`, `weight_hh_l0` (also `_l1`, `_reverse`, without `_l0`) | LSTM, GRU, RNN by 4, 3, 1 sets of rows |
| the same with a projection `weight_hr_l0` | three linear maps: ONNX's LSTM has no projection |
| `in_proj_weight` | linear, packed query, key and value |
| `weight`, `bias`, `running_mean`, `running_var`, all vectors | batch normalisation |
| a vector; `weight` and `bias` of one shape | scale and shift of activations, no layer |
| a matrix without a bias in a module named like a table (`embed_tokens`, `wte`, `shared`) | embedding |
| a matrix that a later module with a bias shares | embedding, tied to its output head |
| a matrix | linear, (outputs, inputs); (inputs, outputs) where only that fits the bias, as in GPT-2 |
| `weight` of 4 or 5 axes; of 3, unless named like experts or its last axis is longer than 128 | convolution |
| the same where the bias fits the second axis alone, or named `deconv`, `upconv`, `conv_transpose` | transposed one |
| `kernel`, `embedding` (Flax) | linear and convolution with outputs last, embedding |
| other parameters: a matrix or a stack of matrices | linear; an embedding where named like a table |
| masks, caches, integers, what has one long axis | no layer |

A weight that is stored in parts counts as what its module makes of them: weight_norm, spectral_norm, pruning masks, and
8-bit codes with their scales. Groups of a convolution don't show: one input channel per kernel means depthwise where an
earlier layer has that many outputs, other groups read as one, which changes no number unless groups are to be split.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from wwonnx.graph.tensors import FLOATS

from . import effective
from .weights_graph import (
    AnyWeight,
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

_RECURRENT = re.compile(r"^weight_ih((?:_l\d+)?(?:_reverse)?)$")
_CELLS: dict[int, tuple[Cell, str]] = {4: ("LSTM", "ifco"), 3: ("GRU", "rzh"), 1: ("RNN", "")}
#: Words in the name of a module that looks something up, and those that say that it doesn't.
_TABLE = re.compile(
    r"(?:^|_)(?:emb(?:ed(?:ding|der)?)?s?|wte|wpe|codebook|table)(?:_|$)"
    r"|^(?:shared|relative_attention_bias|positions?|pe|pos(?:itional)?_enc(?:oding)?)$"
)
_NO_TABLE = re.compile(r"(?:^|_)(?:proj\w*|out|patch\w*|linear|mapping|head|dense|fc\d*|conv\w*)(?:_|$)")
#: Matrices that are no weights.
_NO_MAP = re.compile(
    r"mask|cache|inv_freq|(?:cls|mask|class|dist)_token|(?:^|_)(?:sin|cos)(?:_|$)|logit_scale|running_|A_log"
)
_TRANSPOSED = re.compile(r"deconv|upconv|conv_?trans", re.IGNORECASE)
_DEPTHWISE = re.compile(r"depth_?wise|(?:^|[._])dw(?:_?conv)?\d*(?:$|[._])", re.IGNORECASE)
_EXPERTS = re.compile(r"expert|moe", re.IGNORECASE)
#: What the modules are called that Hugging Face's GPT-2 and its kin store as (inputs, outputs).
_CONV1D = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
_LONGEST_KERNEL = 128


@dataclass
class _Owner:
    """A module's parameters while they are being told apart."""

    name: str
    parameters: dict[str, AnyWeight] = field(default_factory=dict)

    def take(self, parameter: str) -> AnyWeight | None:
        return self.parameters.pop(parameter, None)

    def take_plain(self, parameter: str, shape: tuple[int, ...]) -> Weight | None:
        """A stored parameter, if it is of this shape."""
        weight = self.parameters.get(parameter)
        if not isinstance(weight, Weight) or weight.read_shape != shape or weight.dtype not in FLOATS:
            return None
        del self.parameters[parameter]
        return weight

    @property
    def last(self) -> str:
        """The last word of its path that is no number."""
        words = [word for word in re.split(r"[./]", self.name) if word and not word.isdecimal()]
        return words[-1] if words else ""


def modules(
    tensors: Mapping[str, ir.TensorProtocol],
    conv1d: bool = False,
    packed: Mapping[str, tuple[int, ...]] | None = None,
) -> list[Module]:
    """Tell what the tensors of a checkpoint are.

    Args:
        tensors: by their names, in the checkpoint's order. Tied tensors are one object under several names, whose own
            name is the first. Nothing is read.
        conv1d: whether square matrices called c_attn, c_proj, c_fc and q_attn are (inputs, outputs), where the
            configuration says so; otherwise their siblings' shapes tell.
        packed: for tensors by name, how many outputs belong to query, key and value.

    Returns:
        Modules for `weights_graph.build`, in the checkpoint's order. Each tensor is in one of them.
    """
    owners = _owners(tensors)
    kinds = _Kinds(_shared(owners), conv1d or _has_conv1d(owners), packed or {})
    return [module for owner in owners for module in kinds.tell(owner)]


def _owners(tensors: Mapping[str, ir.TensorProtocol]) -> list[_Owner]:
    """The modules, each with its effective parameters."""
    owners: dict[str, dict[str, AnyWeight]] = {}
    for name, tensor in tensors.items():
        owner, parameter = effective.split(name)
        owners.setdefault(owner, {})[parameter] = Weight(tensor)
    return [_Owner(name, effective.combine(parameters)) for name, parameters in owners.items()]


def _shared(owners: list[_Owner]) -> frozenset[str]:
    """Names of the matrices that a module without a bias shares with a later one that has one."""
    first: dict[int, str] = {}
    found = set()
    for owner in owners:
        weight = owner.parameters.get("weight")
        if not isinstance(weight, Weight) or len(weight.read_shape) != 2:
            continue
        known = first.get(id(weight.tensor))
        if known is not None and "bias" in owner.parameters:
            found.add(known)
        elif known is None and "bias" not in owner.parameters:
            first[id(weight.tensor)] = owner.name
    return frozenset(found)


def _has_conv1d(owners: list[_Owner]) -> bool:
    """Whether one of GPT-2's modules has a bias that only fits (inputs, outputs)."""
    for owner in owners:
        weight, bias = owner.parameters.get("weight"), owner.parameters.get("bias")
        if owner.last in _CONV1D and weight is not None and bias is not None and len(weight.read_shape) == 2:
            rows, columns = weight.read_shape
            if rows != columns and bias.read_shape == (columns,):
                return True
    return False


class _Kinds:
    """The rule, with what the whole checkpoint tells."""

    def __init__(self, shared: frozenset[str], conv1d: bool, packed: Mapping[str, tuple[int, ...]]) -> None:
        self._shared = shared
        self._conv1d = conv1d
        self._packed = packed
        self._outputs: set[int] = set()

    def tell(self, owner: _Owner) -> Iterator[Module]:
        """The modules that an owner's parameters make."""
        for module in (*self._recurrent(owner), *self._main(owner), *self._others(owner)):
            if isinstance(module, Convolution):
                shape = module.weight.read_shape
                self._outputs.add(shape[1] if module.transposed else shape[0])
            yield module

    def _recurrent(self, owner: _Owner) -> Iterator[Module]:
        for parameter in list(owner.parameters):
            found = _RECURRENT.match(parameter)
            if found is None or f"weight_hh{found[1]}" not in owner.parameters:
                continue
            end = found[1]
            w, r = owner.parameters[parameter].read_shape, owner.parameters[f"weight_hh{end}"].read_shape
            if len(w) != 2 or len(r) != 2 or w[0] != r[0] or f"weight_hr{end}" in owner.parameters:
                continue  # one linear map each
            sets, rest = divmod(r[0], r[1]) if r[1] else (0, 1)
            if rest or sets not in _CELLS:
                continue
            cell, gates = _CELLS[sets]
            given = (owner.take_plain(f"bias_{of}{end}", (r[0],)) for of in ("ih", "hh"))
            biases = tuple(bias for bias in given if bias is not None)
            weights = owner.parameters.pop(parameter), owner.parameters.pop(f"weight_hh{end}")
            yield Recurrent(owner.name, cell, *weights, biases, gates, reverse=end.endswith("_reverse"))

    def _main(self, owner: _Owner) -> Iterator[Module]:
        weight = owner.take("in_proj_weight")
        if weight is not None:
            yield self._dense(owner, weight, "in_proj_bias", thirds=True)
        kernel, table = owner.take("kernel"), owner.take("embedding")
        if kernel is not None:
            yield self._flax_kernel(owner, kernel)
        if table is not None:
            yield _table(owner.name, table)
        weight = owner.take("weight")
        if weight is not None:
            yield self._weight(owner, weight)

    def _weight(self, owner: _Owner, weight: AnyWeight) -> Module:
        shape, bias = weight.read_shape, owner.parameters.get("bias")
        if isinstance(weight, Weight) and weight.dtype not in FLOATS:
            return Stored(owner.name, weight)
        if len(shape) < 2 or (bias is not None and bias.read_shape == shape):
            return self._normalisation(owner, weight)
        if len(shape) == 2:
            named = bias is None and _is_table(owner.last)
            if named or (bias is None and owner.name in self._shared):
                return Embedding(owner.name, weight)
            return self._dense(owner, weight, "bias")
        stacked = len(shape) == 3 and "conv" not in owner.name.lower()
        if len(shape) > 5 or (stacked and (_EXPERTS.search(owner.name) or shape[2] > _LONGEST_KERNEL)):
            return self._dense(owner, weight, "bias")
        return self._convolution(owner, weight)

    def _normalisation(self, owner: _Owner, weight: AnyWeight) -> Module:
        shape, others = weight.read_shape, ("bias", "running_mean", "running_var")
        if len(shape) == 1 and all(_shape(owner, name) == shape for name in others):
            bias, mean, variance = (owner.take_plain(name, shape) for name in others)
            if isinstance(weight, Weight) and bias and mean and variance:
                return BatchNormalization(owner.name, weight, bias, mean, variance)
            owner.parameters.update(
                {name: one for name, one in zip(others, (bias, mean, variance), strict=True) if one}
            )
        return Scaling(owner.name, weight, owner.take_plain("bias", shape))

    def _dense(self, owner: _Owner, weight: AnyWeight, bias: str, thirds: bool = False) -> Dense:
        *_, rows, columns = weight.read_shape
        fits = owner.take_plain(bias, (rows,))
        inputs_first = self._conv1d and owner.last in _CONV1D and (rows == columns or fits is None)
        if fits is None and _shape(owner, bias) == (columns,):
            fits, inputs_first = owner.take_plain(bias, (columns,)), True
        outputs = columns if inputs_first else rows
        parts = self._packed.get(weight.name, (outputs // 3,) * 3 if thirds and outputs % 3 == 0 else ())
        return Dense(owner.name, weight, fits, inputs_first, parts if sum(parts) == outputs else ())

    def _convolution(self, owner: _Owner, weight: AnyWeight) -> Convolution:
        shape, bias = weight.read_shape, _shape(owner, "bias")
        only_second = bias is not None and bias == shape[1:2] != shape[:1]
        transposed = only_second or (bool(_TRANSPOSED.search(owner.name)) and bias in (None, shape[1:2]))
        one_each = not transposed and shape[1] == 1 < shape[0]
        depthwise = one_each and (bool(_DEPTHWISE.search(owner.name)) or shape[0] in self._outputs)
        fits = owner.take_plain("bias", shape[1:2] if transposed else shape[:1])
        return Convolution(owner.name, weight, fits, shape[0] if depthwise else 1, transposed)

    def _flax_kernel(self, owner: _Owner, kernel: AnyWeight) -> Module:
        shape = kernel.read_shape
        if not isinstance(kernel, Weight) or kernel.dtype not in FLOATS or len(shape) < 2:
            return Scaling(owner.name, kernel)
        if len(shape) == 2:
            return Dense(owner.name, kernel, owner.take_plain("bias", shape[1:]), inputs_first=True)
        if owner.last in ("query", "key", "value", "out") and len(shape) == 3:  # (inputs, heads, width), or heads first
            inputs = shape[0] if owner.last != "out" else shape[0] * shape[1]
            flat = Weight(kernel.tensor, shape=(inputs, math.prod(shape) // inputs))
            return Dense(owner.name, flat, owner.take_plain("bias", flat.read_shape[1:]), inputs_first=True)
        rank = len(shape)
        turned = Weight(kernel.tensor, permutation=(rank - 1, rank - 2, *range(rank - 2)))
        groups = shape[-1] if shape[-2] == 1 < shape[-1] and shape[-1] in self._outputs else 1
        return Convolution(owner.name, turned, owner.take_plain("bias", shape[-1:]), groups)

    def _others(self, owner: _Owner) -> Iterator[Module]:
        for parameter in list(owner.parameters):
            weight = owner.take(parameter)
            if weight is None:  # another's bias
                continue
            name = f"{owner.name}.{parameter}" if owner.name else parameter
            shape = weight.read_shape
            if isinstance(weight, Weight) and weight.dtype not in FLOATS:
                yield Stored(name, weight)
            elif _is_no_map(parameter, shape):
                yield Scaling(name, weight)
            elif _is_table(parameter) and math.prod(shape[:-2]) == 1:
                yield _table(name, weight)
            elif parameter.endswith("_weight"):
                dense = self._dense(owner, weight, f"{parameter.removesuffix('_weight')}_bias")
                yield Dense(name, weight, dense.bias, dense.inputs_first, dense.packed)
            else:
                yield Dense(name, weight, inputs_first=True)


def _table(name: str, weight: AnyWeight) -> Module:
    """An embedding; axes of length 1 before its two are dropped."""
    shape = weight.read_shape
    if isinstance(weight, Weight) and len(shape) > 2 and math.prod(shape[:-2]) == 1:
        return Embedding(name, Weight(weight.tensor, shape=shape[-2:]))
    return Embedding(name, weight) if len(shape) == 2 else Dense(name, weight, inputs_first=True)


def _shape(owner: _Owner, parameter: str) -> tuple[int, ...] | None:
    weight = owner.parameters.get(parameter)
    return None if weight is None else weight.read_shape


def _is_table(word: str) -> bool:
    return bool(_TABLE.search(word)) and not _NO_TABLE.search(word)


def _is_no_map(parameter: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of its own is no linear map."""
    return sum(n > 1 for n in shape) < 2 or parameter.endswith("bias") or bool(_NO_MAP.search(parameter))

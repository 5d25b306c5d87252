"""Module names (`layer1.0.conv1`) out of parameter names, exporter metadata and node paths.

The sources of a name, best first: what a converter noted; the tensor's own name where it is a parameter's; what
PyTorch's dynamo exporter wrote into the metadata; the node's path (TorchScript, TensorFlow); the tensor's path;
whatever name there is.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from .traverse import metadata
from .words import clean, string_list

#: Where a converter notes, in a tensor's metadata, the name of the layer that the tensor is.
LAYER_KEY = "wwonnx.layer"
#: And where it notes, of a tensor that no node reads, why it is no layer.
REASON_KEY = "wwonnx.reason"

_SIGNATURE = re.compile(r"^\s*(\w+): (?:PARAMETER|BUFFER) target='([^']+)'", re.MULTILINE)
_FX_ARGUMENT = re.compile(r"%(\w+)")
#: Names that exporters make up: they tell a user nothing.
_MADE_UP = re.compile(
    r"^(\d+|val_\d+|onnx::.*|lifted_tensor_\d+|permute(_\d+)?|const_fold_opt__\d+|.*_output_\d+|_v_\d+)$"
)
#: What follows a module's path in the name of its weight. Other parameters (in_proj_weight) keep their name.
_WEIGHT_SUFFIX = re.compile(r"[./](weight|kernel|embeddings|depthwise_kernel|pointwise_kernel|W)$")
#: What PyTorch makes of a weight that is normalised or otherwise computed: its parts, of which the module is the owner.
_PARAMETRIZED = re.compile(r"\.(?:parametrizations\.(\w+)\.\w+|(weight\w*)_(?:[vgu]|orig))$")
#: Path components that TensorFlow adds below a layer.
_TF_INNER = re.compile(
    r"^(ReadVariableOp(_\d+)?|resource|merged_input|Cast(_\d+)?|MatMul|BiasAdd|Conv[123]D|convolution|conv_transpose|"
    r"depthwise|separable_conv2d|Tensordot|Reshape|ExpandDims(_\d+)?|GatherV2|embedding_lookup|Identity)$"
)


class Namer:
    """Gives each weight of a model its module path, once: names are unique within the model."""

    def __init__(self, model: ir.Model) -> None:
        signature = metadata(model.graph, "pkg.torch.export.ExportedProgram.graph_signature")
        self._targets: dict[str, str] = dict(_SIGNATURE.findall(signature))
        self._parameters = set(self._targets.values())
        self._taken: dict[str, int] = {}

    def name(self, root: ir.Value, node: ir.Node, role: str = "", suffix: str = "") -> str:
        """A fresh name for the weight in `root` that `node` is the first to read.

        Args:
            root: the stored tensor.
            node: the node.
            role: what the weight is to the node, where its tensor has no name of its own.
            suffix: which part of the tensor it is.
        """
        name, own = self._guess(root, node, role)
        if role and not own:
            name = f"{name}.{role}"
        name = clean(name + suffix)
        count = self._taken.get(name, 0) + 1
        while count > 1 and f"{name}_{count}" in self._taken:
            count += 1
        self._taken[name] = count
        unique = name if count == 1 else f"{name}_{count}"
        self._taken.setdefault(unique, 1)
        return unique

    def guess(self, root: ir.Value, node: ir.Node) -> str:
        """The best name that the file allows, not necessarily unique."""
        return clean(self._guess(root, node)[0])

    def _guess(self, root: ir.Value, node: ir.Node, role: str = "") -> tuple[str, bool]:
        """The best name, and whether it is the tensor's own."""
        if root.producer() is node:  # its values are in the node's attributes
            return node.name or node.op_type, False
        noted = metadata(root, LAYER_KEY)
        if noted:
            return noted, True
        tensor = (root.name or "").removesuffix(":0")
        for ending in ("_quantized", "_Q4", "_Q8", "_Q2", "_DQ"):
            tensor = tensor.removesuffix(ending)
        if self._is_parameter(tensor):
            return _module(tensor), True
        parameter = self._from_parameters(root, node, role)
        if parameter:
            return _module(parameter), True
        made_up = bool(_MADE_UP.match(tensor))
        name = self._module_scope(node) or _scope(node.name or "") or _tf_path(tensor)
        if name:
            return name, False
        if tensor and not made_up:
            return tensor, True
        return (node.name or "").strip("/") or f"{node.op_type}_{tensor}", False

    def _is_parameter(self, tensor: str) -> bool:
        if _MADE_UP.match(tensor):
            return False
        if tensor in self._parameters or _WEIGHT_SUFFIX.search(tensor):
            return True
        # TorchScript and dynamo write state_dict names: identifiers joined by dots.
        return "." in tensor and "/" not in tensor and ":" not in tensor

    def _from_parameters(self, root: ir.Value, node: ir.Node, role: str) -> str:
        """The parameter that a folded tensor came from, as dynamo wrote it into the metadata."""
        wanted = {"W": "_ih_", "R": "_hh_"}.get(role, "")
        origin = metadata(root, "pkg.onnxscript.optimizer.folded_from")
        origins: list[str] = re.findall(r"[\w.]+", origin)
        for name in (*origins, *self._fx_parameters(node)):
            if name in self._parameters and not name.endswith("bias") and wanted in name:
                return name
        return ""

    @staticmethod
    def _module_scope(node: ir.Node) -> str:
        """The module that holds the node, as dynamo wrote it."""
        scopes = string_list(metadata(node, "pkg.torch.onnx.name_scopes"))
        if len(scopes) < 2:
            return ""
        return f"{scopes[-2] or scopes[-1]}"  # a call of the model itself has but its own name

    def _fx_parameters(self, node: ir.Node) -> list[str]:
        """Parameters among the arguments of the traced call that the node stands for."""
        call = metadata(node, "pkg.torch.onnx.fx_node").partition("args =")[2]
        return [self._targets[argument] for argument in _FX_ARGUMENT.findall(call) if argument in self._targets]


def _module(parameter: str) -> str:
    """The module's path from its weight's name: `fc.weight` -> `fc`."""
    stripped = _WEIGHT_SUFFIX.sub("", _PARAMETRIZED.sub(lambda found: f".{found[1] or found[2]}", parameter))
    return stripped.replace("/", ".").strip(".") or parameter


def _scope(node: str) -> str:
    """The module's path from a node's: `/enc/layers.0/linear1/MatMul` -> `enc.layers.0.linear1`."""
    parts = [part for part in node.split("/") if part][:-1]
    while len(parts) > 1 and _TF_INNER.match(parts[-1]):
        parts.pop()
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(kept[-1] + "."):
            kept.pop()
        kept.append(part)
    return ".".join(kept)


def _tf_path(tensor: str) -> str:
    """The layer's path from the name of a TensorFlow variable read: `m/conv/convolution/merged_input` -> `m.conv`."""
    parts = [part for part in tensor.split("/") if part]
    if len(parts) < 2:
        return ""
    while len(parts) > 1 and _TF_INNER.match(parts[-1]):
        parts.pop()
    return ".".join(parts)

"""Module names (`layer1.0.conv1`) out of parameter names, exporter metadata and node paths.

The sources of a name, best first: the tensor's own name where it is a parameter's; what PyTorch's dynamo exporter wrote
into the metadata; the node's path (TorchScript, TensorFlow); the tensor's path; whatever name there is.
"""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

_SIGNATURE = re.compile(r"^\s*(\w+): (?:PARAMETER|BUFFER) target='([^']+)'", re.MULTILINE)
_FX_ARGUMENT = re.compile(r"%(\w+)")
#: Names that exporters make up: they tell a user nothing.
_MADE_UP = re.compile(
    r"^(\d+|val_\d+|onnx::.*|lifted_tensor_\d+|permute(_\d+)?|const_fold_opt__\d+|.*_output_\d+|_v_\d+)$"
)
#: What follows a module's path in the name of its weight. Other parameters (in_proj_weight) keep their name.
_WEIGHT_SUFFIX = re.compile(r"[./](weight|kernel|embeddings|depthwise_kernel|pointwise_kernel|W)$")
#: Path components that TensorFlow adds below a layer.
_TF_INNER = re.compile(
    r"^(ReadVariableOp(_\d+)?|resource|merged_input|Cast(_\d+)?|MatMul|BiasAdd|Conv[123]D|convolution|conv_transpose|"
    r"depthwise|separable_conv2d|Tensordot|Reshape|ExpandDims(_\d+)?|GatherV2|embedding_lookup|Identity)$"
)


class Namer:
    """Gives each weight of a model its module path, once: names are unique within the model."""

    def __init__(self, model: ir.Model) -> None:
        signature = model.graph.metadata_props.get("pkg.torch.export.ExportedProgram.graph_signature", "")
        self._targets = dict(_SIGNATURE.findall(signature))
        self._parameters = set(self._targets.values())
        self._taken: dict[str, int] = {}

    def name(self, root: ir.Value, node: ir.Node) -> str:
        """A fresh name for the weight in `root` that `node` is the first to read."""
        name = self.guess(root, node)
        self._taken[name] = count = self._taken.get(name, 0) + 1
        if count == 1:
            return name
        candidate = f"{name}_{count}"
        return candidate if candidate not in self._taken else self.name_again(name)

    def name_again(self, name: str) -> str:
        """The next free numbered variant of a name."""
        while f"{name}_{self._taken[name]}" in self._taken:
            self._taken[name] += 1
        candidate = f"{name}_{self._taken[name]}"
        self._taken[candidate] = 1
        return candidate

    def guess(self, root: ir.Value, node: ir.Node) -> str:
        """The best name that the file allows, not necessarily unique."""
        tensor = (root.name or "").removesuffix(":0").removesuffix("_quantized")
        if self._is_parameter(root, tensor):
            return _module(tensor)
        return (
            self._from_metadata(root, node)
            or _scope(node.name or "")
            or _tf_path(tensor)
            or ("" if _MADE_UP.match(tensor) else tensor)
            or (node.name or "").strip("/")
            or f"{node.op_type}_{tensor}"
        )

    def _is_parameter(self, root: ir.Value, tensor: str) -> bool:
        if _MADE_UP.match(tensor):
            return False
        if tensor in self._parameters or _WEIGHT_SUFFIX.search(tensor):
            return True
        # TorchScript and dynamo write state_dict names: identifiers joined by dots.
        return "." in tensor and "/" not in tensor and ":" not in tensor

    def _from_metadata(self, root: ir.Value, node: ir.Node) -> str:
        """What dynamo wrote: the parameter that a folded tensor came from, or else the module that holds the node."""
        origin = root.metadata_props.get("pkg.onnxscript.optimizer.folded_from", "")
        for name in (*re.findall(r"[\w.]+", origin), *self._fx_parameters(node)):
            if name in self._parameters and not name.endswith("bias"):
                return _module(name)
        try:
            scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        except (ValueError, SyntaxError):
            return ""
        return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) >= 2 else ""

    def _fx_parameters(self, node: ir.Node) -> list[str]:
        """Parameters among the arguments of the traced call that the node stands for."""
        call = node.metadata_props.get("pkg.torch.onnx.fx_node", "").partition("args =")[2]
        return [self._targets[argument] for argument in _FX_ARGUMENT.findall(call) if argument in self._targets]


def _module(parameter: str) -> str:
    """The module's path from its weight's name: `fc.weight` -> `fc`."""
    stripped = _WEIGHT_SUFFIX.sub("", parameter)
    return stripped.replace("/", ".").strip(".") or parameter


def _scope(node: str) -> str:
    """The module's path from a node's: `/enc/layers.0/linear1/MatMul` -> `enc.layers.0.linear1`."""
    parts = [part for part in node.split("/") if part][:-1]
    while len(parts) > 1 and _TF_INNER.match(parts[-1]):
        parts.pop()
    return ".".join(parts)


def _tf_path(tensor: str) -> str:
    """The layer's path from the name of a TensorFlow variable read: `m/conv/convolution/merged_input` -> `m.conv`."""
    parts = [part for part in tensor.split("/") if part]
    if len(parts) < 2:
        return ""
    while len(parts) > 1 and _TF_INNER.match(parts[-1]):
        parts.pop()
    return ".".join(parts)

"""Has a BatchNormalization been folded into a weight? Then its spectrum is not that of the trained weight.

Exporters leave different signs: a rule's name in the metadata, a parameter replaced by a tensor of the same name, names
that they make up for changed weights and biases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

from .traverse import is_onnx, metadata
from .words import string_list

#: What TorchScript calls a weight or bias that it changed, and what older converters call any.
_TORCH = re.compile(r"^onnx::Conv(Transpose)?_\d+$")
_NUMBER = re.compile(r"^\d+$")
#: What TensorFlow's optimiser calls a merged weight, and tf2onnx's the bias that is left of a normalisation.
_MERGED = re.compile(r"/merged_input$")
_LEFT_OVER = re.compile(r"/batchnorm/sub(__\d+)?$")
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_RULE = "pkg.onnxscript.rewriter.rule_name"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
#: Where convolutions have their weight and their bias.
_WEIGHT_AND_BIAS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "ConvInteger": (1, None), "QLinearConv": (3, 8)}
#: So many convolutions with a bias and no normalisation at all are a sign; fewer may have been built so.
_FEW = 3


class FoldingSigns:
    """The signs of folding in one model; `folded` tells for each weight."""

    def __init__(self, model: ir.Model, every: Iterable[ir.Node]) -> None:
        """Look for the signs.

        Args:
            model: the model.
            every: all its nodes.
        """
        every = list(every)
        convolutions = [node for node in every if is_onnx(node, "Conv", "ConvTranspose")]
        normalised = any(is_onnx(node, "BatchNormalization", "InstanceNormalization") for node in every)
        # Only a model that keeps some parameters' signatures shows by their absence which were replaced.
        self._signed = any(_KIND in value.metadata_props for value in model.graph.initializers.values())
        numbered = sum(bool(_NUMBER.search(_name(node, 1))) for node in convolutions)
        self._numbered = not normalised and numbered >= _FEW and _mostly_biased(convolutions)

    def folded(self, root: ir.Value, node: ir.Node) -> bool:
        """Whether the weight that `node` reads from `root` shows a sign of folding."""
        if "FuseBatchNormInto" in metadata(node, _RULE):
            return True
        if not is_onnx(node, *_WEIGHT_AND_BIAS):
            return False
        weight = _plain(root.name)
        bias = _name(node, _WEIGHT_AND_BIAS[node.op_type][1])
        if _MERGED.search(weight) or _LEFT_OVER.search(bias):
            return True
        if self._signed and _KIND not in root.metadata_props and _in_batch_norm(node):
            return True
        # Folding makes a weight and a bias. A weight alone was only computed, such as one that Keras transposes.
        if _TORCH.search(weight):
            return bool(_TORCH.search(bias)) or node.op_type == "ConvInteger"
        return self._numbered and bool(_NUMBER.search(weight)) and bool(bias)


def _plain(name: str | None) -> str:
    return (name or "").removesuffix(":0").removesuffix("_quantized")


def _name(node: ir.Node, index: int | None) -> str:
    """The name of what is at an input, empty where nothing is."""
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    return _plain(value.name) if value is not None else ""


def _in_batch_norm(node: ir.Node) -> bool:
    """Whether the exporter says that a convolution comes from a normalisation module."""
    return any("batchnorm" in name.lower() for name in string_list(metadata(node, _CLASSES))[-2:])


def _mostly_biased(convolutions: Iterable[ir.Node]) -> bool:
    biased = [bool(_name(node, 2)) for node in convolutions]
    return sum(biased) * 2 > len(biased)

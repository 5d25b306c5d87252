"""Has a BatchNormalization been folded into a weight? Then its spectrum is not that of the trained weight."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx_ir as ir

from .traverse import is_onnx, metadata, nodes
from .words import string_list

#: Names that exporters give to weights that they changed.
_CHANGED = re.compile(r"(^onnx::Conv(Transpose)?_\d+$|/merged_input(:0)?$|^\d+$)")
_BATCH_NORM = re.compile(r"(^|[._])(bn|batch_?norm|norm)\w*$", re.IGNORECASE)
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"
_RULE = "pkg.onnxscript.rewriter.rule_name"
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
#: So many convolutions with a bias and no normalisation at all are a sign; fewer may have been built so.
_FEW = 3


class FoldingSigns:
    """The signs of folding in one model; `folded` tells for each weight."""

    def __init__(self, model: ir.Model) -> None:
        convolutions = [node for node in nodes(model.graph) if is_onnx(node, "Conv", "ConvTranspose")]
        normalised = any(is_onnx(node, "BatchNormalization", "InstanceNormalization") for node in nodes(model.graph))
        weights = [node.inputs[1] for node in convolutions if len(node.inputs) > 1 and node.inputs[1] is not None]
        # Only a model that keeps some parameters' signatures shows by their absence which were replaced.
        self._signed = any(_KIND in value.metadata_props for value in model.graph.initializers.values())
        renamed = sum(bool(_CHANGED.search(value.name or "")) for value in weights)
        self._renamed = not normalised and renamed >= _FEW and _mostly_biased(convolutions)

    def folded(self, root: ir.Value, node: ir.Node) -> bool:
        """Whether the weight that `node` reads from `root` shows a sign of folding."""
        if not is_onnx(node, "Conv", "ConvTranspose"):
            return False
        if "FuseBatchNormInto" in metadata(node, _RULE):
            return True
        if (root.name or "").removesuffix(":0").endswith("/merged_input"):
            return True
        if self._signed and _KIND not in root.metadata_props and _in_batch_norm(node):
            return True
        return self._renamed and bool(_CHANGED.search(root.name or "")) and _biased(node)


def _in_batch_norm(node: ir.Node) -> bool:
    """Whether the exporter says that a convolution comes from a normalisation module."""
    classes = string_list(metadata(node, _CLASSES))
    scopes = string_list(metadata(node, _SCOPES))
    return any("batchnorm" in name.lower() for name in classes[-2:]) or any(map(_BATCH_NORM.search, scopes[-2:-1]))


def _biased(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and node.inputs[2] is not None


def _mostly_biased(convolutions: Iterable[ir.Node]) -> bool:
    biased = [_biased(node) for node in convolutions]
    return sum(biased) * 2 > len(biased)

"""Matrix products: Linear, Dense and fully connected layers, packed projections among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ...layer import LAYER_TYPE, MATRIX, TRANSPOSED, Layout
from ..constants import Constant
from ..traverse import downstream, integer, integers, is_onnx, metadata, text
from .base import MICROSOFT, Operand, Reading, Site, operator, read_inputs_first, read_matrix, readings

#: Names of weights that hold query, key and value side by side.
_PACKED = re.compile(r"(in_proj|qkv|c_attn|query_key_value)", re.IGNORECASE)


@operator("Gemm", "MatMul")
@operator("FusedMatMul", "TransposeMatMul", "FusedGemm", "GemmFastGelu", domain=MICROSOFT)
def matrix_product(site: Site) -> Iterator[Operand]:
    """Either factor may be the weight: exporters write x W and W x. Gemm's third input is the bias."""
    bias = site.constant(2) if site.node.op_type == "Gemm" else added_bias(site)
    left = read_inputs_first if _flag(site, "transA") else read_matrix
    yield from site.operand(0, LAYER_TYPE.DENSE, left, bias=bias, bias_axis=-2)
    yield from site.operand(1, LAYER_TYPE.DENSE, lambda shape: read_projection(site, shape), bias=bias)


def _flag(site: Site, name: str) -> bool:
    return integer(site.node, name, 0) == 1


def added_bias(site: Site) -> Constant | None:
    """The constant that the next node adds to a product."""
    for node in downstream(site.node, through=("Cast",)):
        if is_onnx(node, "Add") and len(node.inputs) == 2:
            added = [site.finder.constant(node, index) for index in (0, 1)]
            return next((constant for constant in added if constant is not None), None)
    return None


def read_projection(site: Site, shape: tuple[int, ...]) -> list[Reading]:
    """A matrix, or the three in a packed query, key and value projection where they are to be split."""
    outputs_first = _flag(site, "transB")
    whole = read_matrix(shape) if outputs_first else read_inputs_first(shape)
    if not site.splits.qkv or len(whole) != 1 or whole[0].suffix:
        return whole
    rows, columns = shape[-2:]
    sizes = _qkv_sizes(site, rows if outputs_first else columns)
    return split_columns(sizes, outputs_first, lead=len(shape) - 2) if sizes else whole


def split_columns(sizes: tuple[int, ...], outputs_first: bool, lead: int = 0) -> list[Reading]:
    """The q, k and v parts of a packed projection."""
    parts: list[Reading] = []
    start = 0
    for letter, size in zip("qkv", sizes, strict=True):
        part = slice(start, start + size)
        start += size
        region = (part,) if outputs_first else (slice(None), part)
        layout = MATRIX if outputs_first else TRANSPOSED
        parts.append(Reading(layout, suffix=f".{letter}", region=(0,) * lead + region, outputs=part))
    return parts


def _qkv_sizes(site: Site, outputs: int) -> tuple[int, ...]:
    """Widths of q, k and v: from the Split that takes them apart, or thirds where the name says so; else nothing."""
    for node in downstream(site.node, through=("Add", "Identity", "Cast")):
        if is_onnx(node, "Split") and len(node.outputs) == 3:
            sizes = integers(node, "split")
            given = site.finder.constant(node, 1)
            if given is not None and given.shape == (3,):
                sizes = tuple(int(n) for n in given.read())
            sizes = sizes or (outputs // 3,) * 3
            return sizes if sum(sizes) == outputs else ()
    weight = site.constant(1)
    scopes = metadata(site.node, "pkg.torch.onnx.fx_node")
    name = f"{weight.root.name if weight else ''} {site.node.name} {scopes}"
    return (outputs // 3,) * 3 if outputs % 3 == 0 and _PACKED.search(name) else ()


@operator("Einsum")
def einsum(site: Site) -> Iterator[Operand]:
    """A constant operand is a map from the indices that it contracts to those that it adds.

    Indices that it shares with both the other operand and the result count its matrices.
    """
    sources, arrow, result = text(site.node, "equation", "").replace(" ", "").partition("->")
    terms = sources.split(",")
    if not arrow:  # the implicit result: indices that occur once, in the order of the alphabet
        result = "".join(
            sorted(letter for letter, count in Counter(sources).items() if count == 1 and letter.isalpha())
        )
    if len(terms) != len(site.node.inputs):
        return
    for index, term in enumerate(terms):
        if len(terms) != 2 or "." in term:
            reason = f"an Einsum of {len(terms)} factors or with an ellipsis in the weight's own term is not read"
            yield from site.refuse(index, LAYER_TYPE.DENSE, reason)
            continue
        layout = einsum_layout(term, terms[1 - index], result)
        if layout is not None:
            yield from site.operand(index, LAYER_TYPE.DENSE, readings(Reading(layout)))


def einsum_layout(term: str, other: str, result: str) -> Layout | None:
    """How the factor `term` of an Einsum reads as matrices; None where it is no map from indices to others."""
    if "." in term or max(Counter(term).values(), default=2) > 1:
        return None
    contracted = tuple(axis for axis, letter in enumerate(term) if letter in other and letter not in result)
    added = tuple(axis for axis, letter in enumerate(term) if letter in result and letter not in other)
    shared = tuple(axis for axis, letter in enumerate(term) if letter in result and letter in other)
    if not contracted or not added or len(contracted) + len(added) + len(shared) != len(term):
        return None
    return Layout(shared, added, contracted)

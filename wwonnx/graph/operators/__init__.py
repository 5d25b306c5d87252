"""Which input of which operator is a weight, and how it reads as matrices: one small file per family.

To teach wwonnx an operator, write a function `(site) -> Iterator[Operand]` in its family's file, register it there with
`@operator(...)`, and import a new file here.
"""

from . import attention, convolution, dense, embedding, linear_models, mixture, quantized, recurrent
from .base import Operand, Reading, Site, Splits, is_known, operands

__all__ = [
    "Operand",
    "Reading",
    "Site",
    "Splits",
    "attention",
    "convolution",
    "dense",
    "embedding",
    "is_known",
    "linear_models",
    "mixture",
    "operands",
    "quantized",
    "recurrent",
]

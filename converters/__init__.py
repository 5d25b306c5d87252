"""Brings models of other formats to ONNX: a file for each origin, which imports its framework when it is called.

>>> from wwonnx.converters import to_onnx
>>> model = to_onnx("folder/of/a/model", "folder/of/a/model/model.onnx")
"""

from .dispatch import to_onnx

__all__ = ["to_onnx"]

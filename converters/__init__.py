"""Brings models of other formats to ONNX: a file for each origin, which imports its framework when it is called."""

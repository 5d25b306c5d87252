"""Brings models of other formats to ONNX. Each origin has a file of its own, which imports its framework when called."""

"""Arrays in, numbers out. Knows nothing of ONNX."""

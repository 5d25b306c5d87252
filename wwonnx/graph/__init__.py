"""ONNX in, weight layers out. Knows nothing of spectra."""

"""Benchmarks: wwonnx beside WeightWatcher, beside bare LAPACK, against its memory bound. They print, never judge."""

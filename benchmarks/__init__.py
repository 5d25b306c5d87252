"""Benchmarks: wwonnx beside WeightWatcher, beside bare LAPACK, and against its memory bound. They print, never judge."""

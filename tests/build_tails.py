"""Models whose layers have the alpha that a test wants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from build_onnx import dense_model
from numpy.typing import NDArray


def layer(alpha: float, n: int = 100, seed: int = 0) -> NDArray[np.float32]:
    """A matrix whose n eigenvalues are the quantiles of a power law of this exponent, from 1 on."""
    eigenvalues = (1 - (np.arange(n) + 0.5) / n) ** (-1 / (alpha - 1))
    draw = np.random.default_rng(seed)
    left = np.linalg.qr(draw.standard_normal((n + 20, n)))[0]
    right = np.linalg.qr(draw.standard_normal((n, n)))[0]
    return (left * np.sqrt(eigenvalues) @ right.T).astype(np.float32)


def network(alphas: Mapping[str, float]) -> onnx.ModelProto:
    return dense_model({name: layer(alpha) for name, alpha in alphas.items()})

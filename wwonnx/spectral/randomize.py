"""A layer's own shuffle: the same weights without their order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def permuted(matrices: NDArray[Any], seed: int, layer_id: int, replica: int = 0) -> NDArray[Any]:
    """Each matrix with its entries permuted at random (arXiv:1810.01075), shape and type unchanged.

    The generator is seeded by (seed, layer_id, replica), so that neither the order of layers nor who computes them
    matters, and the global random state is not touched.

    Args:
        matrices: shape (matrices, rows, columns).
        seed: the run's seed.
        layer_id: the layer's id.
        replica: which of several permutations.

    Returns:
        A new array of the same shape and type.
    """
    generator = np.random.default_rng((seed, layer_id, replica))
    flat = matrices.reshape(len(matrices), -1)
    return generator.permuted(flat, axis=1).reshape(matrices.shape)

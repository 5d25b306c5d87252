"""The shuffled layer: same entries, own seed, nobody else's random state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral.randomize import permuted

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def gaussian(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(DTYPES),
    st.integers(0, 2**63),
    st.integers(0, 10**6),
)
def test_each_matrix_keeps_its_entries(rf: int, rows: int, columns: int, dtype: Any, seed: int, layer_id: int) -> None:
    stack = gaussian((rf, rows, columns), dtype)
    mixed = permuted(stack, seed, layer_id)
    assert mixed.shape == stack.shape
    assert mixed.dtype == stack.dtype
    for before, after in zip(stack, mixed, strict=True):
        assert Counter(after.ravel().tolist()) == Counter(before.ravel().tolist())


def test_strided_kernels_keep_their_entries() -> None:
    kernel = gaussian((6, 5, 3, 3))
    stack = np.moveaxis(kernel.reshape(6, 5, 9), -1, 0)
    mixed = permuted(stack, 0, 1)
    assert np.array_equal(np.sort(mixed.reshape(9, -1)), np.sort(stack.reshape(9, -1)))
    assert np.array_equal(mixed, permuted(np.ascontiguousarray(stack), 0, 1))


def test_seed_and_layer_decide_alone() -> None:
    stack = gaussian((3, 8, 7))
    first = permuted(stack, 5, 2)
    np.random.seed(1)  # noqa: NPY002
    np.random.default_rng(99).random(10)
    permuted(stack, 6, 1)
    assert np.array_equal(permuted(stack, 5, 2), first)
    assert not np.array_equal(permuted(stack, 5, 3), first)
    assert not np.array_equal(permuted(stack, 6, 2), first)
    assert not np.array_equal(permuted(stack, 2, 5), first)


def test_seeds_layers_and_replicas_never_share_an_order() -> None:
    stack = np.arange(64.0).reshape(1, 8, 8)
    orders = {permuted(stack, i, j, k).tobytes() for i in range(8) for j in range(8) for k in range(8)}
    assert len(orders) == 512
    assert permuted(stack, 3, 4, 0).tobytes() == permuted(stack, 3, 4).tobytes()


def test_the_matrices_of_a_layer_are_permuted_independently() -> None:
    stack = np.broadcast_to(np.arange(64.0).reshape(8, 8), (3, 8, 8))
    mixed = permuted(stack, 0, 1)
    assert len({matrix.tobytes() for matrix in mixed}) == 3


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(123)  # noqa: NPY002
    before = np.random.get_state(legacy=False)  # noqa: NPY002
    permuted(gaussian((2, 9, 9)), 0, 1)
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert np.array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_left_alone(dtype: Any) -> None:
    stack = gaussian((2, 6, 4), dtype)
    before = stack.copy()
    stack.flags.writeable = False
    mixed = permuted(stack, 0, 1)
    assert np.array_equal(stack, before)
    assert not np.array_equal(mixed, before)


def test_every_order_is_as_likely() -> None:
    stack = np.arange(3.0).reshape(1, 3, 1)
    counts = Counter(permuted(stack, 0, layer_id).tobytes() for layer_id in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())

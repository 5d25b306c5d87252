"""Verification finds a changed bit, a missing weight, a wrong output; and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from build_models import gaussian

from wwonnx.converters import verify
from wwonnx.converters.weights_graph import Convolution, Dense, Weight, build
from wwonnx.errors import ConversionError


def dense(values: verify.Array) -> ir.Model:
    return build([Dense("fc", Weight(ir.Tensor(values, name="fc.weight")))])


def test_equal_weights() -> None:
    values = gaussian(7, 5)
    values[0, 0], values[1, 1] = np.nan, -0.0
    assert verify.verify_weights(dense(values), {"fc.weight": values.copy()}) == 35


@pytest.mark.parametrize("place", [0, 34])
def test_one_bit(place: int) -> None:
    values = gaussian(7, 5)
    changed = values.copy()
    changed.reshape(-1).view(np.uint32)[place] ^= 1
    with pytest.raises(ConversionError, match=r"'fc\.weight' was changed"):
        verify.verify_weights(dense(changed), {"fc.weight": values})


def test_the_sign_of_zero_is_a_bit() -> None:
    with pytest.raises(ConversionError, match="was changed"):
        verify.verify_weights(dense(np.zeros((2, 2))), {"fc.weight": -np.zeros((2, 2))})


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("fc.bias", gaussian(7), "is not in the converted model"),
        ("fc.weight", gaussian(5, 7), r"is \[5, 7\], but \[7, 5\]"),
        ("fc.weight", gaussian(7, 5, dtype=np.float64), "in the converted model"),
    ],
)
def test_what_is_missing_or_of_another_shape(name: str, values: verify.Array, reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        verify.verify_weights(dense(gaussian(7, 5)), {name: values})


def test_outputs() -> None:
    values = gaussian(7, 5)
    model, examples = dense(values), [gaussian(1, 5)]
    assert verify.verify_outputs(model, lambda x: [x[0] @ values.T], examples) < 1e-5
    for wrong, reason in (
        (lambda x: [x[0] @ values.T + 0.1], "differs by"),
        (lambda x: [x[0] @ values.T, x[0]], "has 1 outputs"),
        (lambda x: [(x[0] @ values.T).T], r"is \[1, 7\] in onnxruntime"),
        (lambda x: [np.full((1, 7), np.nan, np.float32)], "is not finite|differs"),
    ):
        with pytest.raises(ConversionError, match=reason):
            verify.verify_outputs(model, wrong, examples)
    assert verify.verify_outputs(model, lambda x: [x[0] @ values.T + 0.1], examples, tolerance=1.0) > 0.09


def test_the_inputs_are_random_and_the_same_each_time() -> None:
    seen: list[verify.Array] = []

    def source(inputs: object) -> list[verify.Array]:
        seen.append(inputs[0])  # type: ignore[index]
        return [inputs[0] @ np.eye(4, dtype=np.float32).T]  # type: ignore[index]

    for seed in (0, 0, 1):
        verify.verify_outputs(dense(np.eye(4, dtype=np.float32)), source, [np.zeros((1, 4), np.float32)], seed)
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    indices = verify.random_like(np.array([[3, 5, 9]]), np.random.default_rng(0))
    assert sorted(indices.reshape(-1)) == [3, 5, 9]


def test_what_onnxruntime_can_not_run() -> None:
    kernel = gaussian(3, 2, 3, 3, dtype=np.float64)
    model = build([Convolution("conv", Weight(ir.Tensor(kernel, name="conv.weight")))])
    with pytest.raises(ConversionError, match="onnxruntime can't run") as refused:
        verify.verify_outputs(model, lambda x: x, [gaussian(1, 2, 3, 3, dtype=np.float64)])
    assert "\n" not in str(refused.value)


def test_notes() -> None:
    model = dense(gaussian(7, 5))
    verify.note(model, 35, 0.5)
    assert model.metadata_props[verify.WEIGHTS] == "35"
    assert float(model.metadata_props[verify.DIFFERENCE]) == 0.5

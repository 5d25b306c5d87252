"""Layers made of layers: by hand, through whole files, and against WeightWatcher's figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.analysis import analyze_layer
from wwonnx.derive import Derived, delta, intra, peft, stacked
from wwonnx.errors import OptionError, WeightError
from wwonnx.graph.source import open_model
from wwonnx.graph.walk import walk
from wwonnx.layer import LAYER_TYPE, MATRIX, TRANSPOSED, Layout, Use, WeightLayer, kernel_layout
from wwonnx.options import Options
from wwonnx.spectral.esd import Spectrum, spectrum
from wwonnx.spectral.norms import norms
from wwonnx.spectral.power_law import fit_power_law

Array = NDArray[Any]


def gaussian(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def layer(
    number: int,
    name: str,
    weights: Array,
    kind: LAYER_TYPE = LAYER_TYPE.DENSE,
    layout: Layout | None = None,
    folded: bool = False,
    eps: float = 1.2e-7,
) -> WeightLayer:
    return WeightLayer(
        layer_id=number,
        name=name,
        longname=f"{name}.weight",
        shape=weights.shape,
        dtype=str(weights.dtype),
        uses=(Use("MatMul", f"/{name}", 1, kind),),
        layout=layout or (MATRIX if weights.ndim == 2 else kernel_layout(weights.ndim - 2)),
        eps=eps,
        folded=folded,
        depthwise=False,
        read=lambda: weights,
        read_bias=lambda: weights[0],
    )


def unread(number: int, name: str, *shape: int) -> WeightLayer:
    """A layer that must not be read."""
    made = layer(number, name, np.zeros(shape))

    def read() -> Array:
        raise AssertionError(f"{name} was read")

    return replace(made, read=read, read_bias=read)


def chain(*shapes: tuple[int, ...], seed: int = 0) -> list[WeightLayer]:
    """Layers called a, b, c, ..."""
    weights = [gaussian(*shape, seed=seed + index) for index, shape in enumerate(shapes)]
    return [
        layer(number, name, one, LAYER_TYPE.DENSE if one.ndim == 2 else LAYER_TYPE.CONV2D)
        for number, name, one in zip(range(1, 27), "abcdefghijklmnopqrstuvwxyz", weights, strict=False)
    ]


def names(found: Derived) -> list[str]:
    return [one.name for one in found.layers]


def left_out(found: Derived) -> dict[str, str]:
    return {one.name: reason for one, reason in found.left_out}


def network(shared: Path, name: str) -> tuple[WeightLayer, ...]:
    folder = "real" if name.startswith("resnet") else "exporters"
    return walk(open_model(shared / "models" / folder / f"{name}.onnx").model).layers


def normed(matrix: Array) -> Array:
    return matrix / np.linalg.norm(matrix)


# intra ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "turn_first", "turn_second"),
    [
        ((5, 5), (5, 5), False, False),
        ((5, 3), (5, 5), True, False),
        ((3, 5), (5, 5), False, False),
        ((5, 5), (7, 5), False, True),
        ((5, 5), (5, 7), False, False),
        ((6, 4), (4, 7), False, False),
        ((6, 4), (7, 4), False, True),
        ((4, 6), (7, 4), True, True),
        ((4, 6), (4, 6), False, True),
        ((6, 4), (4, 6), True, True),
    ],
)
def test_size_brings_the_largest_common_dimension_inside(
    first: tuple[int, int], second: tuple[int, int], turn_first: bool, turn_second: bool
) -> None:
    one, two = chain(first, second)
    (made,) = intra([one, two]).layers
    left = normed(one.read().T if turn_first else one.read())
    right = normed(two.read().T if turn_second else two.read())
    np.testing.assert_allclose(made.matrices(), (left @ right)[None], atol=1e-14)
    assert made.matrix_shape == made.matrices().shape


def test_flow_is_the_map_through_both() -> None:
    layers = chain((7, 4), (5, 7), (7, 5), (7, 7))
    found = intra(layers, alignment="flow")
    assert names(found) == ["b", "c", "d"]
    for one, two, made in zip(layers, layers[1:], found.layers, strict=False):
        np.testing.assert_allclose(made.matrices()[0], normed(two.read()) @ normed(one.read()), atol=1e-14)
    # Sizes that agree by chance are no flow: a has 4 inputs, and so has the next.
    found = intra(chain((7, 4), (5, 4)), alignment="flow")
    assert not found.layers
    assert "no dimension in common" in left_out(found)["b"]


def test_permutations_in_a_row() -> None:
    """Scaled permutations: every singular value of X is 1/n, whatever their scales."""
    generator = np.random.default_rng(1)
    layers = [
        layer(number, f"p{number}", scale * np.eye(9)[generator.permutation(9)])
        for number, scale in ((1, 2.0), (2, 1e-200), (3, 1e200))
    ]
    for alignment in ("size", "flow"):
        for made in intra(layers, alignment=alignment).layers:
            np.testing.assert_allclose(np.linalg.svd(made.matrices()[0], compute_uv=False), np.full(9, 1 / 9))


def test_overlaps_keep_who_they_are() -> None:
    layers = chain((8, 4), (8, 8), (3, 2), (2, 8))
    layers[0] = layer(1, "a", layers[0].read(), folded=True, eps=1e-3)
    found = intra(layers)
    assert names(found) == ["b", "d"]
    one, two = found.layers
    assert (one.layer_id, one.longname, one.uses, one.layer_type) == (
        2,
        "a.weight X b.weight",
        layers[1].uses,
        LAYER_TYPE.DENSE,
    )
    assert (one.N, one.M, one.rf, one.eps, one.folded, one.read_bias) == (8, 4, 1, 1e-3, True, None)
    assert (two.layer_id, two.matrix_shape, two.folded, two.eps) == (4, (1, 3, 8), False, 1.2e-7)
    reasons = left_out(found)
    assert reasons == {
        "a": "the first layer has none before it",
        "c": "3 x 2: no dimension in common with b, 8 x 8",
    }


def test_the_first_kernel_position_stands_for_a_convolution() -> None:
    layers = chain((6, 4, 3, 3), (5, 6, 2, 2))
    (made,) = intra(layers, alignment="flow").layers
    one, two = layers[0].read()[:, :, 0, 0], layers[1].read()[:, :, 0, 0]
    np.testing.assert_allclose(made.matrices()[0], normed(two) @ normed(one), atol=1e-14)
    assert (made.layer_type, made.rf) == (LAYER_TYPE.CONV2D, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_overlaps_are_no_larger_than_1(a: int, b: int, c: int, seed: int) -> None:
    for alignment in ("size", "flow"):
        (made,) = intra(chain((b, a), (c, b), seed=seed), alignment=alignment).layers
        assert np.linalg.norm(made.matrices()[0]) <= 1.0 + 1e-12


def test_sparsify_silences_a_random_half_of_the_units() -> None:
    layers = chain((100, 15), (10, 100))
    one, two = (normed(item.read()) for item in layers)
    for alignment, left, right in (("size", one.T, two.T), ("flow", two, one)):
        (made,) = intra(layers, sparsify=True, alignment=alignment).layers
        # left S right is linear in the diagonal of S, and 150 equations determine its 100 entries.
        units = np.einsum("iu,uj->iju", left, right).reshape(-1, 100)
        mask = np.linalg.lstsq(units, made.matrices()[0].ravel(), rcond=None)[0]
        np.testing.assert_allclose(mask, np.round(mask), atol=1e-9)
        assert set(np.round(mask)) == {0.0, 1.0}
        assert 35 < mask.sum() < 65


def test_sparsify_is_seeded_by_the_run_and_the_layer() -> None:
    layers = chain((40, 30), (40, 40), (40, 40))
    again = [intra(layers, sparsify=True, seed=3).layers for _ in range(2)]
    for one, two in zip(*again, strict=True):
        np.testing.assert_array_equal(one.matrices(), two.matrices())
        np.testing.assert_array_equal(one.matrices(), one.matrices())
    (other, _) = intra(layers, sparsify=True, seed=4).layers
    assert not np.array_equal(other.matrices(), again[0][0].matrices())
    alone = intra(layers[1:], sparsify=True, seed=3).layers[0]
    np.testing.assert_array_equal(alone.matrices(), again[0][1].matrices())
    (renamed,) = intra([layers[1], replace(layers[2], layer_id=9)], sparsify=True, seed=3).layers
    assert not np.array_equal(renamed.matrices(), alone.matrices())


def test_a_layer_of_zeros_has_no_overlap() -> None:
    (made,) = intra([layer(1, "a", np.zeros((4, 4))), layer(2, "b", gaussian(4, 4))]).layers
    assert not made.matrices().any()


def test_there_is_no_other_alignment() -> None:
    with pytest.raises(OptionError, match="alignment='shape'"):
        intra([], alignment="shape")
    assert intra([]) == Derived(())


@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_overlaps_are_weightwatchers(shared: Path, name: str) -> None:
    """Its figures are of single precision products; the smallest singular values are its rounding, and left out."""
    import pandas as pd

    golden = pd.read_csv(shared / "goldens" / name / "intra_direct.csv")
    found = intra(network(shared, name))
    assert names(found) == golden.name.tolist()
    for made, (_, row) in zip(found.layers, golden.iterrows(), strict=True):
        squares = spectrum(made.matrices, made.eps).scaled(0.5 if made.is_convolution else 1.0)
        roots = Spectrum(np.sqrt(squares.eigenvalues), squares.ranks)
        own = norms(roots.pooled, int(roots.ranks.sum()), 1e-6)
        assert [made.N, made.M, roots.pooled.size] == [row.N, row.M, row.num_evals]
        assert made.layer_type.label == row.layer_type
        assert own.norm == pytest.approx(row.norm, rel=1e-6)
        assert own.spectral_norm == pytest.approx(row.lambda_max, rel=1e-6)
        assert own.stable_rank == pytest.approx(row.stable_rank, rel=1e-6)
        if row.num_evals < 20:
            continue
        fit = fit_power_law(roots.pooled)
        assert fit.num_pl_spikes == row.num_pl_spikes
        for column in ("alpha", "D", "xmin", "xmax", "sigma"):
            assert getattr(fit, column) == pytest.approx(row[column], rel=1e-6), column


# stacked --------------------------------------------------------------------------------------------------------------


def test_a_stack_written_out() -> None:
    one = np.array([[1.0, 2.0], [3.0, 6.0], [8.0, 4.0]])
    two = np.array([[[1.0, 0.0], [5.0, 2.0]], [[3.0, 7.0], [2.0, 1.0]]])  # (out, in, positions)
    (made,) = stacked([layer(4, "one", one), layer(9, "two", two, LAYER_TYPE.CONV1D)]).layers
    # Medians 3.5 and 2; columns of `one` have medians 3 and 4, deviations 2 and 2.
    # Side by side, `two` is (1, 5, 0, 2), (3, 2, 7, 1): deviations 1, 1.5, 3.5, 0.5.
    expected = np.array(
        [
            [-1.25, -0.75, 0, 0],
            [-0.25, 1.25, 0, 0],
            [2.25, 0.25, 0, 0],
            [-1.0, 2.0, -4 / 7, 0.0],
            [1.0, 0.0, 10 / 7, -2.0],
        ]
    )
    np.testing.assert_allclose(made.matrices(), expected[None], atol=1e-14)
    assert (made.layer_id, made.name, made.matrix_shape, made.N, made.M, made.rf) == (0, "stacked", (1, 5, 4), 5, 4, 1)
    assert (made.layer_type, made.is_convolution, made.read_bias) == (LAYER_TYPE.STACKED, False, None)


def test_a_stack_does_not_see_scales() -> None:
    layers = chain((8, 6), (5, 9), (7, 3, 2, 2))
    scaled = [
        layer(one.layer_id, one.name, scale * one.read() + shift, one.layer_type)
        for one, scale, shift in zip(layers, (1e-6, 3.0, 1e6), (0.0, 5.0, 0.0), strict=True)
    ]
    first, second = (stacked(some).layers[0].matrices() for some in (layers, scaled))
    np.testing.assert_allclose(first, second, rtol=1e-9, atol=1e-9)
    assert first.shape == (1, 20, 12)


def test_a_column_without_deviation_takes_the_layers() -> None:
    weights = gaussian(9, 4)
    weights[:, 1] = 0.0
    (made,) = stacked([layer(1, "a", weights)]).layers
    median = np.median(weights)
    whole = np.median(np.abs(weights - median))
    np.testing.assert_allclose(made.matrices()[0, :, 1], -median / whole)
    assert np.isfinite(made.matrices()).all()
    weights[:, 2:] = 0.0
    with pytest.raises(WeightError, match="most weights of a are equal"):
        made.matrices()
    (single,) = stacked([layer(1, "a", gaussian(1, 9))]).layers
    assert np.isfinite(single.matrices()).all()


def test_a_stack_of_nothing() -> None:
    assert stacked([]) == Derived(())


@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_the_largest_of_a_stack_are_weightwatchers(shared: Path, name: str) -> None:
    """It keeps as many eigenvalues as the first layer has, 27: those agree, and with them all that it says."""
    import pandas as pd

    (row,) = (row for _, row in pd.read_csv(shared / "goldens" / name / "stacked.csv").iterrows())
    (made,) = stacked(network(shared, name)).layers
    esd = spectrum(made.matrices, made.eps).pooled
    assert [made.N, made.M, made.layer_id, made.rf, esd.size] == [row.N, row.M, row.layer_id, row.rf, made.M]
    kept = esd[-row.num_evals :]
    fit = fit_power_law(kept)
    assert kept[-1] == pytest.approx(row.lambda_max, rel=1e-6)
    assert kept.sum() == pytest.approx(row.norm, rel=1e-6)
    assert math.sqrt(kept[0]) == pytest.approx(row.sv_min, rel=1e-6)
    assert fit.num_pl_spikes == row.num_pl_spikes
    for column in ("alpha", "D", "xmin", "xmax", "sigma"):
        assert getattr(fit, column) == pytest.approx(row[column], rel=1e-6), column


# delta ----------------------------------------------------------------------------------------------------------------


def test_differences_by_name_then_by_order() -> None:
    layers = [layer(1, "a", gaussian(4, 3)), layer(2, "b", gaussian(5, 4, seed=1)), layer(3, "c", gaussian(9, 9))]
    base = [
        layer(1, "x", gaussian(7, 7, seed=2)),
        layer(2, "b", gaussian(5, 4, seed=3)),
        layer(3, "was_a", gaussian(4, 3, seed=4)),
    ]
    found = delta(layers, base)
    assert names(found) == ["a", "b"]
    np.testing.assert_array_equal(found.layers[0].matrices()[0], layers[0].read() - base[2].read())
    np.testing.assert_array_equal(found.layers[1].matrices()[0], layers[1].read() - base[1].read())
    assert [one.layer_id for one in found.layers] == [1, 2]
    assert found.layers[0].longname == "a.weight - was_a.weight"
    assert left_out(found) == {"c": "the base model has no layer of this name, or left, 9 x 9"}
    ((other, reason),) = found.base_left_out
    assert (other.name, reason) == ("x", "the model has no layer of this name, or left, 7 x 7")


@pytest.mark.parametrize(
    ("layout", "kind", "axes"),
    [
        (kernel_layout(2), LAYER_TYPE.CONV2D, (0, 1, 2, 3)),
        (Layout((2, 3), (1,), (0,)), LAYER_TYPE.CONV_TRANSPOSE, (1, 0, 2, 3)),
        (Layout((1, 2), (0,), (3,)), LAYER_TYPE.CONV2D, (0, 2, 3, 1)),
    ],
)
def test_differences_whatever_the_storage(layout: Layout, kind: LAYER_TYPE, axes: tuple[int, ...]) -> None:
    """The result is a tensor as the model stores it; the base model stores its own in another order."""
    weights, before = gaussian(6, 5, 3, 2), gaussian(6, 5, 3, 2, seed=1)
    one = replace(layer(1, "conv", weights.transpose(axes), kind, layout, folded=True), depthwise=True)
    other = layer(1, "conv", before, LAYER_TYPE.CONV2D, eps=0.01)
    assert one.matrix_shape == other.matrix_shape == (6, 6, 5)
    (made,) = delta([one], [other]).layers
    assert made.shape == one.shape
    assert made.layout == layout
    assert made.uses == one.uses
    assert (made.eps, made.folded, made.depthwise, made.read_bias) == (0.01, True, True, None)
    np.testing.assert_array_equal(made.read(), (weights - before).transpose(axes))
    np.testing.assert_array_equal(made.matrices(), one.matrices() - other.matrices())


def test_differences_are_taken_in_float64() -> None:
    new, old = (np.array([[value, 3.0], [1.0, 2.0]]).astype(ml_dtypes.bfloat16) for value in (300.0, 1.0))
    transposed = layer(1, "a", old.T, layout=TRANSPOSED)
    (made,) = delta([layer(1, "a", new)], [transposed]).layers
    assert made.matrices().dtype == np.float64
    np.testing.assert_array_equal(made.matrices()[0], [[float(new[0, 0]) - 1.0, 0.0], [0.0, 0.0]])


def test_a_model_less_itself_is_nothing(shared: Path) -> None:
    layers = network(shared, "resnet20")
    found = delta(layers, network(shared, "resnet20"))
    assert len(found.layers) == len(layers)
    assert not found.left_out
    assert not found.base_left_out
    (row,) = analyze_layer(found.layers[5], Options())
    assert (row["status"], row["reason"], row["norm"]) == ("failed", "every weight is zero", 0.0)


# peft -----------------------------------------------------------------------------------------------------------------


def lora(*called: str, rank: int = 2, outputs: int = 9, inputs: int = 7) -> list[WeightLayer]:
    """A base weight and its two factors."""
    shapes = [(outputs, inputs), (rank, inputs), (outputs, rank)]
    return [
        layer(number, name, gaussian(*shape, seed=number))
        for number, name, shape in zip((1, 2, 3), called, shapes, strict=True)
    ]


@pytest.mark.parametrize(
    ("called", "update", "whole"),
    [
        (("q.base_layer", "q.lora_A.default", "q.lora_B.default"), "q.lora_BA.default", "q.lora_W_plus_AB.default"),
        (("m.q", "m.q.lora_A", "m.q.lora_B"), "m.q.lora_BA", "m.q.lora_W_plus_AB"),
        (("q", "q.lora_A.weight", "q.lora_B.weight"), "q.lora_BA.weight", "q.lora_W_plus_AB.weight"),
        (("q.base", "q.A", "q.B"), "q.BA", "q.W_plus_AB"),
        (("q", "q.lora_down", "q.lora_up"), "q.lora_BA", "q.lora_W_plus_AB"),
    ],
)
def test_updates(called: tuple[str, str, str], update: str, whole: str) -> None:
    base, down, up = lora(*called)
    product = up.read() @ down.read()
    found = peft([base, down, up])
    assert names(found) == [update]
    (made,) = found.layers
    np.testing.assert_allclose(made.matrices()[0], product, rtol=1e-12)
    assert (made.layer_id, made.matrix_shape, made.shape, made.uses) == (2, (1, 9, 7), (1, 9, 7), down.uses)
    assert made.longname == f"{called[2]}.weight X {called[1]}.weight"
    assert left_out(found) == {called[0]: "no factor of a low-rank update"}
    found = peft([base, down, up], with_base=True, scale=0.25)
    assert names(found) == [update, whole]
    np.testing.assert_allclose(found.layers[0].matrices()[0], product, rtol=1e-12)
    np.testing.assert_allclose(found.layers[1].matrices()[0], base.read() + 0.25 * product, rtol=1e-12)
    assert (found.layers[1].layer_id, found.layers[1].uses) == (3, base.uses)


def test_an_update_has_the_rank_of_its_factors() -> None:
    (made,) = peft(lora("q", "q.lora_A", "q.lora_B", rank=5, outputs=40, inputs=30)).layers
    (row,) = analyze_layer(made, Options())
    assert (row["N"], row["M"], row["num_evals"], row["matrix_rank"], row["rank_loss"]) == (40, 30, 30, 5, 25)


def test_several_adapters_and_modules() -> None:
    layers = [
        layer(number, name, gaussian(*shape, seed=number))
        for number, (name, shape) in enumerate(
            [
                ("k.lora_B.one", (6, 2)),
                ("k.lora_A.one", (2, 5)),
                ("k.lora_A.two", (3, 5)),
                ("k.lora_B.two", (6, 3)),
                ("v.lora_A.one", (2, 5)),
                ("v.lora_B.one", (6, 3)),
                ("o.lora_A.one", (2, 5)),
                ("head", (6, 5)),
            ],
            start=1,
        )
    ]
    found = peft(layers)
    assert names(found) == ["k.lora_BA.one", "k.lora_BA.two"]
    np.testing.assert_allclose(found.layers[0].matrices()[0], layers[0].read() @ layers[1].read(), rtol=1e-12)
    np.testing.assert_allclose(found.layers[1].matrices()[0], layers[3].read() @ layers[2].read(), rtol=1e-12)
    assert left_out(found) == {
        "v.lora_A.one": "with v.lora_B.one, 6 x 3, it is no low-rank update",
        "v.lora_B.one": "with v.lora_A.one, 2 x 5, it is no low-rank update",
        "o.lora_A.one": "a factor of a low-rank update without the other",
        "head": "no factor of a low-rank update",
    }


def test_a_factor_is_used_once() -> None:
    layers = [
        *lora("q", "q.lora_A", "q.lora_B"),
        layer(4, "q.lora_down", gaussian(2, 7)),
        layer(5, "q.lora_A.x", gaussian(2, 7)),
    ]
    found = peft(layers)
    assert names(found) == ["q.lora_BA"]
    assert set(left_out(found)) == {"q", "q.lora_down", "q.lora_A.x"}


@pytest.mark.parametrize(
    ("first", "second", "down", "up"),
    [
        ("A", "B", (2, 7), (9, 2)),  # no module
        ("tower.A.fc", "tower.B.fc", (2, 7), (9, 2)),  # two towers
        ("q.A", "q.B", (8, 7), (9, 8)),  # the rank is no low one
        ("q.A", "v.B", (2, 7), (9, 2)),
        ("q.A", "q.lora_B", (2, 7), (9, 2)),
        ("q.lora_A.one", "q.lora_B.two", (2, 7), (9, 2)),
        ("q.lora_A", "q.lora_B", (2, 7), (2, 9)),
        ("q.lora_a", "q.lora_b", (2, 7), (9, 2)),
    ],
)
def test_what_is_no_update(first: str, second: str, down: tuple[int, int], up: tuple[int, int]) -> None:
    found = peft([layer(1, first, gaussian(*down)), layer(2, second, gaussian(*up))], with_base=True)
    assert not found.layers
    assert set(left_out(found)) == {first, second}


def test_a_convolution_is_updated_at_each_position() -> None:
    """As LoRA has it: A is a convolution to r channels, B one of a single position."""
    down = layer(2, "c.lora_A", gaussian(2, 5, 3, 3), LAYER_TYPE.CONV2D)
    up = layer(3, "c.lora_B", gaussian(6, 2, 1, 1, seed=1), LAYER_TYPE.CONV2D)
    base = layer(1, "c", gaussian(6, 5, 3, 3, seed=2), LAYER_TYPE.CONV2D)
    update, whole = peft([base, down, up], with_base=True).layers
    expected = np.einsum("or,rikl->oikl", up.read()[:, :, 0, 0], down.read())
    np.testing.assert_allclose(update.matrices(), layer(0, "", expected).matrices(), rtol=1e-12)
    np.testing.assert_allclose(whole.matrices(), layer(0, "", base.read() + expected).matrices(), rtol=1e-12)
    assert (update.layer_type, update.rf, update.is_convolution) == (LAYER_TYPE.CONV2D, 9, True)


def test_an_update_has_one_factor_of_several_positions_at_most() -> None:
    down = layer(1, "c.lora_A", gaussian(2, 5, 3, 3), LAYER_TYPE.CONV2D)
    up = layer(2, "c.lora_B", gaussian(6, 2, 3, 3), LAYER_TYPE.CONV2D)
    assert left_out(peft([down, up]))["c.lora_B"] == "with c.lora_A, 9 of 2 x 5, it is no low-rank update"


def test_a_base_of_another_shape_is_none() -> None:
    layers = lora("q", "q.lora_A", "q.lora_B")
    layers[0] = layer(1, "q", gaussian(7, 9))
    found = peft(layers, with_base=True)
    assert names(found) == ["q.lora_BA"]
    assert left_out(found)["q.lora_B"] == "there is no weight q, 9 x 7, to add its update to"


def test_factors_in_a_file(shared: Path) -> None:
    layers = {one.name: one for one in network(shared, "torch_lora_fact_dynamo")}
    update, whole = peft(list(layers.values()), with_base=True, scale=2.0).layers
    assert (update.name, update.layer_id, whole.name, whole.layer_id) == ("l1.BA", 2, "l1.W_plus_AB", 3)
    down, up = (layers[name].read() for name in ("l1.A", "l1.B"))
    assert (down.shape, up.shape) == ((12, 3), (3, 10))  # as the exporter turned them
    np.testing.assert_allclose(update.matrices()[0], (down @ up).T, rtol=1e-5)
    merged = next(one for one in network(shared, "torch_lora_merged_ts") if one.name == "l1.base")
    np.testing.assert_allclose(whole.matrices(), merged.matrices(), rtol=1e-5, atol=1e-6)


def test_updates_that_the_graph_adds_are_no_factors(shared: Path) -> None:
    found = peft(network(shared, "torch_lora_merged_ts"))
    assert not found.layers
    assert set(left_out(found)) == {"l1.base", "blk.1"}


# all of them ----------------------------------------------------------------------------------------------------------


def test_nothing_is_read_before_it_must() -> None:
    layers = [unread(1, "q", 6, 5), unread(2, "q.lora_A", 2, 5), unread(3, "q.lora_B", 6, 2)]
    made: Sequence[WeightLayer] = (
        *intra(layers).layers,
        *stacked(layers).layers,
        *delta(layers, layers).layers,
        *peft(layers, with_base=True).layers,
    )
    assert len(made) == 2 + 1 + 3 + 2
    for one in made:
        assert one.N > 0
        assert repr(one)
        with pytest.raises(AssertionError, match="was read"):
            one.read()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_weight_is_named(value: float) -> None:
    layers = lora("q", "q.lora_A", "q.lora_B")
    broken = layers[1].read().copy()
    broken[0, 3] = value
    layers[1] = layer(2, "q.lora_A", broken)
    made = (
        *intra(layers).layers,
        *stacked(layers).layers,
        delta(layers, layers).layers[1],
        *peft(layers, with_base=True).layers,
    )
    for one in made:
        (row,) = analyze_layer(one, Options())
        assert (row["status"], row["reason"]) == ("failed", "weights of q.lora_A are NaN or infinite")

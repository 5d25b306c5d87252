"""Layers of which the truth is known: 1,000 untrained matrices, planted spikes, and trained networks.

Small shapes come more often than large ones, so that the thousand take half a minute; all with the default 10 or 20
shuffles.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from building import model_of
from numpy.typing import NDArray
from onnx import helper

import wwonnx as ww

Array = NDArray[Any]

#: (inputs, outputs), and how many matrices of that shape.
SHAPES = {
    **{(64, 64): 90, (160, 64): 90, (64, 128): 90, (256, 64): 90, (64, 512): 90},
    **{(128, 128): 70, (320, 128): 70, (128, 256): 70, (512, 128): 70, (128, 1024): 60},
    **{(192, 192): 30, (256, 256): 30, (256, 640): 30, (512, 256): 20, (256, 1024): 20, (2048, 256): 15},
    **{(384, 384): 25, (512, 512): 15, (512, 1024): 15, (2048, 512): 10},
}
INITIALISERS = ("gaussian", "xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform")


def initialised(name: str, shape: tuple[int, int], generator: np.random.Generator) -> Array:
    """A weight as frameworks initialise it (Glorot and Bengio, 2010; He et al., 2015), in float32."""
    family, _, law = name.partition("_")
    variance = {"gaussian": 4e-4, "xavier": 2.0 / sum(shape), "kaiming": 2.0 / shape[0]}[family]
    limit = math.sqrt(3.0 * variance)
    drawn = (
        generator.uniform(-limit, limit, shape) if law == "uniform" else generator.normal(0.0, limit / 3**0.5, shape)
    )
    return drawn.astype(np.float32)


def analyzed(matrices: list[Array], **options: Any) -> pd.DataFrame:
    """The rows of a model with one MatMul for each of these matrices (inputs x outputs)."""
    tensors = {f"fc{index}.weight": matrix for index, matrix in enumerate(matrices)}
    nodes = [helper.make_node("MatMul", ["x", name], [f"h{index}"]) for index, name in enumerate(tensors)]
    nodes.append(helper.make_node("Sum", [node.output[0] for node in nodes], ["y"]))
    return ww.analyze(model_of(nodes, tensors), **options)


@pytest.fixture(scope="module")
def untrained() -> pd.DataFrame:
    rows = []
    for number, (shape, count) in enumerate(SHAPES.items()):
        generator = np.random.default_rng(number)
        names = [INITIALISERS[index % len(INITIALISERS)] for index in range(count)]
        found = analyzed([initialised(name, shape, generator) for name in names], mp_fit=True, randomize=True)
        rows.append(found.assign(initialiser=names, shape=f"{shape[0]}x{shape[1]}"))
    return pd.concat(rows, ignore_index=True)


def test_a_thousand_untrained_matrices_of_twenty_shapes(untrained: pd.DataFrame) -> None:
    assert len(SHAPES) == 20
    assert len(untrained) == 1000
    assert untrained.status.isin(["success", "random-like"]).all()


def test_untrained_matrices_are_random_like(untrained: pd.DataFrame) -> None:
    alike = untrained.status == "random-like"
    assert alike.mean() >= 0.95
    assert (alike == (untrained.rand_p_value >= 0.025)).all()
    assert alike.groupby(untrained.initialiser).mean().min() >= 0.92
    # The p-value is no more than it says: a tenth of them, not most, are above 0.9.
    for share in (0.1, 0.5, 0.9):
        assert np.mean(untrained.rand_p_value <= share) == pytest.approx(share, abs=0.05)


def test_sigma_of_untrained_matrices_is_one(untrained: pd.DataFrame) -> None:
    """Of the ESD scaled to mean one, sigma is one whatever the initialiser's variance is."""
    off = (untrained.sigma_mp - 1.0).abs()
    assert np.mean(off <= np.where(untrained.M < 128, 0.05, 0.02)) >= 0.99
    assert off.max() <= 0.06
    assert (untrained.groupby("shape").sigma_mp.mean() - 1.0).abs().max() <= 0.02
    assert np.mean((untrained.rand_sigma_mp - 1.0).abs() <= np.where(untrained.M < 128, 0.05, 0.02)) >= 0.99


def test_untrained_matrices_have_no_traps_and_no_spikes(untrained: pd.DataFrame) -> None:
    assert np.mean(untrained.num_traps == 0) >= 0.95
    assert np.mean(untrained.num_spikes == 0) >= 0.95


def test_the_null_lies_among_the_alphas_of_untrained_matrices(untrained: pd.DataFrame) -> None:
    """Nearly half of these would pass for well trained, which is why the null stands beside alpha."""
    assert np.mean((untrained.alpha > 2.0) & (untrained.alpha < 6.0)) > 0.4
    for shape, rows in untrained.groupby("shape"):
        low, high = np.quantile(rows.alpha, (0.1, 0.9))
        assert low < rows.alpha_null.iloc[0] < high, shape


def planted(shape: tuple[int, int], heights: list[float], seed: int) -> Array:
    """Gaussian noise and rank-one perturbations, whose eigenvalues are so many times the edge of the noise's bulk."""
    generator = np.random.default_rng(seed)
    left, values, right = np.linalg.svd(generator.standard_normal(shape), full_matrices=False)
    edge = max(shape) * (1.0 + math.sqrt(min(shape) / max(shape))) ** 2
    values[: len(heights)] = np.sqrt(np.array(heights) * edge)
    return ((left * values) @ right).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_planted_spikes_are_found(shape: tuple[int, int]) -> None:
    several = [[1.2], [1.4, 1.2]]
    if min(shape) > 64:  # among 64 eigenvalues of a square matrix three spikes lift sigma, as WeightWatcher has it, too
        several.append([1.6, 1.4, 1.2])
    found = analyzed([planted(shape, heights, seed) for heights in several for seed in range(2)], mp_fit=True)
    assert found.num_spikes.tolist() == [len(heights) for heights in several for _ in range(2)]


@pytest.mark.parametrize("network", ["resnet20", "resnet32"])
def test_trained_layers_are_told_from_their_shuffle(shared: Path, network: str) -> None:
    found = ww.analyze(shared / "models" / "real" / f"{network}.onnx", randomize=True)
    found = found[found.num_evals >= 100]
    assert len(found) == {"resnet20": 18, "resnet32": 30}[network]
    assert np.mean(found.status == "success") >= 0.95
    assert (found.rand_p_value < 0.025).mean() >= 0.95

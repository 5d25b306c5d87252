"""The trace-log cut against products of many digits, whose exponents have no limit."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral.trace_log import trace_log

Array = NDArray[np.float64]


def exact_cut(esd: Array) -> tuple[int, float]:
    """The first count whose product of eigenvalues, scaled to mean one, is below one, or all of them.

    Returns:
        The count, and how near to one, in logarithms, the products came.
    """
    with mpmath.workprec(400):
        values = [mpmath.mpf(float(value)) for value in esd[::-1]]
        mean = mpmath.fsum(values) / len(values)
        product, nearest = mpmath.mpf(1), float("inf")
        for count, value in enumerate(values, 1):
            product *= value / mean
            if product == 0:
                return count, nearest
            nearest = min(nearest, abs(float(mpmath.log(product))))
            if product < 1:
                return count, nearest
        return len(values), nearest


def naive_products(esd: Array) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        return np.cumprod(esd[::-1] * (len(esd) / esd.sum()))


def agrees(esd: Array) -> None:
    cut, (expected, nearest) = trace_log(esd), exact_cut(esd)
    assert nearest > 1e-9
    assert cut.num == expected
    assert cut.value == esd[len(esd) - expected]


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0, 6.0])
@pytest.mark.parametrize("seed", range(3))
def test_four_thousand_eigenvalues(spread: float, seed: int) -> None:
    agrees(np.sort(np.random.default_rng(seed).lognormal(0.0, spread, 4096)))


def test_where_the_naive_product_overflows() -> None:
    esd = np.sort(np.random.default_rng(0).uniform(1.9, 2.1, 4096))
    esd[:2048] *= 1e-3
    assert np.isinf(naive_products(esd)).any()
    agrees(esd)
    assert trace_log(esd).num < 4096


def test_where_the_naive_product_underflows() -> None:
    esd = np.concatenate([np.full(4000, 1e-6), np.full(96, 1.0)])
    assert naive_products(esd)[-1] == 0.0
    agrees(esd)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(2, 200),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.1, 1.0, 4.0]),
    st.sampled_from([1e-250, 1e-6, 1.0, 1e250]),
    st.integers(0, 20),
)
def test_any_spectrum(n: int, seed: int, spread: float, scale: float, zeros: int) -> None:
    values = scale * np.random.default_rng(seed).lognormal(0.0, spread, n)
    agrees(np.sort(np.concatenate([np.zeros(zeros), values])))


@pytest.mark.parametrize(
    ("esd", "num"),
    [
        ([4.0], 1),
        ([1.0, 3.0], 2),
        ([0.0, 0.0, 4.0], 2),
        ([0.0, 2.0, 2.0, 2.0], 4),
        ([0.25, 0.25, 0.25, 0.25, 4.0], 3),
        ([0.125, 0.5, 1.0, 2.375], 4),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 3.5], 3),
    ],
)
def test_by_hand(esd: list[float], num: int) -> None:
    cut = trace_log(np.array(esd))
    assert cut.num == num
    assert cut.value == esd[len(esd) - num]


@pytest.mark.parametrize("value", [1e-12, 0.1, 0.3, 0.7, 1.0, 1.1, 2.5, 3e12])
def test_equal_eigenvalues_are_all_kept(value: float) -> None:
    for n in (1, 2, 3, 5, 10, 64, 768, 4096):
        cut = trace_log(np.full(n, value))
        assert (n, cut.num) == (n, n)
        assert cut.value == value


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e3, 1e200])
def test_the_cut_does_not_depend_on_scale(scale: float) -> None:
    esd = np.sort(np.random.default_rng(7).lognormal(0.0, 1.5, 500))
    cut, scaled = trace_log(esd), trace_log(esd * scale)
    assert scaled.num == cut.num
    assert scaled.value == pytest.approx(cut.value * scale, rel=1e-14)


def test_the_spectrum_is_left_alone() -> None:
    esd = np.sort(np.random.default_rng(7).lognormal(0.0, 1.5, 50))
    before = esd.copy()
    esd.flags.writeable = False
    assert trace_log(esd) == trace_log(before)
    assert np.array_equal(esd, before)

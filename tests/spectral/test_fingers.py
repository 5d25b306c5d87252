"""Fingers clipped or stepped over: WeightWatcher's figures, and the rules one by one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wwonnx.spectral.fingers import clip_fingers, fit_from_peak, peak, starts_near_peak
from wwonnx.spectral.power_law import distance, exponents, fit_power_law

Array = NDArray[np.float64]


def goldens(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def esds(shared: Path, network: str) -> dict[str, Array]:
    """As WeightWatcher fits them: convolutions halved."""
    with np.load(shared / "goldens" / network / "esd.npz") as file:
        return {name: np.sort(file[name]) * (1.0 if name == "linear" else 0.5) for name in file.files}


@pytest.mark.parametrize(("network", "layers"), [("resnet20", 19), ("resnet32", 31)])
def test_weightwatchers_clipped_fits(shared: Path, network: str, layers: int) -> None:
    rows = [row for row in goldens(shared / "goldens" / network / "clip_xmax.csv") if int(row["num_evals"]) >= 20]
    assert len(rows) == layers
    spectra = esds(shared, network)
    for row in rows:
        found = clip_fingers(spectra[row["name"]])
        for column in ("alpha", "xmin", "xmax", "D", "sigma"):
            assert getattr(found.fit, column) == pytest.approx(float(row[column]), rel=1e-9), (row["name"], column)
        assert found.raw_alpha == pytest.approx(float(row["raw_alpha"]), rel=1e-9)
        assert found.num_fingers == int(row["num_fingers"])
        assert found.fit.num_pl_spikes == int(row["num_pl_spikes"])
        assert found.clipped == (found.num_fingers + 1 if found.num_fingers else 0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weightwatchers_fits_from_the_peak(shared: Path, stage: int) -> None:
    name = f"layer{stage}.0.conv1"
    rows = goldens(shared / "goldens/resnet20/tpl_samples.csv")
    (golden,) = (row for row in rows if (row["fit"], row["name"]) == ("xmin_peak", name))
    found = fit_from_peak(esds(shared, "resnet20")[name])
    for column in ("alpha", "xmin", "D"):
        assert getattr(found, column) == pytest.approx(float(golden[column]), rel=1e-6), column
    assert found.num_pl_spikes == int(golden["num_pl_spikes"])


def fingered(fingers: list[float]) -> Array:
    """Quantiles of a steep bulk, and values far above it."""
    n = 200
    bulk = (1.0 - (np.arange(n) + 0.5) / n) ** (-1.0 / 2.0)
    return np.concatenate([bulk, fingers])


def test_what_is_clipped_is_what_the_fits_say() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        esd = np.sort(rng.beta(1.0, 3.0, 100) + 0.01)
        found = clip_fingers(esd)
        raw = fit_power_law(esd)
        assert found.raw_alpha == raw.alpha
        expected = 0
        for clipped in range(2, 10):
            alpha = fit_power_law(esd[:-clipped]).alpha
            if alpha + 1.0 < raw.alpha:
                expected = clipped
                break
            if alpha <= 2.0:
                break
        assert found.clipped == expected
        assert found.num_fingers == max(expected - 1, 0)
        kept = esd[: esd.size - expected]
        assert found.fit.alpha == fit_power_law(kept).alpha
        assert found.fit.num_pl_spikes == np.count_nonzero(esd >= found.fit.xmin)
        seen.add(expected)
    assert seen == {0, *range(2, 10)}


def test_one_finger_fewer_than_max_fingers_is_the_most() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        esd = np.sort(rng.beta(1.0, 3.0, 100) + 0.01)
        full = clip_fingers(esd)
        if full.clipped > 2:
            break
    assert full.clipped > 2
    assert clip_fingers(esd, max_fingers=full.clipped + 1) == full
    assert clip_fingers(esd, max_fingers=full.clipped).clipped == 0
    for few in (0, 1, 2):
        assert clip_fingers(esd, max_fingers=few).clipped == 0


def test_a_larger_threshold_asks_for_a_larger_fall() -> None:
    esd = np.sort(np.random.default_rng(3).beta(1.0, 3.0, 100) + 0.01)
    for threshold in (0.01, 0.5, 1.0, 3.0):
        found = clip_fingers(esd, finger_thresh=threshold)
        assert found.clipped == 0 or found.fit.alpha < found.raw_alpha - threshold
    assert clip_fingers(esd, finger_thresh=100.0).clipped == 0


def test_clipping_stops_where_alpha_comes_down_to_2() -> None:
    """Clipping four would lower alpha by more than 1, but clipping two has brought it to 1.77 already."""
    esd = np.sort(np.random.default_rng(375).beta(1.0, 3.0, 40) ** 2 + 0.001)
    alphas = [fit_power_law(esd, ignore_largest=clipped).alpha for clipped in (0, 2, 3, 4)]
    assert alphas == pytest.approx([2.693, 1.77, 1.81, 1.67], abs=0.01)
    assert alphas[3] + 1.0 < alphas[0] < alphas[1] + 1.0
    found = clip_fingers(esd)
    assert (found.clipped, found.num_fingers) == (0, 0)
    assert found.fit.alpha == found.raw_alpha == alphas[0]


def test_half_of_a_small_esd_stays() -> None:
    esd = np.sort(np.random.default_rng(4).lognormal(0.0, 1.0, 10))
    assert clip_fingers(esd, max_fingers=50).clipped <= 5


def test_clipping_what_has_no_tail() -> None:
    for esd in (np.zeros(4), np.zeros(0), np.full(5, 3.0)):
        found = clip_fingers(esd)
        assert found.fit.reason
        assert np.isnan(found.raw_alpha)
        assert (found.num_fingers, found.clipped) == (0, 0)


def test_the_peak_is_the_lower_edge_of_the_fullest_bin() -> None:
    x = np.concatenate([[1.0], np.full(5, 10.0), [100.0]])
    # Bins are 0.02 wide in log10: 10 begins the 51st.
    assert peak(x) == pytest.approx(10.0)
    assert peak(np.array([1.0, 100.0])) == pytest.approx(1.0)


def test_starts_reach_to_half_above_the_peak_but_for_the_last() -> None:
    x = np.concatenate([[1.0, 2.0], np.full(5, 10.0), [12.0, 14.0, 16.0, 100.0]])
    assert x[starts_near_peak(x)].tolist() == [1.0, 2.0, *[10.0] * 5, 12.0]
    tied = np.concatenate([[1.0, 2.0], np.full(5, 10.0), [12.0, 14.0, 14.0, 16.0, 100.0]])
    assert tied[starts_near_peak(tied)].tolist() == [1.0, 2.0, *[10.0] * 5, 12.0]


def test_there_is_always_a_start() -> None:
    assert starts_near_peak(np.array([1.0, 50.0])).tolist() == [True, False]
    assert starts_near_peak(np.array([1.0, 1.0, 50.0])).tolist() == [True, False, False]


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 200), st.integers(0, 10**6), st.integers(0, 3))
def test_the_fit_from_the_peak_is_the_best_of_its_starts(n: int, seed: int, decimals: int) -> None:
    x = np.sort(np.round(np.random.default_rng(seed).lognormal(0.0, 1.0, n), decimals) + 0.1)
    found = fit_from_peak(x)
    logs, alphas = exponents(x)
    starts = [i for i in np.flatnonzero(starts_near_peak(x)[:-1]) if np.isfinite(alphas[i])]
    if not starts:
        assert found.reason
        return
    distances = [distance(logs, alphas, int(i))[0] for i in starts]
    best = int(np.argmin(distances))
    assert distances[best] == found.D
    assert found.alpha == alphas[starts[best]]
    assert found.xmin == x[starts[best]]
    assert found.xmax == x[-1]
    assert found.num_pl_spikes == np.count_nonzero(x >= found.xmin)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_has_no_say(scale: float) -> None:
    x = np.sort(np.random.default_rng(5).lognormal(0.0, 1.0, 120))
    assert fit_from_peak(x * scale).alpha == pytest.approx(fit_from_peak(x).alpha, rel=1e-10)
    one, other = clip_fingers(x), clip_fingers(x * scale)
    assert other.fit.alpha == pytest.approx(one.fit.alpha, rel=1e-10)
    assert other.clipped == one.clipped


def test_from_the_peak_of_what_has_no_tail() -> None:
    for esd in (np.zeros(4), np.zeros(0), np.full(5, 3.0), np.array([0.0, 1.0])):
        found = fit_from_peak(esd)
        assert found.reason
        assert np.isnan([found.alpha, found.D, found.xmin]).all()
    assert fit_from_peak(fingered([50.0, 60.0]), ignore_largest=2) == fit_from_peak(fingered([]))

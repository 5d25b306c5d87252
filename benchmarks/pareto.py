"""Pareto samples, whose exponent is known: bias of alpha, and how often intervals cover it.

python -m benchmarks.pareto [--sizes 50 100 500 2000] [--alphas 1.5 2 2.5 3.5 5] [--trials N] [--replicates N]

Three intervals: alpha +- 1.96 sigma, the percentile bootstrap of the plain exponent, and that of `analyze(ci=True)`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wwonnx.spectral.power_law import fit_power_law
from wwonnx.spectral.power_law_batch import fit_samples
from wwonnx.spectral.uncertainty import REPLICATES, bootstrap_interval

from .timing import machine

Array = NDArray[np.float64]

#: Samples per exponent and size; all exponents of a size are one experiment (see `together`).
_TRIALS = {50: 500, 100: 1000, 500: 400, 1000: 200, 2000: 100}


@dataclass(frozen=True)
class Trials:
    """What was found for samples of one exponent and size.

    Attributes:
        alpha: the exponent.
        seconds: what one call of `bootstrap_interval` took, on average.
        found: for each sample the plain and the corrected exponent, then the two ends of each of the three intervals,
            shape (trials, 8).
    """

    alpha: float
    seconds: float
    found: Array

    def row(self, n: int, label: str) -> str:
        """One row of the table."""
        biases = [
            f"{mean:+.2f} ± {error:.2f} %" for mean, error in map(_percent, self.found[:, :2].T / self.alpha - 1.0)
        ]
        low, high = self.found[:, 2::2].T, self.found[:, 3::2].T
        covered = ((low <= self.alpha) & (self.alpha <= high)).astype(float)
        covers = [f"{mean:.1f} ± {error:.1f} %" for mean, error in map(_percent, covered)]
        width = float(np.mean(high[-1] - low[-1]))
        cells = [
            label,
            str(n),
            str(len(self.found)),
            *biases,
            *covers,
            f"{width:.2f}",
            f"{1000.0 * self.seconds:.0f} ms",
        ]
        return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print one line per exponent and size, and one per size for all exponents together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 500, 2000])
    parser.add_argument("--alphas", type=float, nargs="+", default=[1.5, 2.0, 2.5, 3.5, 5.0])
    parser.add_argument("--trials", type=int, help="samples per exponent and size (default: fewer of large ones)")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    print(machine())
    columns = ("alpha", "n", "trials", "bias, plain", "bias, corrected", "sigma", "percentile", "ours", "width", "time")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for n in args.sizes:
        trials = args.trials or _TRIALS.get(n, 200)
        found = [experiment(alpha, n, trials, args.replicates, args.seed) for alpha in args.alphas]
        for one in found:
            print(one.row(n, f"{one.alpha:g}"))
        print(together(found).row(n, "all, as 2"), flush=True)


def experiment(alpha: float, n: int, trials: int, replicates: int, seed: int) -> Trials:
    """Fit so many samples of n values with this exponent."""
    generator = np.random.default_rng((seed, n, round(1000 * alpha)))
    samples = np.sort(1.0 + generator.pareto(alpha - 1.0, (trials, n)), axis=1)
    found, seconds = [], 0.0
    for layer_id, sample in enumerate(samples):
        fit = fit_power_law(sample)
        start = time.perf_counter()
        ours = bootstrap_interval(sample, seed, layer_id, replicates=replicates)
        seconds += time.perf_counter() - start
        drawn = np.sort(sample[generator.integers(0, n, (replicates, n))], axis=1)
        percentile = np.nanquantile(fit_samples(drawn).alphas, (0.025, 0.975))
        normal = fit.alpha - 1.96 * fit.sigma, fit.alpha + 1.96 * fit.sigma
        found.append((fit.alpha, ours.alpha, *normal, *percentile, ours.low, ours.high))
    return Trials(alpha, seconds / trials, np.array(found))


def together(experiments: list[Trials]) -> Trials:
    """All exponents as one, alpha = 2: the distribution of (estimate - 1) / (alpha - 1) is the same for all."""
    scaled = [1.0 + (one.found - 1.0) / (one.alpha - 1.0) for one in experiments]
    return Trials(2.0, float(np.mean([one.seconds for one in experiments])), np.concatenate(scaled))


def _percent(values: Array) -> tuple[float, float]:
    """Mean and its standard error, in percent."""
    return 100.0 * float(values.mean()), 100.0 * float(values.std(ddof=1) / np.sqrt(values.size))


if __name__ == "__main__":
    main()

"""What approximating a large layer costs: time and error against the eigenvalues, and how often stated errors hold.

Three kinds of weights in float32: Gaussian entries; a planted power law, a quarter of the directions with squared
scales from a Pareto distribution in noise; and entries from Student's t with 2.5 degrees of freedom. Above --exact only
the approximation is run, for the time.

python -m benchmarks.lanczos --sizes 2048 4096
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wwonnx.spectral.esd import Array, Spectrum, spectrum
from wwonnx.spectral.lanczos import approximate_spectrum, block_lanczos, gram_product, spectrum_of
from wwonnx.spectral.power_law import fit_power_law

KINDS = ("gaussian", "planted", "student")
EPS = float(np.finfo(np.float32).eps)


def main() -> None:
    """Print the tables, in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanczos", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2048, 4096], help="M of square matrices")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--exact", type=int, default=4096, help="the largest M that is decomposed too")
    parser.add_argument("--coverage", type=int, default=0, help="check the errors of so many matrices a kind")
    args = parser.parse_args()
    if args.sizes:
        print(
            "| weights | M | exact, s | Lanczos, s | ratio | tail | error of tail | esd_error | largest error | "
            "alpha | its error | alpha_error |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for M in args.sizes:
        for kind in args.kinds:
            compare(kind, M, args.exact >= M)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if args.coverage:
        print("\n| weights | alpha within alpha_error | ESD within esd_error | median error of alpha | largest |")
        print("|---|---|---|---|---|")
    for kind in args.kinds if args.coverage else ():
        coverage(kind, args.coverage)


def compare(kind: str, M: int, exactly: bool) -> None:
    """Print a row of one matrix."""
    matrix = weights(kind, M, M, seed=0)
    found, seconds = timed(lambda: approximate_spectrum(lambda: matrix[None], EPS, (0, 0)))
    esd, others = found.pooled, found.approximation.replicates[:, 0]
    alpha = fit_power_law(esd).alpha
    error = alpha_error(alpha, others)
    k = int(found.approximation.tails[0])
    told = f"{k} | {{tail}} | {found.error / esd[-1]:.1e} | {{all}} | {alpha:.4f} | {{alpha}} | {error:.4f} |"
    if not exactly:
        print(f"| {kind} | {M} | | {seconds:.1f} | | {told.format(tail='', all='', alpha='')}", flush=True)
        return
    whole, longer = timed(lambda: spectrum(lambda: matrix[None], EPS))
    exact = whole.pooled
    apart = np.abs(esd - exact) / exact[-1]
    told = told.format(
        tail=f"{apart[M - k :].max():.1e}",
        all=f"{apart.max():.1e}",
        alpha=f"{abs(alpha - fit_power_law(exact).alpha):.4f}",
    )
    print(f"| {kind} | {M} | {longer:.1f} | {seconds:.1f} | {longer / seconds:.2f} | {told}", flush=True)


def coverage(kind: str, count: int) -> None:
    """Print how often errors hold, with a quarter of the dimensions as for M = 4096."""
    within, inside, errors = 0, 0, []
    for seed in range(count):
        matrix = weights(kind, 1200, 1000, seed)
        generator = np.random.default_rng((seed, 1))
        krylov = block_lanczos(partial(gram_product, matrix), 1000, generator, probes=16, steps=16)
        trace = float(np.square(matrix, dtype=np.float64).sum())
        esd, error, _, others = spectrum_of(krylov, 1000, trace, generator)
        exact = spectrum(lambda matrix=matrix: matrix[None], EPS).pooled
        alpha = fit_power_law(esd).alpha
        errors.append(abs(alpha - fit_power_law(exact).alpha))
        within += errors[-1] <= alpha_error(alpha, others)
        inside += float(np.abs(esd - exact).max()) <= error
    median, largest = np.median(errors), max(errors)
    print(f"| {kind} | {within / count:.1%} | {inside / count:.1%} | {median:.4f} | {largest:.4f} |", flush=True)


def alpha_error(alpha: float, others: Array) -> float:
    """As the column of that name."""
    return max(abs(fit_power_law(other).alpha - alpha) for other in others)


def timed(work: Callable[[], Spectrum]) -> tuple[Spectrum, float]:
    """A result and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def weights(kind: str, rows: int, columns: int, seed: int) -> NDArray[np.float32]:
    """One matrix, made in blocks of rows in float32."""
    generator = np.random.default_rng(seed)
    if kind == "gaussian":
        return generator.standard_normal((rows, columns), dtype=np.float32)
    if kind == "student":
        squares = 2.0 * generator.standard_gamma(1.25, (rows, columns), dtype=np.float32) / np.float32(2.5)
        return generator.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(squares, dtype=np.float32)
    rank = columns // 4
    scales = np.sqrt((1.0 - generator.random(rank)) ** (-1 / 1.5)).astype(np.float32)
    left = generator.standard_normal((rows, rank), dtype=np.float32) * scales
    right = generator.standard_normal((rank, columns), dtype=np.float32)
    noise = generator.standard_normal((rows, columns), dtype=np.float32)
    return left @ right / np.float32(np.sqrt(columns)) + np.float32(0.2) * noise


if __name__ == "__main__":
    main()

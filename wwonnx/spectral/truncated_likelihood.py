"""The likelihood of truncated power laws: its integral, its moments and where it is largest, for many tails at once.

Throughout t = x / xmin, u = ln t, tau = t - 1, z = Lambda * xmin, and the density of t on [1, inf) is

    t^-alpha exp(-z tau) / I(alpha, z),      I(alpha, z) = integral_1^inf t^-alpha exp(-z (t - 1)) dt = e^z E_alpha(z),

so that the log-likelihood per value is -(alpha mean_u + z mean_tau + ln I) - ln xmin: that of an exponential family,
concave in (alpha, z). Integrals are taken by Gauss-Legendre quadrature in u, where the integrand is entire and falls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .esd import Array

#: The quadrature ends where the integrand has fallen by exp(-_DEPTH), which is beyond the 16th digit.
_DEPTH = 36.0
#: Nodes that give ln I to 2e-13 for z from this value on (measured for alpha from 1 to 1000 and z up to 1e6).
_NODES = ((0.1, 24), (1e-3, 32), (0.0, 64))
#: Values of which integrals are taken at once, so that a temporary holds 4 MiB at the most.
_BLOCK = 8192
#: z below it is no cut-off: no ESD reaches so far that it could be seen.
_NO_CUTOFF = 1e-16
#: Newton's method ends where a step would raise the log-likelihood per value by less than this.
_CONVERGED = 1e-20
_NEWTON_STEPS = 100
#: The simplex search ends as `scipy.optimize.fmin` does, at 1e-4, but that Lambda is measured in units of its start.
_SIMPLEX_SIZE = np.array([[1e-4], [3e-5]])
_SIMPLEX_SPREAD = 1e-4
_SIMPLEX_STEPS = 400


@dataclass(frozen=True)
class Moments:
    """Of u and tau, shape (k,) each.

    Attributes:
        log_integral: ln I.
        unexplained: variance of tau that u does not explain, var_tau - covariance^2 / var_u without its cancellation.
    """

    log_integral: Array
    mean_u: Array
    mean_tau: Array
    var_u: Array
    var_tau: Array
    covariance: Array
    unexplained: Array


def log_survival(u: Array, alpha: Array | float, z: Array | float) -> Array:
    """ln P(X >= xmin e^u) of a density proportional to x^-alpha exp(-Lambda x) (arXiv:0706.1062, table 2.1).

    Args:
        u: ln(x / xmin), 0 or more.
        alpha: exponent, 1 or more.
        z: Lambda * xmin, 0 or more; above 0 where alpha is 1.

    Returns:
        Shape of the three broadcast together; 0 at u = 0, never above.
    """
    u, alpha, z = np.broadcast_arrays(u, np.asarray(alpha, dtype=np.float64), np.asarray(z, dtype=np.float64))
    there, here = log_integral(alpha, z * np.exp(u)), log_integral(alpha, z)
    result: Array = np.minimum((1.0 - alpha) * u - z * np.expm1(u) + there - here, 0.0)
    return result


def log_integral(alpha: Array, z: Array) -> Array:
    """ln I(alpha, z) to 2e-13, shape of `alpha` and `z`; alpha 1 or more, z 0 or more, not 1 and 0 together."""
    shape, alpha, z = z.shape, alpha.ravel(), z.ravel()
    result = np.empty_like(z)
    rest = np.arange(z.size)
    for least, nodes in _NODES:
        fits = z[rest] >= least
        for block in _blocks(rest[fits]):
            result[block] = _log_integral(alpha[block, None], z[block, None], nodes)
        rest = rest[~fits]
    return result.reshape(shape)


def _log_integral(alpha: Array, z: Array, count: int) -> Array:
    nodes, weights = _quadrature(count)
    with np.errstate(divide="ignore"):
        end = np.minimum(_DEPTH / (alpha - 1.0), np.log1p(_DEPTH / z))
    u = end * nodes
    result: Array = np.log((np.exp((1.0 - alpha) * u - z * np.expm1(u)) @ weights) * end[:, 0])
    return result


def moments(alpha: Array, z: Array) -> Moments:
    """Moments of truncated power laws, right to 1e-12 for z of 1e-12 and more.

    Args:
        alpha: exponents, shape (k,), 1 or more.
        z: Lambda * xmin, shape (k,), above 0.
    """
    columns = np.empty((7, z.size))
    nodes, weights = _quadrature(_NODES[-1][1])
    for block in _blocks(np.arange(z.size)):
        a, c = alpha[block, None], z[block, None]
        # tau squared weighs the integrand by e^(2u) at the most: it has to fall by so much more.
        end = np.minimum(_DEPTH / np.maximum(a - 3.0, 1e-300), np.log1p(_DEPTH / c))
        u = end * nodes
        tau = np.expm1(u)
        p = weights * np.exp((1.0 - a) * u - c * tau)
        total = p.sum(axis=1)
        p /= total[:, None]
        mean_u, mean_tau = (p * u).sum(axis=1), (p * tau).sum(axis=1)
        u -= mean_u[:, None]
        tau -= mean_tau[:, None]
        var_u, covariance = (p * u * u).sum(axis=1), (p * u * tau).sum(axis=1)
        var_tau = (p * tau * tau).sum(axis=1)
        tau -= (covariance / var_u)[:, None] * u
        unexplained = (p * tau * tau).sum(axis=1)
        log_total = np.log(total * end[:, 0])
        columns[:, block] = log_total, mean_u, mean_tau, var_u, var_tau, covariance, unexplained
    return Moments(*columns)


def on_bound(mean_u: Array, z: Array) -> NDArray[np.bool_]:
    """Whether the likelihood is largest at alpha = 1, given the best z for alpha = 1.

    There the slope in alpha, mean_u less its expectation, leads below 1, and the function is convex.

    Args:
        mean_u: means of ln(x / xmin) over each tail, shape (k,).
        z: Lambda * xmin of each, shape (k,).
    """
    return moments(np.ones_like(z), z).mean_u <= mean_u


def cutoff_alone(mean_tau: Array) -> Array:
    """The best z for alpha = 1: there tau has the mean of the tail. Newton's method in the logarithms of both.

    Args:
        mean_tau: means of x / xmin - 1 over each tail, shape (k,), above 0.

    Returns:
        z = Lambda * xmin, shape (k,).
    """
    z = 1.0 / mean_tau
    for _ in range(_NEWTON_STEPS):
        now = moments(np.ones_like(z), z)
        step = np.clip(np.log(mean_tau / now.mean_tau) * now.mean_tau / (-z * now.var_tau), -2.0, 2.0)
        z *= np.exp(step)
        if np.abs(step).max(initial=0.0) < 1e-13:
            break
    return z


def maximum_likelihood(mean_u: Array, mean_tau: Array) -> tuple[Array, Array]:
    """Alpha >= 1 and z >= 0 of the largest likelihood, to rounding.

    A point on an edge of the allowed region from which the slope leads out is the maximum, since the function is
    convex. The two edges are tried first; what has its maximum inside is left to Newton's method.

    Args:
        mean_u: mean of u of each tail, shape (k,), above 0.
        mean_tau: mean of tau of each tail, shape (k,), above 0.

    Returns:
        alpha and z, shape (k,).
    """
    alpha, z = np.ones_like(mean_u), cutoff_alone(mean_tau)
    steep = ~on_bound(mean_u, z)
    plain = 1.0 + 1.0 / mean_u
    # Without a cut-off tau has the mean 1 / (alpha - 2), and none where alpha is 2 or less.
    uncut = steep & (plain > 2.0) & (mean_tau * (plain - 2.0) >= 1.0)
    alpha[uncut], z[uncut] = plain[uncut], 0.0
    inside = np.flatnonzero(steep & ~uncut)
    alpha[inside], z[inside] = _newton(mean_u[inside], mean_tau[inside], z[inside])
    lost = inside[z[inside] <= _NO_CUTOFF]
    alpha[lost], z[lost] = plain[lost], 0.0
    return alpha, z


def _newton(mean_u: Array, mean_tau: Array, z: Array) -> tuple[Array, Array]:
    """Damped Newton steps from (1, z) to the maximum inside, for all tails side by side.

    Every tail has its own step: a trial that does not gain enough is tried again with half of it.
    """
    origin = np.stack([np.ones_like(z), z])
    trial, step = origin.copy(), np.zeros_like(origin)
    value, gain = np.full(z.size, np.inf), np.zeros(z.size)
    todo = np.arange(z.size)
    for _ in range(_NEWTON_STEPS):
        if not todo.size:
            break
        now = moments(*trial[:, todo])
        cost = trial[0, todo] * mean_u[todo] + trial[1, todo] * mean_tau[todo] + now.log_integral
        # Close to the maximum the gain drowns in the function's rounding, and whole steps are safe.
        accepted = (cost <= value[todo] - 1e-4 * gain[todo]) | (gain[todo] < 1e-9)
        rejected, new = todo[~accepted], todo[accepted]
        step[:, rejected] *= 0.5
        gain[rejected] *= 0.5
        origin[:, new], value[new] = trial[:, new], cost[accepted]
        slope_u, slope_tau = (mean_u[todo] - now.mean_u)[accepted], (mean_tau[todo] - now.mean_tau)[accepted]
        ratio = (now.covariance / now.var_u)[accepted]
        step[1, new] = (ratio * slope_u - slope_tau) / now.unexplained[accepted]
        step[0, new] = -slope_u / now.var_u[accepted] - ratio * step[1, new]
        gain[new] = -slope_u * step[0, new] - slope_tau * step[1, new]
        # A step takes a parameter nine tenths of the way to its bound at the most.
        room = 0.9 * (origin[:, new] - np.array([[1.0], [0.0]]))
        with np.errstate(divide="ignore", invalid="ignore"):
            step[:, new] *= np.where(step[:, new] < 0.0, -room / step[:, new], 1.0).min(axis=0).clip(max=1.0)
        trial[:, todo] = origin[:, todo] + step[:, todo]
        todo = todo[(gain[todo] > _CONVERGED) & (trial[1, todo] > _NO_CUTOFF)]
    return trial[0], trial[1]


def simplex_search(mean_u: Array, mean_tau: Array, sizes: NDArray[np.intp]) -> tuple[Array, Array]:
    """Alpha > 1 and z > 0 where the downhill simplex of `powerlaw` ends, for all tails side by side.

    Nelder and Mead's method with the moves and the order of Lagarias et al. (SIAM J. Optim. 9 (1998) 112, sec. 2), from
    the plain power law's alpha and Lambda = 1 / mean(x), each vertex 5 % away; a point outside the region costs more
    than any inside. Unlike there the search ends at a size relative to the parameters, so that the scale of x has no
    say; the vertices visited are the same. On the bound of alpha the simplex may collapse short of the maximum.

    Args:
        mean_u: mean of u of each tail, shape (k,), above 0.
        mean_tau: mean of tau of each tail, shape (k,), above 0.
        sizes: number of values of each tail, shape (k,).

    Returns:
        alpha and z, shape (k,).
    """

    def cost(points: Array, tails: NDArray[np.intp]) -> Array:
        result = np.full(tails.size, np.inf)
        inside = np.flatnonzero((points[0] > 1.0) & (points[1] > 0.0))
        (a, c), which = points[:, inside], tails[inside]
        result[inside] = a * mean_u[which] + c * mean_tau[which] + log_integral(a, c)
        return result

    def order(tails: NDArray[np.intp]) -> None:
        ranks = np.argsort(costs[:, tails], axis=0, kind="stable")
        costs[:, tails] = np.take_along_axis(costs[:, tails], ranks, axis=0)
        simplex[:, :, tails] = np.take_along_axis(simplex[:, :, tails], ranks[:, None], axis=0)

    todo = np.arange(mean_u.size)
    unit = np.stack([np.ones_like(mean_u), 1.0 / (1.0 + mean_tau)])
    simplex = np.tile(np.stack([1.0 + 1.0 / mean_u, unit[1]]), (3, 1, 1))
    simplex[1, 0] *= 1.05
    simplex[2, 1] *= 1.05
    costs = np.stack([cost(vertex, todo) for vertex in simplex])
    order(todo)
    for _ in range(_SIMPLEX_STEPS):
        size = np.abs(simplex[1:][:, :, todo] - simplex[0][:, todo]).max(axis=0) / unit[:, todo]
        spread = (costs[2, todo] - costs[0, todo]) * sizes[todo]
        todo = todo[(size > _SIMPLEX_SIZE).any(axis=0) | (spread > _SIMPLEX_SPREAD)]
        if not todo.size:
            break
        worst, middle = simplex[2][:, todo], simplex[:2][:, :, todo].mean(axis=0)
        first, second, third = costs[:, todo]
        reflected = 2.0 * middle - worst
        mirror = cost(reflected, todo)
        expand, plain = mirror < first, (first <= mirror) & (mirror < second)
        outside, within = (second <= mirror) & (mirror < third), mirror >= third
        # One more point: beyond the reflected one, between it and the middle, or between the middle and the worst.
        factor = np.select([expand, outside, within], [2.0, 0.5, -0.5], 1.0)
        further = middle + factor * (middle - worst)
        other = np.full(todo.size, np.inf)
        other[~plain] = cost(further[:, ~plain], todo[~plain])
        take = (expand & (other < mirror)) | (outside & (other <= mirror)) | (within & (other < third))
        keep = ~take & (expand | plain)
        simplex[2][:, todo] = np.where(take, further, np.where(keep, reflected, worst))
        costs[2, todo] = np.where(take, other, np.where(keep, mirror, third))
        shrink = todo[~take & ~keep]
        for vertex in (1, 2):
            nearest = simplex[0][:, shrink]
            simplex[vertex][:, shrink] = nearest + 0.5 * (simplex[vertex][:, shrink] - nearest)
            costs[vertex, shrink] = cost(simplex[vertex][:, shrink], shrink)
        order(todo)
    return simplex[0, 0], simplex[0, 1]


def _blocks(indices: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    for first in range(0, indices.size, _BLOCK):
        yield indices[first : first + _BLOCK]


@lru_cache(maxsize=len(_NODES))
def _quadrature(count: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1.0) / 2.0, weights / 2.0

"""The fit of one declared response: a parametric mean, and a Gaussian-process residual.

The mean m(theta, x) is fitted by a damped Gauss-Newton MAP under the covariance C = K + noise;
linearised at the optimum it gives a joint Gaussian posterior of theta and residual: Rasmussen and
Williams, "Gaussian Processes for Machine Learning" (2006), section 2.7, with F the Jacobian of m:

    mean(x*) = m(theta, x*) + k*' C^-1 (y - m(theta, X))
    cov(x*, z*) = k** - k*' C^-1 kz* + R(x*) S R(z*)',   R(x*) = F(x*) - k*' C^-1 F

with S the posterior covariance of theta. Amplitude and noise are chosen by marginal likelihood on
a small grid, which cannot diverge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs

from poolwright.learn.points import Array, Mask, Points

_OCTAVES = 1.0  # length scale over a knob
_SHORT = 0.12  # of the part that follows ripples and cliffs ...
_SHORT_SHARE = 0.36  # ... and its variance over the smooth part's
_CONTEXT = 0.6  # length scale over log load and over the foreign CPU share
_HUBER = 2.5  # standard deviations beyond which a row pulls no harder
_STEPS = 12
_FREEDOM = 4.0
_MEDIAN = 0.6745  # of the absolute value of a standard normal
_Z90 = 1.6449
_TAIL_PRIOR = 8.0  # windows
_JITTER = 1e-10
_BUMP = 1e-4
_SILENT = 1e4  # variance of a row that says nothing

Mean = Callable[[Array, Points], Array]  # (thetas (m, p), points) -> (m, n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """A joint Gaussian over named parameters."""

    names: tuple[str, ...]
    mean: Array
    cov: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What was seen of one response, in model space: value, its standard error, weight.

    `bound` is +1 where the value is a lower bound, -1 where an upper one. An `idle` row may raise
    what the `shared` parameters (their columns) allow, and never lower it; `blame` is the sign of
    the deviation that would.
    """

    points: Points
    value: Array
    error: Array
    weight: Array
    bound: Array
    idle: Mask
    kernel: Array  # (n, n) at amplitude 1
    shared: tuple[int, ...] = ()
    blame: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted response."""

    prior: Prior
    theta: Array
    cov: Array
    noise: float  # std of a fresh window beyond its own sampling error
    tail: float  # by how much nine fresh windows of ten stray further than `noise` says
    amplitude: float
    factor: Array  # Cholesky factor of C
    pull: Array  # C^-1 (y - m)
    slope: Array  # the Jacobian whitened by `factor`
    strayed: Array  # (n,) what each row strayed by chance: the mean of that ...
    strayed_std: Array  # ... and its standard deviation


def whiten(factor: NDArray[Any], right: Array) -> Array:
    """L^-1 right, for a Cholesky factor L: LAPACK itself, as scipy's own wrapper takes as long."""
    found, fault = dtrtrs(factor.T, right, lower=0, trans=1)
    assert fault == 0, "a Cholesky factor has no zero on its diagonal"
    return np.asarray(found)


def _unwhiten(factor: Array, right: Array) -> Array:
    """L^-T right."""
    found, fault = dtrtrs(factor.T, right, lower=0)
    assert fault == 0
    return np.asarray(found)


def _matern(distance: Array) -> Array:
    """Matern 5/2 of distances in length scales."""
    r = np.sqrt(5.0) * distance
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def kernel(a: Points, b: Points) -> Array:
    """(n, m) at amplitude 1: a product over knobs, log load and foreign share.

    Over the knobs it is smooth at an octave, and a part of it follows single levels.
    """
    apart = np.abs(a.places[:, None, :] - b.places[None, :, :])
    smooth, rough = _matern(apart[:, :, 0] / _OCTAVES), _matern(apart[:, :, 0] / _SHORT)
    for k in range(1, apart.shape[2]):
        smooth = smooth * _matern(apart[:, :, k] / _OCTAVES)
        rough = rough * _matern(apart[:, :, k] / _SHORT)
    found = smooth + _SHORT_SHARE * rough
    for x, z in ((np.log(a.load), np.log(b.load)), (a.foreign, b.foreign)):
        if np.ptp(x) > 0.0 or np.ptp(z) > 0.0 or x[0] != z[0]:
            found = found * _matern(np.abs(x[:, None] - z[None, :]) / _CONTEXT)
    return found / (1.0 + _SHORT_SHARE)


def linearise(mean: Mean, theta: Array, points: Points) -> tuple[Array, Array]:
    """The mean at `theta` and its Jacobian (n, p), by central differences in one call."""
    size = len(theta)
    bumps = np.vstack([np.zeros(size), _BUMP * np.eye(size), -_BUMP * np.eye(size)])
    values = mean(theta + bumps, points)
    return values[0], (values[1 : size + 1] - values[size + 1 :]).T / (2.0 * _BUMP)


def _silenced(rows: Rows, away: Array) -> Mask:
    """Rows that are bounds, and hold."""
    return rows.bound * away < 0.0


def _map(
    mean: Mean, prior: Prior, rows: Rows, start: Array, spread: Array, amplitude: float
) -> Array:
    """The MAP theta under C = amplitude^2 K + diag(spread)."""
    precision = np.linalg.inv(prior.cov)
    factor = np.linalg.cholesky(amplitude**2 * rows.kernel + np.diag(spread))
    unfold = whiten(factor, np.eye(len(spread)))

    def at(theta: Array) -> tuple[float, Array, Array]:
        found, slope = linearise(mean, theta, rows.points)
        away = rows.value - found
        if rows.shared:
            lowers = rows.idle & (rows.blame * away > 0.0)
            slope[np.ix_(np.flatnonzero(lowers), np.array(rows.shared))] = 0.0
        holds = _silenced(rows, away)
        away[holds], slope[holds] = 0.0, 0.0
        white = unfold @ np.column_stack([away, slope])
        pull = theta - prior.mean
        cost = 0.5 * float(white[:, 0] @ white[:, 0] + pull @ precision @ pull)
        return cost, white[:, 0], white[:, 1:]

    theta, damping = start, 1e-3
    cost, away, slope = at(theta)
    for _ in range(_STEPS):
        hessian = slope.T @ slope + precision
        gradient = slope.T @ away - precision @ (theta - prior.mean)
        trial = theta + np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
        new_cost, new_away, new_slope = at(trial)
        if new_cost <= cost:
            done = cost - new_cost < 1e-3 * (1.0 + cost)
            theta, cost, away, slope = trial, new_cost, new_away, new_slope
            damping = max(damping / 5.0, 1e-9)
            if done:
                break
        else:
            damping *= 8.0
            if damping > 1e4:
                break
    return theta


def _climb(score: Callable[[int, int], float], shape: tuple[int, int]) -> tuple[int, int]:
    """The best cell of a grid by steps along one axis at a time, from its middle."""
    known: dict[tuple[int, int], float] = {}

    def at(cell: tuple[int, int]) -> float:
        if cell not in known:
            known[cell] = score(*cell)
        return known[cell]

    best = (shape[0] // 2, shape[1] // 2)
    while True:
        near = [
            (i, j)
            for i, j in (
                (best[0] - 1, best[1]), (best[0] + 1, best[1]),
                (best[0], best[1] - 1), (best[0], best[1] + 1),
            )
            if 0 <= i < shape[0] and 0 <= j < shape[1]
        ]  # fmt: skip
        top = max(near, key=at, default=best)
        if at(top) <= at(best):
            return best
        best = top


def fit(
    mean: Mean,
    prior: Prior,
    rows: Rows,
    amplitudes: tuple[float, ...],
    noises: tuple[float, ...],
) -> Fit:
    """Fit one response to its rows (at least one)."""
    middle = (amplitudes[len(amplitudes) // 2], noises[len(noises) // 2])
    amplitude, noise = middle
    variances = rows.error**2

    widen = np.ones(len(rows.value))

    def spread() -> Array:
        return widen * (noise**2 + variances) / rows.weight + _JITTER

    theta = _map(mean, prior, rows, prior.mean, spread(), amplitude)
    found, slope = linearise(mean, theta, rows.points)
    away = rows.value - found
    holds = _silenced(rows, away)
    variances = np.where(holds, _SILENT, variances)
    away = np.where(holds, 0.0, away) + slope @ (theta - prior.mean)
    parametric = slope @ prior.cov @ slope.T
    widen = _suspects(_strays(amplitude**2 * rows.kernel + np.diag(spread()) + parametric, away))

    def score(i: int, j: int) -> float:
        """Log marginal likelihood, theta integrated out at its MAP; a wide log-normal prior on
        both keeps three windows from claiming that there is no noise.
        """
        total = amplitudes[i] ** 2 * rows.kernel + parametric
        own = widen * (noises[j] ** 2 + variances) / rows.weight + _JITTER
        total[np.diag_indices_from(total)] += own
        factor = np.linalg.cholesky(total)
        white = whiten(factor, away)
        pull = np.log(np.array([amplitudes[i], noises[j]]) / middle)
        return float(-0.5 * (white @ white + pull @ pull) - np.sum(np.log(np.diag(factor))))

    i, j = _climb(score, (len(amplitudes), len(noises)))
    amplitude, noise = amplitudes[i], noises[j]
    widen = np.ones(len(rows.value))
    strays = _strays(amplitude**2 * rows.kernel + np.diag(spread()) + parametric, away)
    widen = np.maximum(strays / _HUBER, 1.0)
    theta = _map(mean, prior, rows, theta, spread(), amplitude)
    found, slope = linearise(mean, theta, rows.points)
    away = rows.value - found
    holds = _silenced(rows, away)
    variances = np.where(holds, _SILENT, variances)
    factor = np.asarray(np.linalg.cholesky(amplitude**2 * rows.kernel + np.diag(spread())))
    white = whiten(factor, slope)
    half = whiten(factor, np.where(holds, 0.0, away))
    pull = _unwhiten(factor, half)
    own = np.where(holds, 0.0, widen * noise**2 / rows.weight)
    left = own - own**2 * np.sum(whiten(factor, np.eye(len(own))) ** 2, axis=0)
    return Fit(
        prior=prior,
        theta=theta,
        cov=np.linalg.inv(white.T @ white + np.linalg.inv(prior.cov)),
        noise=noise,
        tail=_tail(strays[~holds]),
        amplitude=amplitude,
        factor=np.asarray(factor, dtype=np.float64),
        pull=pull,
        slope=white,
        strayed=own * pull,
        strayed_std=np.sqrt(np.maximum(left, 0.0)),
    )


def _strays(total: Array, away: Array) -> Array:
    """Leave-one-out residuals in standard deviations: what Huber's rule and the tail rest on.

    Rasmussen and Williams, equations 5.10-5.12: e_i = [C^-1 r]_i / sqrt([C^-1]_ii).
    """
    inverse = np.linalg.inv(total)
    return np.asarray(np.abs(inverse @ away) / np.sqrt(np.diag(inverse)), dtype=np.float64)


def _suspects(strays: Array) -> Array:
    """By how much each row's variance is widened while amplitude and noise are chosen: as Student's
    t with 4 degrees of freedom weighs it, where it strays far from the others.

    Else one outlier of ten would pass for a noise that all of them have.
    """
    usual = max(1.0, float(np.median(strays)) / _MEDIAN)
    strays = strays / usual
    return np.where(strays > _HUBER, (_FREEDOM + strays**2) / (_FREEDOM + 1.0), 1.0)


def _tail(strays: Array) -> float:
    """The 90 % quantile of what windows left out strayed, over a normal one's.

    As the conformal prediction of Vovk, Gammerman and Shafer (2005) has it, shrunk to 1 while there
    are few windows.
    """
    if len(strays) == 0:
        return 1.0
    found = float(np.quantile(strays, 0.9)) / _Z90
    return (len(strays) * found + _TAIL_PRIOR) / (len(strays) + _TAIL_PRIOR)

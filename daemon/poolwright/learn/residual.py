"""A semi-parametric response: a parametric mean with priors, and a Gaussian-process residual.

After Dalibard, Schaarschmidt and Yoneki, "BOAT" (WWW 2017). The mean m(theta, x) is fitted by a
damped Gauss-Newton MAP under the covariance C = K + noise; linearised at the optimum it gives a
joint Gaussian posterior of theta and residual: Rasmussen and Williams, "Gaussian Processes for
Machine Learning" (2006), section 2.7, with F the Jacobian of m:

    mean(x*) = m(theta, x*) + k*' C^-1 (y - m(theta, X))
    cov(x*, z*) = k** - k*' C^-1 kz* + R(x*) S R(z*)',   R(x*) = F(x*) - k*' C^-1 F

with S the posterior covariance of theta. The residual (kernel, Cholesky factor, weights) is held
by scikit-optimize's GaussianProcessRegressor with a noise of its own for every row. Amplitude and
noise floor are chosen by marginal likelihood on a small grid, which cannot diverge.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from skopt.learning import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import ConstantKernel, Matern

from poolwright.learn.points import Array, Mask, Points

_OCTAVES = 1.0  # length scale over log2 of a knob
_CONTEXT = 0.6  # length scale over log load and over the foreign CPU share
_HUBER = 2.5  # standard deviations beyond which a row pulls no harder
_STEPS = 25
_JITTER = 1e-10

Mean = Callable[[Array, Points], Array]  # (thetas (m, p), points) -> (m, n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One response in its transformed space: mean, priors, and grids of amplitude and noise."""

    parameters: tuple[str, ...]
    prior_mean: Array
    prior_cov: Array
    mean: Mean
    amplitudes: tuple[float, ...]
    noises: tuple[float, ...]
    capacity: tuple[int, ...] = ()  # parameters that idle rows may raise and never lower
    blames_capacity: float = 1.0  # the sign of a deviation that pulls capacity down
    transient: Callable[[Array, Points], Array] | None = None  # extra std of a row, given theta


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What was seen of one response, transformed: value, its standard error, weight (0..1]."""

    points: Points
    value: Array
    error: Array
    weight: Array
    idle: Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """The latent response at some points, and its covariance with the anchor (first) point."""

    mean: Array
    std: Array
    anchor_cov: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A fitted response."""

    spec: Spec
    theta: Array
    theta_cov: Array
    noise: float  # std of a fresh window beyond its own sampling error
    amplitude: float
    gp: GaussianProcessRegressor
    jacobian: Array  # whitened by the Cholesky factor of C

    def predict(self, points: Points) -> Posterior:
        """The posterior at `points`; the first one is the anchor."""
        mean, slope = linearise(self.spec, self.theta, points)
        features = points.features
        cross = self.gp.kernel_(self.gp.X_train_, features)
        white = solve_triangular(self.gp.L_, cross, lower=True, check_finite=False)
        rest = slope - white.T @ self.jacobian
        carried = rest @ self.theta_cov
        variance = self.gp.kernel_.diag(features) - np.sum(white * white, axis=0)
        variance = np.maximum(variance, 0.0) + np.sum(carried * rest, axis=1)
        prior = self.gp.kernel_(features, features[:1])[:, 0]
        cov = prior - white.T @ white[:, 0] + carried @ rest[0]
        return Posterior(
            mean=mean + cross.T @ self.gp.alpha_,
            std=np.sqrt(np.maximum(variance, _JITTER)),
            anchor_cov=cov,
        )

    def belief(self, name: str) -> float:
        """The MAP value of one parameter; ValueError when the mean does not have it."""
        return float(self.theta[self.spec.parameters.index(name)])


def linearise(spec: Spec, theta: Array, points: Points) -> tuple[Array, Array]:
    """The mean at `theta` and its Jacobian (n, p), by central differences in one call."""
    size = len(theta)
    step = 1e-4
    bumps = np.vstack([np.zeros(size), step * np.eye(size), -step * np.eye(size)])
    values = spec.mean(theta + bumps, points)
    return values[0], (values[1 : size + 1] - values[size + 1 :]).T / (2.0 * step)


def _map(spec: Spec, start: Array, rows: Rows, factor: Array) -> tuple[Array, Array]:
    """The MAP theta under the Cholesky factor of C, and the whitened Jacobian there."""
    precision = np.linalg.inv(spec.prior_cov)

    def at(theta: Array) -> tuple[float, Array, Array]:
        mean, slope = linearise(spec, theta, rows.points)
        away = rows.value - mean
        if spec.capacity:
            silent = rows.idle & (spec.blames_capacity * away > 0.0)
            slope[np.ix_(np.flatnonzero(silent), np.array(spec.capacity))] = 0.0
        both = solve_triangular(
            factor, np.column_stack([away, slope]), lower=True, check_finite=False
        )
        pull = theta - spec.prior_mean
        cost = 0.5 * float(both[:, 0] @ both[:, 0] + pull @ precision @ pull)
        return cost, both[:, 0], both[:, 1:]

    theta, damping = start, 1e-3
    cost, away, slope = at(theta)
    for _ in range(_STEPS):
        hessian = slope.T @ slope + precision
        gradient = slope.T @ away - precision @ (theta - spec.prior_mean)
        damped = hessian + damping * np.diag(np.diag(hessian))
        trial = theta + np.linalg.solve(damped, gradient)
        new_cost, new_away, new_slope = at(trial)
        if new_cost <= cost:
            done = cost - new_cost < 1e-5 * (1.0 + cost)
            theta, cost, away, slope = trial, new_cost, new_away, new_slope
            damping = max(damping / 5.0, 1e-9)
            if done:
                break
        else:
            damping *= 8.0
            if damping > 1e4:
                break
    return theta, slope


def _kernel(amplitude: float, knobs: int) -> ConstantKernel:
    lengths = [_OCTAVES] * knobs + [_CONTEXT, _CONTEXT]
    return ConstantKernel(amplitude**2, "fixed") * Matern(
        lengths, length_scale_bounds="fixed", nu=2.5
    )


def _best_grid(spec: Spec, unit: Array, variances: Array, rows: Rows, theta: Array) -> Array:
    """(amplitude, noise) of highest marginal likelihood, theta integrated out at `theta`.

    A wide log-normal prior on both keeps three windows from claiming that there is no noise.
    """
    mean, slope = linearise(spec, theta, rows.points)
    away = rows.value - mean + slope @ (theta - spec.prior_mean)
    parametric = slope @ spec.prior_cov @ slope.T
    middle = [spec.amplitudes[len(spec.amplitudes) // 2], spec.noises[len(spec.noises) // 2]]
    best, choice = -np.inf, np.array(middle)
    for amplitude in spec.amplitudes:
        base = amplitude**2 * unit + parametric
        for noise in spec.noises:
            total = base + np.diag((noise**2 + variances) / rows.weight + _JITTER)
            factor = cholesky(total, lower=True, check_finite=False, overwrite_a=True)
            white = solve_triangular(factor, away, lower=True, check_finite=False)
            pull = np.log(np.array([amplitude, noise]) / middle)
            score = -0.5 * (white @ white + pull @ pull) - np.sum(np.log(np.diag(factor)))
            if score > best:
                best, choice = float(score), np.array([amplitude, noise])
    return choice


def _outlier_factor(total: Array, away: Array) -> Array:
    """By how much Huber's rule widens each row, from leave-one-out residuals.

    Rasmussen and Williams, equations 5.10-5.12: e_i = [C^-1 r]_i / sqrt([C^-1]_ii).
    """
    inverse = np.linalg.inv(total)
    standard = np.abs(inverse @ away) / np.sqrt(np.diag(inverse))
    return np.asarray(np.maximum(standard / _HUBER, 1.0), dtype=np.float64)


def fit(spec: Spec, rows: Rows) -> Node:
    """Fit one response to its rows (at least one)."""
    kernel = _kernel(1.0, rows.points.levels.shape[1])
    unit = np.asarray(kernel(rows.points.features), dtype=np.float64)
    variances = rows.error**2
    amplitude = spec.amplitudes[len(spec.amplitudes) // 2]
    noise = spec.noises[len(spec.noises) // 2]

    def covariance() -> Array:
        spread = (noise**2 + variances) / rows.weight + _JITTER
        return np.asarray(amplitude**2 * unit + np.diag(spread), dtype=np.float64)

    theta, _ = _map(spec, spec.prior_mean, rows, cholesky(covariance(), lower=True))
    if spec.transient is not None:
        variances = variances + spec.transient(theta, rows.points) ** 2
    amplitude, noise = _best_grid(spec, unit, variances, rows, theta)
    theta, _ = _map(spec, theta, rows, cholesky(covariance(), lower=True))
    mean, slope = linearise(spec, theta, rows.points)
    away = rows.value - mean + slope @ (theta - spec.prior_mean)
    outlying = _outlier_factor(covariance() + slope @ spec.prior_cov @ slope.T, away)
    variances = outlying * (noise**2 + variances) - noise**2
    theta, jacobian = _map(spec, theta, rows, cholesky(covariance(), lower=True))
    gp = GaussianProcessRegressor(
        kernel=_kernel(amplitude, rows.points.levels.shape[1]),
        alpha=(noise**2 + variances) / rows.weight + _JITTER,
        optimizer=None,
    )
    gp.fit(rows.points.features, rows.value - linearise(spec, theta, rows.points)[0])
    return Node(
        spec=spec,
        theta=theta,
        theta_cov=np.linalg.inv(jacobian.T @ jacobian + np.linalg.inv(spec.prior_cov)),
        noise=float(noise),
        amplitude=float(amplitude),
        gp=gp,
        jacobian=jacobian,
    )

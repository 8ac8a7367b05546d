"""Parametric means of latency and throughput: capacity by the USL, latency by a queueing law.

Capacity: Gunther's Universal Scalability Law, X(c) = gamma c / infl(c) with
infl(c) = 1 + alpha (c-1) + beta c (c-1) and beta = (1-alpha) / N*^2, so that N* is where X peaks.
Waiting in units of the service time: rho^(sqrt(2 (c+1)) - 1) / (c (1-rho)), Sakasegawa's
approximation of M/M/c (1977). Above rho = 0.95 its tangent goes on: a window in overload shows a
queue that still grows, not a steady state.
"""

from dataclasses import dataclass

import numpy as np

from poolwright.learn.points import Array, Points
from poolwright.learn.residual import Spec

CAPACITY = ("log_gamma", "log_alpha", "log_peak")
LATENCY = (*CAPACITY, "log_service", "trend", "log_wait")
_KNEE = 0.95
_FOREIGN = 0.5  # share of capacity that a wholly foreign CPU takes
_SHARP = 25.0  # how sharply throughput bends from load to capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPrior:
    """Gaussian belief of (log gamma [log rps per worker], log alpha, log N*)."""

    mean: Array
    cov: Array


def _inflation(n: Array, alpha: Array, peak: Array) -> Array:
    beta = (1.0 - alpha) / peak**2
    return np.asarray(np.maximum(1.0 + alpha * (n - 1.0) + beta * n * (n - 1.0), 0.1))


def capacity(theta: Array, points: Points) -> Array:
    """X [rps] for each row of theta (m, >=3) at each point: (m, n)."""
    gamma, alpha, peak = _natural(theta)
    c = points.concurrency
    return np.asarray(
        gamma * c * (1.0 - _FOREIGN * points.foreign) / _inflation(c, alpha, peak),
        dtype=np.float64,
    )


def _natural(theta: Array) -> tuple[Array, Array, Array]:
    values = np.exp(np.clip(theta[:, :3], -30.0, 30.0))
    return values[:, :1], np.minimum(values[:, 1:2], 0.9), values[:, 2:3]


def waiting(rho: Array, c: Array) -> Array:
    """Mean wait in service times, with the tangent beyond the knee; rho is capped at 3."""
    power = np.sqrt(2.0 * (c + 1.0)) - 1.0
    inside = np.minimum(rho, _KNEE)
    wait = inside**power / (c * (1.0 - inside))
    steepness = power / _KNEE + 1.0 / (1.0 - _KNEE)
    return np.asarray(wait * (1.0 + steepness * (np.clip(rho, _KNEE, 3.0) - _KNEE)))


def log_latency(theta: Array, points: Points, c0: float) -> Array:
    """Log seconds; theta in the order of LATENCY. `trend` is per octave of c over c0.

    The trend stands for what every further worker costs a request whatever the load (its own
    cold cache, its share of memory bandwidth): the USL knows only of busy workers.
    """
    _, alpha, peak = _natural(theta)
    c = points.concurrency
    rho = points.load / capacity(theta, points)
    busy = c * np.minimum(rho, 1.0)
    wait = np.exp(np.clip(theta[:, 5:6], -10.0, 10.0)) * waiting(rho, c)
    trend = theta[:, 4:5] * np.log2(c / c0)
    return np.asarray(
        theta[:, 3:4] + np.log(_inflation(busy, alpha, peak)) + np.log1p(wait) + trend
    )


def log_share(theta: Array, points: Points) -> Array:
    """log(throughput / load): 0 below capacity, log(X / load) above, smooth between."""
    room = np.log(capacity(theta, points) / points.load)
    return np.asarray(-np.logaddexp(0.0, -_SHARP * room) / _SHARP)


def growing(theta: Array, points: Points) -> Array:
    """Extra std of log latency near and above saturation, where a window is a transient."""
    rho = points.load / capacity(theta[None, :], points)[0]
    return np.asarray(0.5 * np.clip((rho - 0.85) / 0.15, 0.0, 1.0))


def latency_spec(prior: CapacityPrior, log_service: float, quantile: float, c0: float) -> Spec:
    """A latency quantile's spec; the wait's factor is what an exponential wait's quantile has."""
    wait = np.log(max(-np.log(1.0 - quantile), 0.1))
    cov = np.zeros((6, 6))
    cov[:3, :3] = prior.cov
    cov[3:, 3:] = np.diag([0.5, 0.1, 0.8]) ** 2
    return Spec(
        parameters=LATENCY,
        prior_mean=np.concatenate([prior.mean, [log_service, 0.0, wait]]),
        prior_cov=cov,
        mean=lambda theta, points: log_latency(theta, points, c0),
        amplitudes=(0.05, 0.1, 0.2, 0.35),
        noises=(0.02, 0.04, 0.07, 0.11, 0.17, 0.26),
        capacity=(0, 1, 2),
        transient=growing,
    )


def throughput_spec(prior: CapacityPrior) -> Spec:
    """The spec of log(throughput / load)."""
    return Spec(
        parameters=CAPACITY,
        prior_mean=prior.mean,
        prior_cov=prior.cov,
        mean=log_share,
        amplitudes=(0.01, 0.03, 0.1),
        noises=(0.01, 0.02, 0.04, 0.08),
        capacity=(0, 1, 2),
        blames_capacity=-1.0,
    )

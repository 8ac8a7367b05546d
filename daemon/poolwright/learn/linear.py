"""Parametric means that are linear in log levels and log load, and the pool's memory."""

import numpy as np

from poolwright.learn.points import Array, Points
from poolwright.learn.residual import Spec

# response -> (sd of the intercept, slope per octave of a knob, slope over log load, each mean, sd)
_SLOPES: dict[str, tuple[float, tuple[float, float], tuple[float, float]]] = {
    "jitter_s": (0.7, (0.0, 0.2), (0.0, 0.3)),
    "power_w": (0.3, (0.05, 0.1), (0.2, 0.3)),
    "cpu_cores": (0.5, (0.1, 0.2), (0.8, 0.3)),
    "error_ratio": (1.0, (0.0, 0.3), (0.3, 0.5)),
    "cost_per_hour": (0.5, (0.3, 0.3), (0.3, 0.3)),
}
_AMPLITUDES = (0.05, 0.1, 0.2, 0.35)
_NOISES = (0.02, 0.04, 0.07, 0.11, 0.17, 0.26)
_MEMORY_NOISES = (0.005, 0.01, 0.02, 0.04)


def linear_spec(response: str, first: float, origin: Array, load: float) -> Spec:
    """Log y = a + sum b_k log2(level_k / origin_k) + d log(load / load1)."""
    spread, (knob_mean, knob_sd), (load_mean, load_sd) = _SLOPES[response]
    knobs = len(origin)

    def mean(theta: Array, points: Points) -> Array:
        octaves = points.octaves - np.log2(np.maximum(origin, 0.5))
        basis = np.column_stack([np.ones(len(points)), octaves, np.log(points.load / load)])
        return np.asarray(theta @ basis.T, dtype=np.float64)

    halved = response == "power_w"
    return Spec(
        parameters=("intercept", *(f"per_octave_{k}" for k in range(knobs)), "per_log_load"),
        prior_mean=np.array([first, *[knob_mean] * knobs, load_mean]),
        prior_cov=np.diag([spread, *[knob_sd] * knobs, load_sd]) ** 2,
        mean=mean,
        amplitudes=tuple(a / 2 for a in _AMPLITUDES) if halved else _AMPLITUDES,
        noises=tuple(n / 2 for n in _NOISES) if halved else _NOISES,
    )


def memory_spec(origin: Array) -> Spec:
    """M / M1 = base + sum exp(slope_k) level_k / origin_k: a level more never frees memory."""
    knobs = len(origin)

    def mean(theta: Array, points: Points) -> Array:
        slopes = np.exp(np.clip(theta[:, 1:], -20.0, 5.0))
        return np.asarray(theta[:, :1] + slopes @ (points.levels / np.maximum(origin, 1.0)).T)

    return Spec(
        parameters=("base", *(f"log_slope_{k}" for k in range(knobs))),
        prior_mean=np.array([0.5, *[np.log(0.5 / knobs)] * knobs]),
        prior_cov=np.diag([0.3, *[0.7] * knobs]) ** 2,
        mean=mean,
        amplitudes=(0.003, 0.01, 0.02),
        noises=_MEMORY_NOISES,
    )

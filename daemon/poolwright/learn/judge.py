"""What settings would cost and risk: the objective, and the chance of every constraint.

The objective is sampled with fixed normal quantiles, jointly with the anchor's: the improvement of
x is E[max(0, (1 - TIE) J(anchor) - J(x))], so an error that both share (an offset of all latencies)
is not mistaken for a chance to gain, and what would not be worth a move is no gain.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from poolwright.core.benefit import SHORTFALL, SLACK
from poolwright.core.model import FitRequest
from poolwright.core.signals import quantile_of
from poolwright.learn.points import Array, Mask, Table, levels_of, oldest_median
from poolwright.learn.surrogate import Posterior, Surrogate

TIE = 0.01  # of the objective: settings closer than this cost the same
_MEMORY_SIGMAS = 2.33  # 99 %
_MEMORY_HEADROOM = 0.97  # of the limit, for the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is minimised and what must hold, with the references that make terms comparable."""

    weights: tuple[tuple[str, float], ...]  # of the responses that were seen
    references: tuple[tuple[str, float], ...]
    costly: tuple[str, ...]  # responses that the objective takes
    bounded: tuple[str, ...]  # responses that a constraint takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """The constraints, over settings."""

    p_each: tuple[tuple[str, Array, float], ...]  # (response, P(below its bound), confidence)
    slo_ok: Mask
    memory_ok: Mask
    p_safe: Array
    excess: Array  # expected log of what is over the bounds, summed: 0 is safe


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The objective, over settings."""

    mean: Array
    std: Array
    low: Array  # 5 %
    gain: Array  # E[max(0, (1 - TIE) J(anchor) - J)]


def goal_of(request: FitRequest, table: Table, surrogate: Surrogate) -> Goal:
    """The objective over what was seen. Raises ValueError when none of it was ever seen."""
    slos = {slo.response: slo.below for slo in request.policy.slo}
    weighted = [
        (name, weight)
        for name, weight in request.policy.objective
        if name in surrogate.nodes and weight > 0.0
    ]
    if not weighted:
        wanted = ", ".join(name for name, _ in request.policy.objective)
        raise ValueError(f"nothing of the objective was ever seen: {wanted}")
    quantiles = sorted((q, below) for name, below in slos.items() if (q := quantile_of(name)))
    references = []
    for name, _ in weighted:
        if name in slos:
            reference = slos[name]
        elif name == "jitter_s" and quantiles:
            reference = quantiles[-1][1]
        else:
            reference = oldest_median(table, name) or 1.0
        references.append((name, reference if reference > 0.0 else 1.0))
    known = set(surrogate.nodes)
    return Goal(
        weights=tuple(weighted),
        references=tuple(sorted(references)),
        costly=tuple(sorted({name for name, _ in weighted} | ({"throughput_rps"} & known))),
        bounded=tuple(sorted((set(slos) | {"memory_bytes"}) & known)),
    )


def objective(goal: Goal, surrogate: Surrogate, values: dict[str, Array], load: Array) -> Array:
    """(..., n) J of values in model space."""
    references = dict(goal.references)
    total = np.zeros(np.shape(next(iter(values.values()))))
    for name, weight in goal.weights:
        if name == "throughput_rps":
            continue  # kept at the load, below; more than that nobody can ask for
        total += weight / references[name] * surrogate.natural(name, values[name])
    if "throughput_rps" in values:
        done = surrogate.natural("throughput_rps", values["throughput_rps"])
        lost = np.maximum(0.0, 1.0 - SLACK - done / load)
        total += SHORTFALL * sum(weight for _, weight in goal.weights) * lost
    return total


def cost_of(
    goal: Goal, surrogate: Surrogate, posteriors: dict[str, Posterior], anchor: int
) -> Cost:
    """The sampled objective, and what is to be gained over the anchor."""
    family = surrogate.family(goal.costly)
    draws = surrogate.draws({name: posteriors[name] for name in family}, anchor)
    load = posteriors[family[0]].points.load
    cost = objective(goal, surrogate, {name: draws[name] for name in goal.costly}, load)
    return Cost(
        mean=cost.mean(axis=0),
        std=cost.std(axis=0),
        low=np.quantile(cost, 0.05, axis=0),
        gain=np.maximum((1.0 - TIE) * cost[:, [anchor]] - cost, 0.0).mean(axis=0),
    )


def risk_of(
    request: FitRequest, surrogate: Surrogate, posteriors: dict[str, Posterior], levels: Array
) -> Risk:
    """The chance of every constraint. A response that was never seen is never safe."""
    size = len(levels)
    chances, excess, slo_ok = [], np.zeros(size), np.ones(size, dtype=np.bool_)
    memory_ok, p_safe = _memory(request, surrogate, posteriors, levels)
    for slo in request.policy.slo:
        seen = posteriors.get(slo.response)
        if seen is None:
            chance = np.zeros(size)
            excess += 1.0
        else:
            scale = surrogate.nodes[slo.response].scale
            bound, _ = scale.forward(np.array(slo.below), np.array(0.0))
            z = (seen.mean - bound) / seen.std
            chance = ndtr(-z)
            density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
            excess += seen.std * (z * ndtr(z) + density)
        chances.append((slo.response, chance, slo.confidence))
        slo_ok &= chance >= slo.confidence
        p_safe = p_safe * chance
    return Risk(
        p_each=tuple(chances), slo_ok=slo_ok, memory_ok=memory_ok, p_safe=p_safe, excess=excess
    )


def _memory(
    request: FitRequest, surrogate: Surrogate, posteriors: dict[str, Posterior], levels: Array
) -> tuple[Mask, Array]:
    """Which settings keep to the memory limit, by the predictive bound, and P of it.

    Memory that was never measured is no permission: then only what is no larger than the
    incumbent in any knob passes.
    """
    limit = request.memory_limit_bytes
    if limit is None:
        return np.ones(len(levels), dtype=np.bool_), np.ones(len(levels))
    seen = posteriors.get("memory_bytes")
    if seen is None:
        here = np.array(levels_of(request.incumbent, surrogate.table.knobs))
        smaller = np.asarray((levels <= here).all(axis=1), dtype=np.bool_)
        return smaller, smaller.astype(np.float64)
    scale = surrogate.nodes["memory_bytes"].scale
    allowed, _ = scale.forward(np.array(limit), np.array(0.0))
    most, _ = scale.forward(np.array(_MEMORY_HEADROOM * limit), np.array(0.0))
    std = np.hypot(seen.std, surrogate.noise("memory_bytes", seen))
    fits = (seen.mean + _MEMORY_SIGMAS * std <= allowed) & (seen.mean <= most)
    return np.asarray(fits, dtype=np.bool_), ndtr((allowed - seen.mean) / std)

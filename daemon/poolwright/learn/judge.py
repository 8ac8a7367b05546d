"""What every setting would cost and risk: objective, expected improvement, chance constraints.

The objective is sampled with fixed normal quantiles, jointly with the incumbent's: the improvement
of x is E[max(0, (1 - TIE) J(incumbent) - J(x))] under their joint posterior, so an error that both
share (an offset of all latencies) is not mistaken for a chance to gain, and what would not be worth
a move is no gain.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from poolwright.core.benefit import SHORTFALL, SLACK
from poolwright.core.model import FitRequest, Setting
from poolwright.core.signals import RESPONSES, quantile_of
from poolwright.learn.points import Array, Mask, Points, Table
from poolwright.learn.residual import Posterior
from poolwright.learn.surrogate import Surrogate, oldest_median

DRAWS = 64
TIE = 0.01  # of the objective: settings closer than this cost the same
_MEMORY_SIGMAS = 2.33  # 99 %
_MEMORY_HEADROOM = 0.97  # of the limit, for the mean


@lru_cache(maxsize=8)
def _fixed_normals(more: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
    """Two columns of normal quantiles for each response (the usual ones and `more`), permuted and
    made uncorrelated.
    """
    quantiles = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    rng = np.random.default_rng(20261121)
    names = (*sorted(RESPONSES), *more)
    table = np.column_stack([rng.permutation(quantiles) for _ in range(2 * len(names))])
    table = table @ np.linalg.inv(np.linalg.cholesky(table.T @ table / DRAWS)).T
    return {name: (table[:, 2 * k], table[:, 2 * k + 1]) for k, name in enumerate(names)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is minimised and what must hold, with the references that make terms comparable."""

    weights: tuple[tuple[str, float], ...]  # of the responses that were seen
    references: tuple[tuple[str, float], ...]
    needed: tuple[str, ...]  # responses that judging takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Arrays over settings; the first point is the anchor (the incumbent)."""

    cost: Array  # E[J]
    cost_std: Array
    cost_low: Array  # 5 % and 95 % of J
    cost_high: Array
    gain: Array  # E[max(0, (1 - TIE) J(incumbent) - J)]
    p_each: tuple[tuple[str, Array, float], ...]  # (response, P(below its bound), confidence)
    slo_ok: Mask
    memory_ok: Mask
    p_safe: Array
    excess: Array  # expected log of what is over the bounds, summed: 0 is safe


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
    references = []
    for name, _ in weighted:
        quantiles = sorted((q, name) for name in slos if (q := quantile_of(name)))
        latency = [slos[name] for _, name in quantiles]
        if name in slos:
            reference = slos[name]
        elif name == "jitter_s" and latency:
            reference = latency[-1]
        else:
            reference = oldest_median(table, name) or 1.0
        references.append((name, reference if reference > 0.0 else 1.0))
    needed = {name for name, _ in weighted} | {name for name in slos if name in surrogate.nodes}
    needed |= {"throughput_rps", "memory_bytes"} & set(surrogate.nodes)
    return Goal(
        weights=tuple(weighted),
        references=tuple(sorted(references)),
        needed=tuple(sorted(needed)),
    )


def _draw(normals: tuple[Array, Array], posterior: Posterior) -> Array:
    """(DRAWS, n) values of one response; the first column is the anchor's."""
    common, own = normals
    scale = posterior.anchor_cov / posterior.std[0]
    rest = np.sqrt(np.maximum(posterior.std**2 - scale**2, 0.0))
    draws = posterior.mean + np.outer(common, scale) + np.outer(own, rest)
    draws[:, 0] = posterior.mean[0] + common * posterior.std[0]
    return np.asarray(draws)


def _cost(
    goal: Goal, surrogate: Surrogate, points: Points, posteriors: dict[str, Posterior]
) -> Array:
    """(DRAWS, n) draws of the objective."""
    normals = _fixed_normals(tuple(sorted(set(posteriors) - set(RESPONSES))))
    draws = {name: _draw(normals[name], posterior) for name, posterior in posteriors.items()}
    references = dict(goal.references)
    latency = None
    if surrogate.primary in draws:
        latency = surrogate.natural(surrogate.primary, draws[surrogate.primary], points.load, None)
    total = np.zeros((DRAWS, len(points)))
    for name, weight in goal.weights:
        if name == "throughput_rps":
            continue  # kept at the load, below; more than that nobody can ask for
        natural = surrogate.natural(name, draws[name], points.load, latency)
        total += weight / references[name] * natural
    if "throughput_rps" in draws:
        lost = np.maximum(0.0, 1.0 - SLACK - np.exp(np.minimum(draws["throughput_rps"], 0.0)))
        total += SHORTFALL * sum(weight for _, weight in goal.weights) * lost
    return total


def _slos(
    request: FitRequest, surrogate: Surrogate, posteriors: dict[str, Posterior], size: int
) -> tuple[tuple[tuple[str, Array, float], ...], Array]:
    """P(each SLO holds), and the expected excess. A response never seen is never safe."""
    chances, excess = [], np.zeros(size)
    for slo in request.policy.slo:
        if slo.response not in posteriors:
            chances.append((slo.response, np.zeros(size), slo.confidence))
            excess += 1.0
            continue
        mean, std = posteriors[slo.response].mean, posteriors[slo.response].std
        if slo.response == "jitter_s":  # modelled as a ratio of latency
            assert surrogate.primary is not None
            base = posteriors[surrogate.primary]
            mean, std = mean + base.mean, np.hypot(std, base.std)
        z = (mean - surrogate.bound(slo.response, slo.below)) / std
        chances.append((slo.response, ndtr(-z), slo.confidence))
        density = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
        excess += std * (z * ndtr(z) + density)
    return tuple(chances), excess


def _memory(
    request: FitRequest,
    surrogate: Surrogate,
    points: Points,
    posteriors: dict[str, Posterior],
) -> tuple[Mask, Array]:
    """Which settings keep to the memory limit, by the predictive bound, and P of it.

    Memory that was never measured is no permission: then only what is no larger than the
    incumbent in any knob passes.
    """
    limit = request.memory_limit_bytes
    if limit is None:
        return np.ones(len(points), dtype=np.bool_), np.ones(len(points))
    if "memory_bytes" not in posteriors:
        smaller = np.asarray((points.levels <= points.levels[0]).all(axis=1), dtype=np.bool_)
        return smaller, smaller.astype(np.float64)
    seen = posteriors["memory_bytes"]
    allowed = limit / surrogate.memory_unit
    std = np.sqrt(seen.std**2 + surrogate.nodes["memory_bytes"].noise ** 2)
    fits = (seen.mean + _MEMORY_SIGMAS * std <= allowed) & (seen.mean <= _MEMORY_HEADROOM * allowed)
    return np.asarray(fits, dtype=np.bool_), ndtr((allowed - seen.mean) / std)


def judge(request: FitRequest, goal: Goal, surrogate: Surrogate, points: Points) -> Judged:
    """Judge `points`, of which the first is the anchor of the expected improvement."""
    posteriors = surrogate.predict(points, goal.needed)
    cost = _cost(goal, surrogate, points, posteriors)
    chances, excess = _slos(request, surrogate, posteriors, len(points))
    memory_ok, p_memory = _memory(request, surrogate, points, posteriors)
    slo_ok = np.ones(len(points), dtype=np.bool_)
    p_safe = p_memory
    for _, chance, confidence in chances:
        slo_ok &= chance >= confidence
        p_safe = p_safe * chance
    return Judged(
        cost=cost.mean(axis=0),
        cost_std=cost.std(axis=0),
        cost_low=np.quantile(cost, 0.05, axis=0),
        cost_high=np.quantile(cost, 0.95, axis=0),
        gain=np.maximum((1.0 - TIE) * cost[:, :1] - cost, 0.0).mean(axis=0),
        p_each=chances,
        slo_ok=slo_ok,
        memory_ok=memory_ok,
        p_safe=p_safe,
        excess=excess,
    )


def rows_of(settings: list[Setting], some: tuple[Setting, ...]) -> Mask:
    """Which of `settings` are among `some`."""
    wanted = set(some)
    return np.array([setting in wanted for setting in settings], dtype=np.bool_)

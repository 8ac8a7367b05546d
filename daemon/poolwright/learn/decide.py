"""Verdicts over the lattice at the present load, and the probes.

What is recommended is what the schedule holds at the present load: one rule for both.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from poolwright.core.model import (
    Candidate,
    Context,
    Estimate,
    FitRequest,
    Responses,
    Setting,
    Verdict,
)
from poolwright.core.signals import RESPONSE_NAMES
from poolwright.learn.judge import Cost, Goal, Risk, cost_of, objective, risk_of
from poolwright.learn.lattice import in_trust_region, lattice, level_array, rows_of
from poolwright.learn.points import Array, Mask, Table
from poolwright.learn.surrogate import Surrogate, short

PROBES = 5
_LISTED = 128  # candidates in a plan: it is journalled, and read by people
_EVEN = 0.5  # P(safe)
_LEAST_GAIN = 0.003  # a probe expected to gain less is not named
_LEVERAGE_COST = 1.15  # what a probe that teaches may be expected to cost, over the anchor
# Octaves from what was tried, and what a look there may be expected to cost, over the anchor
_LOOKS = ((0.3, 1.3), (0.1, 1.08))
_HORIZON = 40.0  # windows over which a gain is enjoyed and a probe's cost is spread
_NAMES = {response: name for name, response in RESPONSE_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidates, ascending by setting, and what was made of them."""

    candidates: tuple[Candidate, ...]
    probes: tuple[Candidate, ...]
    best_gain_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """The lattice as judged; row 0 is the incumbent.

    `anchor` is the best visited setting that is allowed, else the incumbent: what an improvement
    is over. `lost` [windows] is what a move takes before anything can be measured.
    """

    settings: list[Setting]
    levels: Array
    away: Array  # octaves from the incumbent
    near: Mask
    tabu: Mask
    risk: Risk
    cost: Cost
    allowed: Mask  # near, not tabu, within memory, within the SLOs
    anchor: int
    recommended: int
    lost: Array
    apart: Array  # octaves from the nearest setting that was visited
    predictions: list[Responses]


def _field(
    request: FitRequest,
    table: Table,
    surrogate: Surrogate,
    goal: Goal,
    now: Context,
    wanted: Setting,
) -> _Field:
    settings = lattice(request.policy, table.axes, request.incumbent, 1.5 * request.trust_octaves)
    if wanted not in settings:
        settings.append(wanted)
    levels = level_array(settings, table.knobs)
    assert now.load_rps is not None
    assert now.foreign_cpu_ratio is not None
    points = table.context_points(levels, now.load_rps, now.foreign_cpu_ratio)
    posteriors = surrogate.predict(points, surrogate.nodes)
    risk = risk_of(request, surrogate, posteriors, levels)
    near = in_trust_region(table.axes, levels, request.trust_octaves)
    tabu = rows_of(settings, request.tabu)
    held = _held(table, levels, now.load_rps)
    allowed = near & ~tabu & risk.memory_ok & (_bearable(risk) | held & (risk.p_safe >= _EVEN))
    means = {name: posteriors[name].mean for name in goal.costly}
    been = {tuple(row) for row in table.points.levels[table.own]}
    visited = np.array([tuple(row) in been for row in levels]) & allowed
    rough = np.where(visited, objective(goal, surrogate, means, points.load), np.inf)
    anchor = int(np.argmin(rough)) if visited.any() else 0
    places = table.axes.places(levels)
    tried = table.axes.places(np.vstack([table.points.levels[table.own], levels[:1]]))
    return _Field(
        settings=settings,
        levels=levels,
        away=np.abs(places - places[0]).sum(axis=1),
        near=near,
        tabu=tabu,
        risk=risk,
        cost=cost_of(goal, surrogate, posteriors, anchor),
        allowed=allowed,
        anchor=anchor,
        recommended=settings.index(wanted),
        lost=_lost_windows(request, table, levels),
        apart=np.abs(places[:, None, :] - tried[None, :, :]).max(axis=2).min(axis=1),
        predictions=list(surrogate.estimates(posteriors)),
    )


def _bearable(risk: Risk) -> Mask:
    """Within the SLOs; or no more than twice as likely to break them as the incumbent, up to evens,
    or no likelier: where to stay is in doubt, it is no safer than to look for a way out.
    """
    here = float(risk.p_safe[0])
    least = max(_EVEN, 2.0 * here - 1.0) if risk.slo_ok[0] else _EVEN
    doubtful = (risk.p_safe >= min(here, least)) & (risk.p_safe > 0.0)  # 0: it was never measured
    return np.asarray(risk.slo_ok | doubtful)


def _held(table: Table, levels: Array, load: float) -> Mask:
    """Settings whose newest window at this load, or more, was free of a breach: what was really
    observed may be looked at again.
    """
    last = {
        tuple(row): not breached
        for row, breached, at, own in zip(
            table.points.levels, table.breached, table.points.load, table.own, strict=True
        )
        if own and (breached or at >= 0.9 * load)
    }
    return np.array([last.get(tuple(row), False) for row in levels], dtype=np.bool_)


def _lost_windows(request: FitRequest, table: Table, levels: Array) -> Array:
    """Windows that pass until a setting is reached from the incumbent and has settled."""
    lost = np.zeros(len(levels))
    for k, knob in enumerate(table.axes.knobs):
        away = levels[:, k] - levels[0, k]
        moves = np.ceil(np.abs(away) / max(knob.slew_per_move, knob.step))
        each = np.maximum(knob.settle_s, knob.dwell_s)
        lost = np.maximum(lost, moves * each + np.where(away < 0.0, knob.drain_s, 0.0))
    return np.asarray(lost / request.policy.explore.window_s)


def _worth(field: _Field) -> Array:
    """The constrained expected gain, net of what the probe itself and the move cost, as a share of
    the anchor's objective.

    A gain is enjoyed from when it is reached; a probe that turns out worse is paid for as long.
    """
    cost, here = field.cost, max(float(field.cost.mean[field.anchor]), 1e-12)
    enjoyed = field.cost.gain * field.risk.p_safe * _HORIZON / (_HORIZON + field.lost)
    paid = np.maximum(cost.mean - cost.mean[field.anchor], 0.0) * (1.0 + field.lost) / _HORIZON
    worth = np.maximum(enjoyed - paid, 0.0) / here
    worth[0] = 0.0
    return np.asarray(worth)


def _probe_rows(request: FitRequest, field: _Field) -> tuple[list[int], Array]:
    """Rows worth trying, best first, and what each is worth."""
    worth = _worth(field)
    rows = np.flatnonzero(field.allowed)
    rows = rows[rows != 0]
    order = rows[np.argsort(-worth[rows], kind="stable")]
    best = [int(row) for row in order if worth[row] >= _LEAST_GAIN][:PROBES]
    safe = field.allowed[0] and (best or field.risk.slo_ok[0])
    remedy = None if safe else _remedy(field, rows)
    if remedy is not None:
        row, safer = remedy
        worth[row] = max(worth[row], safer)
        return [row], worth
    widest = _leverage(field, rows) if request.leverage else None
    if widest is not None:
        best = [widest, *(row for row in best if row != widest)][:PROBES]
    epsilon = request.policy.explore.epsilon
    further = None if any(worth[row] >= epsilon for row in best) else _further(field, rows)
    if further is not None:
        worth[further] = max(worth[further], epsilon)
        best = [further]
    return best, worth


def _further(field: _Field, rows: NDArray[np.intp]) -> int | None:
    """Before nothing is left to try: of what is safe and far from all that was tried, and not
    expected to cost much, what may be the best by most. A smooth model sees no second valley.
    """
    cost, here = field.cost, field.cost.mean[field.anchor]
    safe = rows[field.risk.slo_ok[rows]]
    for far, most in _LOOKS:
        found = safe[(field.apart[safe] > far) & (cost.mean[safe] <= most * here)]
        if len(found):
            return int(found[np.argmin(cost.low[found])])
    return None


def _remedy(field: _Field, rows: NDArray[np.intp]) -> tuple[int, float] | None:
    """Where the incumbent is not safe: what the schedule holds, else the cheapest that is safe;
    and by how much it is safer. None where it is no better.
    """
    row, risk = field.recommended, field.risk
    if not field.near[row] or field.tabu[row]:
        if len(rows) == 0:
            return None
        row = int(rows[np.argmin(field.cost.mean[rows])])
    if row == 0:
        return None
    if field.allowed[row] and risk.slo_ok[row]:
        return row, float(risk.p_safe[row] - risk.p_safe[0])
    if not risk.memory_ok[0]:
        return (row, 1.0) if (field.levels[row] <= field.levels[0]).all() else None
    less = 1.0 - float(risk.excess[row]) / max(float(risk.excess[0]), 1e-12)
    return (row, less) if less > 1e-6 else None


def _leverage(field: _Field, rows: NDArray[np.intp]) -> int | None:
    """The setting that may be the best by most, of those that are not expected to cost much."""
    cost = field.cost
    rows = rows[cost.mean[rows] <= _LEVERAGE_COST * cost.mean[field.anchor]]
    return int(rows[np.argmin(cost.low[rows])]) if len(rows) else None


def _verdict(field: _Field, row: int, probes: list[int]) -> Verdict:
    if row == field.recommended:
        return Verdict.RECOMMENDED
    checks = (
        (field.tabu[row], Verdict.TABU),
        (not field.near[row], Verdict.OUTSIDE_TRUST_REGION),
        (not field.risk.memory_ok[row], Verdict.UNSAFE_MEMORY),
        (row in probes, Verdict.PROBE),
        (not field.risk.slo_ok[row], Verdict.UNSAFE_SLO),
    )
    return next((verdict for holds, verdict in checks if holds), Verdict.WORSE)


def _name(response: str) -> str:
    """`p99` of latency_p99_s, `memory` of memory_bytes."""
    return _NAMES.get(response, response.removesuffix("_s")).removeprefix("latency_")


def _amount(name: str, estimate: Estimate) -> str:
    """`210 ± 30 ms`, in the unit that reads best."""
    scale, unit = 1.0, {"power_w": " W", "cpu_cores": " cores"}.get(name, "")
    if name.endswith("_s"):
        scale, unit = 1e3, " ms"
    elif name == "memory_bytes":
        scale, unit = 2.0**-20, " MiB"
    elif name == "error_ratio":
        scale, unit = 100.0, " %"
    return f"{scale * estimate.mean:.3g} ± {scale * estimate.std:.2g}{unit}"


def _detail(field: _Field, row: int, goal: Goal) -> str:
    """One line for people."""
    risk, cost, reference = field.risk, field.cost.mean, field.recommended
    shown = [name for name, _, _ in risk.p_each] or [goal.weights[0][0]]
    if not risk.memory_ok[row]:
        shown.append("memory_bytes")
    found = dict(field.predictions[row])
    parts = [
        f"{_name(name)} {_amount(name, found[name])}"
        if name in found
        else f"{_name(name)} was never measured"
        for name in dict.fromkeys(shown)
    ]
    parts.append(f"P(safe) {risk.p_safe[row]:.2f}")
    if row != reference:
        change = 100.0 * (cost[row] / max(float(cost[reference]), 1e-12) - 1.0)
        word = "more" if change >= 0.0 else "less"
        parts.append(f"costs {abs(change):.3g} % {word} than {field.settings[reference]}")
    return ", ".join(parts)


def choose(
    request: FitRequest,
    table: Table,
    surrogate: Surrogate,
    goal: Goal,
    now: Context,
    wanted: Setting,
) -> Choice:
    """Judge the lattice round the incumbent at the present load; `wanted` is what is scheduled.

    No probe is named while the load is below half of the lowest ever seen: what would be tried
    there rests on nothing, and next to no request would tell of it.
    """
    assert now.load_rps is not None
    field = _field(request, table, surrogate, goal, now, wanted)
    probes, worth = _probe_rows(request, field)
    if now.load_rps < 0.5 * float(table.points.load.min()):
        probes = []
    nearest = (int(row) for row in np.argsort(field.away, kind="stable"))
    listed = list(dict.fromkeys([0, field.recommended, *probes, *nearest]))[:_LISTED]
    made = {
        row: Candidate(
            setting=field.settings[row],
            objective=Estimate(mean=short(field.cost.mean[row]), std=short(field.cost.std[row])),
            p_safe=short(field.risk.p_safe[row]),
            gain_ratio=short(worth[row]),
            verdict=_verdict(field, row, probes),
            predictions=field.predictions[row],
            detail=_detail(field, row, goal),
        )
        for row in listed
    }
    return Choice(
        candidates=tuple(sorted(made.values(), key=lambda candidate: candidate.setting.levels)),
        probes=tuple(replace(made[row], verdict=Verdict.PROBE) for row in probes),
        best_gain_ratio=max((made[row].gain_ratio for row in probes), default=0.0),
    )

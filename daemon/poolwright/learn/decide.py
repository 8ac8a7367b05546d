"""Verdicts over the lattice at the present load, the recommended setting, and the probes."""

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
from poolwright.learn.judge import TIE, Goal, Judged, judge, rows_of
from poolwright.learn.lattice import in_trust_region, lattice, level_array
from poolwright.learn.points import Array, Mask, Table
from poolwright.learn.surrogate import Surrogate, short

PROBES = 5
_LISTED = 128  # candidates in a plan: it is journalled, and read by people
_LEAST_GAIN = 0.003  # a probe expected to gain less is not named
_LEVERAGE_COST = 1.15  # what a probe that teaches may be expected to cost, over the incumbent
_NAMES = {response: name for name, response in RESPONSE_NAMES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidates, ascending by setting, and what was made of them."""

    candidates: tuple[Candidate, ...]
    probes: tuple[Candidate, ...]
    best_gain_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """The lattice as judged; row 0 is the incumbent."""

    settings: list[Setting]
    levels: Array
    near: Mask
    tabu: Mask
    judged: Judged
    allowed: Mask  # near, not tabu, within memory, within the SLOs
    relief: Mask  # of an unsafe incumbent: near, not tabu, and less in breach than it


def _field(
    request: FitRequest, table: Table, surrogate: Surrogate, goal: Goal, now: Context
) -> _Field:
    others = [s for s in lattice(request.policy, request.incumbent) if s != request.incumbent]
    settings = [request.incumbent, *others]
    levels = level_array(settings, table.knobs)
    assert now.load_rps is not None
    assert now.foreign_cpu_ratio is not None
    points = table.context_points(levels, now.load_rps, now.foreign_cpu_ratio)
    judged = judge(request, goal, surrogate, points)
    steps = np.array([request.policy.knob(name).step for name in table.knobs], dtype=np.float64)
    near = in_trust_region(levels, levels[0], request.trust_octaves, steps)
    tabu = rows_of(settings, request.tabu)
    free = near & ~tabu
    return _Field(
        settings=settings,
        levels=levels,
        near=near,
        tabu=tabu,
        judged=judged,
        allowed=free & judged.memory_ok & judged.slo_ok,
        relief=_relief(request, table, judged, levels, free),
    )


def _relief(request: FitRequest, table: Table, judged: Judged, levels: Array, free: Mask) -> Mask:
    """Moves allowed when the incumbent itself is unsafe: those that reduce what is violated.

    Over memory, smaller pools; over an SLO, settings within memory with less expected excess.
    """
    none = np.zeros(len(levels), dtype=np.bool_)
    here = np.all(table.points.levels == levels[0], axis=1)
    seen_unsafe = bool(table.breached[here][-2:].any())
    if not judged.memory_ok[0] and request.memory_limit_bytes is not None:
        smaller = (levels <= levels[0]).all(axis=1) & (levels < levels[0]).any(axis=1)
        return np.asarray(free & smaller, dtype=np.bool_)
    if judged.slo_ok[0] and not seen_unsafe and free[0]:
        return none
    less = judged.excess < judged.excess[0] * (1.0 - 1e-6)
    return np.asarray(free & judged.memory_ok & less, dtype=np.bool_)


def _recommended(field: _Field) -> int:
    """The row of the best posterior mean among what is allowed, the incumbent within a tie."""
    judged = field.judged
    rows = np.flatnonzero(field.allowed)
    if len(rows) == 0:
        rows = np.flatnonzero(field.relief)
        if len(rows) == 0:
            return 0
        return int(rows[np.argmin(judged.excess[rows])])
    return _nearest_best(rows, judged.cost, field.levels, field.levels[0])


def _nearest_best(rows: NDArray[np.intp], cost: Array, levels: Array, centre: Array) -> int:
    """Of the rows whose cost ties with the best one's, the nearest to `centre` in octaves.

    What cannot be told apart is not worth a move, so noise does not wiggle the setting.
    """
    ties = rows[cost[rows] <= float(cost[rows].min()) * (1.0 + TIE)]
    away = np.abs(np.log2(np.maximum(levels[ties], 0.5) / np.maximum(centre, 0.5))).sum(axis=1)
    return int(ties[np.lexsort((cost[ties], away))[0]])


def _probe_rows(request: FitRequest, field: _Field) -> tuple[list[int], Array]:
    """Rows worth trying, best first, and the constrained expected gain of every row."""
    judged = field.judged
    worth = judged.gain * judged.p_safe / max(float(judged.cost[0]), 1e-12)
    worth[0] = 0.0
    rows = np.flatnonzero(field.allowed)
    if not field.allowed.any():
        rows = np.flatnonzero(field.relief)
        drop = 1.0 - judged.excess / max(float(judged.excess[0]), 1e-12)
        worth = np.where(field.relief, np.maximum(worth, drop), worth)
    rows = rows[rows != 0]
    order = rows[np.argsort(-worth[rows], kind="stable")]
    best = [int(row) for row in order if worth[row] >= _LEAST_GAIN][:PROBES]
    if request.leverage and field.allowed.any():
        widest = _leverage(field, rows)
        if widest is not None:
            best = [widest, *(row for row in best if row != widest)][:PROBES]
    return best, worth


def _leverage(field: _Field, rows: NDArray[np.intp]) -> int | None:
    """The least known setting that may yet be the best and is not expected to cost much."""
    judged = field.judged
    if len(rows) == 0:
        return None
    ceiling = float(judged.cost_high[np.flatnonzero(field.allowed)].min())
    may = (judged.cost_low[rows] <= ceiling) & (
        judged.cost[rows] <= _LEVERAGE_COST * judged.cost[0]
    )
    rows = rows[may]
    return int(rows[np.argmax(judged.cost_std[rows])]) if len(rows) else None


def _verdict(field: _Field, row: int, recommended: int, probes: list[int]) -> Verdict:
    if row == recommended:
        return Verdict.RECOMMENDED
    checks = (
        (field.tabu[row], Verdict.TABU),
        (not field.near[row], Verdict.OUTSIDE_TRUST_REGION),
        (not field.judged.memory_ok[row], Verdict.UNSAFE_MEMORY),
        (row in probes, Verdict.PROBE),
        (not field.judged.slo_ok[row], Verdict.UNSAFE_SLO),
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


def _detail(field: _Field, row: int, reference: int, goal: Goal, predictions: Responses) -> str:
    """One line for people."""
    judged = field.judged
    shown = [name for name, _, _ in judged.p_each] or [goal.weights[0][0]]
    if not judged.memory_ok[row]:
        shown.append("memory_bytes")
    found = dict(predictions)
    parts = [
        f"{_name(name)} {_amount(name, found[name])}"
        if name in found
        else f"{_name(name)} was never measured"
        for name in dict.fromkeys(shown)
    ]
    parts.append(f"P(safe) {judged.p_safe[row]:.2f}")
    if row != reference:
        change = 100.0 * (judged.cost[row] / max(float(judged.cost[reference]), 1e-12) - 1.0)
        word = "more" if change >= 0.0 else "less"
        parts.append(f"costs {abs(change):.3g} % {word} than {field.settings[reference]}")
    return ", ".join(parts)


def _listed(field: _Field, always: list[int]) -> list[int]:
    """The rows that the plan lists: all of a small lattice, of a large one the nearest."""
    away = np.abs(np.log2(np.maximum(field.levels, 0.5) / np.maximum(field.levels[0], 0.5)))
    order = np.argsort(away.sum(axis=1), kind="stable")
    return list(dict.fromkeys([0, *always, *(int(row) for row in order)]))[:_LISTED]


def choose(
    request: FitRequest, table: Table, surrogate: Surrogate, goal: Goal, now: Context
) -> Choice:
    """Judge the whole lattice at the present load.

    No probe is named while the load is below half of the lowest ever seen: what would be tried
    there rests on nothing, and next to no request would tell of it.
    """
    assert now.load_rps is not None
    assert now.foreign_cpu_ratio is not None
    field = _field(request, table, surrogate, goal, now)
    recommended = _recommended(field)
    probes, worth = _probe_rows(request, field)
    if now.load_rps < 0.5 * float(table.points.load.min()):
        probes = []
    listed = _listed(field, [recommended, *probes])
    points = table.context_points(field.levels[listed], now.load_rps, now.foreign_cpu_ratio)
    predictions = surrogate.estimates(points, surrogate.predict(points, tuple(surrogate.nodes)))
    judged = field.judged
    made = {
        row: Candidate(
            setting=field.settings[row],
            objective=Estimate(mean=short(judged.cost[row]), std=short(judged.cost_std[row])),
            p_safe=short(judged.p_safe[row]),
            gain_ratio=short(worth[row]),
            verdict=_verdict(field, row, recommended, probes),
            predictions=predictions[k],
            detail=_detail(field, row, recommended, goal, predictions[k]),
        )
        for k, row in enumerate(listed)
    }
    return Choice(
        candidates=tuple(sorted(made.values(), key=lambda candidate: candidate.setting.levels)),
        probes=tuple(replace(made[row], verdict=Verdict.PROBE) for row in probes),
        best_gain_ratio=max((made[row].gain_ratio for row in probes), default=0.0),
    )

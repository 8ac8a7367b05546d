"""What every setting would give at a load: the Pareto front, and up to what load an SLO holds.

A setting is on the front when no other one is as good in everything and clearly better in
something (Pareto dominance; within a tie, two settings are equally good).
"""

from dataclasses import dataclass, replace

import numpy as np

from poolwright.core.model import Context, FitRequest, Responses, Setting
from poolwright.learn.judge import TIE, Risk, goal_of, risk_of
from poolwright.learn.lattice import lattice, level_array
from poolwright.learn.points import Array, Mask, Table, present, tabulate
from poolwright.learn.schedule import held, make_schedule
from poolwright.learn.surrogate import Surrogate, build, short

_EVERYWHERE = 64.0  # octaves
_FURTHER = 8.0  # times the highest load seen: as far as room is looked for
_STEP = 1.02  # of the load, when room is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One setting at the load: what a fresh window would show, and the chance of all limits."""

    setting: Setting
    predictions: Responses
    p_safe: float
    safe: bool  # within every SLO's confidence, and the memory
    front: bool
    octaves: float  # from the nearest setting that was tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """All settings at one load, ascending.

    `room_rps` is the highest load at which some setting (`room`) is safe; None: none is, even at
    the lowest load seen. It is not looked for beyond eight times the highest load seen.
    """

    load_rps: float
    lowest_rps: float  # of the loads seen
    highest_rps: float
    windows: int
    responses: tuple[str, ...]  # those that are traded: latency, throughput, jitter, power, memory
    outlooks: tuple[Outlook, ...]
    held: Setting | None  # by the schedule; None: it does not reach as far as this load
    room_rps: float | None
    room: Setting | None
    room_open: bool  # it was not looked for further: there may be more room


def front_of(request: FitRequest, load_rps: float | None = None) -> Front:
    """The front at `load_rps`; None: at the request's. ValueError as of `make_plan`."""
    if load_rps is not None:
        request = replace(request, context=replace(request.context, load_rps=load_rps))
    table = tabulate(request)
    surrogate = build(table, request.policy)
    now = present(request, table)
    assert now.load_rps is not None
    settings = lattice(request.policy, table.axes, request.incumbent, _EVERYWHERE)
    settings = sorted(settings, key=lambda setting: setting.levels)
    levels = level_array(settings, table.knobs)
    traded = _traded(surrogate)
    risk, predictions = _judged(request, table, surrogate, levels, now)
    values = [dict(seen) for seen in predictions]
    costs = np.array([[_cost(name, seen[name].mean) for name in traded] for seen in values])
    best = _undominated(costs, risk.memory_ok)
    safe = risk.slo_ok & risk.memory_ok
    away = _octaves(table, levels)
    room = _room(request, table, surrogate, levels, now)
    return Front(
        load_rps=short(now.load_rps),
        lowest_rps=short(float(table.points.load.min())),
        highest_rps=short(float(table.points.load.max())),
        windows=len(table.points),
        responses=traded,
        outlooks=tuple(
            Outlook(
                setting=setting,
                predictions=predictions[row],
                p_safe=short(risk.p_safe[row]),
                safe=bool(safe[row]),
                front=bool(best[row]),
                octaves=short(away[row]),
            )
            for row, setting in enumerate(settings)
        ),
        held=_held(request, table, surrogate, now),
        room_rps=None if room is None else short(room[0]),
        room=None if room is None else settings[room[1]],
        room_open=room is not None and room[2],
    )


def _traded(surrogate: Surrogate) -> tuple[str, ...]:
    names = (surrogate.primary, "throughput_rps", "jitter_s", "power_w", "memory_bytes")
    return tuple(name for name in names if name in surrogate.nodes and name is not None)


def _judged(
    request: FitRequest, table: Table, surrogate: Surrogate, levels: Array, now: Context
) -> tuple[Risk, list[Responses]]:
    assert now.load_rps is not None
    assert now.foreign_cpu_ratio is not None
    points = table.context_points(levels, now.load_rps, now.foreign_cpu_ratio)
    posteriors = surrogate.predict(points, surrogate.nodes)
    return risk_of(request, surrogate, posteriors, levels), surrogate.estimates(posteriors)


def _cost(name: str, value: float) -> float:
    """On a scale on which less is better and a tie is a difference."""
    logarithm = float(np.log(max(value, 1e-12)))
    return -logarithm if name == "throughput_rps" else logarithm


def _undominated(costs: Array, allowed: Mask) -> Mask:
    """(n,) allowed rows that no other dominates: as good in all, a tie aside, and better in one."""
    tie = float(np.log1p(TIE))
    worse = costs[:, None, :] - costs[None, :, :]  # of row over column
    beaten = (worse >= -tie).all(axis=2) & (worse > tie).any(axis=2)
    return np.asarray(allowed & ~(beaten & allowed[None, :]).any(axis=1), dtype=np.bool_)


def _octaves(table: Table, levels: Array) -> Array:
    """(n,) the distance to the nearest setting that was tried."""
    been = table.axes.places(np.unique(table.points.levels, axis=0))
    apart = np.abs(table.axes.places(levels)[:, None, :] - been[None, :, :])
    return np.asarray(apart.max(axis=2).min(axis=1))


def _room(
    request: FitRequest, table: Table, surrogate: Surrogate, levels: Array, now: Context
) -> tuple[float, int, bool] | None:
    """The highest load at which some setting is safe, the row of the safest there, and whether
    that is only as far as was looked.
    """
    lowest, highest = float(table.points.load.min()), float(table.points.load.max())
    steps = int(np.ceil(np.log(_FURTHER * highest / lowest) / np.log(_STEP)))
    bounded = goal_of(request, table, surrogate).bounded
    foreign = now.foreign_cpu_ratio
    assert foreign is not None
    low, high = -1, steps  # the last step that is known to be safe, the first that is not

    def row_at(step: int) -> int | None:
        points = table.context_points(levels, lowest * _STEP**step, foreign)
        risk = risk_of(request, surrogate, surrogate.predict(points, bounded), levels)
        safe = risk.slo_ok & risk.memory_ok
        return int(np.argmax(np.where(safe, risk.p_safe, -1.0))) if safe.any() else None

    found: tuple[float, int] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        row = row_at(middle)
        if row is None:
            high = middle
        else:
            low, found = middle, (lowest * _STEP**middle, row)
    return None if found is None else (*found, low == steps - 1)


def _held(request: FitRequest, table: Table, surrogate: Surrogate, now: Context) -> Setting | None:
    """What the schedule would hold; it knows loads little beyond those seen."""
    assert now.load_rps is not None
    schedule = make_schedule(request, table, surrogate, goal_of(request, table, surrogate), now)
    inside = schedule[0].load_lower_rps <= now.load_rps < schedule[-1].load_upper_rps
    return held(schedule, now.load_rps).setting if inside else None

"""The surrogate as a table over load: for each bin the setting to hold."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poolwright.core.model import Context, FitRequest, PlanBin, Setting
from poolwright.learn.judge import TIE, Goal, Risk, objective, risk_of
from poolwright.learn.lattice import lattice, level_array, rows_of
from poolwright.learn.points import Array, Mask, Points, Table
from poolwright.learn.surrogate import Surrogate, short

_BIN = 1.1  # upper edge over lower edge
_BELOW, _ABOVE = 0.5, 1.3  # how far the schedule goes beyond the loads seen
_MOST_BINS = 40
_MOST_SETTINGS = 32
_REACH = 0.5  # octaves beyond the visited settings
_NEARNESS = 0.001  # of the objective an octave: breaks ties
_UNSEEN = 0.02  # weight of a bin without evidence, where all evidence together weighs 1
_DOUBT = 0.05  # of the objective: a bin's own best that gains less is no reason to go to and fro
_SAVES = 0.02  # of the power: a shrink for power alone must save more ...
_SAVES_SIGMAS = 2.0  # ... and more than so many standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """The settings that the schedule may name, ascending."""

    settings: list[Setting]
    levels: Array
    places: Array
    tabu: Mask
    here: int  # the incumbent's row


def _edges(loads: Array) -> Array:
    """Edges [rps] of bins of about 10 %, wider when the loads span too much for `_MOST_BINS`."""
    low, high = _BELOW * float(loads.min()), _ABOVE * float(loads.max())
    bins = min(_MOST_BINS, max(1, round(math.log(high / low) / math.log(_BIN))))
    return np.array([short(edge) for edge in np.geomspace(low, high, bins + 1)])


def _reach(request: FitRequest, table: Table) -> _Reach:
    """Visited settings, and lattice settings near them, at most `_MOST_SETTINGS`."""
    here = level_array([request.incumbent], table.knobs)
    visited = np.unique(np.vstack([table.points.levels[table.own], here]), axis=0)
    span = float(np.abs(table.axes.places(visited) - table.axes.places(here)).max())
    every = lattice(request.policy, table.axes, request.incumbent, span + _REACH)
    known = {setting.levels for setting in every}
    names = table.knobs
    for row in visited:  # what the lattice was thinned of
        made = Setting(levels=tuple(zip(names, (int(level) for level in row), strict=True)))
        held = all(r.holds(dict(made.levels)) for r in request.policy.relations)
        inside = all(k.lower <= made[k.name] <= k.upper for k in table.axes.knobs)
        if made.levels not in known and held and inside:
            every.append(made)
    levels = level_array(every, names)
    apart = table.axes.places(levels)[:, None, :] - table.axes.places(visited)[None, :, :]
    nearest = np.abs(apart).max(axis=2).min(axis=1)
    reach = min(_REACH, request.trust_octaves)
    steps = np.array([knob.step for knob in table.axes.knobs], dtype=np.float64)
    beside = (np.abs(levels - here) <= steps).all(axis=1)
    if len(names) == 1:  # between settings that were visited, everything
        inside = (levels >= visited.min(axis=0)) & (levels <= visited.max(axis=0))
        nearest = np.where(inside.all(axis=1), np.minimum(nearest, reach), nearest)
    kept = np.flatnonzero((nearest <= reach + 1e-9) | beside)
    if len(kept) > _MOST_SETTINGS:
        kept = np.sort(_thinned(table, levels, visited, here, kept))
    kept = kept[np.lexsort(levels[kept].T[::-1])]
    settings = [every[k] for k in kept]
    return _Reach(
        settings=settings,
        levels=levels[kept],
        places=table.axes.places(levels[kept]),
        tabu=rows_of(settings, request.tabu),
        here=settings.index(request.incumbent),
    )


def _thinned(
    table: Table, levels: Array, visited: Array, here: Array, kept: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Half of the room for the visited settings next to the incumbent, half evenly spaced."""
    been = {tuple(row) for row in visited}
    places = table.axes.places(levels)
    away = np.abs(places - table.axes.places(here)).sum(axis=1)
    old = [k for k in kept if tuple(levels[k]) in been]
    old = sorted(old, key=lambda k: away[k])[: _MOST_SETTINGS // 2]
    near = kept[np.argsort(away[kept], kind="stable")]
    spaced = near[np.linspace(0, len(near) - 1, _MOST_SETTINGS // 2).astype(int)]
    return np.unique(np.concatenate([spaced, np.array(old, dtype=np.intp)]))


def _losses(reach: _Reach, risk: Risk, cost: Array, idle_shrink: Mask) -> Array:
    """(bins, settings): what each costs over the cheapest safe one, as a share, less a tie.

    Within a tie the nearest to the incumbent is preferred. Without any safe setting the least
    expected excess over the SLOs counts; what is tabu comes after that, and what does not fit
    the memory last, smallest first. A shrink for power alone counts as no gain until it is proven.
    """
    away = np.abs(reach.places - reach.places[reach.here]).sum(axis=1)
    safe = _safe(reach, risk, len(cost))
    cost = np.where(idle_shrink, np.maximum(cost, cost[:, [reach.here]]), cost)
    best = np.where(safe, cost, np.inf).min(axis=1, keepdims=True)
    over = np.maximum(cost / np.where(np.isfinite(best), best, 1.0) - 1.0 - TIE, 0.0)
    excess = risk.excess.reshape(cost.shape)
    loss = np.where(safe, np.minimum(over, 5.0), 10.0 + np.minimum(excess, 20.0))
    loss = np.where(reach.tabu, 50.0 + loss, loss) + _NEARNESS * away
    small = 100.0 + reach.places.sum(axis=1)
    return np.asarray(np.where(risk.memory_ok.reshape(cost.shape), loss, small), dtype=np.float64)


def _safe(reach: _Reach, risk: Risk, bins: int) -> Mask:
    """(bins, settings): within the SLOs and the memory at the bin's upper edge, and not tabu."""
    safe = (risk.slo_ok & risk.memory_ok).reshape(bins, len(reach.settings)) & ~reach.tabu
    return np.asarray(safe, dtype=np.bool_)


def _unproven(
    goal: Goal, surrogate: Surrogate, reach: _Reach, values: dict[str, Array], points: Points
) -> Mask:
    """(bins, settings): smaller ones than the incumbent that gain by power alone, where what they
    save is not more than two standard errors and two per cent.
    """
    size = len(reach.settings)
    shape = (len(points) // size, size)
    smaller = (reach.levels <= reach.levels[reach.here]).all(axis=1)
    smaller[reach.here] = False
    weights = dict(goal.weights)
    if "power_w" not in weights or not smaller.any():
        return np.zeros(shape, dtype=np.bool_)
    watts = weights["power_w"] / dict(goal.references)["power_w"]
    natural = surrogate.natural("power_w", values["power_w"]).reshape(shape)
    rest = objective(goal, surrogate, values, points.load).reshape(shape) - watts * natural
    alone = smaller & (rest >= rest[:, [reach.here]] * (1.0 - TIE))
    saved = np.log(natural[:, [reach.here]] / natural)
    # The difference's standard error at the bin of most evidence stands for all: it is dear.
    middle = shape[0] // 2
    one = points[np.arange(size) + middle * size]
    seen = surrogate.predict(one, ("power_w",))["power_w"]
    variance = seen.own**2 + seen.own[reach.here] ** 2 - 2.0 * seen.covariance(reach.here)
    doubt = _SAVES_SIGMAS * np.sqrt(np.maximum(variance, 0.0))
    return np.asarray(alone & ((saved <= _SAVES) | (saved <= doubt)), dtype=np.bool_)


def _monotone(losses: Array) -> NDArray[np.intp]:
    """The non-decreasing choice of settings (ascending) of least total loss, by dynamic
    programming over the bins.
    """
    order = np.arange(losses.shape[1])
    total, origin = losses[0], []
    for loss in losses[1:]:
        least = np.minimum.accumulate(total)
        origin.append(np.maximum.accumulate(np.where(total == least, order, 0)))
        total = loss + least
    path = [int(np.argmin(total))]
    for back in reversed(origin):
        path.append(int(back[path[-1]]))
    return np.array(path[::-1], dtype=np.intp)


def _bin_weights(table: Table, edges: Array) -> Array:
    """The weight of evidence in each bin, over a little for those never seen."""
    seen, _ = np.histogram(table.points.load, bins=edges, weights=table.weight)
    return np.asarray(_UNSEEN + seen / max(seen.sum(), 1e-9), dtype=np.float64)


def _interval(reach: _Reach, safe: Mask, row: int) -> tuple[Setting, Setting]:
    """The run of safe settings round `row`, each knob moved alone."""
    if not safe[row]:
        return reach.settings[row], reach.settings[row]
    ends = []
    for sign in (-1.0, 1.0):
        end = reach.settings[row]
        for knob, name in enumerate(name for name, _ in end.levels):
            same = np.all(np.delete(reach.levels == reach.levels[row], knob, axis=1), axis=1)
            away = sign * (reach.levels[:, knob] - reach.levels[row, knob])
            line = np.flatnonzero(same & (away > 0.0))
            for other in line[np.argsort(away[line])]:
                if not safe[other]:
                    break
                end = end.replace(name, int(reach.levels[other, knob]))
        ends.append(end)
    return ends[0], ends[1]


def make_schedule(
    request: FitRequest, table: Table, surrogate: Surrogate, goal: Goal, now: Context
) -> tuple[PlanBin, ...]:
    """A bin's setting is safe at the bin's upper edge and the cheapest such in its middle.

    Judged at the present foreign CPU. With one knob the settings do not shrink as load grows: of
    all such choices the one of least loss, weighted by the evidence in each bin, is taken; only a
    bin whose own best is cheaper by more than a doubt, or alone safe, keeps it. (With several
    knobs "smaller" has no one meaning, and every bin keeps its own best.)
    """
    edges, reach = _edges(table.points.load), _reach(request, table)
    assert now.foreign_cpu_ratio is not None
    foreign, size, bins = now.foreign_cpu_ratio, len(reach.settings), len(edges) - 1
    levels = np.tile(reach.levels, (bins, 1))

    def at(loads: Array) -> Points:
        return table.context_points(levels, np.repeat(loads, size), foreign)

    risk = risk_of(request, surrogate, surrogate.predict(at(edges[1:]), goal.bounded), levels)
    middle = at(np.sqrt(edges[1:] * edges[:-1]))
    means = surrogate.means(middle, goal.costly)
    values = {name: means[name] for name in goal.costly}
    cost = objective(goal, surrogate, values, middle.load).reshape(bins, size)
    losses = _losses(reach, risk, cost, _unproven(goal, surrogate, reach, values, middle))
    safe, each = _safe(reach, risk, bins), np.arange(bins)
    rows = np.argmin(losses, axis=1)
    if len(table.knobs) == 1:
        rising = _monotone(losses * _bin_weights(table, edges)[:, None])
        same = cost[each, rising] <= (1.0 + _DOUBT) * cost[each, rows]
        rows = np.where(same & (safe[each, rising] | ~safe[each, rows]), rising, rows)
    chosen = at(edges[1:])[each * size + rows]
    predictions = surrogate.estimates(surrogate.predict(chosen, surrogate.nodes))
    p_safe = risk.p_safe.reshape(bins, size)
    made = []
    for k, row in enumerate(int(row) for row in rows):
        lower, upper = _interval(reach, safe[k], row)
        made.append(
            PlanBin(
                load_lower_rps=float(edges[k]),
                load_upper_rps=float(edges[k + 1]),
                setting=reach.settings[row],
                safe_lower=lower,
                safe_upper=upper,
                p_safe=short(p_safe[k, row]),
                predictions=predictions[k],
            )
        )
    return tuple(made)


def held(schedule: tuple[PlanBin, ...], load: float) -> PlanBin:
    """The bin for a load; the nearest one outside the loads that it covers."""
    return next((entry for entry in schedule if load < entry.load_upper_rps), schedule[-1])

"""The surrogate as a table over load: for each bin the setting to hold."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poolwright.core.model import Context, FitRequest, PlanBin, Setting
from poolwright.learn.judge import TIE, Goal, Judged, judge, rows_of
from poolwright.learn.lattice import lattice, level_array
from poolwright.learn.points import Array, Mask, Points, Table
from poolwright.learn.surrogate import Surrogate, short

_BIN = 1.1  # upper edge over lower edge
_BELOW, _ABOVE = 0.5, 1.3  # how far the schedule goes beyond the loads seen
_MOST_BINS = 64
_MOST_SETTINGS = 64
_REACH = math.sqrt(2.0)  # settings beyond the visited ones, as a factor
_NEARNESS = 0.001  # of the objective an octave: breaks ties
_UNSEEN = 0.02  # weight of a bin without evidence, where all evidence together weighs 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reach:
    """The settings that the schedule may name."""

    settings: list[Setting]
    levels: Array
    tabu: Mask


def _edges(loads: Array) -> Array:
    """Edges [rps] of bins of about 10 %, wider when the loads span too much for `_MOST_BINS`."""
    low, high = _BELOW * float(loads.min()), _ABOVE * float(loads.max())
    bins = min(_MOST_BINS, max(1, round(math.log(high / low) / math.log(_BIN))))
    return np.array([short(edge) for edge in np.geomspace(low, high, bins + 1)])


def _reach(request: FitRequest, table: Table) -> _Reach:
    """Lattice settings within a factor of the visited ones, at most `_MOST_SETTINGS`."""
    visited = np.vstack([table.points.levels, level_array([request.incumbent], table.knobs)])
    low, high = visited.min(axis=0) / _REACH - 1e-9, visited.max(axis=0) * _REACH + 1e-9
    every = lattice(request.policy, request.incumbent)
    levels = level_array(every, table.knobs)
    kept = np.flatnonzero(((levels >= low) & (levels <= high)).all(axis=1))
    if len(kept) > _MOST_SETTINGS:
        been = {tuple(row) for row in visited}
        old = [k for k in kept if tuple(levels[k]) in been][-_MOST_SETTINGS // 2 :]
        spaced = kept[np.linspace(0, len(kept) - 1, _MOST_SETTINGS // 2).astype(int)]
        kept = np.unique(np.concatenate([spaced, np.array(old, dtype=np.intp)]))
    settings = [every[k] for k in kept]
    return _Reach(settings=settings, levels=levels[kept], tabu=rows_of(settings, request.tabu))


def _losses(reach: _Reach, edge: Judged, middle: Judged, centre: Array, bins: int) -> Array:
    """(bins, settings): what each costs over the cheapest safe one, as a share, less a tie.

    Within a tie the nearest to the incumbent is preferred. Without any safe setting the least
    expected excess over the SLOs counts; what is tabu comes after that, and what does not fit
    the memory last, smallest first.
    """
    shape = (bins, len(reach.settings))
    octaves = np.log2(np.maximum(reach.levels, 0.5))
    away = np.abs(octaves - np.log2(np.maximum(centre, 0.5))).sum(axis=1)
    cost, safe = middle.cost.reshape(shape), _safe(reach, edge, bins)
    best = np.where(safe, cost, np.inf).min(axis=1, keepdims=True)
    over = np.maximum(cost / np.where(np.isfinite(best), best, 1.0) - 1.0 - TIE, 0.0)
    loss = np.where(
        safe, np.minimum(over, 5.0), 10.0 + np.minimum(edge.excess.reshape(shape), 20.0)
    )
    loss = np.where(reach.tabu, 50.0 + loss, loss) + _NEARNESS * away
    small = 100.0 + octaves.sum(axis=1)
    return np.asarray(np.where(edge.memory_ok.reshape(shape), loss, small), dtype=np.float64)


def _safe(reach: _Reach, edge: Judged, bins: int) -> Mask:
    """(bins, settings): within the SLOs and the memory at the bin's upper edge, and not tabu."""
    safe = (edge.slo_ok & edge.memory_ok).reshape(bins, len(reach.settings)) & ~reach.tabu
    return np.asarray(safe, dtype=np.bool_)


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
    return np.asarray(_UNSEEN + seen / seen.sum(), dtype=np.float64)


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
    bin whose own best is cheaper by more than two standard deviations, or alone safe, keeps it.
    (With several knobs "smaller" has no one meaning, and every bin keeps its own best.)
    """
    edges, reach = _edges(table.points.load), _reach(request, table)
    assert now.foreign_cpu_ratio is not None
    foreign, size, bins = now.foreign_cpu_ratio, len(reach.settings), len(edges) - 1
    levels = np.tile(reach.levels, (bins, 1))

    def at(loads: Array) -> Points:
        return table.context_points(levels, np.repeat(loads, size), foreign)

    points = at(edges[1:])
    edge = judge(request, goal, surrogate, points)
    middle = judge(request, goal, surrogate, at(np.sqrt(edges[1:] * edges[:-1])))
    centre = level_array([request.incumbent], table.knobs)[0]
    losses, safe = _losses(reach, edge, middle, centre, bins), _safe(reach, edge, bins)
    rows = np.argmin(losses, axis=1)
    if len(table.knobs) == 1:
        rising = _monotone(losses * _bin_weights(table, edges)[:, None])
        flat = np.arange(bins) * size
        doubt = np.maximum(2.0 * middle.cost_std[flat + rising], TIE * middle.cost[flat + rows])
        same = middle.cost[flat + rising] - middle.cost[flat + rows] <= doubt
        each = np.arange(bins)
        rows = np.where(same & (safe[each, rising] | ~safe[each, rows]), rising, rows)
    chosen = points[np.arange(bins) * size + rows]
    picked = [(int(row), safe[k]) for k, row in enumerate(rows)]
    return _bins(reach, surrogate, edges, picked, edge, chosen)


def _bins(
    reach: _Reach,
    surrogate: Surrogate,
    edges: Array,
    picked: list[tuple[int, Mask]],
    judged: Judged,
    chosen: Points,
) -> tuple[PlanBin, ...]:
    size = len(reach.settings)
    predictions = surrogate.estimates(chosen, surrogate.predict(chosen, tuple(surrogate.nodes)))
    made = []
    for k, (row, safe) in enumerate(picked):
        lower, upper = _interval(reach, safe, row)
        made.append(
            PlanBin(
                load_lower_rps=float(edges[k]),
                load_upper_rps=float(edges[k + 1]),
                setting=reach.settings[row],
                safe_lower=lower,
                safe_upper=upper,
                p_safe=short(judged.p_safe[k * size + row]),
                predictions=predictions[k],
            )
        )
    return tuple(made)

"""The settings that are considered: the knob lattice round a centre, thinned where it is large."""

from itertools import product

import numpy as np

from poolwright.core.model import Setting
from poolwright.core.policy import Knob, Policy
from poolwright.learn.points import Array, Axes, Mask, levels_of

MOST = 160  # settings judged in one plan
_ROUND = 2  # steps round the centre that are never thinned


def _levels(knob: Knob, axes: Axes, centre: int, octaves: float, most: int) -> list[int]:
    """All levels; or at most `most`: those next to the centre, then evenly within `octaves`."""
    every = np.arange(knob.lower, knob.upper + 1, knob.step, dtype=np.float64)
    if len(every) <= most:
        return [int(level) for level in every]
    column = axes.knobs.index(knob)

    def places(levels: Array) -> Array:
        wide = np.tile(levels[:, None], (1, len(axes.knobs)))
        return axes.places(wide)[:, column]

    away = places(every) - places(np.array([centre], dtype=np.float64))[0]
    wanted = np.linspace(-octaves, octaves, max(most - 2 * _ROUND, 3))
    spaced = every[np.abs(away[None, :] - wanted[:, None]).argmin(axis=1)]
    near = [knob.clamp(centre + k * knob.step) for k in range(-_ROUND, _ROUND + 1)]
    return sorted({int(level) for level in (*spaced, *near)})


def lattice(
    policy: Policy, axes: Axes, incumbent: Setting, octaves: float, most: int = MOST
) -> list[Setting]:
    """The incumbent first, then, ascending, settings round it that the relations allow."""
    levels_of(incumbent, axes.names)  # refuses a setting of other knobs
    each = most
    while True:
        lines = [_levels(knob, axes, incumbent[knob.name], octaves, each) for knob in axes.knobs]
        size = int(np.prod([len(line) for line in lines]))
        if size <= most or each <= 2 * _ROUND + 3:
            break
        each = min(each - 1, max(int(each * (most / size) ** (1.0 / len(lines))), 2 * _ROUND + 3))
    points = {
        tuple(point)
        for point in product(*lines)
        if all(r.holds(dict(zip(axes.names, point, strict=True))) for r in policy.relations)
    }
    points.discard(tuple(level for _, level in incumbent.levels))
    made = [Setting(levels=tuple(zip(axes.names, point, strict=True))) for point in sorted(points)]
    return [incumbent, *made]


def level_array(settings: list[Setting], knobs: tuple[str, ...]) -> Array:
    """(n, knobs) levels."""
    return np.array([levels_of(setting, knobs) for setting in settings])


def in_trust_region(axes: Axes, levels: Array, octaves: float) -> Mask:
    """Within `octaves` of the first row in every knob, or within one step of it."""
    steps = np.array([knob.step for knob in axes.knobs], dtype=np.float64)
    places = axes.places(levels)
    near = np.abs(places - places[0]) <= octaves + 1e-9
    near |= np.abs(levels - levels[0]) <= steps
    return np.asarray(near.all(axis=1), dtype=np.bool_)


def rows_of(settings: list[Setting], some: tuple[Setting, ...]) -> Mask:
    """Which of `settings` are among `some`."""
    wanted = set(some)
    return np.array([setting in wanted for setting in settings], dtype=np.bool_)

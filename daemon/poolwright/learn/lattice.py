"""The settings that are considered: the knob lattice round a centre, thinned where it is large."""

from collections.abc import Iterator
from itertools import product
from math import ceil, floor, log2, prod
from typing import Any

import numpy as np

from poolwright.core.model import Setting
from poolwright.core.policy import Knob, Policy, Scale
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
    """The incumbent first, then, ascending, settings round it that the relations allow.

    All of them where they are few; else those next to it, those on the lines through it, and a
    quasi-random spread over what is within `octaves`.
    """
    centre = tuple(int(level) for level in levels_of(incumbent, axes.names))
    lines = [
        _levels(knob, axes, level, octaves, most)
        for knob, level in zip(axes.knobs, centre, strict=True)
    ]
    few = prod(len(line) for line in lines) <= most
    every = product(*lines) if few else _spread(axes, centre, octaves, most)
    points: set[tuple[int, ...]] = set()
    for point in every:
        if all(r.holds(dict(zip(axes.names, point, strict=True))) for r in policy.relations):
            points.add(point)
        if len(points) >= most:
            break
    points.discard(centre)
    made = [Setting(levels=tuple(zip(axes.names, point, strict=True))) for point in sorted(points)]
    return [incumbent, *made]


def _spread(
    axes: Axes, centre: tuple[int, ...], octaves: float, most: int
) -> Iterator[tuple[int, ...]]:
    """Points of a lattice of several knobs that is too large to judge: the nearest first."""
    near = ((knob.clamp(at + k * knob.step) for k in (0, -1, 1)) for knob, at in _at(axes, centre))
    yield from product(*map(tuple, near))
    each = max(most // (4 * len(centre)), 2 * _ROUND + 3)
    for k, (knob, at) in enumerate(_at(axes, centre)):
        for level in _levels(knob, axes, at, octaves, each):
            yield (*centre[:k], level, *centre[k + 1 :])
    from skopt.sampler import Halton  # noqa: PLC0415 - 60 MB that one knob does not need

    boxes = [_box(knob, at, octaves) for knob, at in _at(axes, centre)]
    for found in Halton().generate(boxes, 2 * most):
        yield tuple(
            knob.clamp(knob.lower + knob.step * round((int(level) - knob.lower) / knob.step))
            for knob, level in zip(axes.knobs, found, strict=True)
        )


def _at(axes: Axes, centre: tuple[int, ...]) -> Iterator[tuple[Knob, int]]:
    return zip(axes.knobs, centre, strict=True)


def _box(knob: Knob, centre: int, octaves: float) -> Any:
    """The levels of a knob within `octaves` of its centre, as a dimension of scikit-optimize."""
    from skopt.space import Integer  # noqa: PLC0415

    least = 2.0 * knob.step
    if knob.scale is Scale.LINEAR or knob.lower < 1:
        length = log2(max(knob.upper, 2) / max(knob.lower, 0.5))
        reach = max(octaves * (knob.upper - knob.lower) / length, least)
        low, high = max(knob.lower, floor(centre - reach)), min(knob.upper, ceil(centre + reach))
        return Integer(low, max(high, low + 1))
    low = max(knob.lower, floor(min(centre / 2.0**octaves, centre - least)))
    high = min(knob.upper, ceil(max(centre * 2.0**octaves, centre + least)))
    return Integer(low, max(high, low + 1), prior="log-uniform", base=2)


def level_array(settings: list[Setting], knobs: tuple[str, ...]) -> Array:
    """(n, knobs) levels."""
    return np.array([levels_of(setting, knobs) for setting in settings])


def in_trust_region(axes: Axes, levels: Array, octaves: float) -> Mask:
    """Within `octaves` of the first row, all knobs together; one step of a knob counts nothing."""
    steps = np.array([knob.step for knob in axes.knobs], dtype=np.float64)
    places = axes.places(levels)
    away = np.where(np.abs(levels - levels[0]) <= steps, 0.0, np.abs(places - places[0]))
    return np.asarray(np.hypot.reduce(away, axis=1) <= octaves + 1e-9, dtype=np.bool_)


def rows_of(settings: list[Setting], some: tuple[Setting, ...]) -> Mask:
    """Which of `settings` are among `some`."""
    wanted = set(some)
    return np.array([setting in wanted for setting in settings], dtype=np.bool_)

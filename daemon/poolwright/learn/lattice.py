"""The settings that are considered: the knob lattice, thinned where it would be too large."""

from itertools import product

import numpy as np

from poolwright.core.model import Setting
from poolwright.core.policy import Knob, Policy
from poolwright.learn.points import Array, Mask, levels_of

MOST = 4096  # settings judged in one plan


def _levels(knob: Knob, centre: int, most: int) -> list[int]:
    """All levels, or `most` of them: dense round the centre, then spaced as the logarithm."""
    every = range(knob.lower, knob.upper + 1, knob.step)
    if len(every) <= most:
        kept = set(every)
    else:
        spaced = np.geomspace(max(knob.lower, 1), knob.upper, most - 12)
        near = [centre + k * knob.step for k in range(-4, 5)]
        kept = {knob.clamp(round(level)) for level in (*spaced, *near)} & set(every)
        kept |= {every[0], every[-1]}
    return sorted(kept)


def lattice(policy: Policy, incumbent: Setting, most: int = MOST) -> list[Setting]:
    """Settings of the lattice that the relations allow, and the incumbent, ascending."""
    ordered = sorted(policy.knobs, key=lambda knob: knob.name)
    names = tuple(knob.name for knob in ordered)
    levels_of(incumbent, names)  # refuses a setting of other knobs
    each = max(16, int(most ** (1.0 / len(ordered))))
    axes = [_levels(knob, incumbent[knob.name], each) for knob in ordered]
    points = {
        tuple(point)
        for point in product(*axes)
        if all(r.holds(dict(zip(names, point, strict=True))) for r in policy.relations)
    }
    points.add(tuple(level for _, level in incumbent.levels))
    return [Setting(levels=tuple(zip(names, point, strict=True))) for point in sorted(points)]


def level_array(settings: list[Setting], knobs: tuple[str, ...]) -> Array:
    """(n, knobs) levels."""
    return np.array([levels_of(setting, knobs) for setting in settings])


def in_trust_region(levels: Array, centre: Array, octaves: float, steps: Array) -> Mask:
    """Within `octaves` doublings of the centre in every knob, or within one step of it."""
    ratio = np.log2(np.maximum(levels, 0.5) / np.maximum(centre, 0.5))
    near = (np.abs(ratio) <= octaves + 1e-9) | (np.abs(levels - centre) <= steps)
    return np.asarray(near.all(axis=1), dtype=np.bool_)

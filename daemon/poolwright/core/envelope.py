"""The envelope: what may be commanded, whatever is wanted. Every change is a recorded Clamp."""

from dataclasses import dataclass

from poolwright.core.model import Clamp, ClampKind, Setting
from poolwright.core.policy import Knob, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A setting that may be commanded, and what had to be changed for it."""

    setting: Setting
    clamps: tuple[Clamp, ...]


def fit(
    wanted: Setting, current: Setting, policy: Policy, *, still_s: float, urgent: bool = False
) -> Fitted:
    """The nearest allowed setting to `wanted`, seen from `current`, `still_s` after the last move.

    Bounds and lattice always hold. Slew, settle and dwell hold unless `urgent` (a retreat to a
    setting that was safe).
    """
    clamps: list[Clamp] = []
    levels: list[tuple[str, int]] = []
    for name, level in current.levels:
        knob = policy.knob(name)
        levels.append((name, _fit_level(wanted[name], level, knob, still_s, urgent, clamps)))
    fitted = _related(Setting(levels=tuple(levels)), current, policy, clamps)
    return Fitted(setting=fitted, clamps=tuple(clamps))


def _related(wanted: Setting, current: Setting, policy: Policy, clamps: list[Clamp]) -> Setting:
    """The nearest setting to `wanted`, step by step towards `current`, that all relations allow.

    What grows is taken back first. Where `current` itself breaks a relation (the policy changed),
    knobs are lowered, the widest first, until none is broken or all are at their lower bounds.
    """
    found = wanted
    while relation_broken(found, policy):
        name = _takes_back(found, current) or _may_shrink(found, policy)
        if name is None:
            break
        knob = policy.knob(name)
        level = found[name] - knob.step
        clamps[:] = [c for c in clamps if not (c.kind is ClampKind.RELATION and c.knob == name)]
        clamps.append(Clamp(kind=ClampKind.RELATION, knob=name, wanted=wanted[name], allowed=level))
        found = found.replace(name, level)
    return found


def _takes_back(found: Setting, current: Setting) -> str | None:
    """The knob that has grown the most beyond `current`, if any has."""
    grown = [(found[name] - level, name) for name, level in current.levels]
    most, name = max(grown)
    return name if most > 0 else None


def _may_shrink(found: Setting, policy: Policy) -> str | None:
    """The knob with the most room down to its lower bound."""
    room = [(level - policy.knob(name).lower, name) for name, level in found.levels]
    most, name = max(room)
    return name if most > 0 else None


def relation_broken(found: Setting, policy: Policy) -> str:
    """The first relation that `found` breaks, as written; empty when none."""
    levels = dict(found.levels)
    return next((r.text for r in policy.relations if not r.holds(levels)), "")


def _fit_level(
    wanted: int, current: int, knob: Knob, still_s: float, urgent: bool, clamps: list[Clamp]
) -> int:
    def clamp(kind: ClampKind, allowed: int) -> int:
        clamps.append(Clamp(kind=kind, knob=knob.name, wanted=wanted, allowed=allowed))
        return allowed

    level = wanted
    if not knob.lower <= level <= knob.upper:
        level = clamp(ClampKind.BOUND, min(knob.upper, max(knob.lower, level)))
    if knob.clamp(level) != level:
        level = clamp(ClampKind.LATTICE, knob.clamp(level))
    if level == current or urgent:
        return level
    inside = knob.lower <= current <= knob.upper
    if inside and still_s < max(knob.settle_s, knob.dwell_s):
        kind = ClampKind.SETTLE if still_s < knob.settle_s else ClampKind.DWELL
        return clamp(kind, current)
    if inside and abs(level - current) > knob.slew_per_move:
        step = knob.slew_per_move if level > current else -knob.slew_per_move
        level = clamp(ClampKind.SLEW, _on_lattice(current + step, current, knob))
    return level


def _on_lattice(level: int, current: int, knob: Knob) -> int:
    """The lattice point nearest to `level` that is not further from `current` than `level` is."""
    snapped = knob.clamp(level)
    if abs(snapped - current) > abs(level - current):
        snapped += knob.step if snapped < current else -knob.step
    return snapped


def on_lattice(found: Setting, policy: Policy) -> Setting:
    """The nearest setting that the policy's bounds and steps allow, downwards between steps."""
    for name, level in found.levels:
        knob = policy.knob(name)
        inside = min(knob.upper, max(knob.lower, level))
        found = found.replace(name, inside - (inside - knob.lower) % knob.step)
    return found


def violations(commanded: Setting, policy: Policy) -> tuple[str, ...]:
    """What is wrong with a commanded setting, in words; empty when it is within the envelope.

    The engine asserts this again before it touches the actuator.
    """
    found: list[str] = []
    for name, level in commanded.levels:
        knob = policy.knob(name)
        if not knob.lower <= level <= knob.upper:
            found.append(f"{name}={level} is outside {knob.lower}..{knob.upper}")
        elif (level - knob.lower) % knob.step:
            found.append(f"{name}={level} is not on the lattice of step {knob.step}")
    broken = relation_broken(commanded, policy)
    if broken:
        found.append(f"{commanded} breaks the relation {broken!r}")
    return tuple(found)

"""What an operator has set above the policy for a time: bounds, freeze, pin."""

from collections.abc import Sequence
from dataclasses import replace

from poolwright.core.model import Setting
from poolwright.core.policy import Knob, Override, Policy


def narrowed(policy: Policy, overrides: Sequence[Override]) -> Policy:
    """The policy with its knobs' bounds narrowed by the overrides in force; never widened."""
    limits = {name: (low, high) for o in overrides for name, low, high in o.bounds}
    if not limits:
        return policy
    knobs = tuple(_narrow(knob, *limits[knob.name]) if knob.name in limits else knob
                  for knob in policy.knobs)  # fmt: skip
    return replace(policy, knobs=knobs)


def _narrow(knob: Knob, low: int, high: int) -> Knob:
    """Bounds within the knob's own, on its lattice; its own where nothing would be left."""
    lower = knob.lower + -(-max(0, low - knob.lower) // knob.step) * knob.step
    upper = min(knob.upper, high)
    upper -= (upper - knob.lower) % knob.step
    return replace(knob, lower=lower, upper=upper) if lower <= upper else knob


def freeze_of(overrides: Sequence[Override]) -> Override | None:
    """The override that forbids every move, if one is in force."""
    return next((o for o in overrides if o.freeze), None)


def pin_of(overrides: Sequence[Override], current: Setting) -> tuple[Setting, str] | None:
    """The setting that overrides pin, its other knobs as they are, and the operator's reason."""
    pins = [o for o in overrides if o.pin]
    if not pins:
        return None
    wanted = current
    for override in pins:
        for name, level in override.pin:
            wanted = wanted.replace(name, level)
    return wanted, "; ".join(o.reason for o in pins)

"""The phases as one table: what may follow what. The diagram in docs/ is drawn from it.

WARMUP is the way back in from everything that took the knob away: it ends at once when enough has
been observed before.
"""

from enum import StrEnum

from poolwright.core.model import Phase


class Event(StrEnum):
    """What moves poolwright from one phase to another."""

    WARMED_UP = "warmed_up"
    NOTHING_LEFT_TO_TRY = "nothing_left_to_try"
    DRIFT = "drift"
    BREACH = "breach"
    COOLED = "cooled"
    BLINDED = "blinded"
    SIGHTED = "sighted"
    OTHER_HAND = "other_hand"
    PLANT_RESTARTED = "plant_restarted"
    PAUSE = "pause"
    RESUME = "resume"
    NO_BENEFIT = "no_benefit"


_ACTING = (Phase.WARMUP, Phase.EXPLORE, Phase.CONVERGED, Phase.COOLDOWN)

TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.WARMUP, Event.WARMED_UP): Phase.EXPLORE,
    (Phase.EXPLORE, Event.NOTHING_LEFT_TO_TRY): Phase.CONVERGED,
    (Phase.CONVERGED, Event.DRIFT): Phase.EXPLORE,
    (Phase.EXPLORE, Event.BREACH): Phase.COOLDOWN,
    (Phase.CONVERGED, Event.BREACH): Phase.COOLDOWN,
    (Phase.COOLDOWN, Event.BREACH): Phase.COOLDOWN,
    (Phase.COOLDOWN, Event.COOLED): Phase.EXPLORE,
    **{(phase, Event.BLINDED): Phase.BLIND for phase in _ACTING},
    (Phase.BLIND, Event.SIGHTED): Phase.WARMUP,
    **{(phase, Event.OTHER_HAND): Phase.MANUAL for phase in (*_ACTING, Phase.BLIND)},
    **{(phase, Event.PLANT_RESTARTED): Phase.WARMUP for phase in _ACTING},
    **{(phase, Event.PAUSE): Phase.PAUSED for phase in Phase if phase is not Phase.PAUSED},
    (Phase.PAUSED, Event.RESUME): Phase.WARMUP,
    (Phase.MANUAL, Event.RESUME): Phase.WARMUP,
    (Phase.CONVERGED, Event.NO_BENEFIT): Phase.STOOD_DOWN,
    (Phase.STOOD_DOWN, Event.RESUME): Phase.WARMUP,
    (Phase.STOOD_DOWN, Event.DRIFT): Phase.EXPLORE,
    (Phase.STOOD_DOWN, Event.PLANT_RESTARTED): Phase.WARMUP,
    (Phase.STOOD_DOWN, Event.OTHER_HAND): Phase.MANUAL,
}


def after(phase: Phase, event: Event) -> Phase:
    """The phase that `event` leads to; an event that means nothing in `phase` changes nothing."""
    return TRANSITIONS.get((phase, event), phase)


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the docs."""
    lines = ["stateDiagram-v2", "    [*] --> warmup"]
    lines += [f"    {a} --> {b}: {event}" for (a, event), b in TRANSITIONS.items() if a is not b]
    return "\n".join(lines)

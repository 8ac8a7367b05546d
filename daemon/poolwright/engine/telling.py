"""What the log says of a pool: a line for each decision that matters, and none for the others.

A decision matters when it moves something or something has happened: a move, another phase, a
guard that trips, another advice, a command, a quiet window or an override that begins or ends, a
move that failed. A tick that goes on holding has no line. What broke and what came back is told
once, not once a tick. The fields are listed in docs/logs.md.
"""

import logging
from typing import Any

from poolwright.core.model import ActuationStatus, Decision, Phase, Reason, Setting, Status, Tick
from poolwright.core.reasons import REASONS
from poolwright.engine.snapshot import decision_id

_LOG = logging.getLogger("poolwright")
_FAILED = (ActuationStatus.FAILED, ActuationStatus.REFUSED)
_BROKEN = (Status.ERROR, Status.STALE)
_IN_A_ROW = 3  # ticks until a sensor that broke, or came back, is told of: it may flap


class Teller:
    """Tells of one pool's ticks, in order."""

    def __init__(self, pool: str) -> None:
        """Nothing was told yet."""
        self._pool = pool
        self._before: tuple[Any, ...] = ()
        self._trips: tuple[Reason, ...] = ()
        self._advice = ""
        self._streaks: dict[str, int] = {}  # sensor -> ticks in a row unlike what was told
        self._broken: set[str] = set()  # sensors that were told to be broken

    def tell(self, run_id: int, tick: Tick, decision: Decision) -> None:
        """One tick: at most one line for the decision."""
        self._sensors(tick)
        tripped = any(trip not in self._trips for trip in decision.guard_trips)
        outcome = tick.actuation
        failed = outcome is not None and outcome.status in _FAILED
        if self._matters(tick, decision) or tripped or failed:
            bad = tripped or failed or tick.learner_fault or decision.phase is Phase.BLIND
            name = decision_id(run_id, decision.tick)
            words = f"{describe(decision)} [{name}]"
            error = outcome.detail if outcome is not None and failed else ""
            about = fields_of(decision, failed=error)
            level = logging.WARNING if bad else logging.INFO
            self._say(level, "decision", words, decision_id=name, **about)
        self._trips = decision.guard_trips

    def _matters(self, tick: Tick, decision: Decision) -> bool:
        before, advised = self._before, self._advice
        self._before = (decision.phase, tick.quiet, tick.overrides)
        if decision.advice is not None:  # the same advice after a tick without is the same
            self._advice = decision.advice.id
        changed = self._before != before or self._advice != advised
        return bool(changed or decision.moves or decision.events or tick.commands)

    def _sensors(self, tick: Tick) -> None:
        broken = {r.source: r.detail for r in tick.readings if r.status in _BROKEN}
        if not (broken or self._broken or self._streaks):
            return
        for sensor in {r.source for r in tick.readings}:
            if (sensor in broken) == (sensor in self._broken):
                self._streaks.pop(sensor, None)
                continue
            self._streaks[sensor] = self._streaks.get(sensor, 0) + 1
            if self._streaks[sensor] < _IN_A_ROW:
                continue
            del self._streaks[sensor]
            if sensor in broken:
                self._broken.add(sensor)
                words = f"sensor {sensor} gives nothing good: {broken[sensor] or 'it is stale'}"
                self._say(logging.WARNING, "sensor_broken", words, sensor=sensor)
            else:
                self._broken.remove(sensor)
                self._say(logging.INFO, "sensor_well", f"sensor {sensor} is back", sensor=sensor)

    def _say(self, level: int, event: str, words: str, **fields: Any) -> None:
        about = {"event": event, "pool": self._pool, **fields}
        _LOG.log(level, "%s: %s", self._pool, words, extra={"fields": about})


def describe(decision: Decision) -> str:
    """A decision in one line: what, where to, and why."""
    setting: Setting | None = decision.wanted
    words = f"{decision.phase} {decision.action} {setting}: {REASONS[decision.reason]}"
    if decision.detail:
        words += f" ({decision.detail})"
    if decision.clamps:
        words += "; clamped by " + ", ".join(str(c.kind) for c in decision.clamps)
    if decision.events:
        words += "; " + "; ".join(decision.events)
    return words


def fields_of(decision: Decision, *, failed: str = "") -> dict[str, Any]:
    """A decision for programs; what does not apply is left out. `failed`: the last move's error."""
    found: dict[str, Any] = {
        "phase": decision.phase,
        "action": decision.action,
        "reason": decision.reason,
        "moves": decision.moves,
        "setting": None if decision.setting is None else dict(decision.setting.levels),
        "detail": decision.detail,
        "advice_id": None if decision.advice is None else decision.advice.id,
        "advice": None if decision.advice is None else dict(decision.advice.setting.levels),
        "clamps": [clamp.kind for clamp in decision.clamps],
        "guard_trips": list(decision.guard_trips),
        "events": list(decision.events),
        "actuation_error": failed,
    }
    return {name: value for name, value in found.items() if value not in (None, "", [])}

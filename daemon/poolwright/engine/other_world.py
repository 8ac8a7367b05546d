"""A recorded world as it may have been at another setting.

While the other policy holds what was held, the recorded readings are the world. Where it would hold
another setting, nobody has seen the world: the recorded readings are scaled by the ratio of what
the surrogate expects of the two settings at the load of the tick, and marked as estimated. Load,
other processes, faults of sensors, operators and the calendar stay as they were; so do failed
requests, of which a surrogate knows too little.
"""

import math
from dataclasses import replace
from typing import Protocol

from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Applied,
    Decision,
    Reading,
    Reason,
    Responses,
    Setting,
    Tick,
)
from poolwright.core.sketch import GAMMA, Sketch
from poolwright.journal.record import Step

_OUTSIDE = (Reason.OTHER_HAND, Reason.REASSERT, Reason.PLANT_RESTARTED)
_OWN_TICKS = 120  # after a move of poolwright's own, a change of the level is its own doing
_LEAST, _MOST = 1 / 64, 64.0  # of a ratio: beyond that nothing is known but the sign
_SCALED = {
    "latency_s": "latency_p99_s",
    "in_flight": "latency_p50_s",
    "queue_length": "latency_p99_s",
    "cpu_cores": "cpu_cores",
    "memory_bytes": "memory_bytes",
    "power_w": "power_w",
}
_WITH = {"host_cpu_cores": "cpu_cores", "host_memory_used_bytes": "memory_bytes"}


class Pair(Protocol):
    """What is expected of the recorded setting, and of the other one."""

    @property
    def one(self) -> Responses:
        """Of the recorded one."""

    @property
    def other(self) -> Responses:
        """Of the other one."""


class OtherWorld:
    """Where the other policy's setting is, tick by tick."""

    def __init__(self) -> None:
        """At what was first read back."""
        self.level: Setting | None = None
        self._before: Setting | None = None  # applied in the tick before
        self._moved_at = -_OWN_TICKS - 1
        self._alike = True  # both made the last move, so the recorded one is seen as it went
        self._moving: int | None = None  # the other policy's decision that is to be told as done
        self._queue: tuple[float, float] | None = None  # recorded and estimated, the tick before
        self._mono_ns = 0

    def follow(self, step: Step, recorded: Decision) -> None:
        """Take the level of a recorded tick where neither policy had a hand in it."""
        applied = None if step.tick.applied is None else step.tick.applied.setting
        if recorded.moves:
            self._moved_at = step.tick.index
        if applied is None:
            return
        silent = step.tick.index - self._moved_at > _OWN_TICKS
        changed = self._before is not None and applied != self._before
        if self.level is None or recorded.reason in _OUTSIDE or (changed and silent):
            self.level = applied
            self._alike = self._alike or recorded.setting in {applied, None}
        self._before = applied

    def move(self, recorded: Decision, decision: Decision) -> None:
        """Obey the other policy: unless both move alike, it is done by the next tick."""
        if not (recorded.moves or decision.moves):
            return
        both = recorded.moves and decision.moves
        self._alike = both and recorded.setting == decision.setting
        if decision.moves:
            self.level = decision.setting
            self._moving = None if self._alike else decision.tick

    def apart(self, recorded: Decision, tick: Tick) -> bool:
        """Whether the other setting is neither what was applied nor what was being applied."""
        applied = None if tick.applied is None else tick.applied.setting
        return self.level not in {applied, recorded.setting, None}

    def tick(self, tick: Tick, recorded: Decision, pair: Pair | None) -> Tick:
        """The tick as the other policy's core meets it."""
        if self._alike:
            return tick
        actuation = None
        if self._moving is not None:
            actuation = Actuation(decision_tick=self._moving, status=ActuationStatus.APPLIED)
            self._moving = None
        applied = tick.applied
        if applied is not None and self.level is not None:
            applied = Applied(setting=self.level, epoch=applied.epoch)
        readings = tick.readings
        if pair is not None and self.apart(recorded, tick):
            readings = self._scaled(tick, pair)
        else:
            self._queue = None
        return replace(tick, readings=readings, applied=applied, actuation=actuation)

    def _scaled(self, tick: Tick, pair: Pair) -> tuple[Reading, ...]:
        one = {name: seen.mean for name, seen in pair.one}
        other = {name: seen.mean for name, seen in pair.other}
        ratios = {
            name: min(_MOST, max(_LEAST, other[name] / mean))
            for name, mean in one.items()
            if mean > 0.0 and other.get(name, 0.0) > 0.0
        }
        measured = any(r.signal == "latency_s" and r.value is not None for r in tick.readings)
        by_signal = {s: ratios[name] for s, name in _SCALED.items() if name in ratios}
        if not measured and "latency_p99_s" in ratios:
            by_signal["service_time_s"] = ratios["latency_p99_s"]  # latency is composed of it
        more = {s: other[n] - one[n] for s, n in _WITH.items() if n in one and n in other}
        grown = self._grown(tick, by_signal.get("queue_length", 1.0))
        assert self.level is not None
        count = float(self.level.levels[0][1]) if len(self.level.levels) == 1 else None
        made = []
        for reading in tick.readings:
            if reading.value is None:
                made.append(reading)
            elif reading.signal in by_signal:
                made.append(_times(reading, by_signal[reading.signal]))
            elif reading.signal in more:
                made.append(_valued(reading, max(0.0, reading.value + more[reading.signal])))
            elif reading.signal == "throughput_rps":
                # As many came as were recorded; those that wait elsewhere are not done yet.
                made.append(_valued(reading, max(0.0, reading.value - grown)))
            elif reading.signal == "worker_count" and count is not None:
                made.append(_valued(reading, count))
            else:
                made.append(reading)
        return tuple(made)

    def _grown(self, tick: Tick, ratio: float) -> float:
        """How much faster than recorded the queue grows, a second."""
        queue = next((r.value for r in tick.readings if r.signal == "queue_length"), None)
        if queue is None:
            self._queue = None
            return 0.0
        now, before = (queue, queue * ratio), self._queue
        span_s = (tick.mono_ns - self._mono_ns) / 1e9
        self._queue, self._mono_ns = now, tick.mono_ns
        if before is None or span_s <= 0.0:
            return 0.0
        return ((now[1] - before[1]) - (now[0] - before[0])) / span_s


def _times(reading: Reading, ratio: float) -> Reading:
    assert reading.value is not None
    scaled = _valued(reading, reading.value * ratio)
    return replace(
        scaled, sketch=None if reading.sketch is None else _shifted(reading.sketch, ratio)
    )


def _valued(reading: Reading, value: float) -> Reading:
    return replace(reading, value=value, estimated=True)


def _shifted(sketch: Sketch, ratio: float) -> Sketch:
    """All values times `ratio`: so many buckets on, in a logarithmic sketch."""
    shift = round(math.log(ratio) / math.log(GAMMA))
    return Sketch(
        bins=tuple((bucket + shift, count) for bucket, count in sketch.bins),
        zeros=sketch.zeros,
        total=sketch.total * ratio,
        total_squares=sketch.total_squares * ratio * ratio,
    )

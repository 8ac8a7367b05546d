"""What must hold of every decision, whatever the world does: checked from outside of the core.

Each rule is written again from the policy's words, not from the core's code, and sees only ticks,
decisions and the simulated truth. A rule that is broken ends the run.
"""

import math
from collections import deque
from collections.abc import Callable

from poolwright.core.envelope import violations
from poolwright.core.model import (
    Action,
    ActuationStatus,
    Decision,
    Phase,
    Reason,
    Setting,
    Status,
    Tick,
)
from poolwright.core.override import narrowed
from poolwright.core.policy import Mode, Policy
from poolwright.engine.simulate import Moment

TRIED = frozenset({Action.PROBE, Action.DITHER, Action.COMPARE})
_URGENT = frozenset({Action.RETREAT, Action.RESTORE})
_ORDERED = frozenset({Reason.APPROVED, Reason.PINNED, Reason.ROLLED_BACK})
_BREACHES = frozenset(
    {Reason.SLO_BREACH, Reason.ERROR_BREACH, Reason.MEMORY_BREACH, Reason.PRESSURE_BREACH,
     Reason.CPU_BREACH}
)  # fmt: skip
_NEEDED = ("throughput_rps", "host_memory_used_bytes", "memory_limit_bytes")
_NOT_TRIED_IN = frozenset(
    {Phase.WARMUP, Phase.COOLDOWN, Phase.BLIND, Phase.MANUAL, Phase.PAUSED, Phase.STOOD_DOWN}
)
_BURNS = 3.0  # times the policy's rate, at least
_LEAST_ALLOWED = 0.01  # of requests, by any SLO of the swarm
_HOUR_S = 3600.0
_ACTUATED_S = 3.0  # besides the steps: the tick of the decision, and that of the read-back
_STEP_S = 0.1  # as the simulated actuator


class Broken(Exception):
    """An invariant does not hold."""


class Invariants:
    """Watches one pool over all lives of its daemon. Call it with every decision."""

    def __init__(self, disturbed: Callable[[float], bool] = lambda _: False) -> None:
        """`disturbed` says whether at that second something keeps the level from being moved."""
        self.checked = 0
        self._disturbed = disturbed
        self._retreating: tuple[Setting, int] | None = None  # to where, and until when [ns]
        self._life = 0
        self._last: Decision | None = None
        self._moved_ns: int | None = None
        self._began_ns: int | None = None
        self._blind_s = 0.0
        self._mono_ns: int | None = None
        self._tried: deque[int] = deque()
        self._approved = False

    def __call__(self, tick: Tick, decision: Decision, moment: Moment) -> None:
        """Check one decision. Raises Broken."""
        policy = narrowed(moment.policy, tick.overrides)
        if moment.life != self._life or tick.index == 0:
            self._life, self._last, self._blind_s = moment.life, None, 0.0
        if self._began_ns is None:
            self._began_ns = tick.mono_ns
        before = self._before(tick)
        self._blindness(tick, policy)
        if decision.moves:
            self._may_move(tick, decision, policy)
            self._envelope(tick, decision, policy, before)
            self._memory(tick, decision, moment, before)
            if decision.action in TRIED:
                self._may_try(tick, decision, policy)
            self._moved_ns = tick.mono_ns
        self._retreats(tick, decision)
        self._arrives(tick, decision, policy)
        self._leaves_the_dark(tick, decision, policy)
        self._last, self._mono_ns = decision, tick.mono_ns
        self.checked += 1

    def _fail(self, rule: str, tick: Tick, decision: Decision) -> None:
        raise Broken(
            f"{rule}: tick {tick.index} of life {self._life}, {decision.phase} {decision.action} "
            f"{decision.setting}: {decision.reason} {decision.detail}"
        )

    def _before(self, tick: Tick) -> tuple[Setting, ...]:
        """The levels from which this decision may have been taken."""
        found = [] if self._last is None or self._last.setting is None else [self._last.setting]
        return (*found, *(() if tick.applied is None else (tick.applied.setting,)))

    def _may_move(self, tick: Tick, decision: Decision, policy: Policy) -> None:
        """Only in a mode, in a phase and at a time in which moving is allowed."""
        ordered = decision.reason in _ORDERED
        self._approved = decision.reason is Reason.APPROVED or (
            self._approved and decision.action is not Action.RETREAT
        )
        if policy.mode is Mode.OBSERVE:
            self._fail("moved in mode observe", tick, decision)
        back = decision.action is Action.RETREAT and self._approved
        if policy.mode is Mode.RECOMMEND and not (ordered or back or self._was_approved(decision)):
            self._fail("moved unasked in mode recommend", tick, decision)
        if decision.phase is Phase.MANUAL:
            self._fail("moved in phase manual", tick, decision)
        if decision.phase is Phase.PAUSED and decision.reason is not Reason.ROLLED_BACK:
            self._fail("moved while paused", tick, decision)
        if any(o.freeze for o in tick.overrides):
            self._fail("moved in a freeze", tick, decision)
        pinned = any(o.pin for o in tick.overrides) and policy.mode is Mode.AUTO
        if pinned and decision.reason not in (*_ORDERED, Reason.OUT_OF_BOUNDS, Reason.REASSERT):
            self._fail("moved away from a pinned level", tick, decision)

    def _was_approved(self, decision: Decision) -> bool:
        return decision.action is Action.RETREAT and self._last is not None

    def _envelope(
        self, tick: Tick, decision: Decision, policy: Policy, before: tuple[Setting, ...]
    ) -> None:
        """Bounds and lattice always; slew, settling and dwell unless it is urgent."""
        wanted = decision.setting
        assert wanted is not None
        inside = [b for b in before if not violations(b, policy)]
        if violations(wanted, policy) and inside:
            self._fail("left the bounds", tick, decision)
        if decision.action in _URGENT or decision.reason is Reason.REASSERT or not inside:
            return
        for knob in policy.knobs:
            if min(abs(wanted[knob.name] - b[knob.name]) for b in before) > knob.slew_per_move:
                self._fail("slew", tick, decision)
        still_s = max(max(k.settle_s, k.dwell_s) for k in policy.knobs)
        if self._moved_ns is not None and tick.mono_ns - self._moved_ns < still_s * 1e9 - 1e6:
            self._fail("dwell", tick, decision)

    def _memory(
        self, tick: Tick, decision: Decision, moment: Moment, before: tuple[Setting, ...]
    ) -> None:
        """What is really used, and what the added workers take, stays within the limit."""
        knob = moment.policy.knobs[0]
        truth = {r.signal: r.value for r in moment.truth.readings}
        seen = {r.signal: r.value for r in tick.readings if r.value is not None}
        names = ("memory_bytes", "host_memory_used_bytes", "memory_limit_bytes")
        if any(seen.get(n) != truth.get(n) for n in names) or decision.action in _URGENT:
            return  # a sensor lied, or it goes back to what was held before
        own, used, limit = (truth[n] for n in names)
        level = moment.truth.level
        assert decision.setting is not None
        added = decision.setting[knob.name] - max((b[knob.name] for b in before), default=level)
        if added <= 0 or own is None or used is None or limit is None:
            return
        if used + added * own / max(1, level) > limit:
            self._fail("memory", tick, decision)

    def _may_try(self, tick: Tick, decision: Decision, policy: Policy) -> None:
        """No experiment while blind, in quiet time, over budget, or beside another one."""
        back = self._last is not None and self._last.probing and not decision.probing
        if back:
            return  # the way back from a comparison
        if self._blind_s > 0.0:
            self._fail("tried while blind", tick, decision)
        if decision.phase in _NOT_TRIED_IN:
            self._fail(f"tried in phase {decision.phase}", tick, decision)
        going_on = self._last is not None and self._last.probing
        if going_on:
            return
        if tick.quiet:
            self._fail("tried in a quiet window", tick, decision)
        if not tick.may_probe:
            self._fail("tried beside another experiment", tick, decision)
        told = dict(decision.evidence)
        burn = min(told.get("burn_short", 0.0), told.get("burn_long", 0.0))
        if burn > policy.explore.burn_rate * _beyond_chance(tick, policy, told):
            self._fail("tried while the error budget burns", tick, decision)
        self._tried.append(tick.mono_ns)
        assert self._began_ns is not None
        elapsed_h = (tick.mono_ns - self._began_ns) / 1e9 / _HOUR_S
        if len(self._tried) > policy.explore.probes_per_hour * (1.0 + elapsed_h) + 1e-6:
            self._fail("over the budget of probes", tick, decision)

    def _retreats(self, tick: Tick, decision: Decision) -> None:
        """A breach while something is tried ends it in the same tick."""
        last = self._last
        if last is None or not last.probing or last.setting != decision.setting:
            return
        settled = dict(last.evidence).get("settled") == 1.0 == dict(decision.evidence)["settled"]
        tripped = _BREACHES.intersection(decision.guard_trips)
        free = decision.phase in (Phase.EXPLORE, Phase.CONVERGED) and tick.applied is not None
        held = decision.reason in (Reason.FROZEN, Reason.PINNED) or any(
            override.freeze or override.pin for override in tick.overrides
        )
        if tripped and settled and free and decision.probing and not (decision.moves or held):
            raise Broken(f"held a breaching probe: tick {decision.tick}, {sorted(tripped)}")

    def _arrives(self, tick: Tick, decision: Decision, policy: Policy) -> None:
        """A retreat has arrived when the actuator has had time for it and nothing kept it off."""
        due = self._retreating
        if decision.moves:
            steps = max(knob.upper for knob in policy.knobs)
            until = tick.mono_ns + round((_ACTUATED_S + steps * _STEP_S) * 1e9)
            back = decision.action is Action.RETREAT and decision.setting is not None
            self._retreating = (decision.setting, until) if back and decision.setting else None
            return
        if (
            due is None
            or tick.applied is None
            or decision.setting != due[0]
            or tick.applied.setting == due[0]
            or self._disturbed(tick.mono_ns / 1e9)
        ):
            self._retreating = None
        elif tick.mono_ns > due[1]:
            self._fail("did not arrive at the safe setting", tick, decision)

    def _blindness(self, tick: Tick, policy: Policy) -> None:
        """For how long the guard has not seen what it needs."""
        good = {r.signal for r in tick.readings if r.status is Status.OK}
        dt_s = 0.0 if self._mono_ns is None else (tick.mono_ns - self._mono_ns) / 1e9
        blind = any(name not in good for name in _NEEDED)
        self._blind_s = self._blind_s + dt_s if blind else 0.0
        assert policy.guard.blind_s > 0.0

    def _leaves_the_dark(self, tick: Tick, decision: Decision, policy: Policy) -> None:
        """Blind for too long, and free to move: at, or on the way to, the last safe setting."""
        last = self._last
        if last is None or self._blind_s < policy.guard.blind_s + 2.0 * policy.cadence_s:
            return
        free = decision.phase is Phase.BLIND and policy.mode is Mode.AUTO and tick.applied
        pending = (
            tick.actuation is not None and tick.actuation.status is not ActuationStatus.APPLIED
        )
        excused = {
            Reason.PINNED, Reason.FROZEN, Reason.ACTUATION_FAILED, Reason.ACTUATION_PENDING,
            Reason.SETTLING, Reason.OUT_OF_BOUNDS, Reason.ROLLED_BACK, Reason.CLOCK_GAP,
            Reason.PLANT_RESTARTED, Reason.REASSERT, Reason.APPROVED,
        }  # fmt: skip
        going = decision.moves and decision.action is Action.RETREAT  # from a breach, in this tick
        if not free or pending or going or decision.reason in excused:
            return
        if decision.reason not in (Reason.NO_DATA, Reason.BLIND_TOO_LONG):
            self._fail("blind for too long", tick, decision)


def _beyond_chance(tick: Tick, policy: Policy, told: dict[str, float]) -> float:
    """How many times the allowed rate may be burnt by chance, with as few requests as were seen."""
    window_s = policy.explore.window_s
    seen_s = max(window_s, min(5.0 * window_s, tick.index * policy.cadence_s))
    rate = policy.explore.burn_rate * _LEAST_ALLOWED
    usual = max(rate * told.get("load_rps", 0.0) * seen_s, 1e-9)
    return max(_BURNS, (usual + 3.0 * math.sqrt(usual) + 3.0) / usual)

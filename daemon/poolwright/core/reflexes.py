"""What is done at once, whatever was learned: the failure ladder, and growth when clients queue.

    no data -> hold; blind too long -> last safe; breach -> retreat at once; another hand -> stand
    back; the plant restarted -> look again.

Each reflex returns an Intent, or None to let the next one speak.
"""

from poolwright.core import holdout
from poolwright.core.envelope import on_lattice, violations
from poolwright.core.guard import Verdict
from poolwright.core.learning import keep
from poolwright.core.model import Action, ActuationStatus, Phase, Reason, Setting, Tick
from poolwright.core.overload import distrust_shrinking, larger, queueing
from poolwright.core.override import freeze_of, pin_of
from poolwright.core.phase import Event
from poolwright.core.planned import best_tried
from poolwright.core.policy import OtherHand
from poolwright.core.sample import Sample
from poolwright.core.state import TRUST_LEAST, Held, Intent, State

_MISMATCH_TICKS = 3  # a crashed worker is back within one
_BLIND_PHASE_S = 3.0
_BACKOFF_MOST_S = 300.0
_PRESSURES = (
    Reason.SLO_BREACH,
    Reason.ERROR_BREACH,
    Reason.MEMORY_BREACH,
    Reason.PRESSURE_BREACH,
    Reason.CPU_BREACH,
)


def hold(reason: Reason, detail: str = "") -> Intent:
    """Stay where we are."""
    return Intent(action=Action.HOLD, reason=reason, detail=detail)


def plant(state: State, tick: Tick) -> Intent | None:
    """First sight, a failed read-back, a move that is under way or failed, another hand."""
    if tick.applied is None:
        return hold(Reason.READ_BACK_FAILED, tick.fault)
    applied = tick.applied.setting
    if state.commanded is None:
        _first_sight(state, applied)
    restarted = state.regime.restarted(tick.applied)
    if not state.in_command:
        if state.commanded != applied:
            state.unsettle()
        state.commanded = applied
        state.mismatch_ticks = 0
    if restarted:
        return _restarted(state, tick)
    actuation = tick.actuation
    if actuation is not None and actuation.status is ActuationStatus.PENDING:
        state.unsettle()
        state.mismatch_ticks = 0
        return hold(Reason.ACTUATION_PENDING, f"now {applied}, towards {state.commanded}")
    if actuation is not None and actuation.status is not ActuationStatus.APPLIED:
        return _failed(state, applied, f"{actuation.status}: {actuation.detail}")
    if actuation is not None:
        state.faults = 0
    return _other_hand(state, applied, tick.applied.detail)


def _first_sight(state: State, applied: Setting) -> None:
    """Adopt what is there: poolwright's coming changes nothing by itself."""
    state.commanded = applied
    if state.baseline is None:
        levels = []
        for name, level in applied.levels:
            own = state.policy.knob(name).baseline
            levels.append((name, level if own is None else own))
        state.baseline = on_lattice(Setting(levels=tuple(levels)), state.written)
    state.events.append(f"found {applied}; the baseline is {state.baseline}")


def _restarted(state: State, tick: Tick) -> Intent:
    """Bumpless: take what the new incarnation has, trust the old evidence less, look again."""
    assert tick.applied is not None
    state.commanded = tick.applied.setting
    state.stop_trying()
    state.mismatch_ticks = 0
    state.unsettle()
    state.evidence.discount(0.5)
    state.guard.restart()
    state.advance(Event.PLANT_RESTARTED, tick.applied.detail or "the plant restarted")
    return hold(Reason.PLANT_RESTARTED, tick.applied.detail)


def _failed(state: State, applied: Setting, detail: str) -> Intent:
    """Take what is really there, and wait longer after each failure."""
    state.commanded = applied
    state.stop_trying()
    state.faults += 1
    cooldown = state.policy.guard.cooldown_s
    state.backoff_s = min(_BACKOFF_MOST_S, cooldown * 2.0 ** (state.faults - 1))
    state.unsettle()
    return hold(Reason.ACTUATION_FAILED, detail)


def _other_hand(state: State, applied: Setting, detail: str) -> Intent | None:
    if applied == state.commanded:
        state.mismatch_ticks = 0
        return None
    state.unsettle()
    state.mismatch_ticks += 1
    found = f"commanded {state.commanded}, found {applied}"
    if state.mismatch_ticks < _MISMATCH_TICKS:
        return hold(Reason.SETTLING, found)
    state.mismatch_ticks = 0
    if state.policy.on_other_hand is OtherHand.REASSERT:
        wanted, state.commanded = state.commanded, applied
        if state.errand is not None:
            return None  # what an operator asked for goes on from what is there
        return Intent(
            action=Action.TRACK, reason=Reason.REASSERT, wanted=wanted, urgent=True, detail=found
        )
    state.commanded = applied
    state.stop_trying()
    state.errand = None
    why = f"{found}; {detail}" if detail else found
    state.advance(Event.OTHER_HAND, why)
    return hold(Reason.OTHER_HAND, why)


def held(state: State, tick: Tick) -> Held | None:
    """What an operator has written or asked to hold, or what a proof has settled.

    It stands above the guard: who pins a level answers for it. What is seen there is learned.
    """
    assert state.commanded is not None
    frozen = freeze_of(tick.overrides)
    if frozen is not None:
        return Held(setting=state.commanded, reason=Reason.FROZEN, why=frozen.reason)
    if state.phase in (Phase.MANUAL, Phase.PAUSED):
        return None
    if state.pin is not None:
        return Held(setting=state.pin, reason=Reason.PINNED, why=state.pin_why, ordered=True)
    pinned = pin_of(tick.overrides, state.commanded)
    if pinned is not None:
        return Held(setting=pinned[0], reason=Reason.PINNED, why=pinned[1])
    if state.phase is Phase.STOOD_DOWN and state.baseline is not None:
        return Held(setting=state.baseline, reason=Reason.NO_BENEFIT, why="")
    return None


def errand(state: State) -> Intent | None:
    """The next step of what an operator asked for once."""
    asked = state.errand
    if asked is None or state.commanded == asked.setting:
        state.errand = None
        return None
    return Intent(action=asked.action, reason=asked.reason, wanted=asked.setting, ordered=True)


def towards(state: State, held: Held) -> Intent | None:
    """The next step to the setting that is held; None when it is there."""
    if state.commanded == held.setting:
        return None
    state.stop_trying()
    down = held.reason is Reason.NO_BENEFIT
    return Intent(
        action=Action.RESTORE if down else Action.TRACK,
        reason=held.reason,
        wanted=held.setting,
        ordered=held.ordered,
        detail=held.why,
    )


def stand_back(state: State) -> Intent | None:
    """In the phases in which the knob is not ours."""
    if state.phase is Phase.PAUSED:
        return hold(Reason.PAUSED_BY_OPERATOR, state.phase_why)
    if state.phase is Phase.MANUAL:
        return hold(Reason.OTHER_HAND, state.phase_why)
    return None


def blind(
    state: State, verdict: Verdict, sample: Sample, *, may_move: bool = True
) -> Intent | None:
    """Hold without sight; after `blind_s`, where it may, go to the last safe setting.

    What was tried and is known to breach is left all the same: what is not seen makes it no better.
    """
    if not verdict.blind_to:
        if state.phase is Phase.BLIND:
            state.advance(Event.SIGHTED)
            state.unsettle()
        return None
    if state.probing and may_move:
        left = breach(state, verdict, sample)
        if left is not None and left.wanted is not None:
            return left
    state.window = None
    state.stop_comparing()
    detail = f"missing: {', '.join(verdict.blind_to)}, for {verdict.blind_s:.0f} s"
    if verdict.blind_s >= _BLIND_PHASE_S:
        state.advance(Event.BLINDED, detail)
    safe = state.last_safe or state.baseline
    too_long = verdict.blind_s >= state.policy.guard.blind_s
    if not (too_long and may_move) or safe in (None, state.commanded):
        return hold(Reason.NO_DATA, detail)
    state.probing = False
    return Intent(
        action=Action.RETREAT,
        reason=Reason.BLIND_TOO_LONG,
        wanted=safe,
        urgent=True,
        detail=detail,
    )


def bounds(state: State) -> Intent | None:
    """A level outside the policy's bounds is brought back, whoever set it."""
    assert state.commanded is not None
    wrong = violations(state.commanded, state.policy)
    if not wrong:
        return None
    state.probing = False
    return Intent(
        action=Action.TRACK,
        reason=Reason.OUT_OF_BOUNDS,
        wanted=on_lattice(state.commanded, state.policy),
        detail="; ".join(wrong),
    )


def mark(state: State, verdict: Verdict) -> None:
    """Let the open window know what the guard saw in it."""
    if state.window is None:
        return
    if verdict.slow_dependency:
        state.window = None  # it would teach what another service did
    elif any(reason in verdict.tripped for reason in _PRESSURES):
        state.window.breached = True


def breach(state: State, verdict: Verdict, sample: Sample) -> Intent | None:
    """Retreat from a probe at once; elsewhere to a setting that held this load, or grow."""
    tripped = [r for r in _PRESSURES if r in verdict.tripped]
    if not tripped:
        return None
    assert state.commanded is not None
    if not state.warm or not state.settled:
        return None  # the baseline's own breach, or what the last setting left behind
    load = state.schedule.load_rps
    safe = state.evidence.last_safe(load, (state.commanded,))
    reason = tripped[0]
    tried = _way_back(state, reason, safe)
    if tried is not None:
        return tried
    if reason is Reason.MEMORY_BREACH:
        return _shed_memory(state)
    if reason is not Reason.SLO_BREACH:
        return None
    if verdict.slow_dependency:
        return hold(Reason.SLOW_DEPENDENCY)
    safe = state.evidence.next_safe(load, state.commanded) or safe
    if safe is not None and larger(safe, state.commanded) and not state.guard.cpu_busy:
        state.advance(Event.BREACH, reason)
        state.cooldown_s = state.policy.guard.cooldown_s
        state.stop_trying()
        distrust_shrinking(state)
        return Intent(action=Action.RETREAT, reason=reason, wanted=safe, urgent=True)
    return queueing(state, verdict, sample)


def _way_back(state: State, reason: Reason, safe: Setting | None) -> Intent | None:
    """From the baseline, an approved setting or a probe; None when nothing was being tried."""
    back = holdout.breached(state)
    approved_from, state.approved_from = state.approved_from, None
    ordered = back is None and approved_from is not None
    if ordered:
        assert approved_from is not None
        back = approved_from if state.evidence.held(approved_from) is not False else None
    if back is None and state.probing:
        back = safe or state.previous
        _give_up_probe(state)
    if back is None:
        return None
    return Intent(action=Action.RETREAT, reason=reason, wanted=back, urgent=True, ordered=ordered)


def _give_up_probe(state: State) -> None:
    """Remember that the setting breached, and dare less."""
    assert state.commanded is not None
    keep(state, state.window.cut() if state.window is not None else None)
    state.shun(state.commanded)
    state.trust_octaves = max(TRUST_LEAST, 0.6 * state.trust_octaves)
    state.probing = False
    state.cooldown_s = state.policy.guard.cooldown_s
    state.advance(Event.BREACH, f"{state.commanded} breached while it was tried")


def _shed_memory(state: State) -> Intent:
    assert state.commanded is not None
    wanted = state.commanded
    for name, level in wanted.levels:
        wanted = wanted.replace(name, level - state.policy.knob(name).slew_per_move)
    state.probing = False
    state.advance(Event.BREACH, Reason.MEMORY_BREACH)
    state.cooldown_s = state.policy.guard.cooldown_s
    return Intent(action=Action.RETREAT, reason=Reason.MEMORY_BREACH, wanted=wanted)


def incident(state: State, verdict: Verdict) -> Intent | None:
    """While another service is slow nothing can be learned: what was being tried is left."""
    if not (verdict.slow_dependency and state.probing) or state.trial is not None:
        return None
    wanted = best_tried(state)
    state.stop_trying()
    if wanted in (None, state.commanded):
        return None
    return Intent(action=Action.RETREAT, reason=Reason.SLOW_DEPENDENCY, wanted=wanted)

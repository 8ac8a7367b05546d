"""Comparisons with the baseline in a running loop: when one begins, what ends it, what follows.

A comparison is an experiment like any other: it begins only when converged, in no quiet window,
within the budgets, and not beside another experiment of the host; and the baseline is never tried
at a load at which it is known to breach.
"""

from poolwright.core.benefit import Trial, benefit_of, cost_of, due, useless
from poolwright.core.envelope import violations
from poolwright.core.model import (
    Action,
    Benefit,
    Holdout,
    Observation,
    Phase,
    Reason,
    Setting,
    Tick,
)
from poolwright.core.phase import Event
from poolwright.core.policy import Mode
from poolwright.core.state import Intent, State

_KEPT_MOST = 32


def benefit(state: State) -> Benefit | None:
    """What tuning is worth, so far."""
    return benefit_of(state.holdouts)


def follow(state: State, tick: Tick, *, calm: bool) -> Intent | None:
    """The next step of a comparison, or the first one when it is time; None: no business here."""
    if state.going_back is not None:
        return _back(state, state.going_back)
    trial = state.trial
    away = trial is not None and trial.wants != state.commanded == trial.tuned
    if trial is not None and (
        state.phase is not Phase.CONVERGED or (away and not _may(state, tick))
    ):
        state.stop_comparing()
        return None
    if trial is None:
        if not calm or not _may_begin(state, tick):
            return None
        assert state.commanded is not None
        assert state.baseline is not None
        trial = state.trial = Trial(state.commanded, state.baseline)
        state.events.append(f"comparing with the baseline, {state.baseline}")
    wanted = trial.wants
    if wanted == state.commanded:
        return Intent(action=Action.HOLD, reason=Reason.HOLDOUT)
    return Intent(action=Action.COMPARE, reason=Reason.HOLDOUT, wanted=wanted)


def _back(state: State, tuned: Setting) -> Intent | None:
    """On the way from the baseline, unless what was tuned has become doubtful meanwhile.

    A fall of the load holds this up no more than it would have moved the tuned setting itself.
    """
    doubtful = state.no_shrink_windows or state.queued or tuned in state.tabu
    if doubtful or tuned == state.commanded or violations(tuned, state.policy):
        state.going_back = None
        return None
    return Intent(
        action=Action.TRACK, reason=Reason.HOLDOUT, wanted=tuned, detail="back from the baseline"
    )


def take(state: State, seen: Observation) -> None:
    """Feed a finished window to the comparison that is under way."""
    trial = state.trial
    if trial is None or state.plan is None:
        return
    cost = cost_of(seen, state.policy, dict(state.plan.references))
    if cost is None:
        state.stop_comparing()
        return
    trial.take(seen, cost)
    if trial.done:
        _finish(state, trial, seen.closed_tick)


def breached(state: State) -> Setting | None:
    """The baseline breached while it was compared with: where to go back to; None: not so."""
    trial = state.trial
    if trial is None or state.commanded != trial.baseline:
        return None
    window = None if state.window is None else state.window.cut()
    cost = None
    if window is not None and state.plan is not None:
        cost = cost_of(window, state.policy, dict(state.plan.references))
    trial.breach(cost)
    _finish(state, trial, 0 if window is None else window.closed_tick)
    return trial.tuned


def _finish(state: State, trial: Trial, closed_tick: int) -> None:
    state.end_trial(trial)
    state.probing = False
    state.since_holdout_s = 0.0
    found = trial.result(closed_tick)
    if found is None:
        state.vain_holdouts += 1
        state.events.append("the comparison with the baseline did not match; it does not count")
        return
    _record(state, found)


def _record(state: State, found: Holdout) -> None:
    state.finished = found
    state.vain_holdouts = 0
    state.holdouts = (*state.holdouts, found)[-_KEPT_MOST:]
    worth = benefit(state)
    how = "at least " if found.breached else ""
    state.events.append(f"{found.tuned} costs {how}{found.gain_ratio:.1%} less than the baseline")
    if useless(worth, state.policy.explore.epsilon):
        state.advance(Event.NO_BENEFIT, f"no gain in {len(state.holdouts)} comparisons")


def _may_begin(state: State, tick: Tick) -> bool:
    rule = state.policy.explore
    ready = (
        state.policy.mode is Mode.AUTO
        and state.phase is Phase.CONVERGED
        and state.settled
        and state.waiting_s is None
        and not state.probing
        and state.plan is not None
        and state.baseline not in (None, state.commanded)
    )
    if not ready or not due(
        state.since_holdout_s, rule.holdout_every_s, state.holdouts, state.vain_holdouts
    ):
        return False
    return _may(state, tick)


def _may(state: State, tick: Tick) -> bool:
    """Whether the baseline may be tried now."""
    if state.baseline is None or violations(state.baseline, state.policy):
        return False
    if tick.quiet or not tick.may_probe or state.burn.burning or not state.budget.allows():
        return False
    return not (state.fall.hold_s or state.no_shrink_windows or _known_to_breach(state))


def _known_to_breach(state: State) -> bool:
    """Whether the baseline breached at this load or less, or the plan expects it to."""
    load = state.schedule.load_rps
    if load is None:
        return True
    for item in state.evidence.items:
        seen = item.observation
        held = seen.context.load_rps
        if seen.breached and seen.setting == state.baseline and (held is None or held <= load):
            return True
    assert state.plan is not None
    confidence = max((s.confidence for s in state.policy.slo), default=0.0)
    unsafe = (c for c in state.plan.candidates if c.p_safe < confidence)
    return any(c.setting == state.baseline for c in unsafe)

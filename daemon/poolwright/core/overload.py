"""Clients queue: grow, take a growth back that made it worse, shrink past the peak."""

import math

from poolwright.core.guard import Verdict
from poolwright.core.model import Action, Reason, Setting
from poolwright.core.phase import Event
from poolwright.core.planned import overloaded_share
from poolwright.core.sample import Sample
from poolwright.core.state import Intent, State

_SOON_WINDOWS = 3
_GROWTH_HOLD_S, _GROWTH_HOLD_MOST_S = 60.0, 1800.0
_HARMED = 0.9  # and one that serves less than this has done harm
_BROUGHT = 1.03  # a growth by a quarter that serves less than this more was in vain
_MORE = 1.02  # times the throughput: clearly more
_CALM_WINDOWS = 40
_PENALTY_MOST = 64


def queueing(state: State, verdict: Verdict, sample: Sample) -> Intent | None:
    """Clients wait longer than they are served, and there is CPU to serve them: grow.

    By a quarter, or to as many workers as the load keeps busy.

    Not while the queue drains, and not again when the last growth served no more (own overload is
    told from too few workers by what a worker more brings). Where no way up is left: fewer, and on
    while every shrink serves more.
    """
    guard = state.guard
    if not verdict.queueing and guard.queue_seen:
        state.grown = state.shed = None
    if not verdict.queueing or not state.settled or not state.warm or not guard.queue_seen:
        return None
    assert state.commanded is not None
    served = guard.throughput_rps
    if verdict.slow_dependency or served is None:
        return None
    if state.grown is not None and served < _BROUGHT * state.grown[1]:
        back = _take_back(state, served, *state.grown)
        top = all(state.commanded[knob.name] >= knob.upper for knob in state.policy.knobs)
        return back if back is not None or not top or guard.cpu_busy else _fewer(state, served)
    if state.shed is not None:
        vain = served < _MORE * state.shed[1]
        return _give_back(state, served, state.shed) if vain else _fewer(state, served)
    if guard.cpu_busy or Reason.PRESSURE_BREACH in verdict.tripped:
        return None
    if state.growth_hold_s:
        return _fewer(state, served)
    wanted = state.commanded
    asked = _asked(state, sample) if len(wanted.levels) == 1 else 0
    for name, level in wanted.levels:
        knob = state.policy.knob(name)
        more = max(knob.step, math.floor(level / 4 / knob.step) * knob.step, asked - level)
        wanted = wanted.replace(name, min(knob.upper, knob.clamp(level + more)))
    if wanted == state.commanded or wanted in state.tabu or _in_vain(state, wanted):
        return _fewer(state, served)
    # The window is dropped: it saw another setting's backlog as much as its own.
    state.stop_trying()
    state.grown = (state.commanded, served)
    distrust_shrinking(state)
    detail = f"{sample.queue_length:.0f} wait" if sample.queue_length is not None else ""
    return Intent(action=Action.TRACK, reason=Reason.QUEUEING, wanted=wanted, detail=detail)


def _fewer(state: State, served: float) -> Intent | None:
    """No way up is left, and clients queue: a quarter fewer may serve more, past the peak.

    A pool that thrashes from its first tick was seen nowhere else: no plan can know of it.
    """
    assert state.commanded is not None
    if state.shed_hold_s or state.plan is None:
        return None
    wanted = state.commanded
    for name, level in wanted.levels:
        knob = state.policy.knob(name)
        less = max(knob.step, math.floor(level / 4 / knob.step) * knob.step)
        wanted = wanted.replace(name, max(knob.lower, knob.clamp(level - less)))
    if wanted == state.commanded or wanted in state.tabu:
        return None
    state.stop_trying()
    state.shed = (state.commanded, served)
    state.growth_hold_s = max(state.growth_hold_s, _GROWTH_HOLD_S)  # a moment's calm is no way up
    state.outgrown_s = _GROWTH_HOLD_S  # and what the plan knows are breaches on the way
    state.cooldown_s = state.policy.guard.cooldown_s
    state.advance(Event.BREACH, f"{state.commanded} is the most, and clients queue")
    detail = "no way up is left"
    return Intent(action=Action.TRACK, reason=Reason.RELIEF, wanted=wanted, detail=detail)


def _give_back(state: State, served: float, before: tuple[Setting, float]) -> Intent:
    """A shrink for a queue that serves no more: back, and not again for a time that doubles."""
    wanted, more = before
    state.shed = None
    state.outgrown_s = 0.0
    state.stop_trying()
    state.shed_hold_s = min(_GROWTH_HOLD_MOST_S, _GROWTH_HOLD_S * 2.0**state.vain_sheds)
    state.vain_sheds += 1
    detail = f"{served:.4g} requests/s are served, {more:.4g} with {wanted}"
    return Intent(
        action=Action.RETREAT, reason=Reason.QUEUEING, wanted=wanted, detail=detail, urgent=True
    )


def _in_vain(state: State, wanted: Setting) -> bool:
    """Whether the plan knows this overload, and that the larger setting serves no more."""
    more = overloaded_share(state, wanted)
    return more is not None and sum(more) < 1.0


def _take_back(state: State, served: float, smaller: Setting, before: float) -> Intent | None:
    """A growth that serves clearly less than what it grew from: thrashing. None: not so clear.

    Back to what held this load, where that is smaller; and up again later, each time twice as late.
    """
    assert state.commanded is not None
    if served >= _HARMED * before or not larger(state.commanded, smaller):
        return None
    safe = state.evidence.last_safe(state.schedule.load_rps, (state.commanded,))
    wanted = smaller if safe is None or larger(safe, state.commanded) else safe
    state.shun(state.commanded)
    state.stop_trying()
    state.grown = None
    state.growth_hold_s = min(_GROWTH_HOLD_MOST_S, _GROWTH_HOLD_S * 2.0**state.harmful_growths)
    state.harmful_growths += 1
    state.no_shrink_windows = 0
    state.cooldown_s = state.policy.guard.cooldown_s
    state.advance(Event.BREACH, f"{state.commanded} serves less than {smaller} did")
    detail = f"{served:.4g} requests/s are served, {before:.4g} with {smaller}"
    return Intent(
        action=Action.RETREAT, reason=Reason.QUEUEING, wanted=wanted, detail=detail, urgent=True
    )


def relieves_queue(state: State, wanted: Setting) -> bool:
    """Whether a smaller setting is expected to complete clearly more: more workers than the service
    can bear are a reason for a queue, and no remedy. Where there is no way up left, one that may
    well be better is as good as one that is expected to be.
    """
    more = overloaded_share(state, wanted)
    if more is None:
        return False
    mean, std = more
    knobs, at = state.policy.knobs, state.commanded
    assert at is not None
    top = bool(state.growth_hold_s) or all(at[knob.name] >= knob.upper for knob in knobs)
    return mean + (std if top else 0.0) > _MORE


def _asked(state: State, sample: Sample) -> int:
    """Workers that the offered load keeps busy, by Little's law, and a tenth more; 0: unknown.

    Only of a pool whose workers serve one request each can it be told; a quarter more is the
    least step in any case, and slew and the forecasts bound the largest.
    """
    load = state.schedule.load_rps
    if load is None or sample.service_time is None:
        return 0
    return math.ceil(1.1 * load * sample.service_time.mean)


def distrust_shrinking(state: State) -> None:
    """Measure before anything smaller is taken, the longer the sooner this follows a shrink."""
    shrunk = state.shrunk_at_window
    if shrunk is not None and state.windows - shrunk <= _SOON_WINDOWS:
        state.shrink_penalty = min(_PENALTY_MOST, 2 * state.shrink_penalty)
    elif shrunk is None or state.windows - shrunk > _CALM_WINDOWS:
        state.shrink_penalty = 1
    state.no_shrink_windows = state.shrink_penalty


def larger(a: Setting, b: Setting) -> bool:
    """Whether `a` is more than `b` in some knob."""
    return any(a[name] > level for name, level in b.levels)

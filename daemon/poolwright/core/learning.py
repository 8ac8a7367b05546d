"""The slow loop's end in the core: windows become evidence, evidence a request, plans choices."""

from poolwright.core import holdout
from poolwright.core.model import (
    Action,
    Candidate,
    Context,
    FitRequest,
    Observation,
    Phase,
    Plan,
    Reason,
    Setting,
    Tick,
    Verdict,
)
from poolwright.core.overload import relieves_queue
from poolwright.core.phase import Event
from poolwright.core.planned import candidate_at, same_load
from poolwright.core.policy import Mode
from poolwright.core.sample import Sample
from poolwright.core.state import TRUST_AFTER_DRIFT, TRUST_MOST, Intent, State
from poolwright.core.window import Window

_LEVERAGE_EVERY = 3
_WAIT_MOST_S = 30.0  # then go on with the plan that is there
_DRAIN_MOST_S = 30.0  # for the queue that the last setting left behind
_DRIFT_DISCOUNT = 1 / 16
_DRIFT_KEEPS = 5
_OWN_ENOUGH = 48  # windows: by then what another host showed adds nothing
_HYSTERESIS = 0.015  # of the objective; less is not worth a move
_EXCUSED = 2  # shrink penalty
_RESTS_MOST = 3  # doublings of the time between two fits of a converged pool
_UNSAFE, _SAFER = 0.5, 0.1  # of P(safe): where staying needs a remedy, and what is one


def measure(state: State, tick: Tick, sample: Sample) -> Observation | None:
    """Feed the window; the Observation when it closes."""
    if not state.settled:
        knobs = state.policy.knobs
        drain_s = max(k.drain_s for k in knobs) if state.last_shrank else 0.0
        if state.still_s < max(drain_s, *(k.settle_s for k in knobs)) or not _drained(
            state, sample
        ):
            return None
        state.settled = True
        state.guard.forget()
        if state.warm:
            state.advance(Event.WARMED_UP)
    assert state.commanded is not None
    if state.window is None:
        state.window = Window(state.policy, state.commanded, tick.index)
    observation = state.window.add(sample)
    if observation is not None:
        state.window = None
    return observation


def _drained(state: State, sample: Sample) -> bool:
    """The queue of an earlier setting is gone, or is not going away."""
    if not state.guard.draining or sample.queue_delay_s is None or sample.service_time is None:
        return True
    settle = max(k.settle_s for k in state.policy.knobs)
    return sample.queue_delay_s <= sample.service_time.mean or (
        state.still_s >= settle + _DRAIN_MOST_S
    )


def keep(state: State, observation: Observation | None) -> None:
    """Take an observation into the evidence, with what follows from it."""
    if observation is None:
        return
    state.window = None
    done = observation.response("throughput_rps")
    if done is None or done.mean == 0.0:
        return  # nobody asked for anything: neither evidence, nor a sign that the setting is safe
    state.closed = observation
    state.probe_measured = True
    state.evidence.add(observation)
    state.windows += 1
    state.windows_since_fit += 1
    state.no_shrink_windows = max(0, state.no_shrink_windows - 1)
    for old in [s for s, until in state.tabu.items() if until <= state.windows]:
        del state.tabu[old]
    if not observation.breached:
        state.last_safe = observation.setting
        state.harmful_growths = 0
        if state.probing:
            state.trust_octaves = min(TRUST_MOST, 1.25 * state.trust_octaves)
    holdout.take(state, observation)
    state.approved_from = None if not observation.breached else state.approved_from
    changed = state.regime.drifted(state.regime.innovations(observation, state.plan))
    if changed:
        state.evidence.discount(_DRIFT_DISCOUNT, keep_newest=_DRIFT_KEEPS)
        state.trust_octaves = TRUST_AFTER_DRIFT
        state.patience = 0
        state.events.append(f"drift: {changed} is no longer what the model expects")
        state.stop_comparing()
        state.rejected = ()  # the reasons for them may be gone with it
        state.holdouts = ()  # they compared what is no more
        state.advance(Event.DRIFT)
    if state.warm:
        state.advance(Event.WARMED_UP)


def request(state: State, tick: Tick, sample: Sample) -> FitRequest | None:
    """A FitRequest when a window has closed and a plan is due."""
    if state.phase not in (Phase.EXPLORE, Phase.COOLDOWN, Phase.CONVERGED) or not state.evidence:
        return None
    if state.waiting_s is not None or state.trial is not None:
        return None  # one at a time: a slow learner must not be chased by newer questions
    if state.phase is Phase.CONVERGED and not state.probing:
        # What was looked at again and again without another outcome is looked at less and less.
        rests = state.policy.explore.converged_every * 2 ** min(state.idle_fits, _RESTS_MOST)
        if state.windows_since_fit < rests:
            return None
        state.idle_fits += 1
    assert state.commanded is not None
    # Converged, one dither is enough: the fit that follows it may only find a gain.
    converged = state.phase is Phase.CONVERGED
    state.leverage_asked = not state.probing if converged else state.windows % _LEVERAGE_EVERY == 0
    state.plan_version += 1
    state.waiting_s = 0.0
    state.windows_since_fit = 0
    newest = state.evidence.items[-1].observation
    return FitRequest(
        version=state.plan_version,
        tick=tick.index,
        policy=state.policy,
        evidence=state.evidence.items,
        prior=state.prior if len(state.evidence) < _OWN_ENOUGH else (),
        context=Context(
            load_rps=state.schedule.load_rps,
            foreign_cpu_ratio=newest.context.foreign_cpu_ratio,
        ),
        incumbent=_incumbent(state),
        trust_octaves=state.trust_octaves,
        tabu=tuple(sorted(state.tabu, key=lambda s: s.levels)),
        memory_limit_bytes=_memory_limit(state, sample),
        leverage=state.leverage_asked,
        evidence_digest=state.evidence.digest,
    )


def _incumbent(state: State) -> Setting:
    """The centre of the trust region: the plan's best at this load, else where we are."""
    assert state.commanded is not None
    if not state.probing:
        return state.commanded
    entry = state.schedule.entry(state.plan)
    visited = {e.observation.setting for e in state.evidence.items}
    if entry is not None and entry.setting in visited:
        return entry.setting
    return state.commanded


def _memory_limit(state: State, sample: Sample) -> float | None:
    """What the pool itself may use: the guard's share, less what others use."""
    used, limit, own = sample.host_memory_used_bytes, sample.memory_limit_bytes, sample.memory_bytes
    if used is None or limit is None or own is None:
        return None
    return max(0.0, state.policy.guard.memory_ratio * limit - max(0.0, used - own))


def receive(state: State, tick: Tick, sample: Sample) -> None:
    """Take the plan that came with this tick, or give up waiting for it."""
    if tick.plan is not None and tick.plan.version == state.plan_version:
        state.plan = tick.plan
        state.fresh_plan = True
        state.waiting_s = None
    elif tick.learner_fault:
        state.waiting_s = None
        state.probing = False
        state.events.append(f"no plan: {tick.learner_fault}")
    elif state.waiting_s is not None:
        state.waiting_s += sample.dt_s
        if state.waiting_s > _WAIT_MOST_S:
            state.waiting_s = None
            state.probing = False
            state.events.append("no plan came in time; going on with the old one")


def choose(state: State, tick: Tick, *, calm: bool) -> Intent:
    """What to do in peace: probe (only when `calm`), follow the schedule, or hold."""
    assert state.commanded is not None
    fresh, state.fresh_plan = state.fresh_plan, False
    plan = state.plan
    if state.phase is Phase.WARMUP:
        return Intent(action=Action.HOLD, reason=Reason.WARMING_UP)
    if fresh and plan is not None:
        converged_now = _count_patience(state, plan)
        may = calm and state.policy.mode is Mode.AUTO and not converged_now
        probe = _probe(state, plan, tick) if may else None
        if probe is not None:
            return probe
    if state.waiting_s is not None:
        return Intent(action=Action.HOLD, reason=Reason.WAITING_FOR_PLAN)
    if state.shed is not None and not state.probe_measured:
        return Intent(action=Action.HOLD, reason=Reason.MEASURING)
    if (state.probing or state.relieved) and not fresh and not state.probe_measured:
        return Intent(action=Action.HOLD, reason=Reason.MEASURING)
    return _follow(state, plan, fresh=fresh)


def _count_patience(state: State, plan: Plan) -> bool:
    """Converge after enough plans in a row without a probe that is worth it; True when it does.

    Where poolwright may not move anything, no probe will be made, and every plan counts.
    """
    if state.phase is not Phase.EXPLORE or state.counted_version == plan.version:
        return False
    state.counted_version = plan.version
    rule = state.policy.explore
    may_try = state.policy.mode is Mode.AUTO and not state.budget.never
    hopeless = plan.best_gain_ratio < rule.epsilon or not may_try
    state.patience = state.patience + 1 if hopeless else 0
    if state.patience < rule.patience:
        return False
    state.patience = 0
    state.advance(Event.NOTHING_LEFT_TO_TRY)
    return True


def _probe(state: State, plan: Plan, tick: Tick) -> Intent | None:
    """Whether the fresh plan offers a probe that is worth it and may be made."""
    rule = state.policy.explore
    if state.phase not in (Phase.EXPLORE, Phase.CONVERGED):
        return None
    best = next((p for p in plan.probes if p.setting != state.commanded), None)
    if best is None or best.setting in state.tabu or _too_soon(state, best.setting):
        return None
    worth = best.gain_ratio >= rule.epsilon
    teaches = best.verdict is Verdict.PROBE and state.leverage_asked
    if not (worth or teaches):
        return None
    if _relieves(state, plan, best):
        return Intent(
            action=Action.TRACK, reason=Reason.RELIEF, wanted=best.setting, detail=best.detail
        )
    refused = _refused(state, tick)
    if refused is not None:
        return Intent(action=Action.HOLD, reason=refused, detail=best.detail)
    return Intent(
        action=Action.PROBE if state.phase is Phase.EXPLORE else Action.DITHER,
        reason=Reason.EXPECTED_GAIN if worth else Reason.LEVERAGE,
        wanted=best.setting,
        detail=best.detail,
    )


def _relieves(state: State, plan: Plan, best: Candidate) -> bool:
    """Whether staying is unsafe and `best` is safer: a remedy.

    It needs no budget of time or errors, which staying would use as well, but counts as a probe,
    so that a model in doubt cannot move to and fro for ever.
    """
    here = candidate_at(plan, state.commanded)
    if here is None or state.budget.left[0] < 1.0:
        return False
    return here.p_safe < _UNSAFE and best.p_safe > here.p_safe + _SAFER


def _refused(state: State, tick: Tick) -> Reason | None:
    """Why nothing may be tried now; None: it may."""
    if tick.quiet:
        return Reason.QUIET_TIME
    if state.fall.hold_s:
        return Reason.LOAD_FELL  # the way back from a larger one is closed
    if state.burn.burning:
        return Reason.BUDGET_BURNS
    if not state.budget.allows():
        return Reason.BUDGET_SPENT
    if not tick.may_probe:
        state.asks_probe = True
        state.fresh_plan = True  # asked again in the next tick
        return Reason.HOST_BUSY
    return None


def _follow(state: State, plan: Plan | None, *, fresh: bool) -> Intent:
    """Hold or move to what the plan says for the present load."""
    assert state.commanded is not None
    entry = state.schedule.wanted(plan, state.commanded)
    if entry is None or entry.setting == state.commanded or entry.setting in state.tabu:
        state.probing = state.probing and entry is None
        reason = Reason.BEST_KNOWN if entry is not None else Reason.NO_PROBE_WORTH_IT
        if state.phase is Phase.COOLDOWN:
            reason = Reason.COOLING_DOWN
        return Intent(action=Action.HOLD, reason=reason if state.settled else Reason.SETTLING)
    if state.fall.hold_s and _smaller(state, entry.setting):
        left = f"{entry.setting} waits for {state.fall.hold_s:.0f} s"
        return Intent(action=Action.HOLD, reason=Reason.LOAD_FELL, detail=left)
    if state.pressed and _larger(state, entry.setting):
        return Intent(action=Action.HOLD, reason=Reason.PRESSURE_BREACH)
    if state.outgrown_s and _larger(state, entry.setting):
        left = f"{entry.setting} waits for {state.outgrown_s:.0f} s: fewer serve more"
        return Intent(action=Action.HOLD, reason=Reason.COOLING_DOWN, detail=left)
    if _too_soon(state, entry.setting):
        left = f"{entry.setting} waits for {state.no_shrink_windows} more windows at this one"
        return Intent(action=Action.HOLD, reason=Reason.COOLING_DOWN, detail=left)
    if plan is not None and not _worth_moving(state, plan, entry.setting):
        state.probing = False
        return Intent(
            action=Action.HOLD,
            reason=Reason.BEST_KNOWN,
            detail=f"{entry.setting} is expected to gain less than {_HYSTERESIS:.1%}",
        )
    return Intent(
        action=Action.TRACK,
        reason=Reason.BEST_KNOWN if fresh else Reason.SCHEDULE,
        wanted=entry.setting,
        detail=f"at {entry.load_lower_rps:.4g}..{entry.load_upper_rps:.4g} rps",
    )


def _too_soon(state: State, wanted: Setting) -> bool:
    """Clients queued a short time ago: what is smaller has to wait until this was measured."""
    if not _smaller(state, wanted):
        return False
    waits = state.no_shrink_windows > 0 or state.queued
    # A busy host excuses a shrink, but not one that has been taken back again and again.
    excused = state.guard.cpu_busy and state.shrink_penalty <= _EXCUSED
    return state.fall.hold_s > 0.0 or (waits and not excused and not relieves_queue(state, wanted))


def _larger(state: State, wanted: Setting) -> bool:
    assert state.commanded is not None
    return any(wanted[name] > level for name, level in state.commanded.levels)


def _smaller(state: State, wanted: Setting) -> bool:
    assert state.commanded is not None
    return any(wanted[name] < level for name, level in state.commanded.levels)


def _worth_moving(state: State, plan: Plan, wanted: Setting) -> bool:
    """Hysteresis in the units of the objective, where the plan judged both at this load."""
    if not same_load(state):
        return True
    here = candidate_at(plan, state.commanded)
    there = candidate_at(plan, wanted)
    if here is None or there is None:
        return True
    if here.verdict not in (Verdict.RECOMMENDED, Verdict.WORSE, Verdict.PROBE):
        return True  # it is not safe to stay
    return here.objective.mean > (1.0 + _HYSTERESIS) * there.objective.mean

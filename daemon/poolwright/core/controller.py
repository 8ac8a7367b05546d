"""The decision: `Controller.step(tick) -> Decision`. Control flow only; each rule has its file.

The order is the safety argument: what is really there, who has the knob, whether it is in bounds,
whether it can be seen, whether it breaches; only then what was learned; last the envelope.
"""

from dataclasses import replace

from poolwright.core import advising, holdout, learning, operator, overload, planned, reflexes
from poolwright.core.envelope import fit, violations
from poolwright.core.guard import Verdict
from poolwright.core.model import (
    Action,
    Benefit,
    Clamp,
    ClampKind,
    Decision,
    FitRequest,
    Kept,
    Phase,
    Plan,
    Reason,
    Resume,
    Setting,
    Tick,
)
from poolwright.core.override import narrowed
from poolwright.core.phase import Event
from poolwright.core.policy import Mode, Policy
from poolwright.core.room import needs, room_allows
from poolwright.core.sample import Sample
from poolwright.core.state import Intent, State, new_state

_NO_PROBES = frozenset(
    {Reason.MEMORY_BREACH, Reason.CPU_BREACH, Reason.ERROR_BREACH, Reason.PRESSURE_BREACH}
)
_TRIALS = frozenset({Action.PROBE, Action.DITHER})
_NO_ROOM = frozenset({ClampKind.MEMORY, ClampKind.CPU, ClampKind.CONNECTIONS})
_WAIT = Intent(action=Action.HOLD, reason=Reason.ACTUATION_FAILED)
_GAP_CADENCES = 5.0  # without ticks for so long, nothing that was being measured is whole


class Controller:
    """One pool's decisions. Equal ticks give equal decisions, on any host."""

    def __init__(self, policy: Policy, resume: Resume | None = None) -> None:
        """Begin a run under `policy`, from what an earlier one left."""
        self._state = new_state(policy, resume or Resume())
        self._sample: Sample | None = None

    @property
    def sample(self) -> Sample | None:
        """What the last tick said."""
        return self._sample

    @property
    def plan(self) -> Plan | None:
        """The plan in force."""
        return self._state.plan

    @property
    def previous(self) -> Setting | None:
        """What was held before the last move."""
        return self._state.previous

    @property
    def kept(self) -> Kept:
        """What an operator or a proof has settled."""
        return self._state.kept

    @property
    def benefit(self) -> Benefit | None:
        """What tuning is worth over the baseline; None: never compared."""
        return holdout.benefit(self._state)

    @property
    def baseline(self) -> Setting | None:
        """The setting that is ours to restore."""
        return self._state.baseline

    def resume(self) -> Resume:
        """What another controller needs to go on from here."""
        state = self._state
        return Resume(
            baseline=state.baseline,
            last_safe=state.last_safe,
            evidence=state.evidence.items,
            prior=state.prior,
            plan=state.plan,
            kept=state.to_keep(),
            budget=state.budget.left,
        )

    def step(self, tick: Tick) -> Decision:
        """Decide. Raises AssertionError on a bug of ours, and nothing else."""
        state = self._state
        state.policy = narrowed(state.written, tick.overrides)
        sample = self._sample = state.deriver.derive(tick)
        assert sample.dt_s >= 0.0, "monotonic time went back"
        if state.plan is not None and state.plan_version == 0:
            state.plan_version = state.plan.version
        gap = sample.dt_s > _GAP_CADENCES * state.policy.cadence_s
        if gap:
            state.unsettle()
            state.guard.forget()
            state.stop_comparing()
        self._pass_time(sample, gap=gap)
        verdict = state.guard.judge(
            sample, None if tick.applied is None else tick.applied.setting, calm=state.settled
        )
        state.queued = verdict.queueing
        state.pressed = Reason.PRESSURE_BREACH in verdict.tripped
        learning.receive(state, tick, sample)
        intent, asked = self._decide(tick, sample, verdict)
        if gap and intent.wanted is None:
            intent = replace(intent, reason=Reason.CLOCK_GAP, detail=f"{sample.dt_s:.1f} s")
        return self._finish(tick, sample, verdict, intent, asked)

    def _pass_time(self, sample: Sample, *, gap: bool) -> None:
        """Let everything that counts seconds count this tick's."""
        state = self._state
        dt_s = sample.dt_s
        state.schedule.see(None if gap else sample.load_rps)
        state.fall.see(None if gap else sample.load_rps, dt_s)
        state.burn.see(sample)
        probing = state.probing and not gap  # what nobody ticked through was no experiment
        state.budget.pass_time(dt_s, probing=probing, slo_s=state.burn.spent_s(sample))
        state.cooldown_s = max(0.0, state.cooldown_s - dt_s)
        state.backoff_s = max(0.0, state.backoff_s - dt_s)
        state.growth_hold_s = max(0.0, state.growth_hold_s - dt_s)
        state.shed_hold_s = max(0.0, state.shed_hold_s - dt_s)
        state.outgrown_s = max(0.0, state.outgrown_s - dt_s)
        state.since_holdout_s += dt_s
        state.still_s += dt_s
        state.asks_probe = False
        if state.phase is Phase.COOLDOWN and state.cooldown_s == 0.0:
            state.advance(Event.COOLED)

    def _decide(
        self, tick: Tick, sample: Sample, verdict: Verdict
    ) -> tuple[Intent, FitRequest | None]:
        state = self._state
        stopping = operator.obey(state, tick)
        intent = reflexes.plant(state, tick)
        held = None if state.commanded is None else reflexes.held(state, tick)
        frozen = held is not None and held.reason is Reason.FROZEN
        if stopping and not frozen and state.in_command and tick.applied is not None:
            state.commanded = tick.applied.setting  # also after a move that was broken off
            intent = Intent(
                action=Action.RESTORE, reason=Reason.BEST_KNOWN, wanted=state.baseline, urgent=True
            )
        if intent is None:
            intent = (
                (_WAIT if state.backoff_s else None)
                or (None if frozen else reflexes.errand(state))
                or reflexes.stand_back(state)
                or (None if held is None else reflexes.towards(state, held))
                or (reflexes.bounds(state) if held is None else None)
                or reflexes.blind(state, verdict, sample, may_move=held is None)
            )
        if intent is not None:
            if frozen and intent.wanted is not None:
                intent = reflexes.hold(Reason.FROZEN)
            return intent, None
        settling = not state.settled
        observation = learning.measure(state, tick, sample)
        if settling and state.settled:
            verdict = replace(verdict, tripped=())  # of the ticks in which it settled
        learning.keep(state, observation)
        asked = None if observation is None else learning.request(state, tick, sample)
        reflexes.mark(state, verdict)
        if held is not None:
            return reflexes.hold(held.reason, held.why), asked
        calm = not verdict.slow_dependency and not _NO_PROBES.intersection(verdict.tripped)
        intent = (
            reflexes.breach(state, verdict, sample)
            or overload.queueing(state, verdict, sample)
            or reflexes.incident(state, verdict)
            or holdout.follow(state, tick, calm=calm)
            or learning.choose(state, tick, calm=calm)
        )
        return intent, asked

    def _finish(
        self,
        tick: Tick,
        sample: Sample,
        verdict: Verdict,
        intent: Intent,
        asked: FitRequest | None,
    ) -> Decision:
        """Fit the intent into the envelope, command it, and write down why."""
        state = self._state
        current = state.commanded
        clamps: tuple[Clamp, ...] = ()
        target = current
        if intent.wanted is not None and current is not None:
            target, clamps = self._allowed(intent, current, tick, sample)
            if intent.action in _TRIALS and any(c.kind in _NO_ROOM for c in clamps):
                state.shun(intent.wanted)
        if target == current:
            operator.give_up(state, clamps)
        may = state.policy.mode is Mode.AUTO or (
            intent.ordered and state.policy.mode is not Mode.OBSERVE
        )
        moves = may and target is not None and target != current
        reserved = (0.0, 0.0)
        if moves:
            assert target is not None
            assert current is not None
            reserved = needs(sample, current, target)
            self._move(intent, current, target)
        advising.update(state, intent, sample)
        closed, state.closed = state.closed, None
        if closed is not None and asked is None:  # a window cut short by a reflex
            asked = learning.request(state, tick, sample)
        finished, state.finished = state.finished, None
        kept = state.to_keep()
        told, state.kept = state.kept, kept
        events, state.events = tuple(state.events), []
        return Decision(
            tick=tick.index,
            phase=state.phase,
            action=intent.action if moves or advising.now(state, intent) else Action.HOLD,
            setting=state.commanded,
            moves=moves,
            advice=state.advice,
            reason=intent.reason,
            detail=intent.detail,
            clamps=clamps,
            evidence=_numbers(state, sample),
            observation=closed,
            fit_request=asked,
            guard_trips=verdict.tripped,
            events=events,
            probing=state.probing,
            asks_probe=state.asks_probe,
            reserved_bytes=reserved[0],
            reserved_cores=reserved[1],
            holdout=finished,
            kept=kept if kept != told else None,
            state_digest=state.digest(),
        )

    def _move(self, intent: Intent, current: Setting, target: Setting) -> None:
        """Command `target`, and remember what follows from moving."""
        state = self._state
        wrong = violations(target, state.policy)
        assert not wrong or set(wrong) <= set(violations(current, state.policy)), wrong
        state.previous, state.commanded = current, target
        if intent.reason is not Reason.HOLDOUT:
            state.going_back = None
        tried = intent.action in (Action.PROBE, Action.DITHER)
        compared = state.trial is not None and target != state.trial.tuned
        state.relieved = intent.reason is Reason.RELIEF
        if tried or state.relieved or (compared and not state.probing):
            state.budget.spend()
        state.probing = tried or compared
        if not state.probing and target != state.held:
            state.held, state.idle_fits = target, 0
        state.probe_measured = False
        state.last_shrank = any(target[name] < level for name, level in current.levels)
        if state.last_shrank:
            state.shrunk_at_window = state.windows
        state.unsettle()

    def _allowed(
        self, intent: Intent, current: Setting, tick: Tick, sample: Sample
    ) -> tuple[Setting, tuple[Clamp, ...]]:
        """The envelope's answer, and then that of the forecasts, which may only take away."""
        state = self._state
        assert intent.wanted is not None
        fitted = fit(
            intent.wanted, current, state.policy, still_s=state.still_s, urgent=intent.urgent
        )
        target, clamps = room_allows(
            sample,
            state.policy,
            current,
            fitted.setting,
            held_before=intent.urgent,
            held_bytes=planned.memory_bytes(state, fitted.setting),
            room_bytes=tick.room_bytes,
            room_cores=tick.room_cores,
        )
        return target, (*fitted.clamps, *clamps)


def _numbers(state: State, sample: Sample) -> tuple[tuple[str, float], ...]:
    """The named numbers on which the decision rests, those that are known."""
    latency = sample.latency
    probes, seconds, slo_seconds = state.budget.left
    short, long = state.burn.rates
    found: dict[str, float | None] = {
        "load_rps": state.schedule.load_rps,
        "latency_p99_s": latency.quantile(0.99) if latency is not None and latency.count else None,
        "queue_length": sample.queue_length,
        "in_flight": sample.in_flight,
        "host_cpu_ratio": sample.host_cpu_ratio,
        "probes_left": probes,
        "probe_seconds_left": seconds,
        "slo_seconds_left": slo_seconds,
        "burn_short": short,
        "burn_long": long,
        "no_shrink_s": state.fall.hold_s or None,
        "trust_octaves": state.trust_octaves,
        "settled": float(state.settled),
    }
    return tuple((name, value) for name, value in found.items() if value is not None)

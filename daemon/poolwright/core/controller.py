"""The decision: `Controller.step(tick) -> Decision`. Control flow only; each rule has its file.

The order is the safety argument: what is really there, who has the knob, whether it is in bounds,
whether it can be seen, whether it breaches; only then what was learned; last the envelope.
"""

from dataclasses import replace

from poolwright.core import learning, reflexes
from poolwright.core.envelope import fit, violations
from poolwright.core.guard import Verdict, memory_allows
from poolwright.core.model import (
    Action,
    Advice,
    Clamp,
    ClampKind,
    CommandKind,
    Decision,
    FitRequest,
    Phase,
    Plan,
    Reason,
    Resume,
    Setting,
    Tick,
)
from poolwright.core.phase import Event
from poolwright.core.policy import Mode, Policy
from poolwright.core.sample import Sample
from poolwright.core.state import Intent, State, new_state

_NO_PROBES = frozenset({Reason.MEMORY_BREACH, Reason.CPU_BREACH, Reason.ERROR_BREACH})
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
            plan=state.plan,
        )

    def step(self, tick: Tick) -> Decision:
        """Decide. Raises AssertionError on a bug of ours, and nothing else."""
        state = self._state
        sample = self._sample = state.deriver.derive(tick)
        assert sample.dt_s >= 0.0, "monotonic time went back"
        if state.plan is not None and state.plan_version == 0:
            state.plan_version = state.plan.version
        gap = sample.dt_s > _GAP_CADENCES * state.policy.cadence_s
        if gap:
            state.unsettle()
            state.guard.forget()
        state.schedule.see(None if gap else sample.load_rps)
        state.budget.pass_time(sample.dt_s, probing=state.probing)
        state.cooldown_s = max(0.0, state.cooldown_s - sample.dt_s)
        state.backoff_s = max(0.0, state.backoff_s - sample.dt_s)
        if state.phase is Phase.COOLDOWN and state.cooldown_s == 0.0:
            state.advance(Event.COOLED)
        verdict = state.guard.judge(sample, None if tick.applied is None else tick.applied.setting)
        learning.receive(state, tick, sample)
        intent, asked = self._decide(tick, sample, verdict)
        if gap and intent.wanted is None:
            intent = replace(intent, reason=Reason.CLOCK_GAP, detail=f"{sample.dt_s:.1f} s")
        return self._finish(tick, sample, verdict, intent, asked)

    def _decide(
        self, tick: Tick, sample: Sample, verdict: Verdict
    ) -> tuple[Intent, FitRequest | None]:
        state = self._state
        stopping = self._commands(tick)
        intent = reflexes.plant(state, tick)
        ours = state.phase not in (Phase.MANUAL, Phase.PAUSED)
        if stopping and ours and tick.applied is not None:
            state.commanded = tick.applied.setting  # also after a move that was broken off
            intent = Intent(
                action=Action.RESTORE, reason=Reason.BEST_KNOWN, wanted=state.baseline, urgent=True
            )
        if intent is None:
            intent = (
                reflexes.stand_back(state)
                or (_WAIT if state.backoff_s else None)
                or reflexes.bounds(state)
                or reflexes.blind(state, verdict)
            )
        if intent is not None:
            return intent, None
        observation = learning.measure(state, tick, sample)
        learning.keep(state, observation)
        asked = None if observation is None else learning.request(state, tick, sample)
        intent = (
            reflexes.breach(state, verdict, sample)
            or reflexes.queueing(state, verdict, sample)
            or learning.choose(state, calm=not _NO_PROBES.intersection(verdict.tripped))
        )
        return intent, asked

    def _commands(self, tick: Tick) -> bool:
        """Obey the operator; True when the level is to be restored."""
        state = self._state
        stopping = False
        for command in tick.commands:
            by = f"{command.who}: {command.why}" if command.why else command.who
            if command.kind is CommandKind.PAUSE:
                state.probing = False
                state.advance(Event.PAUSE, f"paused by {by}")
            elif command.kind is CommandKind.RESUME:
                state.unsettle()
                state.advance(Event.RESUME, f"resumed by {by}")
            else:
                stopping = True
                state.events.append(f"restore asked by {by}")
        return stopping

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
            target, clamps = self._allowed(intent, current, sample)
        auto = state.policy.mode is Mode.AUTO
        moves = auto and target is not None and target != current
        advice = _advice(state, intent, target)
        if moves:
            assert target is not None
            assert not violations(target, state.policy), "the envelope let something through"
            state.commanded = target
            probing = intent.action in (Action.PROBE, Action.DITHER)
            if probing:
                state.budget.spend()
            state.probing = probing
            state.probe_measured = False
            assert current is not None
            state.last_shrank = any(target[name] < level for name, level in current.levels)
            if state.last_shrank:
                state.shrunk_at_window = state.windows
            state.unsettle()
        closed, state.closed = state.closed, None
        if closed is not None and asked is None:  # a window cut short by a reflex
            asked = learning.request(state, tick, sample)
        events, state.events = tuple(state.events), []
        return Decision(
            tick=tick.index,
            phase=state.phase,
            action=intent.action if moves or advice is not None else Action.HOLD,
            setting=state.commanded,
            moves=moves,
            advice=advice,
            reason=intent.reason,
            detail=intent.detail,
            clamps=clamps,
            evidence=_numbers(state, sample),
            observation=closed,
            fit_request=asked,
            guard_trips=verdict.tripped,
            events=events,
            state_digest=state.digest(),
        )

    def _allowed(
        self, intent: Intent, current: Setting, sample: Sample
    ) -> tuple[Setting, tuple[Clamp, ...]]:
        """The envelope's answer, and then the memory forecast's, which may only take away."""
        state = self._state
        assert intent.wanted is not None
        fitted = fit(
            intent.wanted, current, state.policy, still_s=state.still_s, urgent=intent.urgent
        )
        target, clamps = fitted.setting, list(fitted.clamps)
        for name, level in target.levels:
            allowed = memory_allows(
                sample, state.policy, current[name], level, held_before=intent.urgent
            )
            if allowed != level:
                clamps.append(
                    Clamp(kind=ClampKind.MEMORY, knob=name, wanted=level, allowed=allowed)
                )
                target = target.replace(name, state.policy.knob(name).clamp(allowed))
        return target, tuple(clamps)


def _advice(state: State, intent: Intent, target: Setting | None) -> Advice | None:
    current = state.commanded
    if state.policy.mode is not Mode.RECOMMEND or target is None or target == current:
        return None
    assert current is not None
    return Advice(
        id=f"{current}:{target}", setting=target, replaces=current, gain=None, p_safe=None,
        reason=intent.reason,
    )  # fmt: skip


def _numbers(state: State, sample: Sample) -> tuple[tuple[str, float], ...]:
    """The named numbers on which the decision rests, those that are known."""
    latency = sample.latency
    probes, seconds = state.budget.left
    found: dict[str, float | None] = {
        "load_rps": state.schedule.load_rps,
        "latency_p99_s": latency.quantile(0.99) if latency is not None and latency.count else None,
        "queue_length": sample.queue_length,
        "in_flight": sample.in_flight,
        "host_cpu_ratio": sample.host_cpu_ratio,
        "probes_left": probes,
        "probe_seconds_left": seconds,
        "trust_octaves": state.trust_octaves,
    }
    return tuple((name, value) for name, value in found.items() if value is not None)

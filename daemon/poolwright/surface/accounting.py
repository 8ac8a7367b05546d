"""From the journal's records to the account of a decision: pure functions."""

from dataclasses import dataclass

from poolwright.core.model import (
    Candidate,
    Decision,
    Estimate,
    Observation,
    Plan,
    PlanBin,
    Reason,
    Responses,
    Setting,
    Tick,
    Verdict,
)
from poolwright.core.reasons import REASONS
from poolwright.core.signals import RESPONSES, SIGNALS, quantile_of
from poolwright.surface import words
from poolwright.surface.account import (
    Account,
    Alternative,
    Check,
    Expectation,
    Input,
    Interval,
    Left,
    Levels,
    Measured,
    Outcome,
    Rule,
    Scheduled,
    Story,
)

SAME_LOAD = 0.05  # a prediction is compared with windows at this load, give or take so much
# A probe was worth it, and something else forbade it.
VETOES = (
    Reason.QUIET_TIME,
    Reason.HOST_BUSY,
    Reason.BUDGET_SPENT,
    Reason.BUDGET_BURNS,
)
_RULED_OUT = (
    Verdict.UNSAFE_SLO,
    Verdict.UNSAFE_MEMORY,
    Verdict.OUTSIDE_TRUST_REGION,
    Verdict.TABU,
)


def account(story: Story) -> Account:
    """All that the story holds, in a form that does not change with the wording."""
    decision, policy, tick = story.decision, story.policy, story.tick
    plan = story.plan
    return Account(
        pool=story.pool,
        tick=decision.tick,
        wall_ns=story.wall_ns,
        time=words.utc(story.wall_ns),
        policy=policy.name,
        policy_sha256=policy.sha256,
        mode=policy.mode,
        phase=decision.phase,
        action=decision.action,
        moves=decision.moves,
        reason=decision.reason,
        reason_text=REASONS[decision.reason],
        detail=decision.detail,
        was=None if tick is None or tick.applied is None else _levels(tick.applied.setting),
        setting=_levels(decision.setting),
        advice=decision.advice,
        numbers=dict(decision.evidence),
        inputs=None if tick is None else inputs(tick),
        window=decision.observation,
        said=said(tick),
        expectation=expectation(story),
        schedule=scheduled(plan, load_of(decision)),
        alternatives=() if plan is None else alternatives(plan, decision.wanted),
        judged_at_rps=None if plan is None else plan.context.load_rps,
        rules=rules(story),
        outcome=outcome(story),
    )


def inputs(tick: Tick) -> tuple[Input, ...]:
    """The readings of a tick, each with its age."""
    return tuple(
        Input(
            signal=reading.signal,
            source=reading.source,
            value=reading.value,
            unit=SIGNALS[reading.signal].unit if reading.signal in SIGNALS else "",
            std=reading.std,
            status=reading.status,
            age_s=max(0, tick.mono_ns - reading.taken_mono_ns) / 1e9,
            estimated=reading.estimated,
            detail=reading.detail,
        )
        for reading in tick.readings
    )


def said(tick: Tick | None) -> tuple[str, ...]:
    """What operators, the policy's calendar and the other pools of the host had to say."""
    if tick is None:
        return ()
    lines = [words.command(asked) for asked in tick.commands]
    lines += [f"the policy overrides: {words.override(o)}" for o in tick.overrides]
    if tick.quiet:
        lines.append(f"a quiet window of the policy was open: {tick.quiet}")
    if not tick.may_probe:
        lines.append(f"{tick.rival or 'another pool'} held this host's experiment")
    return tuple(lines)


def expectation(story: Story) -> Expectation | None:
    """What the plan said of the setting decided on; None: there was none, or it said nothing."""
    plan, wanted = story.plan, story.decision.wanted
    load = load_of(story.decision)
    found = predicted(plan, wanted, load)
    if plan is None or wanted is None or found is None:
        return None
    return Expectation(
        plan_version=plan.version,
        fitted_tick=plan.fitted_tick,
        setting=dict(wanted.levels),
        load_rps=found.load_rps,
        same_load=found.holds_at(load),
        p_safe=found.p_safe,
        responses=tuple(_interval(*pair) for pair in known(found.responses)),
        calibration=dict(plan.calibration),
    )


def scheduled(plan: Plan | None, load_rps: float | None) -> Scheduled | None:
    """What the schedule holds at the load; None: there is no schedule, or the load is not known."""
    found = bin_of(plan, load_rps)
    if found is None:
        return None
    return Scheduled(
        load_lower_rps=found.load_lower_rps,
        load_upper_rps=found.load_upper_rps,
        setting=dict(found.setting.levels),
        safe_lower=dict(found.safe_lower.levels),
        safe_upper=dict(found.safe_upper.levels),
        p_safe=found.p_safe,
        responses=tuple(_interval(*pair) for pair in known(found.predictions)),
    )


def bin_of(plan: Plan | None, load_rps: float | None) -> PlanBin | None:
    """The bin of the schedule for a load; the nearest one outside the loads that it covers."""
    if plan is None or load_rps is None or not plan.schedule:
        return None
    inside = (entry for entry in plan.schedule if load_rps < entry.load_upper_rps)
    return next(inside, plan.schedule[-1])


def alternatives(plan: Plan, taken: Setting | None) -> tuple[Alternative, ...]:
    """Every setting that the plan judged, ascending."""
    return tuple(
        Alternative(
            setting=dict(judged.setting.levels),
            taken=judged.setting == taken,
            objective=judged.objective.mean,
            objective_std=judged.objective.std,
            p_safe=judged.p_safe,
            gain_ratio=judged.gain_ratio,
            verdict=judged.verdict,
            vetoed=judged.verdict in _RULED_OUT,
            detail=judged.detail,
        )
        for judged in plan.candidates
    )


def rules(story: Story) -> tuple[Rule, ...]:
    """Everything that tripped, clamped, vetoed or was noticed."""
    decision = story.decision
    found = [
        Rule(kind="guard", rule=reason, text=f"the guard tripped: {REASONS[reason]}")
        for reason in decision.guard_trips
    ]
    found += [
        Rule(
            kind="clamp",
            rule=clamp.kind,
            text=words.clamp(clamp, story.policy),
            knob=clamp.knob,
            wanted=clamp.wanted,
            allowed=clamp.allowed,
        )
        for clamp in decision.clamps
    ]
    probe = vetoed_probe(story)
    if probe is not None:
        gain = words.number("gain_ratio", probe.gain_ratio)
        what = f"a probe of {probe.setting} (P(safe) {probe.p_safe:.2f}, expected gain {gain})"
        why = REASONS[decision.reason].removeprefix("a probe would gain, but ")
        text = f"{what} was vetoed: {why}"
        found.append(Rule(kind="veto", rule=decision.reason, text=text))
    found += [Rule(kind="event", rule="", text=f"noticed: {e}") for e in decision.events]
    return tuple(found)


def vetoed_probe(story: Story) -> Candidate | None:
    """The probe that the plan offered and that a rule forbade."""
    decision = story.decision
    if story.plan is None or decision.moves or decision.reason not in VETOES:
        return None
    return next((p for p in story.plan.probes if p.setting != decision.setting), None)


def outcome(story: Story) -> Outcome:
    """How the move went, and what the windows after it showed."""
    measured = tuple(_measured(story.plan, seen) for seen in story.windows)
    checks = [c for window in measured for c in window.checks if c.inside is not None]
    left = story.left_by
    return Outcome(
        actuation=story.actuation,
        read_back_s=story.read_back_s,
        windows=measured,
        compared=len(checks),
        inside=sum(bool(check.inside) for check in checks),
        left_by=None
        if left is None
        else Left(
            tick=left.tick,
            setting=_levels(left.setting),
            action=left.action,
            reason=left.reason,
            reason_text=REASONS[left.reason],
        ),
        holdout=story.decision.holdout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a plan says of a setting at one load."""

    load_rps: float | None
    responses: Responses
    p_safe: float

    def holds_at(self, load_rps: float | None) -> bool:
        """Whether it may be held against what was seen at that load."""
        return same_load(self.load_rps, load_rps)


def same_load(judged_rps: float | None, load_rps: float | None) -> bool:
    """Whether what was judged at one load may be held against what was seen at another."""
    if judged_rps is None or load_rps is None:
        return True  # the policy, or the service, knows no load
    return abs(load_rps - judged_rps) <= SAME_LOAD * judged_rps


def predicted(
    plan: Plan | None, setting: Setting | None, load_rps: float | None
) -> Prediction | None:
    """What a plan says of a setting, at the load nearest to `load_rps` that it speaks of."""
    if plan is None or setting is None:
        return None
    found = [
        Prediction(load_rps=plan.context.load_rps, responses=c.predictions, p_safe=c.p_safe)
        for c in plan.candidates
        if c.setting == setting
    ]
    # A bin of the schedule is judged at its upper end (`learn.schedule`).
    found += [
        Prediction(load_rps=b.load_upper_rps, responses=b.predictions, p_safe=b.p_safe)
        for b in plan.schedule
        if b.setting == setting
    ]
    if load_rps is None:
        return found[0] if found else None
    return min(found, key=lambda p: abs(load_rps - (p.load_rps or 0.0)), default=None)


def candidate(plan: Plan | None, setting: Setting | None) -> Candidate | None:
    """How a plan judged a setting at the load of its fit."""
    if plan is None:
        return None
    return next((c for c in plan.candidates if c.setting == setting), None)


def known(responses: Responses) -> list[tuple[str, Estimate]]:
    """Those that this release can name."""
    return [(name, seen) for name, seen in responses if name in RESPONSES or quantile_of(name)]


def load_of(decision: Decision) -> float | None:
    """The load that the decision was made at."""
    load = dict(decision.evidence).get("load_rps")
    seen = decision.observation
    return seen.context.load_rps if load is None and seen is not None else load


def _measured(plan: Plan | None, seen: Observation) -> Measured:
    load = seen.context.load_rps
    said_of = predicted(plan, seen.setting, load)
    hoped: dict[str, Estimate] = {}
    if said_of is not None and said_of.holds_at(load):
        hoped = dict(said_of.responses)
        done = hoped.get("throughput_rps")
        if done is not None and load is not None and said_of.load_rps:
            share = load / said_of.load_rps  # as much more is completed as is asked for
            scaled = Estimate(mean=done.mean * share, std=done.std * share, count=done.count)
            hoped["throughput_rps"] = scaled
    return Measured(
        closed_tick=seen.closed_tick,
        span_s=seen.span_s,
        load_rps=load,
        breached=seen.breached,
        checks=tuple(_check(name, e, hoped.get(name)) for name, e in known(seen.responses)),
    )


def _check(response: str, seen: Estimate, hoped: Estimate | None) -> Check:
    if hoped is None:
        return Check(response=response, seen=seen.mean, seen_std=seen.std)
    # Both the window's mean and the prediction are uncertain; the errors are independent.
    spread = float((hoped.std**2 + seen.std**2) ** 0.5)
    apart = seen.mean - hoped.mean
    return Check(
        response=response,
        seen=seen.mean,
        seen_std=seen.std,
        expected=hoped.mean,
        expected_std=hoped.std,
        z=apart / spread if spread else None,
        inside=abs(apart) <= words.Z_90 * spread,
    )


def _interval(response: str, seen: Estimate) -> Interval:
    half = words.Z_90 * seen.std
    return Interval(
        response=response,
        mean=seen.mean,
        std=seen.std,
        lower=max(0.0, seen.mean - half),  # no response is negative
        upper=seen.mean + half,
    )


def _levels(setting: Setting | None) -> Levels | None:
    return None if setting is None else dict(setting.levels)

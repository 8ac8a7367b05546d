"""Why a decision was made, in plain words: pure functions from what the journal holds to text."""

from dataclasses import dataclass
from itertools import groupby

from poolwright.core.model import (
    Actuation,
    Candidate,
    Clamp,
    Decision,
    Observation,
    Plan,
    Reason,
    Responses,
    Setting,
    Status,
    Tick,
    Verdict,
)
from poolwright.core.policy import Policy, Slo
from poolwright.core.reasons import REASONS
from poolwright.core.signals import RESPONSES, quantile_of
from poolwright.surface import words

# A probe was worth it, and something else forbade it.
_NOT_NOW = (
    Reason.QUIET_TIME,
    Reason.HOST_BUSY,
    Reason.BUDGET_SPENT,
    Reason.BUDGET_BURNS,
)
Z_90 = 1.645  # 90 % of a normal distribution lies within so many standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A decision with what was known before it and what came after. None: the journal has none."""

    pool: str
    wall_ns: int
    decision: Decision
    policy: Policy
    tick: Tick | None = None  # the tick that was decided on
    plan: Plan | None = None  # in force at that time
    actuation: Actuation | None = None  # how the move went
    after: Observation | None = None  # the next window at the setting decided on
    left_by: Decision | None = None  # what moved away from it before a window closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and its lines."""

    title: str
    lines: tuple[str, ...]


def explain(story: Story, why_not: Setting | None = None) -> tuple[Section, ...]:
    """The account of a decision; with `why_not`, first of why it was not that setting."""
    sections = [_headline(story)]
    if why_not is not None:
        sections.append(Section(title=f"Why not {why_not}", lines=_why_not(story, why_not)))
    sections += [
        Section(title="What else had a say", lines=_said(story)),
        Section(title="What was seen", lines=_seen(story)),
        Section(title="What the model expected", lines=_expected(story)),
        Section(title="What was considered", lines=_considered(story)),
        Section(title="Which rules stepped in", lines=_rules(story.decision)),
        Section(title="What came of it", lines=_outcome(story)),
    ]
    return tuple(section for section in sections if section.lines)


def text(sections: tuple[Section, ...]) -> str:
    """Sections for a terminal."""
    blocks = ["\n".join([s.title, *(f"  {line}" for line in s.lines)]) for s in sections]
    return "\n\n".join(blocks)


def _headline(story: Story) -> Section:
    decision, advice = story.decision, story.decision.advice
    before = story.tick.applied.setting if story.tick and story.tick.applied else None
    did = f"{words.did(decision)} {decision.setting or 'a level not seen yet'}"
    if decision.moves and before is not None:
        did += f" (from {before})"
    lines = [f"because {REASONS[decision.reason]}"]
    if decision.detail:
        lines.append(decision.detail)
    if advice is not None:
        did += f" and advised {advice.setting}"
        lines.append(f"the mode is {story.policy.mode}; advice {advice.id}: {words.advice(advice)}")
        if advice.reason is not decision.reason:
            lines.append(f"advised because {REASONS[advice.reason]}")
        lines.append(f"while it stands: poolwright approve {story.pool} {advice.id}")
    title = f"{words.utc(story.wall_ns)}, tick {decision.tick}: {story.pool} {did}"
    return Section(title=title, lines=tuple(lines))


def _said(story: Story) -> tuple[str, ...]:
    """What operators, the policy's calendar and the other pools of the host had to say."""
    tick = story.tick
    if tick is None:
        return ()
    lines = [words.command(asked) for asked in tick.commands]
    lines += [f"the policy overrides: {words.override(o)}" for o in tick.overrides]
    if tick.quiet:
        lines.append(f"a quiet window of the policy was open: {tick.quiet}")
    if not tick.may_probe:
        lines.append(f"{tick.rival or 'another pool'} held this host's experiment")
    return tuple(lines)


def _seen(story: Story) -> tuple[str, ...]:
    decision = story.decision
    lines = []
    if decision.evidence:
        numbers = (f"{words.name(k)} {words.number(k, v)}" for k, v in decision.evidence)
        lines.append(", ".join(numbers))
    lines += _observed(decision.observation) if decision.observation else ()
    if story.tick is None:
        return (*lines, "the readings of this tick are no longer in the journal")
    if story.tick.applied is None:
        lines.append(f"the level could not be read back: {story.tick.fault or 'no reason given'}")
    lines += [
        f"{reading.source} gave no {reading.signal}: {reading.status.replace('_', ' ')}"
        + (f", {reading.detail}" if reading.detail else "")
        for reading in story.tick.readings
        if reading.status in (Status.ERROR, Status.STALE)
    ]
    return tuple(lines) or ("no numbers were kept with this decision",)


def _observed(seen: Observation) -> list[str]:
    load = seen.context.load_rps
    head = (
        f"a window of {words.seconds(seen.span_s)} at {seen.setting} closed: "
        f"{seen.sample_count} requests"
    )
    head += "" if load is None else f" at {words.number('load_rps', load)}"
    notes = []
    if seen.breached:
        notes.append("an objective was breached in it")
    if seen.app_limited:
        notes.append("not every worker was busy, so it says nothing about capacity")
    if seen.estimated:
        notes.append(f"modelled, not measured: {', '.join(map(words.name, seen.estimated))}")
    return [head, *_responses(seen.responses), *notes]


def _expected(story: Story) -> tuple[str, ...]:
    plan, wanted = story.plan, story.decision.wanted
    if plan is None:
        return ("there was no plan yet: nothing was expected",)
    load = plan.context.load_rps
    where = "" if load is None else f" at {words.number('load_rps', load)}"
    lines = [f"plan {plan.version}, fitted in tick {plan.fitted_tick}{where}"]
    found = _candidate(plan, wanted)
    expected = predicted(plan, wanted)
    if expected:
        sure = "" if found is None else f", safe with probability {found.p_safe:.2f}"
        lines += [f"at {wanted}{sure}:", *_responses(expected)]
    else:
        lines.append(f"it says nothing about {wanted or 'a level not seen yet'}")
    kept = ", ".join(f"{words.name(name)} {share:.0%}" for name, share in plan.calibration)
    if kept:
        lines.append(f"share of past windows inside its 90 % interval: {kept}")
    return tuple(lines)


def _considered(story: Story) -> tuple[str, ...]:
    if story.plan is None:
        return ()
    taken = story.decision.wanted
    lines: list[str] = []
    groups = groupby(story.plan.candidates, key=lambda c: (c.verdict, c.setting == taken))
    for (verdict, is_taken), group in groups:
        judged = [("* " if is_taken else "  ") + _judged(candidate) for candidate in group]
        if len(judged) > 3:  # a long row of settings with one verdict: its two ends say it
            between = f"  ... {len(judged) - 2} settings between: {words.VERDICTS[verdict]}"
            judged = [judged[0], between, judged[-1]]
        lines += judged
    if lines:
        bound = words.number("gain_ratio", story.plan.best_gain_ratio)
        lines.append(f"the best safe probe was expected to gain {bound} of the objective")
    return tuple(lines)


def _judged(candidate: Candidate) -> str:
    detail = candidate.detail or (
        f"P(safe) {candidate.p_safe:.2f}, expected gain "
        f"{words.number('gain_ratio', candidate.gain_ratio)}"
    )
    return f"{candidate.setting}: {words.VERDICTS[candidate.verdict]} ({detail})"


def _rules(decision: Decision) -> tuple[str, ...]:
    lines = [f"the guard tripped: {REASONS[reason]}" for reason in decision.guard_trips]
    lines += [clamp_text(clamp) for clamp in decision.clamps]
    lines += [f"noticed: {event}" for event in decision.events]
    return tuple(lines) or ("none",)


def clamp_text(clamp: Clamp) -> str:
    """One change that the envelope made, in words."""
    return (
        f"{clamp.knob}={clamp.wanted} was wanted, {clamp.knob}={clamp.allowed} allowed: "
        f"{words.CLAMPS[clamp.kind]}"
    )


def _outcome(story: Story) -> tuple[str, ...]:
    lines = []
    decision = story.decision
    if decision.holdout is not None:
        lines.append(words.holdout(decision.holdout))
    if decision.moves:
        lines.append(_actuated(story.actuation))
    if story.after is not None:
        lines += _compared(story, story.after)
    elif story.left_by is not None:
        other = story.left_by
        why = REASONS[other.reason]
        lines.append(
            f"before a window closed, in tick {other.tick}, poolwright "
            f"{words.did(other)} {other.setting}: {why}"
        )
    elif decision.moves:
        lines.append("no window has closed at this setting yet")
    return tuple(lines) or ("nothing was moved",)


def _actuated(actuation: Actuation | None) -> str:
    if actuation is None:
        return "whether the move was made is not in the journal"
    took = f" after {words.seconds(actuation.took_s)}" if actuation.took_s else ""
    detail = f": {actuation.detail}" if actuation.detail else ""
    return f"{words.OUTCOMES[actuation.status]}{took}{detail}"


def _compared(story: Story, after: Observation) -> list[str]:
    """What was seen at the setting against what the plan had said of it."""
    expected = dict(predicted(story.plan, after.setting))
    load = after.context.load_rps
    where = "" if load is None else f" at {words.number('load_rps', load)}"
    lines = [f"the next window at {after.setting} closed in tick {after.closed_tick}{where}:"]
    for response, seen in after.responses:
        line = f"  {words.name(response)} {words.estimate(response, seen)}"
        if response in expected:
            hoped = expected[response]
            # Both the window's mean and the prediction are uncertain; the errors are independent.
            within = Z_90 * (hoped.std**2 + seen.std**2) ** 0.5
            off = seen.mean - hoped.mean
            side = "as expected" if abs(off) <= within else "above" if off > 0 else "below"
            line += f", {side} ({words.estimate(response, hoped)})"
        lines.append(line)
    if after.breached:
        lines.append("  an objective was breached in it")
    return lines


def _why_not(story: Story, other: Setting) -> tuple[str, ...]:
    taken = story.decision.wanted
    if other == taken:
        return ("it is the setting that was taken",)
    forbidden = _forbidden(story, other)
    if forbidden:
        return forbidden
    if story.plan is None:
        return ("there was no plan yet: no setting had been judged",)
    found = _candidate(story.plan, other)
    if found is None:
        return (f"plan {story.plan.version} did not judge it",)
    lines = [_judged(found), f"safe with probability {found.p_safe:.2f}"]
    if found.verdict is Verdict.PROBE and story.decision.reason in _NOT_NOW:
        lines.append(f"not tried now: {REASONS[story.decision.reason]}")
    expected = dict(found.predictions)
    lines += [_against(slo, found) for slo in story.policy.slo if slo.response in expected]
    chosen = _candidate(story.plan, taken)
    if chosen is not None:
        lines.append(_costlier(found, chosen))
    return tuple(lines)


def _against(slo: Slo, candidate: Candidate) -> str:
    expected = dict(candidate.predictions)[slo.response]
    return (
        f"{words.name(slo.response)} {words.estimate(slo.response, expected)} expected, below "
        f"{words.number(slo.response, slo.below)} asked with {slo.confidence:.0%} confidence"
    )


def _costlier(other: Candidate, chosen: Candidate) -> str:
    return (
        f"its objective was expected at {other.objective.mean:.3g} ± {other.objective.std:.2g}, "
        f"that of {chosen.setting} at {chosen.objective.mean:.3g} ± {chosen.objective.std:.2g} "
        "(lower is better)"
    )


def _forbidden(story: Story, other: Setting) -> tuple[str, ...]:
    """What of the operator's word stands against a setting, whatever it is worth."""
    lines = [line for name, level in other.levels if (line := _outside(story, name, level))]
    levels = dict(other.levels)
    lines += [
        f"the policy asks for {relation.text}"
        for relation in story.policy.relations
        if not relation.holds(levels)
    ]
    for written in story.tick.overrides if story.tick else ():
        against = written.freeze or any(levels[knob] != level for knob, level in written.pin)
        if against or any(not low <= levels[knob] <= high for knob, low, high in written.bounds):
            lines.append(f"the policy overrides: {words.override(written)}")
    if story.decision.reason is Reason.PINNED and not lines:
        lines.append(f"{REASONS[Reason.PINNED]}: {story.decision.detail or 'no reason given'}")
    return tuple(lines)


def _outside(story: Story, name: str, level: int) -> str:
    knob = story.policy.knob(name)
    if not knob.lower <= level <= knob.upper:
        return f"the policy allows {name} from {knob.lower} to {knob.upper}"
    if knob.clamp(level) != level:
        return f"the policy moves {name} in steps of {knob.step} from {knob.lower}"
    return ""


def predicted(plan: Plan | None, setting: Setting | None) -> Responses:
    """What a plan says of a setting: judged at the load of the fit, else of its load bin."""
    found = _candidate(plan, setting)
    if found is not None or plan is None:
        return () if found is None else found.predictions
    return next((row.predictions for row in plan.schedule if row.setting == setting), ())


def _candidate(plan: Plan | None, setting: Setting | None) -> Candidate | None:
    if plan is None:
        return None
    return next((c for c in plan.candidates if c.setting == setting), None)


def _responses(responses: Responses) -> list[str]:
    known = [(name, seen) for name, seen in responses if name in RESPONSES or quantile_of(name)]
    return [f"  {words.name(name)} {words.estimate(name, seen)}" for name, seen in known]

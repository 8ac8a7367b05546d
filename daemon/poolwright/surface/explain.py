"""Why a decision was made, in plain words: pure functions from what the journal holds to text."""

from dataclasses import dataclass
from itertools import groupby

from poolwright.core.model import (
    Actuation,
    Candidate,
    Observation,
    PlanBin,
    Reason,
    Responses,
    Setting,
    Status,
    Verdict,
)
from poolwright.core.policy import Slo
from poolwright.core.reasons import REASONS
from poolwright.surface import words
from poolwright.surface.account import Check, Input, Measured, Story
from poolwright.surface.accounting import (
    VETOES,
    bin_of,
    candidate,
    inputs,
    known,
    load_of,
    outcome,
    predicted,
    rules,
    said,
    same_load,
)


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
        Section(title="What else had a say", lines=said(story.tick)),
        Section(title="What was seen", lines=_seen(story)),
        Section(title="What the model expected", lines=_expected(story)),
        Section(title="What was considered", lines=_considered(story)),
        Section(title="Which rules stepped in", lines=_rules(story)),
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
    lines += _readings(inputs(story.tick))
    return tuple(lines) or ("no numbers were kept with this decision",)


def _readings(seen: tuple[Input, ...]) -> list[str]:
    """What each source gave, and how old it was; then what it did not give."""
    lines = []
    good = [reading for reading in seen if reading.value is not None]
    for (source, age), group in groupby(good, key=lambda r: (r.source, words.seconds(r.age_s))):
        lines.append(f"{source}, {age} old: {', '.join(map(_reading, group))}")
    lines += [
        f"{reading.source} gave no {reading.signal}: {reading.status.replace('_', ' ')}"
        + (f", {reading.detail}" if reading.detail else "")
        for reading in seen
        if reading.status in (Status.ERROR, Status.STALE)
    ]
    return lines


def _reading(seen: Input) -> str:
    assert seen.value is not None
    spread = "" if seen.std is None else f" ± {words.number(seen.signal, seen.std)}"
    modelled = " (modelled)" if seen.estimated else ""
    return f"{words.name(seen.signal)} {words.number(seen.signal, seen.value)}{spread}{modelled}"


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
    lines = [f"plan {plan.version}, fitted in tick {plan.fitted_tick}{_at(plan.context.load_rps)}"]
    load = load_of(story.decision)
    entry = bin_of(plan, load)
    if entry is not None:
        low, high = (words.number("load_rps", edge) for edge in _edges(entry))
        lines.append(
            f"from {low} to {high} its schedule holds {entry.setting}, safe from "
            f"{entry.safe_lower} to {entry.safe_upper}"
        )
    found, what = predicted(plan, wanted, load), wanted
    if entry is not None and (found is None or not found.holds_at(load)):
        lines.append(f"it says nothing about {wanted or 'a level not seen yet'}{_at(load)}")
        found, what = predicted(plan, entry.setting, load), entry.setting
    if found is None:
        lines.append(f"it says nothing about {what or 'a level not seen yet'}")
    else:
        safe = f"safe with probability {found.p_safe:.2f}; 90 % within:"
        lines.append(f"{what}{_at(found.load_rps)}, {safe}")
        lines += [f"  {words.name(k)} {words.interval(k, e)}" for k, e in known(found.responses)]
    kept = ", ".join(f"{words.name(name)} {share:.0%}" for name, share in plan.calibration)
    if kept:
        lines.append(f"share of past windows inside its 90 % interval: {kept}")
    return tuple(lines)


def _edges(entry: PlanBin) -> tuple[float, float]:
    return entry.load_lower_rps, entry.load_upper_rps


def _at(load_rps: float | None) -> str:
    return "" if load_rps is None else f" at {words.number('load_rps', load_rps)}"


def _considered(story: Story) -> tuple[str, ...]:
    """Every setting that was judged: its score, how safe, what a probe of it would gain."""
    if story.plan is None or not story.plan.candidates:
        return ()
    taken = story.decision.wanted
    table = _aligned([_row(c, taken) for c in story.plan.candidates])
    rows = zip(story.plan.candidates, table, strict=True)
    lines = [f"score: the objective{_at(story.plan.context.load_rps)}, lower is better"]
    for (verdict, _), group in groupby(rows, key=lambda r: (r[0].verdict, r[0].setting == taken)):
        judged = [line for _, line in group]
        if len(judged) > 3:  # a long row of settings with one verdict: its two ends say it
            between = f"  ... {len(judged) - 2} settings between: {words.VERDICTS[verdict]}"
            judged = [judged[0], between, judged[-1]]
        lines += judged
    bound = words.number("gain_ratio", story.plan.best_gain_ratio)
    return (*lines, f"the best safe probe was expected to gain {bound} of the objective")


def _row(judged: Candidate, taken: Setting | None) -> tuple[str, ...]:
    score = f"{judged.objective.mean:.3g} ± {judged.objective.std:.2g}"
    return (
        f"{'*' if judged.setting == taken else ' '} {judged.setting}:",
        f"score {score},",
        f"P(safe) {judged.p_safe:.2f},",
        f"gain {words.number('gain_ratio', judged.gain_ratio)}:",
        words.VERDICTS[judged.verdict],
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _judged(judged: Candidate) -> str:
    detail = judged.detail or (
        f"P(safe) {judged.p_safe:.2f}, expected gain "
        f"{words.number('gain_ratio', judged.gain_ratio)}"
    )
    return f"{judged.setting}: {words.VERDICTS[judged.verdict]} ({detail})"


def _rules(story: Story) -> tuple[str, ...]:
    return tuple(rule.text for rule in rules(story)) or ("none",)


def _outcome(story: Story) -> tuple[str, ...]:
    lines = []
    decision, came = story.decision, outcome(story)
    if decision.holdout is not None:
        lines.append(words.holdout(decision.holdout))
    if decision.moves:
        lines.append(_actuated(story.actuation, story.read_back_s))
    if came.windows:
        lines += _compared(story, came.windows, came.inside, came.compared)
    if came.left_by is not None and story.left_by is not None:
        when = "then" if came.windows else "before a window closed"
        did = words.did(story.left_by)
        lines.append(
            f"{when}, in tick {came.left_by.tick}, poolwright {did} {story.left_by.setting}: "
            f"{came.left_by.reason_text}"
        )
    elif decision.moves and not came.windows:
        lines.append("no window has closed at this setting yet")
    return tuple(lines) or ("nothing was moved",)


def _actuated(actuation: Actuation | None, read_back_s: float | None) -> str:
    if actuation is None:
        return "whether the move was made is not in the journal"
    took = f" after {words.seconds(actuation.took_s)}" if actuation.took_s else ""
    detail = f": {actuation.detail}" if actuation.detail else ""
    seen = f"; read back after {words.seconds(read_back_s)}" if read_back_s is not None else ""
    return f"{words.OUTCOMES[actuation.status]}{took}{detail}{seen}"


def _compared(story: Story, windows: tuple[Measured, ...], inside: int, compared: int) -> list[str]:
    """The first window against what the plan had said of it, then how all of them did."""
    first = windows[0]
    at = _at(first.load_rps)
    head = f"the next window at {story.windows[0].setting} closed in tick {first.closed_tick}{at}"
    unsaid = story.plan is not None and not any(c.inside is not None for c in first.checks)
    lines = [f"{head}{', a load of which the plan said nothing' * unsaid}:"]
    lines += [f"  {_checked(check)}" for check in first.checks]
    if first.breached:
        lines.append("  an objective was breached in it")
    if len(windows) > 1:
        breached = sum(window.breached for window in windows)
        lines.append(
            f"{len(windows)} windows closed at it, the last in tick {windows[-1].closed_tick}; "
            f"an objective was breached in {breached or 'none'} of them"
        )
    if compared:
        share = f"{inside} of {compared} ({inside / compared:.0%})"
        lines.append(f"inside the 90 % intervals that the plan had given: {share}")
    return lines


def _checked(check: Check) -> str:
    name, write = words.name(check.response), words.number
    line = f"{name} {write(check.response, check.seen)} ± {write(check.response, check.seen_std)}"
    if check.expected is None or check.expected_std is None:
        return line
    above = check.seen > check.expected
    side = "as expected" if check.inside else "above" if above else "below"
    z = "" if check.z is None else f", z {check.z:+.1f}"
    hoped = f"{write(check.response, check.expected)} ± {write(check.response, check.expected_std)}"
    return f"{line}, {side} ({hoped}{z})"


def _why_not(story: Story, other: Setting) -> tuple[str, ...]:
    taken = story.decision.wanted
    if other == taken:
        return ("it is the setting that was taken",)
    forbidden = _forbidden(story, other)
    if forbidden:
        return forbidden
    if story.plan is None:
        return ("there was no plan yet: no setting had been judged",)
    found = candidate(story.plan, other)
    if found is None:
        return (f"plan {story.plan.version} did not judge it",)
    lines = [_judged(found), f"safe with probability {found.p_safe:.2f}"]
    if found.verdict is Verdict.PROBE and story.decision.reason in VETOES:
        lines.append(f"not tried now: {REASONS[story.decision.reason]}")
    expected = dict(found.predictions)
    lines += [_against(slo, found) for slo in story.policy.slo if slo.response in expected]
    chosen = candidate(story.plan, taken)
    if chosen is not None:
        lines.append(_costlier(found, chosen))
    fitted, load = story.plan.context.load_rps, load_of(story.decision)
    if load is not None and not same_load(fitted, load):
        lines.append(f"so judged{_at(fitted)}; the decision was made{_at(load)}")
    return (*lines, *_too_far(story, other))


def _too_far(story: Story, other: Setting) -> list[str]:
    """The knobs that one move does not take as far as `other`."""
    here = story.tick.applied.setting if story.tick and story.tick.applied else None
    if here is None:
        return []
    knobs = [(story.policy.knob(name), name, level) for name, level in here.levels]
    return [
        f"{name}={other[name]} is {abs(other[name] - level)} from {name}={level}; one move is at "
        f"most {knob.slew_per_move}"
        for knob, name, level in knobs
        if abs(other[name] - level) > knob.slew_per_move
    ]


def _against(slo: Slo, judged: Candidate) -> str:
    expected = dict(judged.predictions)[slo.response]
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


def _responses(responses: Responses) -> list[str]:
    return [f"  {words.name(k)} {words.estimate(k, seen)}" for k, seen in known(responses)]

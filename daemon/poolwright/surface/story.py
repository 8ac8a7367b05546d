"""What the journal knows of a decision: read once, told by `surface.explain`."""

from poolwright.core.model import Actuation, ActuationStatus, Decision, Observation, Setting
from poolwright.journal.query import DecisionRow, JournalReader
from poolwright.surface.account import Explanation, Story, WhyNot
from poolwright.surface.accounting import account
from poolwright.surface.explain import explain, text

_WINDOWS_MOST = 10  # after the decision: what came of it, not what came of the day
_TICKS_MOST = 120  # in which an actuator answers and the level is read back


def explanation(row: DecisionRow, story: Story, why_not: Setting | None = None) -> Explanation:
    """The whole answer to "why", for programs; its `text` is for people."""
    sections = explain(story, why_not)
    lines = next((s.lines for s in sections if s.title.startswith("Why not")), ())
    return Explanation(
        id=row.id,
        run=row.run,
        account=account(story),
        why_not=None if why_not is None else WhyNot(setting=dict(why_not.levels), lines=lines),
        text=text(sections),
    )


def tell(reader: JournalReader, row: DecisionRow) -> Story:
    """Everything that the journal knows about a decision."""
    decision = reader.full_decision(row.id)
    policy, resume = reader.start_of(row.run)
    step = reader.step(row.run, row.tick)
    plan = reader.plan_before(row.run, row.tick)
    if plan is None and resume is not None:
        plan = resume.plan
    actuation, read_back_s = _answer(reader, row, decision)
    windows, left_by = _later(reader, row, decision)
    return Story(
        pool=row.pool,
        wall_ns=row.wall_ns,
        decision=decision,
        policy=policy,
        tick=None if step is None else step.tick,
        plan=plan,
        actuation=actuation,
        read_back_s=read_back_s,
        windows=windows,
        left_by=left_by,
    )


def _later(
    reader: JournalReader, row: DecisionRow, decision: Decision
) -> tuple[tuple[Observation, ...], Decision | None]:
    """The windows that closed at the setting decided on, and what moved away from it."""
    windows: list[Observation] = []
    here = None if decision.setting is None else str(decision.setting)
    for later in reader.decisions_after(row.run, row.tick, limit=8 * _WINDOWS_MOST):
        left = later.moves and later.setting != here
        if later.observed != here and not left:
            continue
        whole = reader.full_decision(later.id)
        seen = whole.observation
        if seen is not None and seen.setting == decision.setting and seen.opened_tick >= row.tick:
            windows.append(seen)
        if left:
            return tuple(windows), whole
        if len(windows) == _WINDOWS_MOST:
            break
    return tuple(windows), None


def _answer(
    reader: JournalReader, row: DecisionRow, decision: Decision
) -> tuple[Actuation | None, float | None]:
    """What the actuator answered, and the seconds until the setting was read back."""
    if not row.moves:
        return None, None
    actuation: Actuation | None = None
    began_ns: int | None = None
    for step in reader.steps(row.run, row.tick):
        tick = step.tick
        if tick.index > row.tick + _TICKS_MOST or (tick.index > row.tick and step.decision.moves):
            break
        began_ns = tick.mono_ns if began_ns is None else began_ns
        if tick.actuation is not None and tick.actuation.decision_tick == row.tick:
            actuation = tick.actuation
        done = actuation is not None and actuation.status is not ActuationStatus.PENDING
        if tick.index > row.tick and tick.applied and tick.applied.setting == decision.setting:
            return actuation or _intended(reader, row), (tick.mono_ns - began_ns) / 1e9
        if done and actuation is not None and actuation.status is not ActuationStatus.APPLIED:
            break
    return actuation or _intended(reader, row), None


def _intended(reader: JournalReader, row: DecisionRow) -> Actuation | None:
    """What became of the move's intent; None when nobody knows."""
    for intent in reader.intents(row.run):
        if intent.tick == row.tick and intent.status in set(ActuationStatus):
            return Actuation(
                decision_tick=row.tick,
                status=ActuationStatus(intent.status),
                took_s=intent.took_s or 0.0,
                detail=intent.detail,
            )
    return None

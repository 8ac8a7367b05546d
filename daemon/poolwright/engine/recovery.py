"""What a new run starts from: after a crash, after a restart, and under another policy.

After a crash the actuator's read-back wins. An intent that was never closed is closed now with what
was found, and the new run begins with a note of it; nothing is moved here.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from poolwright.core.model import (
    Actuation,
    ActuationStatus,
    Applied,
    Kept,
    Phase,
    Resume,
    Setting,
)
from poolwright.core.policy import Mode, Policy
from poolwright.engine.commands import standing
from poolwright.engine.gather import read_back
from poolwright.journal.query import JournalReader
from poolwright.journal.record import UnknownRecord
from poolwright.ports import Actuator, Clock, Journal

_LOG = logging.getLogger("poolwright")


async def recover(pool: str, actuator: Actuator, journal: Journal, clock: Clock) -> Resume:
    """What the new run of `pool` starts from. Raises PlantFault when the journal fails."""
    resume = journal.last_resume(pool) or Resume()
    stands = standing(resume.kept, clock.wall_ns())
    for text in stands:
        _LOG.warning("%s: %s", pool, text)
    resume = replace(resume, notes=(*resume.notes, *stands))
    open_intents = journal.open_intents(pool)
    if not open_intents:
        return resume
    applied, fault = await read_back(actuator)
    notes: list[str] = []
    for run_id, tick, wanted in open_intents:
        found = f"found {applied.setting}" if applied is not None else f"cannot be read: {fault}"
        note = f"run {run_id} ended while moving to {wanted} (tick {tick}); {found}"
        done = applied is not None and applied.setting == wanted
        status = ActuationStatus.APPLIED if done else ActuationStatus.FAILED
        outcome = Actuation(decision_tick=tick, status=status, detail=f"recovered: {note}")
        journal.close_intent(run_id, outcome, clock.wall_ns())
        journal.note(run_id, clock.wall_ns(), "recovery", note)
        _LOG.warning("%s: %s", pool, note)
        notes.append(note)
    return replace(resume, notes=(*resume.notes, *notes, _continues(applied)))


def plan_survives(old: Policy | None, new: Policy) -> bool:
    """Whether a plan made under `old` may still be followed under `new`.

    It may not when it would answer another question (objective, SLO, prices, guard's limits, the
    lattice, relations, overrides), nor when poolwright was not trusted to move and now is: the
    first learned move under a new policy comes from a window and a fit of its own.
    """
    if old is None or (new.mode is Mode.AUTO and old.mode is not Mode.AUTO):
        return False
    return _asked(old) == _asked(new)


def _asked(policy: Policy) -> tuple[object, ...]:
    """What a plan answers."""
    lattice = tuple((k.name, k.lower, k.upper, k.step, k.scale) for k in policy.knobs)
    guard = policy.guard
    return (
        lattice,
        policy.objective,
        policy.slo,
        policy.relations,
        policy.overrides,
        policy.prices,
        (guard.memory_ratio, guard.cpu_ratio, guard.connections_ratio),
    )


def carried(resume: Resume, old: Policy | None, new: Policy) -> Resume:
    """What of `resume`, left by a run under `old`, a run under `new` starts from.

    Pauses, pins, rejected advice and spent budgets stay. Evidence and settings stay unless the
    knobs are others, proofs of benefit unless what is wanted is another. A baseline that `new`
    writes and `old` did not is the baseline from now on.
    """
    if not plan_survives(old, new):
        resume = replace(resume, plan=None)
    if old is None:
        return resume
    if _wanted(old) != _wanted(new):
        resume = replace(resume, kept=_unproven(resume.kept))
    if {knob.name for knob in old.knobs} != {knob.name for knob in new.knobs}:
        # Nothing that was measured, pinned or held is a point of the new lattice.
        kept = replace(_unproven(resume.kept), pin=None, pin_until_wall_ns=None, pin_why="")
        return replace(resume, baseline=None, last_safe=None, evidence=(), prior=(), kept=kept)
    return replace(resume, baseline=_baseline(resume.baseline, old, new))


def _wanted(policy: Policy) -> tuple[object, ...]:
    """In which units a gain is counted."""
    return (policy.objective, policy.slo, policy.prices)


def _unproven(kept: Kept) -> Kept:
    """The same, but for what comparisons with the baseline have shown."""
    phase = Phase.WARMUP if kept.phase is Phase.STOOD_DOWN else kept.phase
    return replace(kept, phase=phase, holdouts=())


def _baseline(baseline: Setting | None, old: Policy, new: Policy) -> Setting | None:
    if baseline is None:
        return None
    for knob in new.knobs:
        if knob.baseline is not None and knob.baseline != old.knob(knob.name).baseline:
            baseline = baseline.replace(knob.name, knob.baseline)
    return baseline


def policies_before(journal: Path, pools: Iterable[str]) -> dict[str, Policy]:
    """The policy of each pool's last run; without those that have none, or none that can be read.

    Raises PlantFault when the journal cannot be read.
    """
    found: dict[str, Policy] = {}
    with JournalReader(journal) as reader:
        for pool in pools:
            runs = reader.runs(pool)
            try:
                if runs:
                    found[pool] = reader.start_of(runs[-1].id)[0]
            except UnknownRecord as error:
                _LOG.warning("%s: the last policy cannot be read: %s", pool, error)
    return found


def policy_before(journal: Path, pool: str) -> Policy | None:
    """The same of one pool."""
    return policies_before(journal, (pool,)).get(pool)


def _continues(applied: Applied | None) -> str:
    if applied is None:
        return "continuing when the plant can be read"
    return f"continuing from {applied.setting}"

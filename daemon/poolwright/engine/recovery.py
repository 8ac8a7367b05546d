"""After a crash: what was intended, what is journalled, and what is really there.

The actuator's read-back wins. An intent that was never closed is closed now with what was found,
and the new run begins with a note of it; nothing is moved here.
"""

import logging

from poolwright.core.model import Actuation, ActuationStatus, Applied, Resume
from poolwright.engine.gather import read_back
from poolwright.ports import Actuator, Clock, Journal

_LOG = logging.getLogger("poolwright")


async def recover(pool: str, actuator: Actuator, journal: Journal, clock: Clock) -> Resume:
    """What the new run of `pool` starts from. Raises PlantFault when the journal fails."""
    resume = journal.last_resume(pool) or Resume()
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
    return Resume(
        baseline=resume.baseline,
        last_safe=resume.last_safe,
        evidence=resume.evidence,
        plan=resume.plan,
        notes=(*resume.notes, *notes, _continues(applied)),
    )


def _continues(applied: Applied | None) -> str:
    if applied is None:
        return "continuing when the plant can be read"
    return f"continuing from {applied.setting}"

"""Putting the baseline back when the daemon no longer can: for the unit's ExecStopPost.

Only pools whose policy says `exit: restore` in mode auto are touched, and only when their last run
did not end by itself. A level that is a person's (moved by another hand, paused, pinned, frozen) is
left alone. It goes through the core, the journal and the envelope like any other move.
"""

import logging
from dataclasses import replace
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Command, CommandKind, Resume
from poolwright.core.policy import Exit, Mode
from poolwright.engine.build import Parts, build_parts
from poolwright.engine.commands import expiry, hands_off
from poolwright.engine.learner import Learner
from poolwright.engine.live import RealClock
from poolwright.engine.recovery import carried, policy_before, recover
from poolwright.engine.tick import Pool
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
from poolwright.policy.calendar import calendar_at
from poolwright.policy.config import DaemonConfig

_LOG = logging.getLogger("poolwright")


async def restore(config: DaemonConfig) -> int:
    """Restore what is to be restored; how many pools could not be. Raises PolicyError, PlantFault.

    A journal that does not exist knows no baseline: nothing is done.
    """
    path = Path(config.journal)
    if not path.exists():
        return 0
    unclean = _unclean(path)
    failed = 0
    journal = SqliteJournal(path)
    try:
        for parts in build_parts(config):
            wanted = parts.policy.exit is Exit.RESTORE and parts.policy.mode is Mode.AUTO
            if not (wanted and parts.name in unclean):
                continue
            whose = _hands_off(parts, journal.last_resume(parts.name) or Resume())
            if whose:
                _LOG.warning("%s: nothing is restored: %s", parts.name, whose)
                continue
            failed += not await _restore(parts, journal)
    finally:
        journal.close()
    return failed


def _unclean(path: Path) -> set[str]:
    """The pools whose newest run was never closed."""
    with JournalReader(path) as reader:
        newest = {run.pool: run for run in reader.runs()}
    return {pool for pool, run in newest.items() if run.ended_wall_ns is None}


def _hands_off(parts: Parts, resume: Resume) -> str:
    """Why the level is a person's, in words; empty when it is ours."""
    wall_ns = RealClock().wall_ns()
    kept = resume.kept
    if expiry(kept, wall_ns) is not None:
        kept = replace(kept, pin=None)
    _, overrides = calendar_at(parts.policy, wall_ns)
    return hands_off(kept, overrides)


async def _restore(parts: Parts, journal: SqliteJournal) -> bool:
    clock = RealClock()
    learner = Learner()
    pool = Pool(
        name=parts.name,
        policy=parts.policy,
        sensors=(),
        actuator=parts.actuator,
        journal=journal,
        learner=learner,
        clock=clock,
    )
    try:
        before = policy_before(journal.path, parts.name)
        resume = carried(
            await recover(parts.name, parts.actuator, journal, clock), before, parts.policy
        )
        pool.open_run(replace(resume, notes=(*resume.notes, "the daemon ended without restoring")))
        pool.command(
            Command(kind=CommandKind.RESTORE, who="poolwright restore", why="exit: restore")
        )
        decision = await pool.tick()
        if decision is None or decision.setting is None:
            _LOG.error("%s: the level cannot be read: nothing is restored", parts.name)
            return False
        outcome = await pool.restore(decision)
        journal.end_run(pool.run_id, "restored", clock.wall_ns())
    except PlantFault as fault:
        _LOG.error("%s: %s", parts.name, fault)
        return False
    finally:
        await learner.close()
        await parts.actuator.close()
    return outcome is None or outcome.status == "applied"

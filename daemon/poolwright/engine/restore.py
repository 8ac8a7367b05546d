"""Putting the baseline back when the daemon no longer can: for the unit's ExecStopPost.

Only pools whose policy says `exit: restore` in mode auto are touched, and only when their last run
did not end by itself. It goes through the core, the journal and the envelope like any other move.
"""

import logging
from dataclasses import replace
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Command, CommandKind
from poolwright.core.policy import Exit, Mode
from poolwright.engine.build import Parts, build_parts
from poolwright.engine.learner import Learner
from poolwright.engine.live import RealClock
from poolwright.engine.recovery import recover
from poolwright.engine.tick import Pool, describe
from poolwright.journal.query import JournalReader
from poolwright.journal.sqlite import SqliteJournal
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
            if wanted and parts.name in unclean:
                failed += not await _restore(parts, journal)
    finally:
        journal.close()
    return failed


def _unclean(path: Path) -> set[str]:
    """The pools whose newest run was never closed."""
    newest = {run.pool: run for run in JournalReader(path).runs()}
    return {pool for pool, run in newest.items() if run.ended_wall_ns is None}


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
        resume = await recover(parts.name, parts.actuator, journal, clock)
        pool.open_run(replace(resume, notes=(*resume.notes, "the daemon ended without restoring")))
        pool.command(
            Command(kind=CommandKind.RESTORE, who="poolwright restore", why="exit: restore")
        )
        decision = await pool.tick()
        if decision is None or decision.setting is None:
            _LOG.error("%s: the level cannot be read: nothing is restored", parts.name)
            return False
        _LOG.info("%s", describe(parts.name, decision))
        outcome = await pool.restore(decision)
        journal.end_run(pool.run_id, "restored", clock.wall_ns())
    except PlantFault as fault:
        _LOG.error("%s: %s", parts.name, fault)
        return False
    finally:
        await learner.close()
        await parts.actuator.close()
    return outcome is None or outcome.status == "applied"

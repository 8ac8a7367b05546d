"""A life of the real core, written to a journal: for tests of the journal and of replay."""

from dataclasses import replace

import ticks as make

from poolwright.core.model import Actuation, ActuationStatus, Resume
from poolwright.journal.sqlite import SqliteJournal

WALL_NS = 1_789_000_000_000_000_000


def live(bench, probe=6):
    """Warm up, get a plan with a probe, make it, measure it, get another plan, hold."""
    asked = bench.warm()
    bench.answer(asked, 5, probe=probe)
    asked = bench.until(lambda d: d.fit_request is not None)
    bench.answer(asked, 5)
    bench.run(12)
    return bench


def steps(bench):
    """The (tick, decision) pairs of a bench, with wall times."""
    for tick, decision in zip(bench.ticks, bench.decisions, strict=True):
        yield replace(tick, wall_ns=WALL_NS + tick.index * 10**9), decision


def write(journal: SqliteJournal, bench, pool="web", resume=None, *, end=True, skip=()):
    """Journal a bench's life as the engine does; the run's id."""
    run = journal.begin_run(pool, bench.policy, resume or Resume(), WALL_NS)
    for tick, decision in steps(bench):
        if tick.index in skip:
            continue
        journal.append(run, tick, decision)
        if decision.moves:
            done = Actuation(decision_tick=tick.index, status=ActuationStatus.APPLIED, took_s=0.5)
            journal.close_intent(run, done, tick.wall_ns + 10**8)
    if end:
        journal.end_run(run, "stopped", WALL_NS + len(bench.ticks) * 10**9)
    return run


def lived(workers=4, resume=None):
    """A bench after `live`."""
    return live(make.Bench(workers=workers, resume=resume))

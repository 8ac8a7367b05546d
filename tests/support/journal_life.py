"""A life of the real core, written to a journal: for tests of the journal and of replay."""

from dataclasses import replace

import ticks as make

from poolwright.core.controller import Controller
from poolwright.core.model import Actuation, ActuationStatus, Resume, Tick
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


def simulated(policy, ticks, *, seed=1, workers=4, resume=None, load_rps=lambda _: 40.0, **given):
    """The (tick, decision) pairs of the real core on the simulated plant, with real plans.

    A plan arrives two ticks after it was asked for. `load_rps` and every further keyword, a field
    of Tick, are functions of the tick's index.
    """
    from poolwright.learn.plan import make_plan
    from poolwright.sim.plant import Plant, PlantShape

    plant = Plant(PlantShape(), workers, seed)
    controller = Controller(policy, resume)
    plans, actuation = {}, None
    for index in range(ticks):
        readings = plant.tick(load_rps(index), policy.cadence_s)
        elapsed_ns = round((index + 1) * policy.cadence_s * 1e9)
        tick = Tick(
            index=index,
            mono_ns=elapsed_ns,
            wall_ns=WALL_NS + elapsed_ns,
            readings=readings,
            applied=plant.applied(),
            actuation=actuation,
            plan=plans.pop(index, None),
            **{name: of(index) for name, of in given.items()},
        )
        decision = controller.step(tick)
        actuation = None
        if decision.moves:
            plant.resize(decision.setting["workers"])
            done = ActuationStatus.APPLIED
            actuation = Actuation(decision_tick=index, status=done, took_s=0.5)
        if decision.fit_request is not None:
            plans[index + 2] = make_plan(decision.fit_request)
        yield tick, decision


def keep(journal: SqliteJournal, pairs, policy, pool="web", resume=None, *, end=True):
    """Journal pairs as the engine does; the run's id. Without `end` the last intent stays open."""
    run = journal.begin_run(pool, policy, resume or Resume(), WALL_NS)
    for tick, decision in pairs:
        if tick.actuation is not None:
            journal.close_intent(run, tick.actuation, tick.wall_ns)
        journal.append(run, tick, decision)
    if end:
        journal.end_run(run, "stopped", tick.wall_ns)
    return run

"""The swarm: many random cases through the real daemon, every decision watched.

A case is broken when an invariant does not hold, when its journal does not replay to the same
decisions, when a move began that was not in the journal, or when it does not come to rest after
the faults are over.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from random import Random

from poolwright.core.controller import Controller
from poolwright.core.model import (
    Actuation,
    Candidate,
    Context,
    Decision,
    Estimate,
    FitRequest,
    Phase,
    Plan,
    PlanBin,
    Reason,
    Setting,
    Tick,
    Verdict,
)
from poolwright.core.policy import Mode
from poolwright.engine.invariants import TRIED, Broken, Invariants
from poolwright.engine.replay import replay
from poolwright.engine.simulate import Moment, Order, Simulation
from poolwright.engine.stage import Made
from poolwright.engine.virtual import PlanMaker
from poolwright.journal.query import JournalReader
from poolwright.sim.chaos import CALM_S, CHAOS_S, LONG_CALM_S, POOL, Case
from poolwright.sim.faults import (
    ActuatorFault,
    DaemonKilled,
    DiskFull,
    Faults,
    OtherHand,
    PlantBlow,
    ServiceDown,
    Suspend,
)
from poolwright.sim.world import Load, Plant, Service, SimActuator, SimClock, World

_REST_S = 60.0  # at the end, in which nothing may move
_IN_THE_WAY = (ActuatorFault, OtherHand, PlantBlow, ServiceDown, DaemonKilled, DiskFull, Suspend)
_AFTERMATH_S = 60.0  # a kill of a move waits for the next move; a daemon may be down as long
_MOST_VISITS = 2  # of one level in that time, besides what is tried: to and fro is no rest
_RESTING = (Phase.CONVERGED, Phase.STOOD_DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of a case that was not broken."""

    seed: int
    decisions: int
    moves: int
    lives: int
    faults: int
    rested: bool  # after the faults it converged, or stayed where a limit kept it


def play(case: Case, made: Made, folder: Path) -> Played:
    """Play one case; where the calm was too short to converge, once more with a long one.

    Raises Broken, or what the core's own assertions raise.
    """
    played = _play(case, made, folder / "journal.db", CALM_S)
    return played if played.rested else _play(case, made, folder / "again.db", LONG_CALM_S)


def _play(case: Case, made: Made, journal: Path, calm_s: float) -> Played:
    clock = SimClock()
    faults = Faults(case.faults, case.seed)
    plant = made.plant(case.shape, case.workers, case.seed)
    service = _Watched(POOL, plant, case.load, faults, journal=journal)
    watch = _Watch(faults, CHAOS_S + calm_s - _REST_S)
    simulation = Simulation(
        world=World([service], faults, clock),
        policies={POOL: case.policy},
        make_plan=made.plan if case.real_learner else _wild(case.seed, clock),
        journal=journal,
        cadence_s=case.policy.cadence_s,
        duration_s=CHAOS_S + calm_s,
        orders=tuple(_orders(case)),
        witnesses=(watch,),
    )
    simulation.run()
    if service.unwritten:
        raise Broken(f"moved before it was journalled: {service.unwritten[0]}")
    _replays(journal)
    return Played(
        seed=case.seed,
        decisions=watch.invariants.checked,
        moves=watch.moves,
        lives=simulation.lives,
        faults=sum(faults.injected.values()),
        rested=watch.rested(),
    )


class _Watch:
    """Checks the invariants, and sees whether it comes to rest."""

    def __init__(self, faults: Faults, late_s: float) -> None:
        self._late_s = late_s
        self.invariants = Invariants(lambda at_s: _disturbed(faults, at_s))
        self.moves = 0
        self._late: list[tuple[Decision, Moment]] = []

    def __call__(self, tick: Tick, decision: Decision, moment: Moment) -> None:
        self.invariants(tick, decision, moment)
        self.moves += decision.moves
        if moment.truth.at_s > self._late_s:
            self._late.append((decision, moment))

    def rested(self) -> bool:
        """Whether the last minute was calm: converged, if not to its end, and no to and fro.

        Or nothing was moved, because nothing may be, or because a limit stands in the way of what
        would help: a retry storm at the largest pool that fits into memory does not converge, nor
        one that takes all of the CPU.
        """
        if not self._late:
            return False
        last, moment = self._late[-1]
        still = not any(d.moves for d, _ in self._late)
        if moment.policy.mode is not Mode.AUTO:
            return still
        limited = any(d.clamps or Reason.CPU_BREACH in d.guard_trips for d, _ in self._late)
        if still and limited:
            return True
        visits = Counter(d.setting for d, _ in self._late if d.moves and d.action not in TRIED)
        return (
            any(d.phase in _RESTING for d, _ in self._late)
            and max(visits.values(), default=0) <= _MOST_VISITS
            and last.setting is not None
        )


def _disturbed(faults: Faults, at_s: float) -> bool:
    """Whether something keeps, or lately kept, the level from being moved as it is told."""
    return any(
        isinstance(fault, _IN_THE_WAY) and fault.at <= at_s <= fault.ends_s + _AFTERMATH_S
        for fault in faults.all
    )


class _Watched(Service):
    """A service whose actuator moves only what the journal already holds."""

    def __init__(
        self, name: str, plant: Plant, load: Load, faults: Faults, *, journal: Path
    ) -> None:
        super().__init__(name, plant, load, faults)
        self._journal = journal
        self.unwritten: list[str] = []

    def actuator(self) -> SimActuator:
        return _Checked(self, self._journal)


class _Checked(SimActuator):
    """Looks into the journal before it moves."""

    def __init__(self, service: "_Watched", journal: Path) -> None:
        super().__init__(service)
        self._watched = service
        self._path = journal

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Move, and note it when the intent is not durable."""
        with sqlite3.connect(f"file:{self._path}?mode=ro", uri=True) as db:
            row = db.execute(
                "SELECT setting FROM intents WHERE tick = ? ORDER BY run DESC LIMIT 1",
                (decision_tick,),
            ).fetchone()
        db.close()
        if row is None:
            self._watched.unwritten.append(f"tick {decision_tick}: {wanted}")
        return await super().apply(wanted, decision_tick)


def _orders(case: Case) -> Iterator[Order]:
    for at_s, command in case.commands:
        yield Order(at_s=at_s, pool=POOL, what=command)
    for at_s, policy in case.reloads:
        yield Order(at_s=at_s, pool=POOL, what=policy)


def _replays(journal: Path) -> None:
    """Every run of the journal gives the same decisions again. Raises Broken."""
    with JournalReader(journal) as reader:
        for run in reader.runs():
            outcome = replay(reader, run.id, Controller)
            if not outcome.identical:
                assert outcome.difference is not None
                where = ", ".join(c.path for c in outcome.difference.changes)
                raise Broken(f"run {run.id} replays differently: {where}")


def _wild(seed: int, clock: SimClock) -> PlanMaker:
    """A learner that knows nothing and is sure of it, until the calm; then it says: stay."""

    def make_plan(request: FitRequest) -> Plan:
        calm = clock.mono_ns() / 1e9 > CHAOS_S
        random = Random(f"wild:{seed}:{request.version}:{request.tick}")
        return _plan(request, random, calm=calm)

    return make_plan


def _plan(request: FitRequest, random: Random, *, calm: bool) -> Plan:
    knob = request.policy.knobs[0]
    levels = range(knob.lower, knob.upper + 1, knob.step)
    seen = request.evidence[-1].observation
    load = request.context.load_rps or 1.0

    def at(level: int) -> Setting:
        return Setting(levels=((knob.name, level),))

    def candidate(level: int) -> Candidate:
        return Candidate(
            setting=at(level),
            objective=Estimate(mean=random.uniform(0.5, 1.5), std=0.1),
            p_safe=0.99 if calm else random.random(),
            gain_ratio=0.0 if calm else random.uniform(-0.1, 0.3),
            verdict=Verdict.WORSE,
            predictions=seen.responses,
        )

    candidates = tuple(candidate(level) for level in levels)
    offered = random.sample(candidates, min(3, len(candidates)))
    probes = () if calm else tuple(replace(c, verdict=Verdict.PROBE) for c in offered)
    edges = [0.0, 0.5 * load, load, 2.0 * load, 1e9]
    return Plan(
        version=request.version,
        fitted_tick=request.tick,
        evidence_digest=request.evidence_digest,
        context=Context(load_rps=load, foreign_cpu_ratio=0.0),
        schedule=tuple(
            PlanBin(
                load_lower_rps=low,
                load_upper_rps=high,
                setting=request.incumbent if calm else at(random.choice(levels)),
                safe_lower=at(knob.lower),
                safe_upper=at(knob.upper),
                p_safe=0.9,
                predictions=seen.responses,
            )
            for low, high in pairwise(edges)
        ),
        candidates=candidates,
        probes=probes,
        best_gain_ratio=max((c.gain_ratio for c in probes), default=0.0),
        references=tuple((name, 1.0) for name, _ in request.policy.objective),
    )

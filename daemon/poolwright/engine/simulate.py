"""The simulated host: the real tick, journal, recovery and core against a simulated world.

Time is virtual, nothing waits, and order is fixed, so a run is a function of its arguments. The
daemon lives several lives when faults kill it: each begins with recovery from the journal, and
between two of them the world goes on alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poolwright.core.errors import PlantFault
from poolwright.core.model import Benefit, Command, CommandKind, Decision, Plan, Setting, Tick
from poolwright.core.policy import Policy
from poolwright.engine.arbiter import Arbiter
from poolwright.engine.recovery import recover
from poolwright.engine.tick import CoreFault, Pool
from poolwright.engine.virtual import (
    Killed,
    PlanMaker,
    VirtualJournal,
    VirtualLearner,
    VirtualLoop,
)
from poolwright.policy.config import SharedBudget
from poolwright.sim.faults import DaemonKilled, Suspend
from poolwright.sim.world import Truth, World

_RETRY_S = 5.0  # a daemon that cannot start is started again after so long, as systemd does


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an operator does at a moment: a command, or another policy on disk and a reload."""

    at_s: float
    pool: str
    what: Command | Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What lies round one decision."""

    policy: Policy
    truth: Truth  # the tick that the decision looked at, as it really was
    life: int  # of the daemon, from 1
    baseline: Setting | None
    plan: Plan | None  # in force
    benefit: Benefit | None


Witness = Callable[[Tick, Decision, Moment], None]
Onlooker = Callable[[Truth], None]


class Simulation:
    """One run. `witnesses` see every decision, `onlookers` every tick of the world, also while the
    daemon is dead; what they raise ends the run.
    """

    def __init__(  # noqa: PLR0913 - what a run is a function of
        self,
        *,
        world: World,
        policies: Mapping[str, Policy],
        make_plan: PlanMaker,
        journal: Path,
        cadence_s: float,
        duration_s: float,
        learner_s: tuple[float, float] = (1.0, 0.2),
        budget: SharedBudget | None = None,
        orders: Sequence[Order] = (),
        witnesses: Sequence[Witness] = (),
        onlookers: Sequence[Onlooker] = (),
    ) -> None:
        assert policies.keys() == world.services.keys(), "every service has a policy"
        self.world = world
        self.lives = 0
        self.failed_starts = 0
        self.refusals: list[str] = []  # commands that were refused, with the reason
        self._policies = dict(policies)
        self._make_plan = make_plan
        self._path = journal
        self._cadence_ns = round(cadence_s * 1e9)
        self._end_ns = round(duration_s * 1e9)
        self._learner_s = learner_s  # to start, and for one fit
        self._budget = budget
        self._orders = sorted(orders, key=lambda o: o.at_s)
        self._witnesses = tuple(witnesses)
        self._onlookers = tuple(onlookers)
        self._slot_ns = 0
        self._truths: dict[str, Truth] = {}
        self._life: asyncio.Task[None] | None = None
        self._killed: DaemonKilled | None = None
        for service in world.services.values():
            service.on_kill = self._kill_from_afar

    def run(self) -> None:
        """Live through it. Raises CoreFault when the core failed, and what witnesses raise."""
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.world.clock)) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        while await self._slot():
            down_s = await self._one_life()
            until_ns = self.world.clock.mono_ns() + round(down_s * 1e9)
            while self._slot_ns < until_ns and await self._slot():
                continue

    async def _one_life(self) -> float:
        """From start to death or to the end; the seconds until the daemon is started again."""
        self.lives += 1
        self._killed = None
        loop = asyncio.get_running_loop()
        journal: VirtualJournal | None = None
        try:
            journal = VirtualJournal(self._path, self.world.faults, self._kill)
            self._life = loop.create_task(self._live(journal), name=f"life {self.lives}")
            await self._life
        except PlantFault:  # the start failed, on a full disk for example
            self.failed_starts += 1
            return _RETRY_S
        except Killed as death:
            return death.fault.down
        except asyncio.CancelledError:
            if self._killed is None:
                raise
            return self._killed.down
        finally:
            await _end_all_but_me()
            if journal is not None:
                journal.abandon()
        return 0.0

    async def _live(self, journal: VirtualJournal) -> None:
        """As `engine.live` does: start, tick until the end, close."""
        world = self.world
        start_s, fit_s = self._learner_s
        learner = VirtualLearner(
            self._make_plan, world.clock, world.faults, start_s=start_s, fit_s=fit_s
        )
        learner.kill = self._kill
        arbiter = Arbiter(tuple(world.services), self._budget)
        pools = {
            name: await self._start(name, journal, learner, arbiter) for name in world.services
        }
        while True:
            await self._give_orders(pools)
            decisions = await _ticks(tuple(pools.values()))
            for pool, decision in zip(pools.values(), decisions, strict=True):
                if decision is None:  # a real daemon would go on; here it is what was looked for
                    raise CoreFault(f"{pool.name}: {journal.last_note}")
                self._tell(pool, decision)
            if not await self._slot():
                break
        for pool in pools.values():
            await pool.finish_actuation()
            journal.end_run(pool.run_id, "the simulation ended", world.clock.wall_ns())
        journal.close()

    async def _start(
        self, name: str, journal: VirtualJournal, learner: VirtualLearner, arbiter: Arbiter
    ) -> Pool:
        service, clock = self.world.services[name], self.world.clock
        pool = Pool(
            name=name,
            policy=self._policies[name],
            sensors=service.sensors(),
            actuator=service.actuator(),
            journal=journal,
            learner=learner,
            clock=clock,
            arbiter=arbiter,
        )
        for sensor in pool.sensors:
            await sensor.start()
        pool.open_run(await recover(name, pool.actuator, journal, clock))
        return pool

    async def _slot(self) -> bool:
        """Wait for the next slot, and let the world live through the tick; False at the end."""
        clock = self.world.clock
        asleep = self.world.faults.rages(Suspend)
        if asleep is not None:
            clock.pass_ns(max(0, round(asleep.ends_s * 1e9) - clock.mono_ns()))
        missed = max(0, clock.mono_ns() - self._slot_ns) // self._cadence_ns
        slot_ns = self._slot_ns + (missed + 1) * self._cadence_ns
        if slot_ns > self._end_ns:
            return False
        await asyncio.sleep((slot_ns - clock.mono_ns()) / 1e9)  # a life may end here
        self._slot_ns = slot_ns
        clock.pass_ns(max(0, slot_ns - clock.mono_ns()))  # what a float lost
        for truth in self.world.advance(self._cadence_ns / 1e9):
            self._truths[truth.pool] = truth
            for onlooker in self._onlookers:
                onlooker(truth)
        return True

    async def _give_orders(self, pools: Mapping[str, Pool]) -> None:
        now_s = self.world.clock.mono_ns() / 1e9
        while self._orders and self._orders[0].at_s <= now_s:
            order = self._orders.pop(0)
            pool = pools[order.pool]
            if isinstance(order.what, Command):
                why = pool.ask(_completed(order.what, pool))
                if why:
                    self.refusals.append(f"{order.what.kind} {pool.name}: {why}")
            else:
                self._policies[order.pool] = order.what
                await pool.adopt(order.what, "policy changed")

    def _tell(self, pool: Pool, decision: Decision) -> None:
        assert pool.newest is not None, "every decision follows from a tick"
        moment = Moment(
            policy=pool.policy,
            truth=self._truths[pool.name],
            life=self.lives,
            baseline=pool.controller.baseline,
            plan=pool.controller.plan,
            benefit=pool.controller.benefit,
        )
        for witness in self._witnesses:
            witness(pool.newest, decision, moment)

    def _kill(self, point: str, pool: str) -> None:
        """Die here if a fault says so."""
        fault = self.world.faults.kill(point, pool)
        if fault is not None:
            raise Killed(fault)

    def _kill_from_afar(self, fault: DaemonKilled) -> None:
        """Die while the actuator is at work, outside of any tick."""
        assert self._life is not None
        self._killed = fault
        self._life.cancel()


async def _ticks(pools: tuple[Pool, ...]) -> list[Decision | None]:
    """All at once; a lone one needs no task of its own."""
    if len(pools) == 1:
        return [await pools[0].tick()]
    return await asyncio.gather(*(pool.tick() for pool in pools))


def _completed(command: Command, pool: Pool) -> Command:
    """The newest advice is meant where an operator names none."""
    of_advice = command.kind in (CommandKind.APPROVE, CommandKind.REJECT)
    if not of_advice or command.advice_id or pool.snapshot is None:
        return command
    advice = pool.snapshot.decision.advice
    return command if advice is None else replace(command, advice_id=advice.id)


async def _end_all_but_me() -> None:
    """End what the dead daemon had under way; what was done stays done."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

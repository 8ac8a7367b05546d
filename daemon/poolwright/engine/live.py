"""The live host: real clocks, real sensors, real actuators, at a fixed cadence.

Slots lie at start + n * cadence. A slot that comes late is counted; the ones it ran over are
skipped, never caught up in a burst. Signals and changed files only set flags; the loop acts on them
between ticks.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from poolwright import __version__
from poolwright.core.errors import PlantFault
from poolwright.core.model import ActuationStatus, Command, CommandKind
from poolwright.core.policy import Exit, Mode
from poolwright.engine.arbiter import Arbiter, ExperimentLock, unmeasured
from poolwright.engine.build import Parts, build_parts
from poolwright.engine.learner import Learner
from poolwright.engine.notify import Notifier
from poolwright.engine.recovery import carried, policies_before, recover
from poolwright.engine.reload import Reload, same, tell_change
from poolwright.engine.snapshot import Snapshot
from poolwright.engine.tick import CoreFault, Pool
from poolwright.engine.watch import watch
from poolwright.journal.sqlite import SqliteJournal
from poolwright.policy.config import DaemonConfig

T = TypeVar("T")

_RESTORE_S = 45.0  # the longest that stopping waits for `exit: restore`
_LOG = logging.getLogger("poolwright")


class RealClock:
    """The system's clocks."""

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()


class Daemon:
    """All pools of one configuration. `surface` hooks are called by `run`."""

    def __init__(self, config_path: Path, config: DaemonConfig, notifier: Notifier) -> None:
        """Build everything that can be refused. Raises PolicyError; nothing is started."""
        self.config = config
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._reload = Reload(config_path, config, self._wake.set)
        self._parts = build_parts(config)
        unmeasured(config.budget, [(parts.name, parts.sensors) for parts in self._parts])
        self._reload.follow(parts.policy for parts in self._parts)
        self._notifier = notifier
        self._clock = RealClock()
        self._started_wall_ns = self._clock.wall_ns()
        self._learner = Learner()
        lock = config.experiment_lock
        self._arbiter = Arbiter(
            [parts.name for parts in self._parts],
            config.budget,
            None if lock is None else ExperimentLock(Path(lock)),
        )
        self._pools: dict[str, Pool] = {}
        self._journal: SqliteJournal | None = None
        self.cadence_s = self._parts[0].policy.cadence_s
        self.latest: Snapshot | None = None

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot, for the surface."""
        return self.latest

    def command(self, pool: str, command: Command) -> str:
        """Hand an operator's request to a pool's next tick; else why it is refused, in a line.

        Raises KeyError when there is no such pool.
        """
        return self._pools[pool].ask(command)

    async def run(
        self,
        start_surface: Callable[[], Awaitable[None]],
        close_surface: Callable[[], Awaitable[None]],
        published: Callable[[Snapshot], None],
    ) -> None:
        """Run until SIGTERM or SIGINT. Raises PlantFault at start, CoreFault when we are broken."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._reload.ask)
        watching: asyncio.Task[None] | None = None
        try:
            await self._start()
            if self.config.watch:
                looking = watch(self._reload.places, self._reload.look, self._stop)
                watching = loop.create_task(looking, name="watch")
                watching.add_done_callback(_tell_end)
            await start_surface()
            gc.collect()
            gc.freeze()  # what is here now stays: no collection need look at it again
            await self._loop(published)
        except CoreFault:
            await self._restore_baselines("the core failed")
            raise
        finally:
            self._end()
            self._tell(self._notifier.stopping, "stopping")
            await close_surface()
            await self._close()
            if watching is not None:
                await asyncio.wait([watching])
            self._notifier.close()

    async def _start(self) -> None:
        config = self.config
        journal = SqliteJournal(
            Path(config.journal),
            max_bytes=config.journal_max_bytes,
            max_age_s=config.journal_max_age,
        )
        self._journal = journal
        policies = policies_before(journal.path, [parts.name for parts in self._parts])
        for parts in self._parts:
            pool = self._pool(parts, journal)
            for sensor in parts.sensors:
                await sensor.start()
            before = policies.get(parts.name)
            resume = await recover(parts.name, parts.actuator, journal, self._clock)
            resume = replace(carried(resume, before, parts.policy), prior=parts.prior)
            pool.open_run(resume)
            if before is not None and not same(before, parts.policy):
                tell_change(pool, before)
            self._pools[parts.name] = pool

    def _pool(self, parts: Parts, journal: SqliteJournal) -> Pool:
        return Pool(
            name=parts.name,
            policy=parts.policy,
            sensors=parts.sensors,
            actuator=parts.actuator,
            journal=journal,
            learner=self._learner,
            clock=self._clock,
            arbiter=self._arbiter,
        )

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    async def _loop(self, published: Callable[[Snapshot], None]) -> None:
        slot = self._clock.mono_ns()
        ready = False
        while not self._stop.is_set():
            await asyncio.gather(*(pool.tick() for pool in self._pools.values()))
            published(self._publish())
            status = self._status()
            if not ready:
                self._tell(self._notifier.ready, status)
                _LOG.info("ready: %s", status)
                ready = True
            self._tell(self._notifier.watchdog, status)
            cadence_ns = round(self.cadence_s * 1e9)
            slot = await self._sleep(slot + cadence_ns, cadence_ns)

    async def _sleep(self, slot: int, cadence_ns: int) -> int:
        """Wait for the next slot, reloading meanwhile when asked; the slot that is then due."""
        while True:
            self._wake.clear()  # first: what is asked from here on wakes
            if self._reload.asked and not self._stop.is_set():
                await self._reload_policies()
            now = self._clock.mono_ns()
            if now > slot:
                missed = (now - slot) // cadence_ns + 1
                for pool in self._pools.values():
                    pool.count("late_ticks")
                slot += missed * cadence_ns
            if self._stop.is_set():
                return slot
            try:
                async with asyncio.timeout((slot - now) / 1e9):
                    await self._wake.wait()
            except TimeoutError:
                return slot  # it has come

    def _publish(self) -> Snapshot:
        snapshots = tuple(p.snapshot for p in self._pools.values() if p.snapshot is not None)
        errors = {p.journal_error for p in self._pools.values() if p.journal_error}
        self.latest = Snapshot(
            version=__version__,
            started_wall_ns=self._started_wall_ns,
            wall_ns=self._clock.wall_ns(),
            cadence_s=self.cadence_s,
            journal_error="; ".join(sorted(errors)),
            policy_error=self._reload.error,
            reloads=self._reload.counts,
            pools=snapshots,
        )
        return self.latest

    def _status(self) -> str:
        """One line for the service manager."""
        words = []
        for pool in self._pools.values():
            seen = pool.snapshot
            if seen is not None:
                setting = seen.decision.setting or "not seen yet"
                words.append(f"{pool.name}: {seen.decision.phase}, {setting}")
        return "; ".join(words[:8]) + (" ..." if len(words) > 8 else "")

    def _tell(self, say: Callable[[T], None], what: T) -> None:
        try:
            say(what)
        except PlantFault as fault:  # the manager's loss; the watchdog is its remedy
            _LOG.warning("%s", fault)

    async def _reload_policies(self) -> None:
        self._tell(self._notifier.reloading, self._clock.mono_ns())
        await self._reload.act(self._pools, self._parts)
        self.cadence_s = next(iter(self._pools.values())).policy.cadence_s
        self._tell(self._notifier.ready, self._status())

    async def _restore_baselines(self, why: str) -> None:
        """Put every pool of mode auto back by hand: the core cannot be asked any more."""
        for pool in self._pools.values():
            baseline = pool.controller.baseline
            if baseline is None or not self._is_ours(pool):
                continue
            await pool.finish_actuation()
            try:
                outcome = await pool.actuator.apply(baseline, -1)
                _LOG.error("%s: %s; baseline %s: %s", pool.name, why, baseline, outcome.status)
            except PlantFault as fault:
                _LOG.error("%s: %s; the baseline cannot be restored: %s", pool.name, why, fault)

    def _is_ours(self, pool: Pool) -> bool:
        """Whether the baseline may be put back: not where a person has the level."""
        why = pool.hands_off
        if why and pool.policy.mode is Mode.AUTO:
            _LOG.warning("%s: the baseline is not restored: %s", pool.name, why)
        return not why and pool.policy.mode is Mode.AUTO

    async def _close(self) -> None:
        for pool in self._pools.values():
            await pool.finish_actuation()
            if pool.policy.exit is Exit.RESTORE and self._is_ours(pool):
                await self._restore(pool)
        for parts in self._parts:
            for sensor in parts.sensors:
                await sensor.close()
            await parts.actuator.close()
        await self._learner.close()
        self._arbiter.close()
        if self._journal is None:
            return
        try:
            for pool in self._pools.values():
                self._journal.end_run(pool.run_id, "stopped", self._clock.wall_ns())
            self._journal.close()
        except PlantFault as fault:  # a full disk must not keep the daemon from ending
            _LOG.error("the end of the run is not journalled: %s", fault)

    async def _restore(self, pool: Pool) -> None:
        """One last tick that asks the core for the baseline, and its actuation."""
        pool.command(Command(kind=CommandKind.RESTORE, who="daemon", why="exit: restore"))
        decision = await pool.tick()
        if decision is None or not decision.moves:
            return
        try:
            async with asyncio.timeout(_RESTORE_S):
                outcome = await pool.restore(decision)
        except TimeoutError:
            _LOG.error("%s: not restored within %g s", pool.name, _RESTORE_S)
            return
        if outcome is not None and outcome.status is not ActuationStatus.APPLIED:
            _LOG.error("%s: not restored: %s", pool.name, outcome.detail)


def _tell_end(task: asyncio.Task[None]) -> None:
    """Nothing that ends the watching may go unseen."""
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("policies are not watched any more", exc_info=task.exception())

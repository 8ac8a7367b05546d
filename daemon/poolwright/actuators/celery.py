"""Moves the pool of one Celery worker, through the broker: pool_grow and pool_shrink.

Of a prefork pool the knob counts processes, of a gevent or eventlet pool the tasks that may run at
once. Growing takes as long as the worker needs to look after its pool (up to 5 s), however many
processes it is by. Shrinking ends only processes that have nothing to do, and no task is lost,
which pool_shrink alone does not give: see `wire.celery.quiet` for how. Of a gevent pool fewer tasks
are begun from then on, and a move is done when no more run than may.

What a restart, a reload (SIGHUP) or another hand does is read from the worker itself: its process
id, its uptime and the list of its processes. A worker with --autoscale is left alone.
"""

import asyncio
import time
from dataclasses import dataclass, field

from poolwright.actuators.outcome import Refusal, outcome
from poolwright.core.errors import PlantFault
from poolwright.core.model import Actuation, ActuationStatus, Applied, Setting, setting
from poolwright.core.units import PathText, Seconds
from poolwright.wire.celery.link import Link, place_of, require_kombu
from poolwright.wire.celery.messages import Answer, Ask, Pool

_KNOB = "workers"
_READ_S = 0.8  # patience of a read-back; the engine waits for 1 s
_MOVE_S = 5.0  # during a move: a worker that starts processes answers late
_ASK_S = 15.0  # patience with the child, which has some with the worker
_POLL_S = 0.05
_LINGER_S = 0.3
_COUNTS = ("prefork", "gevent", "eventlet")  # pools that can be moved


class Celery:
    """One Celery worker. Knob: workers."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which worker, and through which broker."""

        broker: str = field(
            metadata={"doc": "the worker's broker_url, without a password: redis://127.0.0.1:6379"}
        )
        password_file: PathText | None = field(
            default=None, metadata={"doc": "a file that holds the broker's password"}
        )
        node: str = field(metadata={"doc": "the worker's name (celery worker -n): web@host"})
        step_timeout: Seconds = field(
            default=15.0,
            metadata={"doc": "how long new processes may take to be there", "above": 0},
        )
        drain_timeout: Seconds = field(
            default=60.0,
            metadata={"doc": "how long to wait for idle processes; none is killed", "above": 0},
        )

        def __post_init__(self) -> None:
            """Refuse what is no worker."""
            place_of(self.broker, self.password_file, self.node)

    knobs = (_KNOB,)

    def __init__(self, options: Options, _pool: str) -> None:
        """Nothing is started yet. Raises PolicyError when kombu is missing."""
        require_kombu("celery")
        self._options = options
        self._place = place_of(options.broker, options.password_file, options.node)
        self._link: Link | None = None
        self._lock = asyncio.Lock()  # one move at a time, also when one is cancelled for the next
        self._last: Pool | None = None
        self._generation = 0
        self._owed: tuple[int, float] | None = None  # a level, until when it may come
        self._expected: int | None = None  # what our own moves led to
        self.endpoint = f"celery worker {options.node} through {options.broker}"

    async def read(self) -> Applied:
        """The processes that are there, or the limit. Raises PlantFault naming the worker."""
        patience_s = _MOVE_S if self._lock.locked() else _READ_S
        try:
            answer = await self._ask(Ask(id=0, do="level", within_s=patience_s), patience_s + 0.1)
        except Refusal as refusal:
            raise PlantFault(f"{self.endpoint}: {refusal}") from refusal
        pool = self._pool(answer)
        news = [answer.news] if answer.news else []
        if pool.autoscaled:
            news.append("Celery's own autoscaler moves this worker")
        if self._expected is None or self._lock.locked():
            self._expected = pool.level
        elif pool.level != self._expected and not self._owes(pool):
            news.append(f"{pool.level} workers, {self._expected} expected: another hand or a crash")
        return Applied(
            setting=setting(workers=pool.level), epoch=self._epoch(pool), detail="; ".join(news)
        )

    async def apply(self, wanted: Setting, decision_tick: int) -> Actuation:
        """Step to `wanted`. Applied when the worker itself shows it.

        Failed when no process was idle within `drain_timeout`, or new ones are not there within
        `step_timeout`, or when the worker was restarted meanwhile. Refused below one, with Celery's
        own autoscaler on, and where the worker says that it cannot.
        """
        applied = False
        async with self._lock:
            try:
                made = await outcome(self.endpoint, decision_tick, self._move(wanted[_KNOB]))
                applied = made.status is ActuationStatus.APPLIED
            finally:
                if not applied:  # also when cancelled
                    self._expected = None
        return made

    async def close(self) -> None:
        """Let go of the child, which leaves the worker taking tasks; moves nothing."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # What is there

    async def _ask(self, ask: Ask, within_s: float = _ASK_S) -> Answer:
        """The answer of the child. Raises PlantFault and Refusal."""
        if self._link is None:
            self._link = Link.to(self._place)
        answer = await self._link.ask(ask, within_s)
        if answer.refused:
            raise Refusal(answer.error)
        if answer.error:
            raise PlantFault(answer.error)
        return answer

    def _pool(self, answer: Answer) -> Pool:
        """The pool as told now. Raises PlantFault when nobody is in it."""
        pool, last = answer.pool, self._last
        assert pool is not None, "an answer without an error carries the pool"
        if last is not None and (last.pid != pool.pid or pool.uptime_s < last.uptime_s):
            self._generation += 1  # its process id may be the same: SIGHUP, a container's first
            self._owed, self._expected = None, None
        if self._owed is not None and pool.level >= self._owed[0]:
            self._owed = None
        self._last = pool
        if pool.level < 1:
            raise PlantFault(f"{self.endpoint}: its pool is empty, so its tasks hang")
        return pool

    def _epoch(self, pool: Pool) -> str:
        return f"{pool.pid}:{self._generation}"

    def _owes(self, pool: Pool) -> bool:
        """Whether processes may still come that a cancelled move has asked for."""
        owed = self._owed
        return owed is not None and pool.level < owed[0] and time.monotonic() < owed[1]

    # Moving

    async def _move(self, goal: int) -> None:
        if goal < 1:
            raise Refusal(f"{goal} workers: a worker without a pool lets its tasks hang")
        pool = await self._look()
        if pool.autoscaled:
            raise Refusal(
                "Celery's own autoscaler is on and would move it back: start the worker without "
                "--autoscale"
            )
        if pool.kind not in _COUNTS:
            raise Refusal(f"a {pool.kind} pool cannot be moved: only {', '.join(_COUNTS)}")
        epoch = self._epoch(pool)
        while self._owes(pool):  # or they would come on top of what is asked for now
            pool = await self._look(epoch)
        if pool.level < goal:
            pool = await self._grow(pool, goal)
        elif pool.level > goal and pool.kind == "prefork":
            pool = await self._shrink(pool, goal)
        elif pool.level > goal:
            await self._ask(Ask(id=0, do="shrink", count=pool.level - goal))
        if pool.kind != "prefork":
            await self._settle(goal)
        self._expected = goal

    async def _look(self, epoch: str | None = None) -> Pool:
        """The pool, a moment after the last look when it is to be that of `epoch`."""
        if epoch is not None:
            await asyncio.sleep(_POLL_S)
        pool = self._pool(await self._ask(Ask(id=0, do="level", within_s=_MOVE_S)))
        if epoch is not None and self._epoch(pool) != epoch:
            raise PlantFault("the worker was restarted during the move")
        return pool

    async def _grow(self, pool: Pool, goal: int) -> Pool:
        """Ask for all at once: the worker looks after its pool every few seconds only."""
        began, epoch = time.monotonic(), self._epoch(pool)
        if pool.kind == "prefork":
            self._owed = (goal, began + self._options.step_timeout)
        await self._ask(Ask(id=0, do="grow", count=goal - pool.level))
        while pool.level < goal:
            pool = await self._look(epoch)
            spent_s = time.monotonic() - began
            if spent_s > self._options.step_timeout:
                raise PlantFault(f"after {spent_s:.1f} s: {pool.level} of {goal} are there")
        self._owed = None
        if pool.level > goal:
            raise PlantFault(f"another hand: {pool.level} are there, we went to {goal}")
        return pool

    async def _shrink(self, pool: Pool, goal: int) -> Pool:
        """Take whoever has nothing to do, until enough have gone."""
        began, epoch = time.monotonic(), self._epoch(pool)
        try:
            while pool.level > goal:
                ask = Ask(id=0, do="shrink", count=pool.level - goal)
                taken = (await self._ask(ask)).taken
                if taken:
                    pool = await self._gone(pool.level - taken, epoch)
                elif time.monotonic() - began > self._options.drain_timeout:
                    raise PlantFault(
                        f"after {time.monotonic() - began:.1f} s: {pool.level} are there, and none "
                        "has nothing to do; none was killed"
                    )
        finally:
            await self._ask(Ask(id=0, do="resume"))
        return pool

    async def _gone(self, level: int, epoch: str) -> Pool:
        """Wait until those that were told to go have gone: Celery may notice that 5 s late, and
        must not be quiet for so long. Nor need it be: who was told takes no task any more.
        """
        began, quiet = time.monotonic(), True
        while (pool := await self._look(epoch)).level > level:
            spent_s = time.monotonic() - began
            if spent_s > self._options.step_timeout:
                raise PlantFault(f"{pool.level} are there, {level} were to be left")
            if quiet and spent_s > _LINGER_S:
                await self._ask(Ask(id=0, do="resume"))
                quiet = False
        return pool

    async def _settle(self, goal: int) -> None:
        """Wait until no more greenlets run than may."""
        began = time.monotonic()
        while True:
            answer = await self._ask(Ask(id=0, do="look"))
            pool, tasks = self._pool(answer), answer.tasks
            assert tasks is not None
            if pool.level != goal:
                raise PlantFault(f"another hand: the limit is {pool.level}, we set {goal}")
            if tasks.active <= goal:
                return
            if time.monotonic() - began > self._options.drain_timeout:
                raise PlantFault(
                    f"the limit is {goal}, and {tasks.active} tasks still run; none was killed"
                )
            await asyncio.sleep(_POLL_S)

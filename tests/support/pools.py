"""A Pool with everything round it: a sensor, an actuator and a learner that the test directs, a
clock that is set by hand, and the real journal and core.
"""

import asyncio

import ticks as make

from poolwright.core.model import Actuation, ActuationStatus, Applied, Resume, setting
from poolwright.engine.snapshot import LearnerState
from poolwright.engine.tick import Pool
from poolwright.journal.sqlite import SqliteJournal


class Hands:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_ns = 10**9

    def mono_ns(self):
        return self.now_ns

    def wall_ns(self):
        return 1_789_000_000_000_000_000 + self.now_ns


class Sees:
    """A sensor that says what the test says."""

    source, deadline_s = "test", 0.02
    signals = ("throughput_rps", "latency_s")

    def __init__(self):
        self.seen = make.readings
        self.reads = 0

    async def start(self):
        pass

    async def read(self, now_ns):
        self.reads += 1
        found = self.seen()
        return await found if asyncio.iscoroutine(found) else found

    async def close(self):
        pass


class Moves:
    """An actuator over a number."""

    knobs, endpoint = ("workers",), "a number"

    def __init__(self, workers=4):
        self.workers = workers
        self.applied = []
        self.reads = lambda: Applied(setting=setting(workers=self.workers), epoch="1")
        self.error = None

    async def read(self):
        return self.reads()

    async def apply(self, wanted, decision_tick):
        self.applied.append(wanted)
        if self.error is not None:
            raise self.error
        self.workers = wanted["workers"]
        return Actuation(decision_tick=decision_tick, status=ActuationStatus.APPLIED)

    async def close(self):
        pass


class Thinks:
    """A learner whose plans the test writes."""

    state, rss_bytes = LearnerState.ASLEEP, None

    def __init__(self):
        self.requests, self.plan, self.fault = [], None, ""
        self.forgotten = 0

    def submit(self, _pool, request):
        self.requests.append(request)

    def take(self, _pool):
        plan, self.plan = self.plan, None
        return plan

    def failure(self, _pool):
        fault, self.fault = self.fault, ""
        return fault

    def forget(self, _pool):
        self.requests.clear()
        self.plan = None
        self.forgotten += 1


class World:
    """A Pool with everything round it."""

    def __init__(self, path, policy=None, workers=4, *, name="web", arbiter=None):
        self.path = path
        self.name, self.arbiter = name, arbiter
        self.clock, self.sensor = Hands(), Sees()
        self.actuator, self.learner = Moves(workers), Thinks()
        self.journal = SqliteJournal(path)
        self.policy = policy or make.policy()
        self.pool = self.new_pool()
        self.pool.open_run(Resume())

    def new_pool(self):
        return Pool(
            name=self.name,
            policy=self.policy,
            sensors=(self.sensor,),
            actuator=self.actuator,
            journal=self.journal,
            learner=self.learner,
            clock=self.clock,
            arbiter=self.arbiter,
        )

    async def tick(self):
        decision = await self.pool.tick()
        self.clock.now_ns += 10**9
        await asyncio.sleep(0)  # let an actuation run
        return decision

    async def run(self, ticks):
        """Several ticks; their decisions."""
        return [await self.tick() for _ in range(ticks)]

    async def to_the_first_request(self):
        while not self.learner.requests:
            await self.tick()

    async def probe(self, workers=6):
        """Answer the first request with a plan that probes; the deciding tick's decision."""
        await self.to_the_first_request()
        self.learner.plan = make.plan(self.learner.requests[-1].version, 4, probe=workers)
        return await self.tick()
